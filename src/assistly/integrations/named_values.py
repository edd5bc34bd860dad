"""JSON values by name, in the sessions of a storage. Failed writes are kept and repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from assistly.storage import validation as check
from assistly.storage.aio import AsyncStorage

from .requirements import async_storage


class NamedValues:
    """Values by name. A failed write raises the error of the storage, and `flush` repeats it."""

    def __init__(self, storage: AsyncStorage) -> None:
        self._sessions = async_storage(storage).sessions
        self._unwritten: dict[str, Any] = {}
        self._stored: dict[str, str] = {}
        self._writing = asyncio.Lock()

    async def get(self, name: str) -> Any:
        """Return a value, or None."""
        session = await self._sessions.get(name)
        if session is None:
            return None
        self._stored[name] = check.canonical(name, session.data)
        return session.data

    async def all(self, prefix: str) -> AsyncIterator[tuple[str, Any]]:
        """Return all values whose names begin with the prefix, by the rest of the name."""
        after = prefix
        while page := await self._sessions.list(after=after, limit=1000):
            for session in page:
                if not session.user_id.startswith(prefix):
                    return
                yield session.user_id.removeprefix(prefix), session.data
            after = page[-1].user_id

    async def put(self, name: str, value: Any) -> None:
        """Write a value; None deletes it. Raises InvalidValue for a value that cannot be stored."""
        check.name("the name of a session", name)
        check.canonical(name, value)
        self._unwritten[name] = value
        await self._write(name)

    async def put_changed(self, name: str, value: Any) -> None:
        """Write a value unless it equals the last one that was read or written under this name."""
        text = check.canonical(name, value)
        if text != self._stored.get(name):
            await self.put(name, value)
            self._stored[name] = text

    async def flush(self) -> None:
        """Repeat the writes that failed."""
        for name in [*self._unwritten]:
            await self._write(name)

    async def _write(self, name: str) -> None:
        async with self._writing:
            if name not in self._unwritten:
                return
            value = self._unwritten[name]
            if value is None:
                await self._sessions.delete(name)
            else:
                await self._sessions.put(name, value)
            if self._unwritten[name] is value:
                del self._unwritten[name]
