"""FSM storage and event isolation for aiogram.

Needs the extra `aiogram`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import astuple
from datetime import timedelta
from typing import Any

from assistly.storage.aio import AsyncStorage

from .locks import KeyedLocks
from .requirements import async_storage, framework, json_object

with framework("aiogram 3.21 or later", "aiogram"):
    from aiogram.exceptions import DataNotDictLikeError
    from aiogram.fsm.state import State
    from aiogram.fsm.storage.base import BaseEventIsolation, BaseStorage, StateType, StorageKey

__all__ = ["AiogramEventIsolation", "AiogramStorage"]

_TTL, _GRACE = timedelta(seconds=30), timedelta(seconds=5)


class AiogramStorage(BaseStorage):
    """Keeps the state and data of each conversation in a session of the storage: `Dispatcher(storage=…)`.

    All fields of the StorageKey identify the conversation. Each change is atomic, even across processes. A
    conversation without state and data has no session. Data that is not JSON raises InvalidValue, which names
    the key. The code that opened `storage` closes it, after the dispatcher has stopped.
    """

    def __init__(self, storage: AsyncStorage) -> None:
        self._storage = async_storage(storage)

    async def set_state(self, key: StorageKey, state: StateType = None) -> None:
        """Store the state; None removes it."""
        name = state.state if isinstance(state, State) else state
        await self._change(key, lambda old: old | {"state": name}, may_empty=name is None)

    async def get_state(self, key: StorageKey) -> str | None:
        """Return the state, or None."""
        state: str | None = (await self._read(key))["state"]
        return state

    async def set_data(self, key: StorageKey, data: Mapping[str, Any]) -> None:
        """Replace the data."""
        new = _checked(data)
        await self._change(key, lambda old: old | {"data": new}, may_empty=not new)

    async def get_data(self, key: StorageKey) -> dict[str, Any]:
        """Return the data; an empty dict if there is none."""
        data: dict[str, Any] = (await self._read(key))["data"]
        return data

    async def update_data(self, key: StorageKey, data: Mapping[str, Any]) -> dict[str, Any]:
        """Merge `data` into the stored data atomically, and return the result."""
        new = _checked(data)
        changed = await self._change(key, lambda old: old | {"data": old["data"] | new}, may_empty=not new)
        merged: dict[str, Any] = changed["data"]
        return merged

    async def close(self) -> None:
        """Do nothing: the code that opened the storage closes it."""

    async def _read(self, key: StorageKey) -> Any:
        session = await self._storage.sessions.get(_name(key))
        return _empty() if session is None else session.data

    async def _change(self, key: StorageKey, change: Callable[[Any], Any], *, may_empty: bool) -> Any:
        name = _name(key)
        if not may_empty:
            return (await self._storage.sessions.update(name, change, default=_empty())).data
        async with self._storage.transaction() as tx:
            session = await tx.sessions.update(name, change, default=_empty())
            if session.data == _empty():
                await tx.sessions.delete(name)
        return session.data


class AiogramEventIsolation(BaseEventIsolation):
    """Serializes the updates of each conversation across all processes that share the storage.

    `Dispatcher(storage=…, events_isolation=AiogramEventIsolation(storage))`. In one process they keep their
    order; now and then two conversations exclude each other. A process that dies keeps the others from a
    conversation for `ttl` (default: 30 seconds). `close` waits `grace` at most (default: 5 seconds).
    """

    def __init__(self, storage: AsyncStorage, *, ttl: timedelta = _TTL, grace: timedelta = _GRACE) -> None:
        self._locks = KeyedLocks(storage, "aiogram", ttl, grace)

    @asynccontextmanager
    async def lock(self, key: StorageKey) -> AsyncGenerator[None, None]:
        """Hold the lock of a conversation during the block."""
        async with self._locks.hold(_name(key)):
            yield

    async def close(self) -> None:
        """Wait for handlers that are running, `grace` at most, then release their locks."""
        await self._locks.close()


def _empty() -> dict[str, Any]:
    return {"data": {}, "state": None}


def _name(key: StorageKey) -> str:
    return f"aiogram:{json.dumps(astuple(key), separators=(',', ':'))}"


def _checked(data: object) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise DataNotDictLikeError(f"Data must be a dict or dict-like object, got {type(data).__name__}")
    return json_object("data", dict(data))
