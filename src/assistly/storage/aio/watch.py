"""Waiting for due jobs, with one thread for all tasks that wait."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Protocol

from ..stores.queue import Queue
from .runners import Runner

_POLL = 0.05


class Waiter(Protocol):
    async def wait(self, seconds: float) -> bool: ...


class Poll:
    """For a transaction, which only its own calls can look into, and whose thread must not sleep."""

    def __init__(self, queue: Queue, runner: Runner) -> None:
        self._queue = queue
        self._runner = runner

    async def wait(self, seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not await self._runner.run(lambda: self._queue.wait(0)):
            left = deadline - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(left, _POLL))
        return True


class Watch:
    """Sleeps in a thread that outlives a cancelled wait, and that the next one then shares."""

    def __init__(self, queue: Queue, runner: Runner) -> None:
        self._queue = queue
        self._runner = runner
        self._under_way: Future[bool] | None = None

    async def wait(self, seconds: float) -> bool:
        if self._runner.in_transaction():
            return await Poll(self._queue, self._runner).wait(seconds)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        # The one under way may sleep through a change that came before this call.
        if self._under_way is not None and await self._runner.run(lambda: self._queue.wait(0)):
            return True
        while (shared := self._under_way) is not None:
            left = deadline - loop.time()
            if left <= 0:
                return False
            if await _answer(shared, left):
                return True
        return bool(await _answer(self._start(max(0, deadline - loop.time())), None))

    def _start(self, seconds: float) -> Future[bool]:
        answer: Future[bool] = Future()
        answer.set_running_or_notify_cancel()
        self._under_way = answer
        threading.Thread(
            target=self._sleep, args=(answer, seconds), name="assistly-wait", daemon=True
        ).start()
        return answer

    def _sleep(self, answer: Future[bool], seconds: float) -> None:
        try:
            due = self._queue.wait(seconds)
        except BaseException as error:  # noqa: BLE001 - raised again in the tasks that wait
            self._under_way = None
            answer.set_exception(error)
        else:
            self._under_way = None
            answer.set_result(due)


async def _answer(answer: Future[bool], timeout: float | None) -> bool | None:
    """None when the time is up."""
    future = asyncio.wrap_future(answer)
    try:
        done, _ = await asyncio.wait([future], timeout=timeout)
        return future.result() if done else None
    finally:
        # A loop that is closed before the thread wakes must not be told any more.
        future.cancel()
