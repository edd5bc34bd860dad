"""The stores put together over one database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from ...engine.protocol import StorageBackend
from ...errors import InvalidValue
from .jobs import JobTable, MemoryJobStore
from .keyed import (
    ApprovalTable,
    IdempotencyTable,
    MemoryApprovalStore,
    MemoryIdempotencyStore,
    MemoryNonceStore,
    MemorySessionStore,
    NonceTable,
    SessionTable,
)
from .retention import MemoryRetentionStore, Timed
from .scope import Database, Scope
from .streams import (
    EventTable,
    LockRow,
    MemoryEventStore,
    MemoryLockStore,
    MemoryMetricStore,
    MemorySnapshotStore,
    MetricTables,
    SnapshotRow,
)
from .tables import Table


class _Tables:
    def __init__(self, database: Database) -> None:
        journal = database.journal
        self.jobs = JobTable(journal)
        self.sessions = SessionTable(journal)
        self.approvals = ApprovalTable(journal)
        self.idempotency = IdempotencyTable(journal)
        self.nonces = NonceTable(journal)
        self.metrics = MetricTables(journal)
        self.locks: Table[str, LockRow] = Table(journal)
        self.events = EventTable(journal)
        self.snapshots: Table[str, SnapshotRow] = Table(journal)
        self.stamps: Table[None, datetime] = Table(journal)


class _Stores:
    """What a backend offers, over one scope: that of an open storage, or of a transaction."""

    def __init__(self, scope: Scope, tables: _Tables) -> None:
        self._scope = scope
        self._tables = tables
        self.jobs = MemoryJobStore(scope, tables.jobs)
        self.sessions = MemorySessionStore(scope, tables.sessions)
        self.approvals = MemoryApprovalStore(scope, tables.approvals)
        self.idempotency = MemoryIdempotencyStore(scope, tables.idempotency)
        self.nonces = MemoryNonceStore(scope, tables.nonces)
        self.metrics = MemoryMetricStore(scope, tables.metrics)
        self.lock = MemoryLockStore(scope, tables.locks)
        self.events = MemoryEventStore(scope, tables.events)
        self.snapshots = MemorySnapshotStore(scope, tables.snapshots)
        self.retention = MemoryRetentionStore(
            scope,
            tables.stamps,
            tables.nonces,
            {
                "approvals": Timed(tables.approvals, tables.approvals.by_time),
                "idempotency": Timed(tables.idempotency, tables.idempotency.by_time),
                "posted": Timed(tables.jobs, tables.jobs.posted),
                "events": Timed(tables.events, tables.events.by_time),
                "sessions": Timed(tables.sessions, tables.sessions.by_time),
            },
        )

    def now(self) -> datetime:
        self._scope.check()
        return datetime.now(UTC)

    def now_ms(self) -> int:
        if self._scope.closed:
            self._scope.check()
        return time.time_ns() // 1_000_000

    def ping(self) -> None:
        with self._scope:
            pass

    def migrate(self) -> list[str]:
        self._scope.check()
        return []

    def writers(self) -> int:
        return 0

    @contextmanager
    def transaction(self) -> Iterator[StorageBackend]:
        with self._scope as database:
            inner = Scope(database, "the transaction has ended")
            try:
                yield _Stores(inner, self._tables)
            finally:
                inner.close()

    def bind(self, connection: Any) -> StorageBackend:  # noqa: ARG002 - there is nothing to bind to
        self._scope.check()
        raise InvalidValue("the memory engine has no connections, so there is nothing to bind to")

    def close(self) -> None:
        self._scope.close()

    def __repr__(self) -> str:
        return "MemoryBackend()"


class MemoryBackend(_Stores):
    """Everything in this process, and gone with it. A forked child goes on with a copy of its own."""

    def __init__(self) -> None:
        database = Database()
        self._database = database
        super().__init__(Scope(database, "the storage is closed: open another one"), _Tables(database))

    def close(self) -> None:
        super().close()
        self._database.changes.add()
