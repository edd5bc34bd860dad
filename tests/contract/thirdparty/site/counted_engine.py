"""An engine as somebody else would add it: it counts the calls, and lets memory do the work.

Nothing here is derived from a class of ours: an engine is whatever has the right methods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, cast

from assistly.storage import MemoryBackend, StorageBackend, StorageSettings
from assistly.storage.engine.protocol import PROTOCOL_VERSION, JobStore
from assistly.storage.engine.record_stores import (
    ApprovalStore,
    DocumentStore,
    EventStore,
    IdempotencyStore,
    LockStore,
    MetricStore,
    NonceStore,
    RetentionStore,
    SessionStore,
    SnapshotStore,
)


class Counted:
    """One store, and how often each of its methods was asked for."""

    def __init__(self, name: str, store: object, calls: Counter[str]) -> None:
        self._name = name
        self._store = store
        self._calls = calls

    def __getattr__(self, method: str) -> Any:
        self._calls[f"{self._name}.{method}"] += 1
        return getattr(self._store, method)


class CountedBackend:
    def __init__(self, inner: StorageBackend, calls: Counter[str]) -> None:
        self._inner = inner
        self.calls = calls

    @property
    def jobs(self) -> JobStore:
        return cast("JobStore", Counted("jobs", self._inner.jobs, self.calls))

    @property
    def sessions(self) -> SessionStore:
        return cast("SessionStore", Counted("sessions", self._inner.sessions, self.calls))

    @property
    def approvals(self) -> ApprovalStore:
        return cast("ApprovalStore", Counted("approvals", self._inner.approvals, self.calls))

    @property
    def idempotency(self) -> IdempotencyStore:
        return cast("IdempotencyStore", Counted("idempotency", self._inner.idempotency, self.calls))

    @property
    def nonces(self) -> NonceStore:
        return cast("NonceStore", Counted("nonces", self._inner.nonces, self.calls))

    @property
    def metrics(self) -> MetricStore:
        return cast("MetricStore", Counted("metrics", self._inner.metrics, self.calls))

    @property
    def lock(self) -> LockStore:
        return cast("LockStore", Counted("lock", self._inner.lock, self.calls))

    @property
    def events(self) -> EventStore:
        return cast("EventStore", Counted("events", self._inner.events, self.calls))

    @property
    def snapshots(self) -> SnapshotStore:
        return cast("SnapshotStore", Counted("snapshots", self._inner.snapshots, self.calls))

    @property
    def documents(self) -> DocumentStore:
        return cast("DocumentStore", Counted("documents", self._inner.documents, self.calls))

    @property
    def retention(self) -> RetentionStore:
        return cast("RetentionStore", Counted("retention", self._inner.retention, self.calls))

    @property
    def protocol_version(self) -> int:
        return PROTOCOL_VERSION

    @property
    def in_process(self) -> bool:
        return self._inner.in_process

    @property
    def durable(self) -> bool:
        return self._inner.durable

    @property
    def multi_process(self) -> bool:
        return self._inner.multi_process

    @property
    def binds(self) -> bool:
        return self._inner.binds

    @property
    def writers(self) -> int:
        return self._inner.writers

    def now(self) -> datetime:
        return self._inner.now()

    def ping(self) -> None:
        self._inner.ping()

    def migrate(self) -> list[str]:
        return self._inner.migrate()

    def maintain(self) -> None:
        self._inner.maintain()

    @contextmanager
    def transaction(self) -> Iterator[StorageBackend]:
        with self._inner.transaction() as inner:
            yield CountedBackend(inner, self.calls)

    def bind(self, connection: Any) -> StorageBackend:
        return CountedBackend(self._inner.bind(connection), self.calls)

    def close(self) -> None:
        self._inner.close()


def open_engine(settings: StorageSettings) -> StorageBackend:
    """What the entry point names. An engine reads its own variables; the shared ones are in `settings`."""
    assert settings.engine == "counted"
    return CountedBackend(MemoryBackend(), Counter())
