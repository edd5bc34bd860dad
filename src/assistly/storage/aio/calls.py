"""How an `AsyncStorage` makes its calls: in threads, or on the event loop itself.

Calls on an engine with `in_process` run on the event loop, unless they might have to wait for a transaction
of another task: that would block the loop, and the transaction could never end. So while any transaction
is open on such an engine, calls outside it run in threads.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from ..batching import RETRY_SINGLY, BatchedCall
from ..errors import StorageClosed
from ..frameworks import current_session
from ..storage import Storage
from ..transactions import Transaction, is_any_open, opened_by
from .batching import TaskBatcher
from .binding import find_async_connection
from .threads import CLOSED, ThreadPools, Threads, to_the_end

R = TypeVar("R")
T = TypeVar("T")


class Calls(ABC):
    """How the stores of an `AsyncStorage` make their calls."""

    _threads: Threads

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Admit a call or a transaction for the block, for whose end `close` waits.

        Raises StorageClosed or TransactionOpen.
        """
        yield

    @abstractmethod
    async def run(self, call: Callable[[], T]) -> T:
        """Make a call. A cancellation is raised at once; the result of a call that has begun is ignored."""

    async def finish(self, call: Callable[[], T]) -> T:
        """Make a call. A cancellation is raised when the call has ended."""
        return await to_the_end(asyncio.ensure_future(self.run(call)))

    async def batch(self, operation: BatchedCall[Any, R, T], request: R) -> T:
        """Make a call, possibly in a batch with those of other tasks. The request is validated already."""
        return await self.run(partial(operation.run_singly, request))

    @abstractmethod
    async def begin(self, transaction: Transaction[Storage]) -> Storage:
        """Begin a transaction. A cancellation is raised at once, and the transaction is undone."""

    @abstractmethod
    def inner(self, storage: Storage) -> InnerCalls:
        """Return the calls for the storage of a transaction."""

    async def bind(self, storage: Storage, connection: Any) -> tuple[Storage, InnerCalls]:
        """Bind a connection; return the bound storage and the calls for it."""
        connection = current_session(connection)
        with self.admitted():
            found = await find_async_connection(connection, self._threads) if storage._backend.binds else None
            if found is not None:
                callers: Any
                callers, threads = found
                bound = await threads.submit(partial(storage.bind, callers))
                return bound, InnerCalls(bound, threads, in_process=False)
        bound = await self.run(partial(storage.bind, connection))
        return bound, self.inner(bound)

    @abstractmethod
    async def close(self, storage: Storage) -> None:
        """Close the storage that the calls are made on."""


class RootCalls(Calls):
    """The calls on a storage outside transactions."""

    _threads: ThreadPools

    def __init__(self, storage: Storage, threads: int) -> None:
        self._storage = storage
        self._backend = storage._backend
        self._in_process = self._backend.in_process
        self._threads = ThreadPools(threads)
        self._batchers: dict[BatchedCall[Any, Any, Any], TaskBatcher[Any, Any]] = {}
        self._in_progress = 0
        self._one_ended: asyncio.Event | None = None
        self._closing: asyncio.Task[None] | None = None

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """See `Calls`."""
        if self._closing is not None:
            raise StorageClosed(CLOSED)
        if not self._in_process:
            self._threads.check()
        self._storage._context.check()
        self._in_progress += 1
        try:
            yield
        finally:
            self._in_progress -= 1
            if self._one_ended is not None:
                self._one_ended.set()

    async def run(self, call: Callable[[], T]) -> T:
        """See `Calls`."""
        with self.admitted():
            if self._in_process:
                # Without it, a task that makes such calls in a loop would never let another one run.
                await asyncio.sleep(0)
                if not is_any_open(self._backend):
                    return call()
            return await self._threads.submit(call)

    async def batch(self, operation: BatchedCall[Any, R, T], request: R) -> T:
        """See `Calls`."""
        if not operation.writers:
            return await super().batch(operation, request)
        batcher = self._batchers.get(operation)
        if batcher is None:
            batcher = self._batchers[operation] = TaskBatcher(operation, self._threads.submit)
        with self.admitted():
            answer = await batcher.call(request)
            if answer is RETRY_SINGLY:
                return await self._threads.submit(partial(operation.run_singly, request))
            return operation.result(request, answer)

    async def begin(self, transaction: Transaction[Storage]) -> Storage:
        """See `Calls`."""
        if self._in_process and not is_any_open(self._backend, besides=transaction):
            return transaction.begin()
        return await _begin(transaction, self._threads, in_transaction=False)

    def inner(self, storage: Storage) -> InnerCalls:
        """See `Calls`."""
        return InnerCalls(storage, self._threads, in_process=self._in_process)

    async def close(self, storage: Storage) -> None:
        """Wait for the calls and transactions in progress, then close.

        A transaction of the calling task is not waited for, but undone.
        """
        is_inside = any(transaction.is_marked for transaction in opened_by(storage))
        if self._closing is None or self._closing.cancelled():
            # It is cancelled if its event loop ended before the last call did.
            self._closing = asyncio.get_running_loop().create_task(self._close(storage, int(is_inside)))
        elif is_inside:
            return
        await asyncio.shield(self._closing)

    async def _close(self, storage: Storage, own: int) -> None:
        self._one_ended = asyncio.Event()
        while self._in_progress > own:
            self._one_ended.clear()
            await self._one_ended.wait()

        def close() -> None:
            storage.close()
            self._threads.shut_down()

        await asyncio.get_running_loop().run_in_executor(None, close)


class InnerCalls(Calls):
    """The calls on a transaction or a bound connection, one at a time."""

    def __init__(self, storage: Storage, threads: Threads, *, in_process: bool) -> None:
        self._storage = storage
        self._threads = threads
        self._in_process = in_process
        self._turn = asyncio.Lock()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """See `Calls`."""
        self._storage._context.check()
        yield

    async def run(self, call: Callable[[], T]) -> T:
        """See `Calls`."""
        with self.admitted():
            if self._in_process:
                await asyncio.sleep(0)
                return call()
            async with self._turn:
                return await self._threads.submit(call, in_transaction=True)

    async def begin(self, transaction: Transaction[Storage]) -> Storage:
        """See `Calls`."""
        if self._in_process:
            return transaction.begin()
        async with self._turn:
            return await _begin(transaction, self._threads, in_transaction=True)

    async def end(self, transaction: Transaction[Storage], error: BaseException | None) -> None:
        """End the transaction.

        A cancellation during a commit is raised when the commit has ended; during a rollback, at once.
        """
        end = partial(transaction.end, error)
        if self._in_process or not self._threads.are_usable:
            # Without threads, it was undone when the storage was closed, or belongs to the parent process.
            end()
            return
        ending = self._threads.submit(end, in_transaction=True)
        await (to_the_end(ending) if error is None else asyncio.shield(ending))

    def inner(self, storage: Storage) -> InnerCalls:
        """See `Calls`."""
        return InnerCalls(storage, self._threads, in_process=self._in_process)

    async def close(self, storage: Storage) -> None:
        """See `Calls`."""
        await self.finish(storage.close)


async def _begin(transaction: Transaction[Storage], threads: Threads, *, in_transaction: bool) -> Storage:
    try:
        return await threads.submit(transaction.begin, in_transaction=in_transaction)
    except asyncio.CancelledError:
        # The thread may have begun it, or be about to.
        threads.submit(partial(transaction.abort, "its task was cancelled", timeout=-1), in_transaction=True)
        raise
