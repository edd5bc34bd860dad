"""A worker that runs on an event loop in a thread, beside the caller."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..pickup import PATIENCE

_LONG = 120.0


class Arrivals:
    """When jobs were in the hands of a worker."""

    def __init__(self) -> None:
        self._times: queue.SimpleQueue[float] = queue.SimpleQueue()

    def note(self) -> None:
        self._times.put(time.monotonic())

    def receive(self) -> float:
        return self._times.get(timeout=PATIENCE)


class Countdown:
    """Notes jobs as they run, until so many have."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._times: list[float] = []
        self._count = count
        self._done = threading.Event()

    def note(self) -> None:
        with self._lock:
            self._times.append(time.monotonic())
            if len(self._times) == self._count:
                self._done.set()

    def rate(self) -> float:
        """Jobs per second from the first to the last."""
        if not self._done.wait(_LONG):
            raise TimeoutError(f"{len(self._times)} of {self._count} jobs ran in {_LONG} s")
        return (self._count - 1) / (self._times[-1] - self._times[0])


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
    loop, task = handles.get(timeout=PATIENCE)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(PATIENCE)
