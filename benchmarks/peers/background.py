"""A worker that runs on an event loop in a thread, beside the caller."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..pickup import TIMEOUT

_LONG = 120.0


class Countdown:
    """Counts jobs as they run, until so many have."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._left = count
        self._done = threading.Event()

    def note(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._done.set()

    def wait(self) -> None:
        if not self._done.wait(_LONG):
            raise TimeoutError(f"{self._left} jobs did not run in {_LONG} s")


@contextmanager
def in_background(work: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """Cancels it at the end."""
    handles: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = queue.SimpleQueue()

    async def watched() -> None:
        task = asyncio.ensure_future(work())
        handles.put((asyncio.get_running_loop(), task))
        with suppress(asyncio.CancelledError):
            await task

    thread = threading.Thread(target=lambda: asyncio.run(watched()), daemon=True)
    thread.start()
    loop, task = handles.get(timeout=TIMEOUT)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(TIMEOUT)
