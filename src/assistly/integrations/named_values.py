"""JSON values by name, in the sessions of a storage. Failed writes are kept and repeated."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

from assistly.storage import validation as check
from assistly.storage.aio import AsyncStorage
from assistly.storage.clock import ticks

from .changes import Change
from .requirements import async_storage

_BATCH = 100
_REWRITE_AFTER = 3600.0


class NamedValues:
    """Values by name. Changes are pending until `writing` or `flush` has written them."""

    def __init__(self, storage: AsyncStorage) -> None:
        self._storage = async_storage(storage)
        self._pending: dict[str, Change] = {}
        self._latest: dict[str, str] = {}
        self._written_at: dict[str, float] = {}
        self._lock = asyncio.Lock()
        self._failures = 0

    async def get(self, name: str) -> Any:
        """Return a value, or None."""
        await self.flush()
        session = await self._storage.sessions.get(name)
        self._written_at.pop(name, None)
        if session is None:
            self._latest.pop(name, None)
            return None
        self._latest[name] = check.canonical(name, session.data)
        return session.data

    async def all(self, prefix: str) -> AsyncIterator[tuple[str, Any]]:
        """Return all values whose names begin with the prefix, by the rest of the name."""
        await self.flush()
        after = prefix
        while page := await self._storage.sessions.list(after=after, limit=1000):
            for session in page:
                if not session.user_id.startswith(prefix):
                    return
                yield session.user_id.removeprefix(prefix), session.data
            after = page[-1].user_id

    def put(self, name: str, value: Any) -> None:
        """Store a value; None deletes it. Raises InvalidValue for what can never be written."""
        check.name("the name of a session", name)
        self._pending[name] = Change(None if value is None else check.canonical(name, value))

    def put_changed(self, name: str, value: Any) -> None:
        """Store a value, unless `get` or this method has had the same one under this name last.

        Such a value is rewritten once an hour, and as long as nothing was written since `get`.
        """
        text = check.canonical(name, value)
        if text != self._latest.get(name):
            self.put(name, value)
            self._latest[name] = text
        elif ticks() - self._written_at.get(name, -math.inf) >= _REWRITE_AFTER:
            self._pending.setdefault(name, Change(text, is_rewrite=True))

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[None, None]:
        """Write all that is pending at the end of the block, even if it raises.

        Of several blocks that end at the same time, one writes for all. If that fails, it alone raises the
        error of the storage, and the changes stay pending.
        """
        try:
            yield
        finally:
            failures = self._failures
            async with self._lock:
                if self._failures == failures:
                    await self._write()

    async def flush(self) -> None:
        """Write all that is pending. Raises the errors of the storage."""
        async with self._lock:
            await self._write()

    async def _write(self) -> None:
        try:
            while batch := sorted(islice(self._pending.items(), _BATCH)):
                async with self._storage.transaction() as tx:
                    for name, change in batch:
                        await change.apply(tx.sessions, name)
                for name, change in batch:
                    self._note_written(name, change)
        except Exception:
            self._failures += 1
            raise

    def _note_written(self, name: str, change: Change) -> None:
        if self._pending[name] is change:
            del self._pending[name]
        if name in self._latest:
            self._written_at[name] = ticks()
