"""From the settings to an open `AsyncStorage`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from types import TracebackType
from typing import Any, Unpack

from ..clock import Clock
from ..factory import build_storage
from ..settings import SettingsKeywords, StorageSettings, load_settings
from ..storage import Storage
from .storage import AsyncStorage


def open_async_storage(
    *, clock: Clock | None = None, auto_prune: bool = True, **settings: Unpack[SettingsKeywords]
) -> AsyncOpening:
    """Open what the environment, `.env` and these keywords describe; keywords beat the environment.

    Await it, or use it with `async with`. It has as many threads as `pool_size` says.
    """
    build = partial(build_storage, clock=clock, auto_prune=auto_prune)
    return AsyncOpening(partial(load_settings, settings), build)


class AsyncOpening(Awaitable[AsyncStorage]):
    """An `AsyncStorage` to be: the engine is reached, and its schema made ready, before it is one."""

    def __init__(
        self, load: Callable[[], StorageSettings], build: Callable[[StorageSettings], Storage]
    ) -> None:
        self._load = load
        self._build = build
        self._opened: AsyncStorage | None = None

    def __await__(self) -> Generator[Any, None, AsyncStorage]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncStorage:
        self._opened = await self._open()
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def _open(self) -> AsyncStorage:
        settings = await asyncio.to_thread(self._load)
        # Nothing is connected yet, so that a cancellation here leaves nothing open.
        built = await asyncio.to_thread(self._build, settings)
        storage = AsyncStorage(built, threads=settings.pool_size)
        try:
            await storage.ping()
        except BaseException:
            await storage.close()
            raise
        return storage
