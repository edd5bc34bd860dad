"""A naive engine for the mutants bugs: plain tables, one lock, transactions by copying everything.

Its small methods are there to be overridden, each with one bug.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

from assistly.storage.engine.protocol import IdempotencyRow, StorageBackend
from assistly.storage.errors import InvalidValue, StorageClosed
from assistly.storage.records import Approval, Event, Job, Session, Snapshot, WorkerLock
from assistly.storage.retention import milliseconds

T = TypeVar("T")


@dataclass
class Lock:
    fence: int
    held: WorkerLock | None


@dataclass
class Tables:
    """Dicts keep the order in which keys were first inserted."""

    jobs: dict[int, Job] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    approvals: dict[str, Approval] = field(default_factory=dict)
    keys: dict[str, tuple[int, IdempotencyRow]] = field(default_factory=dict)
    nonces: dict[str, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    latency: list[tuple[int, int, int]] = field(default_factory=list)
    locks: dict[str, Lock] = field(default_factory=dict)
    events: dict[int, Event] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    pruned_at: datetime | None = None


class Database:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.tables = Tables()
        self.numbers = 0

    def number(self) -> int:
        with self.lock:
            self.numbers += 1
            return self.numbers

    def restore(self, before: Tables) -> None:
        self.tables = before


class Store:
    """What the stores share: `tables` raises once the backend is closed."""

    def __init__(self, backend: NaiveBackend) -> None:
        self._backend = backend

    @property
    def lock(self) -> threading.RLock:
        return self._backend.database.lock

    @property
    def tables(self) -> Tables:
        if self._backend.closed:
            raise StorageClosed("closed")
        return self._backend.database.tables

    def number(self) -> int:
        return self._backend.database.number()


def locked(method: Callable[..., T]) -> Callable[..., T]:
    """One call at a time; what it returns shares nothing with the tables."""

    def run(self: Any, *args: Any, **options: Any) -> T:
        with self.lock:
            return deepcopy(method(self, *args, **options))

    return run


class NaiveBackend:
    database_type: ClassVar[type[Database]] = Database
    jobs_type: ClassVar[type[Any]]
    approvals_type: ClassVar[type[Any]]
    idempotency_type: ClassVar[type[Any]]
    sessions_type: ClassVar[type[Any]]
    lock_type: ClassVar[type[Any]]
    retention_type: ClassVar[type[Any]]
    nonces_type: ClassVar[type[Any]]
    metrics_type: ClassVar[type[Any]]
    events_type: ClassVar[type[Any]]
    snapshots_type: ClassVar[type[Any]]

    def __init__(self, database: Database | None = None) -> None:
        self.database = database or self.database_type()
        self.closed = False
        self.jobs = self.jobs_type(self)
        self.sessions = self.sessions_type(self)
        self.approvals = self.approvals_type(self)
        self.idempotency = self.idempotency_type(self)
        self.nonces = self.nonces_type(self)
        self.metrics = self.metrics_type(self)
        self.lock = self.lock_type(self)
        self.events = self.events_type(self)
        self.snapshots = self.snapshots_type(self)
        self.retention = self.retention_type(self)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def now_ms(self) -> int:
        return milliseconds(self.now())

    def ping(self) -> None:
        if self.closed:
            raise StorageClosed("closed")

    def migrate(self) -> list[str]:
        self.ping()
        return []

    def writers(self) -> int:
        return 0

    @contextmanager
    def transaction(self) -> Iterator[StorageBackend]:
        self.ping()
        with self.database.lock:
            before = deepcopy(self.database.tables)
            inner = type(self)(self.database)
            try:
                yield inner
            except BaseException:
                self.database.restore(before)
                raise
            finally:
                inner.closed = True

    def bind(self, connection: Any) -> StorageBackend:
        raise InvalidValue(f"a naive engine has no connections: {connection!r}")

    def close(self) -> None:
        self.closed = True
