"""SQLite in WAL mode: one file, many threads and processes."""

from .backend import SqliteBackend

__all__ = ["SqliteBackend"]
