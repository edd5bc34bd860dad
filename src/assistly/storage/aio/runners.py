"""Which place a task's call runs at, and how transactions keep tasks apart.

A task is here what a thread is to `Storage`: while it has a transaction open, its calls on the
storage itself join that transaction, and those of no other task do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from ..engine.protocol import StorageBackend
from ..engines.memory import MemoryBackend
from ..storage import Storage
from ..batching import RETRY_SINGLY, BatchedCall
from .grouping import Lane
from .places import InPlace, OneThread, Place, Threads

R = TypeVar("R")
T = TypeVar("T")

OpenBlock = Callable[[], AbstractContextManager[Storage]]
Inner = tuple[Storage, "Runner"]


class Runner(Protocol):
    async def run(self, call: Callable[[], T]) -> T:
        """A cancellation comes out at once. A call that has begun goes on to its end, unseen."""

    async def finish(self, call: Callable[[], T]) -> T:
        """A cancellation comes out when the call has ended."""

    async def share(self, shared: BatchedCall[R, T], request: R) -> T:
        """Make a call that may travel with others."""

    def transaction(self, open_block: OpenBlock) -> AbstractAsyncContextManager[Inner]:
        """What the block yields, and the runner for it."""

    def in_transaction(self) -> bool:
        """Whether calls of this task join a transaction."""

    def bound(self) -> Runner:
        """For a storage on a connection of the caller's."""

    async def close(self, close: Callable[[], None]) -> None:
        """Call it when what is under way has ended."""


class Turns:
    """A lock that the task that holds it passes freely."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._holder: asyncio.Task[Any] | None = None

    @property
    def are_held(self) -> bool:
        """By this task."""
        return self._holder is asyncio.current_task()

    @asynccontextmanager
    async def taken(self, *, hold: bool = False) -> AsyncIterator[None]:
        """`hold`: the task's own calls inside pass."""
        if self.are_held:
            yield
            return
        async with self._lock:
            self._holder = asyncio.current_task() if hold else None
            try:
                yield
            finally:
                self._holder = None

    @asynccontextmanager
    async def taken_whatever_happens(self) -> AsyncIterator[None]:
        """A cancellation on the way comes out at the end."""
        if self.are_held:
            yield
            return
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                await self._lock.acquire()
                break
            except asyncio.CancelledError as error:
                cancelled = error
        try:
            yield
        finally:
            self._lock.release()
        if cancelled is not None:
            raise cancelled


class OneByOne:
    """Calls take turns at one place, and a nested transaction is a long turn of its task."""

    def __init__(self, place: Place, turns: Callable[[], Turns] | None = None) -> None:
        own = Turns()
        self._place = place
        self._turns = turns or (lambda: own)

    async def run(self, call: Callable[[], T]) -> T:
        async with self._turns().taken():
            return await self._place.run(call)

    async def finish(self, call: Callable[[], T]) -> T:
        async with self._turns().taken_whatever_happens():
            return await self._place.finish(call)

    async def share(self, shared: BatchedCall[R, T], request: R) -> T:
        return await self.run(partial(shared.alone, request))

    @asynccontextmanager
    async def transaction(self, open_block: OpenBlock) -> AsyncIterator[Inner]:
        async with self._turns().taken(hold=True), _block(self._place, open_block) as storage:
            yield storage, OneByOne(self._place)

    def in_transaction(self) -> bool:
        return self._turns().are_held

    def bound(self) -> OneByOne:
        return OneByOne(self._place)

    async def close(self, close: Callable[[], None]) -> None:
        await self.finish(close)


class SideBySide:
    """Calls run on any thread, and each task's transaction on a thread of its own."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._open: dict[asyncio.Task[Any] | None, OneByOne] = {}
        self._lanes: dict[BatchedCall[Any, Any], Lane[Any, Any]] = {}

    async def run(self, call: Callable[[], T]) -> T:
        joined = self._joined()
        return await (joined or self._threads).run(call)

    async def finish(self, call: Callable[[], T]) -> T:
        joined = self._joined()
        return await (joined or self._threads).finish(call)

    async def share(self, shared: BatchedCall[R, T], request: R) -> T:
        if self._joined() is not None or not shared.writers():
            return await self.run(partial(shared.alone, request))
        lane = self._lanes.get(shared)
        if lane is None:
            lane = self._lanes[shared] = Lane(shared, self._threads.submit)
        answer = await lane.join(request)
        if answer is RETRY_SINGLY:
            return await self.run(partial(shared.alone, request))
        return shared.unpack(request, answer)

    @asynccontextmanager
    async def transaction(self, open_block: OpenBlock) -> AsyncIterator[Inner]:
        joined = self._joined()
        if joined is not None:
            async with joined.transaction(open_block) as inner:
                yield inner
            return
        task = asyncio.current_task()
        place = OneThread(self._threads)
        runner = OneByOne(place)
        self._open[task] = runner
        try:
            async with _block(place, open_block) as storage:
                yield storage, runner
        finally:
            del self._open[task]
            place.leave()

    def in_transaction(self) -> bool:
        return self._joined() is not None

    def bound(self) -> SideBySide:
        return SideBySide(self._threads)

    async def close(self, close: Callable[[], None]) -> None:
        await self.finish(close)

    def _joined(self) -> OneByOne | None:
        self._threads.check()
        return self._open.get(asyncio.current_task())


class Root(SideBySide):
    """Owns its threads."""

    def __init__(self, size: int) -> None:
        super().__init__(Threads(size))

    async def close(self, close: Callable[[], None]) -> None:
        """Transactions go on to their end. One that this task has open is not waited for."""
        for lane in self._lanes.values():
            lane.flush()
        self._threads.refuse()
        closing = asyncio.get_running_loop().run_in_executor(None, self._close, close)
        if asyncio.current_task() not in self._open:
            await asyncio.shield(closing)

    def _close(self, close: Callable[[], None]) -> None:
        self._threads.join()
        close()


@asynccontextmanager
async def _block(place: Place, open_block: OpenBlock) -> AsyncIterator[Storage]:
    """A transaction of which begin, calls and end run at one place, since its thread is what marks it."""
    stack = ExitStack()

    def end(error: BaseException | None) -> None:
        stack.__exit__(None if error is None else type(error), error, None)

    try:
        storage = await place.run(lambda: stack.enter_context(open_block()))
    except BaseException as error:
        place.drop(partial(end, error))
        raise
    try:
        yield storage
    except BaseException as error:
        await place.undo(partial(end, error))
        raise
    await place.finish(partial(end, None))


_memory_turns: WeakKeyDictionary[MemoryBackend, WeakKeyDictionary[asyncio.AbstractEventLoop, Turns]]
_memory_turns = WeakKeyDictionary()


def _turns_of(backend: MemoryBackend) -> Turns:
    """One for all storages over this backend: its lock tells threads apart, and a loop is one thread."""
    loops = _memory_turns.get(backend)
    if loops is None:
        loops = _memory_turns[backend] = WeakKeyDictionary()
    loop = asyncio.get_running_loop()
    turns = loops.get(loop)
    if turns is None:
        turns = loops[loop] = Turns()
    return turns


def runner_for(backend: StorageBackend, threads: int) -> Runner:
    if isinstance(backend, MemoryBackend):
        return OneByOne(InPlace(), partial(_turns_of, backend))
    return Root(threads)
