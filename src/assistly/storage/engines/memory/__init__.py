"""The memory engine: dicts, ordered indexes, one lock and a journal."""

from .backend import MemoryBackend

__all__ = ["MemoryBackend"]
