"""A `StorageBackend` over a `Database`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .approvals import SqlApprovalStore
from .database import Database
from .events import SqlEventStore
from .idempotency import SqlIdempotencyStore
from .jobs import SqlJobStore
from .lock import SqlLockStore
from .metrics import SqlMetricStore
from .nonces import SqlNonceStore
from .retention import SqlRetentionStore
from .sessions import SqlSessionStore
from .snapshots import SqlSnapshotStore

_PING = "SELECT count(*) FROM {t}retention"


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlStores:
    """The class of each store; an engine replaces those where it has something better."""

    jobs: type[SqlJobStore]
    nonces: type[SqlNonceStore]
    sessions: type[SqlSessionStore] = SqlSessionStore
    approvals: type[SqlApprovalStore] = SqlApprovalStore
    idempotency: type[SqlIdempotencyStore] = SqlIdempotencyStore
    metrics: type[SqlMetricStore] = SqlMetricStore
    lock: type[SqlLockStore] = SqlLockStore
    events: type[SqlEventStore] = SqlEventStore
    snapshots: type[SqlSnapshotStore] = SqlSnapshotStore
    retention: type[SqlRetentionStore] = SqlRetentionStore


class SqlBackend:
    def __init__(self, database: Database, stores: SqlStores) -> None:
        self._database = database
        self._stores = stores
        self.jobs = stores.jobs(database)
        self.sessions = stores.sessions(database)
        self.approvals = stores.approvals(database)
        self.idempotency = stores.idempotency(database)
        self.nonces = stores.nonces(database)
        self.metrics = stores.metrics(database)
        self.lock = stores.lock(database)
        self.events = stores.events(database)
        self.snapshots = stores.snapshots(database)
        self.retention = stores.retention(database)
        self.now = database.now
        self.now_ms = database.now_ms
        self.writers = database.writers

    def ping(self) -> None:
        statement = self._database.dialect.render(_PING)
        self._database.read(lambda connection: connection.row(statement, {}))

    def migrate(self) -> list[str]:
        return self._database.migrate()

    @contextmanager
    def transaction(self) -> Iterator[SqlBackend]:
        with self._database.transaction() as pinned:
            yield SqlBackend(pinned, self._stores)

    def bind(self, connection: Any) -> SqlBackend:
        return SqlBackend(self._database.bind(connection), self._stores)

    def close(self) -> None:
        self._database.close()
