"""`AsyncStorage`: the stores of a `Storage`, with `await`."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, ExitStack
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import NoReturn, Self

from .. import validation as check
from ..bindable import Bindable
from ..errors import StorageClosed
from ..records import PoolConnections, Prunable, PruneReport
from ..storage import Storage
from ..transactions import Transaction, not_entered
from .calls import Calls, InnerCalls, RootCalls
from .queue import AsyncQueue
from .stores import (
    AsyncApprovals,
    AsyncEvents,
    AsyncIdempotency,
    AsyncLocks,
    AsyncMetrics,
    AsyncNonces,
    AsyncPlatforms,
    AsyncSchedules,
    AsyncSessions,
    AsyncSnapshots,
)
from .threads import MAX_THREADS
from .watch import PollingWaiter, SharedWaiter, Waiter


class AsyncStorage:
    """A `Storage` for asyncio: the same operations with `await`, in at most `threads` threads (default: 10).

    Transactions make their calls in further threads, and one more thread sleeps while tasks wait for jobs.
    Calls on the memory engine run on the event loop. An AsyncStorage belongs to one event loop, and cannot be
    used after a fork. Every operation is atomic: a cancelled one has happened or has not. Closing it closes
    the `storage` that it was made from. Most callers want `open_async_storage`.

    Raises InvalidValue for a wrong `storage`, or `threads` outside 1 to 10,000.
    """

    queue: AsyncQueue
    """Jobs to publish, each once, at its time."""

    sessions: AsyncSessions
    """One JSON value for each user, with a version."""

    approvals: AsyncApprovals
    """Requests that wait for a person's decision."""

    idempotency: AsyncIdempotency
    """Keys of commands, each of which is run once."""

    nonces: AsyncNonces
    """Webhook nonces, each of which is accepted once."""

    metrics: AsyncMetrics
    """Counters, and the latency of requests."""

    lock: AsyncLocks
    """Named locks with one owner at a time."""

    events: AsyncEvents
    """An append-only log."""

    snapshots: AsyncSnapshots
    """One JSON payload for each kind."""

    platforms: AsyncPlatforms
    """Pauses and limits of platforms, for all workers."""

    schedules: AsyncSchedules
    """Recurring posts."""

    def __init__(self, storage: Storage, *, threads: int = 10) -> None:
        check.instance("storage", storage, Storage)
        check.whole("threads", threads, least=1, most=MAX_THREADS)
        calls = RootCalls(storage, threads)
        self._set_up(storage, calls, SharedWaiter(storage.queue, calls))

    def _set_up(self, storage: Storage, calls: Calls, waiter: Waiter) -> None:
        self._storage = storage
        self._calls = calls
        self._closed = False
        self.queue = AsyncQueue(storage.queue, calls, waiter)
        self.sessions = AsyncSessions(storage.sessions, calls)
        self.approvals = AsyncApprovals(storage.approvals, calls)
        self.idempotency = AsyncIdempotency(storage.idempotency, calls)
        self.nonces = AsyncNonces(storage.nonces, calls)
        self.metrics = AsyncMetrics(storage.metrics, calls)
        self.lock = AsyncLocks(storage.lock, calls)
        self.events = AsyncEvents(storage.events, calls)
        self.snapshots = AsyncSnapshots(storage.snapshots, calls)
        self.platforms = AsyncPlatforms(storage.platforms, calls)
        self.schedules = AsyncSchedules(storage.schedules, calls)

    def transaction(self) -> AsyncTransaction:
        """Commit all calls on `tx` together at the end of the block, or undo them all after an exception.

            async with storage.transaction() as tx:
                await tx.queue.schedule(…)
                await tx.events.append(…)

        A cancellation undoes them too, unless the commit has begun: it is raised when that has ended. `tx`
        may be used from any task, one call at a time. `tx.transaction()` is a savepoint. Keep it short: on
        SQLite and in memory it keeps all other writers waiting. A call that waits for another transaction
        longer than 10 seconds raises StorageUnavailable.

        Calls on this storage do not take part. From the task that is inside, or one started there, they
        raise TransactionOpen; so do calls on `tx` while a nested transaction is open.
        """
        return AsyncTransaction(self._storage, self._calls)

    async def bind(self, connection: Bindable) -> AsyncStorage:
        """Return this storage inside the caller's own transaction, which the caller commits or rolls back.

        `connection` is a `psycopg.AsyncConnection`, an `aiosqlite.Connection`, or an AsyncSession or
        AsyncConnection of SQLAlchemy on one of these drivers. A synchronous connection that `Storage.bind`
        takes will do, too, except Django's; one of sqlite3 must be opened with `check_same_thread=False`,
        since calls run in threads.

        Await the calls one at a time with your own on the same connection. A transaction of SQLAlchemy that
        has not begun begins. Once it has ended, calls raise StorageClosed. Raises InvalidValue unless
        `connection` is open, and one to the database of this storage.
        """
        storage, calls = await self._calls.bind(self._storage, connection)
        return _AsyncStorageView(storage, calls)

    async def prune(self, *, force: bool = False, now: datetime | None = None) -> PruneReport:
        return await self._calls.run(partial(self._storage.prune, force=force, now=now))

    async def prunable(self, *, now: datetime | None = None) -> Prunable:
        return await self._calls.run(partial(self._storage.prunable, now=now))

    async def maintain(self) -> None:
        await self._calls.run(self._storage.maintain)

    async def sizes(self) -> dict[str, int]:
        return await self._calls.run(self._storage.sizes)

    async def connections(self) -> PoolConnections | None:
        return await self._calls.run(self._storage.connections)

    async def ping(self) -> float:
        return await self._calls.run(self._storage.ping)

    async def migrate(self) -> list[str]:
        return await self._calls.run(self._storage.migrate)

    async def close(self) -> None:
        """Wait for the calls and transactions in progress, then release all connections and threads.

        Later calls raise StorageClosed; closing twice is fine. An open transaction of the calling task is
        not waited for, but undone, and its block raises StorageClosed when it ends.
        """
        self._closed = True
        await self._calls.close(self._storage)

    aclose = close

    async def __aenter__(self) -> Self:
        if self._closed:
            raise StorageClosed("the storage is closed: open a new one")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self._storage!r}"


for _name in ("prune", "prunable", "maintain", "sizes", "connections", "ping", "migrate"):
    getattr(AsyncStorage, _name).__doc__ = getattr(Storage, _name).__doc__


class _AsyncStorageView(AsyncStorage):
    """The storage of a transaction or of a bound connection."""

    def __init__(self, storage: Storage, calls: InnerCalls) -> None:
        self._set_up(storage, calls, PollingWaiter(storage.queue, calls))


class AsyncTransaction(AbstractAsyncContextManager[AsyncStorage]):
    """The context manager that `AsyncStorage.transaction()` returns; entered once."""

    def __init__(self, storage: Storage, calls: Calls) -> None:
        self._storage = storage
        self._outer = calls
        self._inner: InnerCalls | None = None
        self._transaction: Transaction[Storage] | None = None
        self._admission = ExitStack()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_") or not hasattr(self._storage, name):
            raise AttributeError(name)
        raise not_entered(name, "async with")

    async def __aenter__(self) -> AsyncStorage:
        if self._transaction is not None:
            raise StorageClosed("a transaction can be entered only once: call `transaction()` again")
        with ExitStack() as admission:
            admission.enter_context(self._outer.admitted())
            transaction = self._transaction = self._storage.transaction()
            storage = await self._outer.begin(transaction)
            self._admission = admission.pop_all()
        transaction.mark()
        self._inner = self._outer.inner(storage)
        return _AsyncStorageView(storage, self._inner)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transaction is None or self._inner is None:
            raise StorageClosed("the transaction was never entered")
        try:
            with self._admission:
                await self._inner.end(self._transaction, error)
        finally:
            self._transaction.unmark()
