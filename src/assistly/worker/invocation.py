"""Calls publishers, which may be plain functions or coroutine functions."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from .publisher import Publisher, Unknown
from .threads import Runtime

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

    from assistly.storage.records import Job


class PublisherCaller:
    """Calls publishers, and awaits coroutines on `loop` (default: a loop of its own, in a thread)."""

    def __init__(self, runtime: Runtime, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._runtime = runtime
        self._loop = loop
        self._owns_loop = loop is None
        self._mutex = threading.Lock()

    def call(self, publisher: Publisher, job: Job) -> object:
        """Return the publisher's result, or raise its exception; Unknown if its coroutine was cancelled."""
        result = publisher(job)
        return self._awaited(result) if inspect.isawaitable(result) else result

    def close(self) -> None:
        """Stop the loop and thread of its own, if any, and cancel the coroutines that still run there."""
        if self._owns_loop and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _awaited(self, result: Awaitable[object]) -> object:
        import asyncio

        future = asyncio.run_coroutine_threadsafe(_contained(result), self._running_loop())
        try:
            return future.result()
        except CancelledError as error:
            raise Unknown("the publisher was cancelled") from error

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        import asyncio

        with self._mutex:
            if self._loop is None:
                loop = self._loop = asyncio.new_event_loop()
                self._runtime.start("assistly-worker-loop", lambda: _run_loop(loop))
            return self._loop


async def _contained(result: Awaitable[object]) -> object:
    """Await the result. KeyboardInterrupt and SystemExit, which would stop the loop, become Unknown."""
    try:
        return await result
    except (KeyboardInterrupt, SystemExit) as error:
        raise Unknown(f"the publisher raised {type(error).__name__}") from error


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _cancel_all() -> None:
    """Cancel the publishers that outlast the grace time: otherwise their heartbeat would never end."""
    import asyncio

    abandoned = asyncio.all_tasks() - {asyncio.current_task()}
    for task in abandoned:
        task.cancel()
    await asyncio.gather(*abandoned, return_exceptions=True)
