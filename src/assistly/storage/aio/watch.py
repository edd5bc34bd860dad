"""Waiting for due jobs, in one thread for all tasks that wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from ..stores.queue import Queue
from .calls import Calls

_POLL_SECONDS = 0.05


class Waiter(Protocol):
    """Waits for due jobs."""

    async def wait(self, seconds: float, platforms: Sequence[str] | None) -> bool:
        """True if a job of these platforms may be due, False after `seconds`."""


class PollingWaiter:
    """Polls, inside a transaction: no notification reaches it, and its calls must not sleep in a thread."""

    def __init__(self, queue: Queue, calls: Calls) -> None:
        self._queue = queue
        self._calls = calls

    async def wait(self, seconds: float, platforms: Sequence[str] | None) -> bool:
        """See `Waiter`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not await self._calls.run(lambda: self._queue.wait(0, platforms=platforms)):
            left = deadline - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(left, _POLL_SECONDS))
        return True


class SharedWaiter:
    """Waits in a thread that all tasks share which wait for the same platforms.

    It goes on after a cancellation, for the next wait.
    """

    def __init__(self, queue: Queue, calls: Calls) -> None:
        self._queue = queue
        self._calls = calls
        self._shared: dict[frozenset[str] | None, Future[bool]] = {}

    async def wait(self, seconds: float, platforms: Sequence[str] | None) -> bool:
        """See `Waiter`."""
        wanted = None if platforms is None else frozenset(platforms)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        # A thread that sleeps already may not notice a job that fell due before this call.
        if await self._calls.run(lambda: self._queue.wait(0, platforms=platforms)):
            return True
        while (shared := self._shared.get(wanted)) is not None:
            left = deadline - loop.time()
            if left <= 0:
                return False
            if await _answer(shared, left):
                return True
        return bool(await _answer(self._start(wanted, max(0, deadline - loop.time())), None))

    def _start(self, wanted: frozenset[str] | None, seconds: float) -> Future[bool]:
        answer: Future[bool] = Future()
        answer.set_running_or_notify_cancel()
        self._shared[wanted] = answer
        threading.Thread(
            target=self._sleep, args=(answer, wanted, seconds), name="assistly-wait", daemon=True
        ).start()
        return answer

    def _sleep(self, answer: Future[bool], wanted: frozenset[str] | None, seconds: float) -> None:
        try:
            due = self._queue.wait(seconds, platforms=wanted)
        except BaseException as error:  # noqa: BLE001 - raised again in the tasks that wait
            self._shared.pop(wanted, None)
            answer.set_exception(error)
        else:
            self._shared.pop(wanted, None)
            answer.set_result(due)


async def _answer(answer: Future[bool], timeout: float | None) -> bool | None:
    """Wait for the answer; None if it takes longer than `timeout` seconds."""
    future = asyncio.wrap_future(answer)
    try:
        done, _ = await asyncio.wait([future], timeout=timeout)
        return future.result() if done else None
    finally:
        # Otherwise the thread would notify this loop, which may be closed by then.
        future.cancel()
