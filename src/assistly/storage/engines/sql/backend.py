"""A `StorageBackend` over a `Database`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ...engine.base import BackendBase
from ...engine.transfer import Row
from ...frameworks import find_connection
from .approvals import SqlApprovalStore
from .database import Database
from .documents import SqlDocumentStore
from .events import SqlEventStore
from .idempotency import SqlIdempotencyStore
from .jobs import SqlJobStore
from .lock import SqlLockStore
from .metrics import SqlMetricStore
from .nonces import SqlNonceStore
from .retention import SqlRetentionStore
from .sessions import SqlSessionStore
from .snapshots import SqlSnapshotStore
from .transfer import SqlTransfer


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlStores:
    """What an engine replaces: the class of each store, and the clock of leases."""

    lease_time: Callable[[datetime], datetime] | None = None
    """`BackendBase.lease_time`; None: the default."""
    jobs: type[SqlJobStore]
    nonces: type[SqlNonceStore]
    metrics: type[SqlMetricStore]
    transfer: type[SqlTransfer]
    sessions: type[SqlSessionStore] = SqlSessionStore
    approvals: type[SqlApprovalStore] = SqlApprovalStore
    idempotency: type[SqlIdempotencyStore] = SqlIdempotencyStore
    lock: type[SqlLockStore] = SqlLockStore
    events: type[SqlEventStore] = SqlEventStore
    snapshots: type[SqlSnapshotStore] = SqlSnapshotStore
    documents: type[SqlDocumentStore] = SqlDocumentStore
    retention: type[SqlRetentionStore] = SqlRetentionStore


class SqlBackend(BackendBase):
    """The stores of an engine, of a transaction or of a bound connection."""

    binds = True

    def __init__(self, database: Database, stores: SqlStores) -> None:
        self._database = database
        self._stores = stores
        self.writers = database.writers
        self.jobs = stores.jobs(self, database)
        self.sessions = stores.sessions(self, database)
        self.approvals = stores.approvals(self, database)
        self.idempotency = stores.idempotency(self, database)
        self.nonces = stores.nonces(self, database)
        self.metrics = stores.metrics(self, database)
        self.lock = stores.lock(self, database)
        self.events = stores.events(self, database)
        self.snapshots = stores.snapshots(self, database)
        self.documents = stores.documents(self, database)
        self.retention = stores.retention(self, database)

    def now(self) -> datetime:
        return self._database.now()

    def lease_time(self, now: datetime) -> datetime:
        convert = self._stores.lease_time
        return now if convert is None else convert(now)

    def ping(self) -> None:
        d = self._database.dialect
        self._database.select(f"SELECT {d.f}count(*) FROM {d.t}retention", {})

    def migrate(self) -> list[str]:
        return self._database.migrate()

    @contextmanager
    def transaction(self) -> Iterator[BackendBase]:
        with self._database.transaction() as pinned:
            yield SqlBackend(pinned, self._stores)

    @contextmanager
    def snapshot(self, *, hold_writers: bool = False) -> Iterator[BackendBase]:
        with self._database.snapshot(hold_writers=hold_writers) as pinned:
            yield SqlBackend(pinned, self._stores)

    def read_rows(self, kind: str, *, after: Row | None, limit: int) -> Sequence[Row]:
        return self._stores.transfer(self, self._database).read(kind, after=after, limit=limit)

    def write_rows(self, kind: str, rows: Sequence[Row], *, after: Row | None, through: Row | None) -> None:
        with self._database.transaction() as pinned:
            transfer = self._stores.transfer(self, pinned)
            transfer.write(kind, rows, after=after, through=through)

    def bind(self, connection: Any) -> BackendBase:
        return SqlBackend(self._database.bind(find_connection(connection)), self._stores)

    def close(self) -> None:
        self._database.close()
