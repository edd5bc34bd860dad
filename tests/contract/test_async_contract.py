"""The contract, through the facade: each thread of a test drives a task of its own on one event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from assistly.storage import (
    AsyncStorage,
    MemoryBackend,
    PoolConnections,
    PostgresBackend,
    SqliteBackend,
    Storage,
    StorageBackend,
)
from assistly.storage.aio.storage import AsyncTransaction
from assistly.storage.testing import Contract, FakeClock, empty, open_for_test
from assistly.storage.testing.approvals_contract import ApprovalDecisionsContract
from assistly.storage.testing.batches_contract import BatchesContract
from assistly.storage.testing.events_contract import EventReadingContract
from assistly.storage.testing.idempotency_contract import IdempotencyFenceContract, RunOnceContract
from assistly.storage.testing.idempotency_forget_contract import IdempotencyForgetContract
from assistly.storage.testing.limits_contract import LimitsContract
from assistly.storage.testing.lock_contract import LockContract
from assistly.storage.testing.metrics_contract import MetricsContract
from assistly.storage.testing.nonces_contract import NoncesContract
from assistly.storage.testing.pauses_contract import PausedClaimsContract, PausedWaitsContract
from assistly.storage.testing.platforms_contract import PauseAtLeastContract, PlatformsContract
from assistly.storage.testing.queue_contract import QueueContract
from assistly.storage.testing.schedules_contract import ScheduleRunsContract, SchedulesContract
from assistly.storage.testing.sessions_contract import SessionsContract, SessionUpdatesContract
from assistly.storage.testing.snapshots_contract import SnapshotsContract
from assistly.storage.testing.transaction_calls_contract import (
    TransactionCallsContract,
    TransactionThreadsContract,
)
from assistly.storage.testing.transactions_contract import TransactionErrorsContract, TransactionsContract

STORES = (
    "queue",
    "sessions",
    "approvals",
    "idempotency",
    "nonces",
    "metrics",
    "lock",
    "events",
    "snapshots",
    "platforms",
    "schedules",
    "schedules",
)

Start = Callable[[], Coroutine[Any, Any, Any]]


class LoopThread:
    """An event loop in a thread. What a thread asks of it runs in a task with that thread's context."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, start: Start) -> Any:
        if threading.current_thread() is self._thread:
            return _run_at_once(start())
        return asyncio.run_coroutine_threadsafe(start(), self._loop).result(timeout=60)

    def close(self) -> None:
        self.run(self._loop.shutdown_default_executor)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=60)
        self._loop.close()


def _run_at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """For a function that an operation runs on the loop, in memory: it may not wait for anything."""
    try:
        while True:
            assert work.send(None) is None, "it would wait for the loop that it holds up"
    except StopIteration as end:
        return end.value


class DrivenStore:
    def __init__(self, store: Any, loop: LoopThread) -> None:
        self._store = store
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return lambda *args, **kwargs: self._loop.run(lambda: method(*args, **kwargs))


class DrivenIdempotency(DrivenStore):
    def run_once(self, key: str, function: Any, **options: Any) -> Any:
        """The suite's functions may call the storage, which a callback on the event loop cannot."""

        async def aside() -> Any:
            return await asyncio.to_thread(function)

        wrapped = aside if callable(function) else function
        return self._loop.run(lambda: self._store.run_once(key, wrapped, **options))


class DrivenBlock:
    """A task of its own enters and leaves it, so that this thread has to be told that it is inside."""

    def __init__(self, block: AsyncTransaction, loop: LoopThread) -> None:
        self._block = block
        self._loop = loop

    def __enter__(self) -> Storage:
        storage = self._loop.run(self._block.__aenter__)
        if self._block._transaction is not None:
            self._block._transaction.mark()
        return DrivenStorage(storage, self._loop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._loop.run(partial(self._block.__aexit__, kind, error, trace))
        finally:
            if self._block._transaction is not None:
                self._block._transaction.unmark()


class DrivenStorage(Storage):
    """A `Storage` to the suite; all it does is done by an `AsyncStorage`."""

    def __init__(self, storage: AsyncStorage, loop: LoopThread) -> None:
        self._async = storage
        self._backend = storage._storage._backend
        self._loop = loop
        for name in STORES:
            kind = DrivenIdempotency if name == "idempotency" else DrivenStore
            setattr(self, name, kind(getattr(storage, name), loop))

    def transaction(self) -> Any:
        return DrivenBlock(self._async.transaction(), self._loop)

    def bind(self, connection: Any) -> Storage:
        return DrivenStorage(self._loop.run(lambda: self._async.bind(connection)), self._loop)

    def prune(self, **options: Any) -> Any:
        return self._loop.run(lambda: self._async.prune(**options))

    def prunable(self, **options: Any) -> Any:
        return self._loop.run(lambda: self._async.prunable(**options))

    def sizes(self) -> dict[str, int]:
        found: dict[str, int] = self._loop.run(self._async.sizes)
        return found

    def connections(self) -> PoolConnections | None:
        found: PoolConnections | None = self._loop.run(self._async.connections)
        return found

    def ping(self) -> float:
        seconds: float = self._loop.run(self._async.ping)
        return seconds

    def maintain(self) -> None:
        self._loop.run(self._async.maintain)

    def migrate(self) -> list[str]:
        names: list[str] = self._loop.run(self._async.migrate)
        return names


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    loop = LoopThread()
    yield loop
    loop.close()


@pytest.fixture(scope="class")
def memory() -> StorageBackend:
    return MemoryBackend()


@pytest.fixture(scope="class")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> StorageBackend:
    return SqliteBackend(tmp_path_factory.mktemp("sqlite") / "async.db")


@pytest.fixture(scope="class")
def postgres(database_url: str, new_schema: Callable[[], str]) -> StorageBackend:
    return PostgresBackend(database_url, schema=new_schema())


@pytest.fixture(scope="class")
def backend(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.cls.engine)


@pytest.fixture(scope="class")
def shared_clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="class")
def driven(backend: StorageBackend, shared_clock: FakeClock, loop: LoopThread) -> Iterator[Storage]:
    storage = AsyncStorage(open_for_test(backend, shared_clock), threads=10)
    yield DrivenStorage(storage, loop)
    loop.run(storage.close)


class AsyncFixtures(Contract):
    @pytest.fixture
    def clock(self, shared_clock: FakeClock) -> FakeClock:
        shared_clock.reset()
        return shared_clock

    @pytest.fixture
    def storage(self, backend: StorageBackend, clock: FakeClock, driven: Storage) -> Storage:
        empty(backend)
        return driven

    @pytest.fixture
    def impatient_storage(
        self,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        loop: LoopThread,
    ) -> Iterator[Storage]:
        backend: StorageBackend
        if request.cls.engine == "postgres":
            yield request.getfixturevalue("storage")
            return
        if request.cls.engine == "sqlite":
            backend = SqliteBackend(tmp_path / "impatient.db", busy_timeout=timedelta(seconds=0.2))
        else:
            monkeypatch.setattr("assistly.storage.engine.keyvalue.backend.LOCK_SECONDS", 0.2)
            backend = MemoryBackend()
        storage = AsyncStorage(open_for_test(backend, None))
        yield DrivenStorage(storage, loop)
        loop.run(storage.close)


class ThroughAwait(
    AsyncFixtures,
    QueueContract,
    SessionsContract,
    SessionUpdatesContract,
    ApprovalDecisionsContract,
    IdempotencyFenceContract,
    IdempotencyForgetContract,
    RunOnceContract,
    NoncesContract,
    BatchesContract,
    MetricsContract,
    LockContract,
    EventReadingContract,
    SnapshotsContract,
    PlatformsContract,
    PauseAtLeastContract,
    LimitsContract,
    PausedClaimsContract,
    PausedWaitsContract,
    SchedulesContract,
    ScheduleRunsContract,
    TransactionsContract,
    TransactionErrorsContract,
    TransactionCallsContract,
    TransactionThreadsContract,
):
    """Without what is checked above the facade: values, texts, times, and what retention keeps."""


class TestAsyncMemory(ThroughAwait):
    """Its calls are made on the event loop itself."""

    engine = "memory"


class TestAsyncSqlite(ThroughAwait):
    """Its calls are made in threads."""

    engine = "sqlite"


class TestAsyncPostgres(
    AsyncFixtures,
    SessionUpdatesContract,
    RunOnceContract,
    TransactionErrorsContract,
    TransactionCallsContract,
    TransactionThreadsContract,
):
    """What depends on the connection that a call gets. The facade itself is tried on the other engines."""

    engine = "postgres"
