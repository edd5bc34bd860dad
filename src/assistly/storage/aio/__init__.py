"""The storage with `await`: the same engines and stores, called in threads."""

from __future__ import annotations

from .opening import open_async_storage
from .storage import AsyncStorage

__all__ = ["AsyncStorage", "open_async_storage"]
