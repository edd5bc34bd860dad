"""A naive engine for the mutants: plain tables, one lock, transactions by copying the tables.

It implements what `BackendBase` requires and no more, so that the defaults are tested as well. Its small
methods are there to be overridden, each with one bug.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from assistly.storage import forks
from assistly.storage.engine import BackendBase, Document, IdempotencyRow, LockRow
from assistly.storage.errors import StorageClosed, StorageUnavailable
from assistly.storage.records import Approval, Event, Job, Session, Snapshot

T = TypeVar("T")

_LOCK_SECONDS = 10.0
_FORK_SECONDS = 1.0


@dataclass
class NaiveTables:
    """Dicts keep the order in which keys were first inserted. What they hold is replaced, never changed."""

    jobs: dict[int, Job] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    approvals: dict[str, Approval] = field(default_factory=dict)
    keys: dict[str, tuple[int, IdempotencyRow]] = field(default_factory=dict)
    nonces: dict[str, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    latency: tuple[int, int, int] = (0, 0, 0)
    locks: dict[str, LockRow] = field(default_factory=dict)
    events: dict[int, Event] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    documents: dict[tuple[str, str], Document] = field(default_factory=dict)
    pruned_at: datetime | None = None

    def copy(self) -> NaiveTables:
        """Other dicts with the same values."""
        return NaiveTables(**{part.name: copy(getattr(self, part.name)) for part in fields(self)})


class NaiveDatabase(forks.ForkAware):
    """The tables, the lock that a transaction or a call holds, and the commits that waiters look for."""

    supports_forks: ClassVar[bool] = True

    def __init__(self) -> None:
        self.tables = NaiveTables()
        self.number = 0
        self.closed = False
        self.before: NaiveTables | None = None
        """What the open transaction began with."""
        self._renew()
        if self.supports_forks:
            forks.register(self)

    def _renew(self) -> None:
        self.lock = threading.Lock()
        self.commits = 0
        self.committed = threading.Condition()
        self.looks = threading.local()

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """With the lock, which any thread may release."""
        lock = self.lock
        if not lock.acquire(timeout=_LOCK_SECONDS):
            raise StorageUnavailable(f"another transaction was open for {_LOCK_SECONDS:.0f} seconds")
        try:
            self.check_open()
            yield
        finally:
            lock.release()

    def check_open(self) -> None:
        """Raise StorageClosed after `close`."""
        if self.closed:
            raise StorageClosed("the engine is closed")

    def restore(self, before: NaiveTables) -> None:
        """Undo what was done since."""
        self.tables = before

    def announce(self) -> None:
        """Wake those who wait for a commit."""
        with self.committed:
            self.commits += 1
            self.committed.notify_all()

    def before_fork(self) -> None:
        """Let a call under way finish. A transaction cannot be waited for."""
        deadline = time.monotonic() + _FORK_SECONDS
        self._paused = False
        while self.before is None and time.monotonic() < deadline and not self._paused:
            self._paused = self.lock.acquire(timeout=0.01)

    def after_fork_in_parent(self) -> None:
        """Let the next call begin."""
        if self._paused:
            self.lock.release()

    def after_fork_in_child(self) -> None:
        """Undo the parent's open transaction, whose thread is not here; locks may be held for ever."""
        if self.before is not None:
            self.tables, self.before = self.before, None
        self._renew()


class NaiveStore:
    """What the stores share."""

    def __init__(self, backend: NaiveBackend) -> None:
        self._backend = backend

    @property
    def database(self) -> NaiveDatabase:
        """Of the backend."""
        return self._backend.database

    @property
    def tables(self) -> NaiveTables:
        """Of the database."""
        return self._backend.tables

    def next_number(self, taken: Any) -> int:
        """For a new row; `taken` are the numbers of the rows that are there."""
        self.database.number += 1
        return self.database.number


def reads(method: Callable[..., T]) -> Callable[..., T]:
    """One call at a time; what it returns shares nothing with the tables."""

    def run(self: Any, *args: Any, **options: Any) -> T:
        with self._backend.call():
            return deepcopy(method(self, *args, **options))

    return run


def writes(method: Callable[..., T]) -> Callable[..., T]:
    """The same, and waiters hear of it."""

    def run(self: Any, *args: Any, **options: Any) -> T:
        with self._backend.call():
            result = deepcopy(method(self, *args, **options))
        self._backend.written()
        return result

    return run


class NaiveBackend(BackendBase):
    """`parent` is set for the backend of a transaction."""

    in_process = True
    durable = False
    multi_process = False

    database_type: ClassVar[type[NaiveDatabase]] = NaiveDatabase
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
    documents_type: ClassVar[type[Any]]

    def __init__(self, parent: NaiveBackend | None = None) -> None:
        self.database: NaiveDatabase = parent.database if parent else self.database_type()
        self.is_root = parent is None
        self.jobs = self.jobs_type(self)
        self.sessions = self.sessions_type(self)
        self.approvals = self.approvals_type(self)
        self.idempotency = self.idempotency_type(self)
        self.nonces = self.nonces_type(self)
        self.metrics = self.metrics_type(self)
        self.lock = self.lock_type(self)
        self.events = self.events_type(self)
        self.snapshots = self.snapshots_type(self)
        self.documents = self.documents_type(self)
        self.retention = self.retention_type(self)

    @property
    def tables(self) -> NaiveTables:
        """What this backend reads and writes."""
        return self.database.tables

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around each call. A transaction has the lock already."""
        if self.is_root:
            with self.database.exclusively():
                yield
        else:
            self.database.check_open()
            yield

    def written(self) -> None:
        """Something may have changed. In a transaction its end tells."""
        if self.is_root:
            self.database.announce()

    @contextmanager
    def transaction(self) -> Iterator[NaiveBackend]:
        if not self.is_root:
            self.database.check_open()
            with self._undone_by_an_error():
                yield type(self)(self)
            return
        with self.database.exclusively():
            self.database.before = self.database.tables
            try:
                with self._undone_by_an_error():
                    yield type(self)(self)
                    self.database.check_open()
            finally:
                self.database.before = None
        self.database.announce()

    @contextmanager
    def _undone_by_an_error(self) -> Iterator[None]:
        database = self.database
        before, database.tables = database.tables, database.tables.copy()
        try:
            yield
        except BaseException:
            database.restore(before)
            raise

    def close(self) -> None:
        if self.is_root:
            self.database.closed = True
            self.database.announce()
