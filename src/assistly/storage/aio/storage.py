"""`AsyncStorage`: the stores of a `Storage`, with `await`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

from .. import validation as check
from ..errors import StorageClosed
from ..records import PruneReport
from ..storage import Storage
from .queue import AsyncQueue
from .runners import Runner, runner_for
from .stores import (
    AsyncApprovals,
    AsyncEvents,
    AsyncIdempotency,
    AsyncLocks,
    AsyncMetrics,
    AsyncNonces,
    AsyncSessions,
    AsyncSnapshots,
)
from .watch import Poll, Waiter, Watch

_MOST_THREADS = 10_000


class AsyncStorage:
    """A `Storage` for asyncio: the same operations, in at most `threads` threads of its own.

    One more thread sleeps while tasks wait for jobs. The memory engine runs in place. One storage
    is used on one event loop, and not carried through a fork. Every operation is atomic: one that
    is cancelled has happened or has not. To close this closes the `storage` that it was made
    from. Most callers want `open_async_storage`.
    """

    def __init__(self, storage: Storage, *, threads: int = 10) -> None:
        check.instance("storage", storage, Storage)
        check.whole("threads", threads, least=1, most=_MOST_THREADS)
        backend = storage._context.idle_backend
        runner = runner_for(backend, threads)
        self._setup(storage, runner, Watch(storage.queue, runner))

    def _setup(self, storage: Storage, runner: Runner, waiter: Waiter) -> None:
        self._storage = storage
        self._runner = runner
        self._closed = False
        self.queue = AsyncQueue(storage.queue, runner, waiter)
        self.sessions = AsyncSessions(storage.sessions, runner)
        self.approvals = AsyncApprovals(storage.approvals, runner)
        self.idempotency = AsyncIdempotency(storage.idempotency, runner)
        self.nonces = AsyncNonces(storage.nonces, runner)
        self.metrics = AsyncMetrics(storage.metrics, runner)
        self.lock = AsyncLocks(storage.lock, runner)
        self.events = AsyncEvents(storage.events, runner)
        self.snapshots = AsyncSnapshots(storage.snapshots, runner)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncStorage]:
        """All that happens inside is stored at the end of the block, or undone by an exception.

        A cancellation undoes it, too, unless the commit has begun: that is awaited. Calls on this
        very storage from the same task join it. A task that is started inside is another task:
        hand it the storage that the block yields, since on the outer one it may wait for the end of
        this block. Nested ones are savepoints. Keep it short: it keeps a thread, and on SQLite
        and in memory it keeps all other writers waiting.
        """
        async with self._runner.transaction(self._storage.transaction) as (storage, runner):
            yield self._derived(storage, runner)

    async def bind(self, connection: Any) -> AsyncStorage:
        """This storage inside the caller's own transaction, on a psycopg or sqlite3 connection.

        That is a synchronous connection, and of sqlite3 one that was opened with
        `check_same_thread=False`: calls run in threads. To commit or roll back is the caller's.
        Raises InvalidValue for anything that is no open connection of this engine.
        """
        storage = await self._runner.run(partial(self._storage.bind, connection))
        return self._derived(storage, self._runner.bound())

    async def prune(self, *, force: bool = False, now: datetime | None = None) -> PruneReport:
        return await self._runner.run(partial(self._storage.prune, force=force, now=now))

    async def ping(self) -> float:
        return await self._runner.run(self._storage.ping)

    async def migrate(self) -> list[str]:
        return await self._runner.run(self._storage.migrate)

    async def close(self) -> None:
        """Wait for the calls and transactions under way, then give every connection back.

        Later calls raise StorageClosed; closing twice is fine.
        """
        self._closed = True
        await self._runner.close(self._storage.close)

    aclose = close

    async def __aenter__(self) -> Self:
        if self._closed:
            raise StorageClosed("the storage is closed: open another one")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self._storage!r}"

    def _derived(self, storage: Storage, runner: Runner) -> AsyncStorage:
        derived = object.__new__(AsyncStorage)
        derived._setup(storage, runner, Poll(storage.queue, runner))
        return derived


for _name in ("prune", "ping", "migrate"):
    getattr(AsyncStorage, _name).__doc__ = getattr(Storage, _name).__doc__
