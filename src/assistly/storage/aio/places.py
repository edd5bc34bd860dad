"""Where calls run: in place, on a pool of threads, or on one thread until it is left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from ..errors import StorageClosed
from .crew import Crew, Desk, Errand

T = TypeVar("T")


class Place(Protocol):
    """One at which calls run one after another."""

    async def run(self, call: Callable[[], T]) -> T:
        """A cancellation comes out at once. A call that has begun goes on to its end, unseen."""

    async def finish(self, call: Callable[[], T]) -> T:
        """A cancellation comes out when the call has ended."""

    async def undo(self, call: Callable[[], object]) -> None:
        """A cancellation comes out at once, and the call is made all the same."""

    def drop(self, call: Callable[[], object]) -> None:
        """Run it after what was begun before, and wait for nothing."""


class InPlace:
    async def run(self, call: Callable[[], T]) -> T:
        # A loop over such calls would otherwise never let another task in.
        await asyncio.sleep(0)
        return call()

    async def finish(self, call: Callable[[], T]) -> T:
        return call()

    async def undo(self, call: Callable[[], object]) -> None:
        call()

    def drop(self, call: Callable[[], object]) -> None:
        call()


class Threads:
    """At most `size` threads. They are not carried through a fork."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="assistly-aio")
        self._crew: Crew | None = None
        self._lent = 0
        self._process = os.getpid()
        self._closed = False

    async def run(self, call: Callable[[], T]) -> T:
        return await self.submit(call)

    async def finish(self, call: Callable[[], T]) -> T:
        return await _to_the_end(self.submit(call))

    def submit(self, call: Callable[[], T]) -> asyncio.Future[T]:
        self.check()
        crew = self._crew
        loop = asyncio.get_running_loop()
        if crew is None or crew.loop is not loop:
            crew = self._crew = self._new_crew(loop)
        return crew.take_on(call)

    def lend(self, work: Callable[[], None]) -> None:
        """A thread for this alone, until `take_back`."""
        self.check()
        self._pool.submit(work)
        self._lent += 1
        if self._crew is not None:
            self._crew.resize(self._size - self._lent)
            if self._lent + self._crew.shifts > self._size:
                self._crew.let_one_go()

    def take_back(self) -> None:
        self._lent -= 1
        if self._crew is not None:
            self._crew.resize(self._size - self._lent)

    def check(self) -> None:
        if self._process != os.getpid():
            raise StorageClosed("threads are not carried through a fork: open another storage in the child")
        if self._closed:
            raise StorageClosed("the storage is closed: open another one")

    def refuse(self) -> None:
        self._closed = True

    def join(self) -> None:
        """Wait for all that was begun."""
        if self._crew is not None:
            self._crew.join()
        self._pool.shutdown()

    def _new_crew(self, loop: asyncio.AbstractEventLoop) -> Crew:
        if self._crew is not None:
            for _ in range(self._crew.shifts):
                self._crew.let_one_go()
        return Crew(loop, self._pool, self._size - self._lent)


class OneThread:
    """A thread of the pool, kept for as long as this place is open."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._desk = Desk(self._loop)
        self._calls: SimpleQueue[Errand[Any] | None] = SimpleQueue()
        self._left = False
        threads.lend(self._serve)

    async def run(self, call: Callable[[], T]) -> T:
        return await self._submit(call)

    async def finish(self, call: Callable[[], T]) -> T:
        return await _to_the_end(self._submit(call))

    async def undo(self, call: Callable[[], object]) -> None:
        await asyncio.shield(self._submit(call))

    def drop(self, call: Callable[[], object]) -> None:
        self._submit(call).add_done_callback(_forget)

    def leave(self) -> None:
        """The thread is the pool's again when what was begun here has ended."""
        if not self._left:
            self._left = True
            self._calls.put(None)
            self._threads.take_back()

    def _submit(self, call: Callable[[], T]) -> asyncio.Future[T]:
        if self._left:
            raise StorageClosed("the transaction has ended")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._calls.put(Errand(call, answer))
        return answer

    def _serve(self) -> None:
        for errand in iter(self._calls.get, None):
            errand.perform()
            self._desk.leave(errand)
            del errand
            self._desk.call()


async def _to_the_end(future: asyncio.Future[T]) -> T:
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()
        raise cancelled
    return future.result()


def _forget(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
