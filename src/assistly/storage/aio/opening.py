"""Opens an `AsyncStorage` from its settings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Unpack

from ..clock import Clock
from ..errors import InvalidValue
from ..factory import Settings, build_storage, find_settings
from ..keywords import SettingsKeywords
from ..storage import Storage
from ..unfinished import require_finished
from .storage import AsyncStorage


def open_async_storage(
    *, clock: Clock | None = None, auto_prune: bool = True, **settings: Unpack[SettingsKeywords]
) -> AsyncOpening:
    """Open the storage that these keywords, the environment and `.env` describe, in this order of precedence.

    Await the result, or use it with `async with`, which also closes the storage. The keywords, the defaults
    and the errors are those of `open_storage`. At most `pool_size` calls outside transactions run at once.
    """
    build = partial(build_storage, clock=clock, auto_prune=auto_prune)
    return AsyncOpening(partial(find_settings, settings), build)


class AsyncOpening(Awaitable[AsyncStorage]):
    """The result of `open_async_storage`: to be awaited, or entered with `async with`."""

    def __init__(self, load: Callable[[], Settings], build: Callable[[Settings], Storage]) -> None:
        self._load = load
        self._build = build
        self._opened: AsyncStorage | None = None

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_") or not (hasattr(AsyncStorage, name) or name in AsyncStorage.__annotations__):
            raise AttributeError(name)
        raise InvalidValue(
            "the storage is not open: write `async with open_async_storage() as storage:`, and use "
            f"storage.{name} inside the block"
        )

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
        # This opens no connection, so that a cancellation here leaves none open.
        built = await asyncio.to_thread(self._build, settings)
        storage = AsyncStorage(built, threads=settings.pool_size)
        try:
            await storage.ping()
            await storage._calls.run(partial(require_finished, built))
        except BaseException:
            await storage.close()
            raise
        return storage
