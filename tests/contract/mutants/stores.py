"""The other stores of the naive engine."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from assistly.storage.engine import Document, IdempotencyRow, JsonText, LockRow
from assistly.storage.engine.base import (
    ApprovalStoreBase,
    DocumentStoreBase,
    EventStoreBase,
    IdempotencyStoreBase,
    LockStoreBase,
    MetricStoreBase,
    NonceStoreBase,
    RetentionStoreBase,
    SessionStoreBase,
    SnapshotStoreBase,
)
from assistly.storage.records import Approval, Event, Latency, Metrics, Session, Snapshot, WorkerLock
from assistly.storage.retention import milliseconds
from assistly.storage.transitions import lock_held

from .engine import NaiveBackend, NaiveStore, reads, writes
from .queue import NaiveJobs

Position = tuple[datetime, int]


class NaiveSessions(NaiveStore, SessionStoreBase[NaiveBackend]):
    def kept(self, user_id: str) -> str:
        """The name as it is stored."""
        return user_id

    def decoded(self, text: JsonText) -> Any:
        return json.loads(text)

    @reads
    def get(self, user_id: str, *, lock: bool = False) -> Session | None:
        return self.tables.sessions.get(self.kept(user_id))

    @writes
    def save(self, user_id: str, data: JsonText, *, version: int, now: datetime) -> Session:
        session = Session(user_id, self.decoded(data), version, now)
        self.tables.sessions[self.kept(user_id)] = session
        return session

    @writes
    def delete(self, user_id: str) -> bool:
        return self.tables.sessions.pop(self.kept(user_id), None) is not None

    @reads
    def list(self, *, after: str | None, limit: int) -> builtins.list[Session]:
        names = sorted(name for name in self.tables.sessions if after is None or name > after)
        return [self.tables.sessions[name] for name in names[:limit]]


class NaiveApprovals(NaiveStore, ApprovalStoreBase[NaiveBackend]):
    def kept(self, id: str) -> str:
        """The name as it is stored."""
        return id

    def order(self, row: Approval) -> Any:
        return row.created_at, row.sequence

    @writes
    def add(self, id: str, payload: JsonText, *, status: str, created_at: datetime) -> Approval | None:
        if self.kept(id) in self.tables.approvals:
            return None
        row = Approval(id, status, json.loads(payload), created_at, None, self.next_number(()))
        self.tables.approvals[self.kept(id)] = row
        return row

    @reads
    def get(self, id: str, *, lock: bool = False) -> Approval | None:
        return self.tables.approvals.get(self.kept(id))

    @writes
    def save(self, approval: Approval) -> None:
        self.tables.approvals[self.kept(approval.id)] = approval

    @reads
    def list(self, *, status: str | None, before: Position | None, limit: int) -> builtins.list[Approval]:
        rows = sorted(self.tables.approvals.values(), key=self.order, reverse=True)
        return [
            row
            for row in rows
            if status in (None, row.status) and (before is None or (row.created_at, row.sequence) < before)
        ][:limit]


class NaiveIdempotency(NaiveStore, IdempotencyStoreBase[NaiveBackend]):
    def kept(self, key: str) -> str:
        """The name as it is stored."""
        return key

    @reads
    def row(self, key: str, *, lock: bool = False) -> IdempotencyRow | None:
        stored = self.tables.keys.get(self.kept(key))
        return stored[1] if stored else None

    @writes
    def save(self, row: IdempotencyRow) -> None:
        key, keys = self.kept(row.key), self.tables.keys
        keys[key] = (keys[key][0] if key in keys else self.next_number(()), row)

    @writes
    def delete(self, key: str) -> None:
        del self.tables.keys[self.kept(key)]


class NaiveNonces(NaiveStore, NonceStoreBase[NaiveBackend]):
    def kept(self, nonce: str) -> str:
        """The name as it is stored."""
        return nonce

    @writes
    def register(self, nonce: str, timestamp_ms: int) -> bool:
        if self.kept(nonce) in self.tables.nonces:
            return False
        self.tables.nonces[self.kept(nonce)] = timestamp_ms
        return True

    @reads
    def seen(self, nonce: str) -> bool:
        return self.kept(nonce) in self.tables.nonces


class NaiveMetrics(NaiveStore, MetricStoreBase[NaiveBackend]):
    def kept(self, name: str) -> str:
        """The name as it is stored."""
        return name

    @writes
    def increment_many(self, by_name: Mapping[str, int]) -> None:
        for name, by in by_name.items():
            kept = self.kept(name)
            self.tables.counters[kept] = self.tables.counters.get(kept, 0) + by

    @writes
    def observe_latencies(self, count: int, total: int, longest: int) -> None:
        counts, totals, most = self.tables.latency
        self.tables.latency = counts + count, totals + total, max(most, longest)

    @reads
    def read(self) -> Metrics:
        count, total, longest = self.tables.latency
        return Metrics(self.tables.counters, Latency(count, total / 1e6, longest / 1e6))


class NaiveLocks(NaiveStore, LockStoreBase[NaiveBackend]):
    def kept(self, name: str) -> str:
        """The name as it is stored."""
        return name

    @reads
    def load(self, name: str, *, lock: bool = False) -> LockRow | None:
        return self.tables.locks.get(self.kept(name))

    @writes
    def save(self, row: LockRow) -> None:
        self.tables.locks[self.kept(row.name)] = row

    @reads
    def list(self, *, now: datetime) -> builtins.list[WorkerLock]:
        held = [lock_held(self.tables.locks[name], now=now) for name in sorted(self.tables.locks)]
        return [lock for lock in held if lock is not None]


class NaiveEvents(NaiveStore, EventStoreBase[NaiveBackend]):
    def kept(self, event_type: str) -> str:
        """The name as it is stored."""
        return event_type

    @writes
    def append(self, events: Sequence[tuple[str, JsonText, datetime]]) -> Sequence[Event]:
        rows = []
        for kind, payload, at in events:
            row = Event(self.next_number(self.tables.events), kind, json.loads(payload), at)
            self.tables.events[row.id] = row
            rows.append(row)
        return rows

    def _wanted(self, row: Event, event_type: str | None) -> bool:
        return event_type is None or self.kept(row.event_type) == self.kept(event_type)

    @reads
    def list(self, *, event_type: str | None, before: Position | None, limit: int) -> builtins.list[Event]:
        rows = sorted(self.tables.events.values(), key=lambda row: (row.created_at, row.id), reverse=True)
        return [
            row
            for row in rows
            if self._wanted(row, event_type) and (before is None or (row.created_at, row.id) < before)
        ][:limit]

    @reads
    def read_after(self, id: int, *, event_type: str | None, limit: int) -> Sequence[Event]:
        rows = [row for row in self.tables.events.values() if row.id > id]
        return [row for row in rows if self._wanted(row, event_type)][:limit]


class NaiveSnapshots(NaiveStore, SnapshotStoreBase[NaiveBackend]):
    def kept(self, kind: str) -> str:
        """The name as it is stored."""
        return kind

    @writes
    def put(self, kind: str, payload: JsonText, *, now: datetime) -> Snapshot:
        snapshot = Snapshot(kind, json.loads(payload), now)
        self.tables.snapshots[self.kept(kind)] = snapshot
        return snapshot

    @reads
    def get(self, kind: str) -> Snapshot | None:
        return self.tables.snapshots.get(self.kept(kind))

    @reads
    def list(self) -> Sequence[Snapshot]:
        return [self.tables.snapshots[kind] for kind in sorted(self.tables.snapshots)]


class NaiveDocuments(NaiveStore, DocumentStoreBase[NaiveBackend]):
    def kept(self, name: str) -> str:
        """The collection or key as it is stored."""
        return name

    def is_in(self, document: Document, collection: str) -> bool:
        return self.kept(document.collection) == self.kept(collection)

    @reads
    def get(self, collection: str, key: str, *, lock: bool = False) -> Document | None:
        return self.tables.documents.get((self.kept(collection), self.kept(key)))

    def save(self, collection: str, key: str, data: JsonText, *, version: int, now: datetime) -> Document:
        return self.written(Document(collection, key, json.loads(data), version, now))

    @writes
    def written(self, document: Document) -> Document:
        """Stored, in place of the one before."""
        self.tables.documents[self.kept(document.collection), self.kept(document.key)] = document
        return document

    @writes
    def delete(self, collection: str, key: str) -> bool:
        return self.tables.documents.pop((self.kept(collection), self.kept(key)), None) is not None

    @reads
    def list(self, collection: str, *, after: str | None, limit: int) -> builtins.list[Document]:
        found = [
            document
            for document in self.tables.documents.values()
            if self.is_in(document, collection) and (after is None or document.key > after)
        ]
        return sorted(found, key=lambda document: document.key)[:limit]


class NaiveRetention(NaiveStore, RetentionStoreBase[NaiveBackend]):
    def older(self, moment: datetime, cutoff: datetime) -> bool:
        return moment < cutoff

    def doomed(self, position: Position, edge: Position) -> bool:
        return position <= edge

    @reads
    def stamp(self) -> datetime | None:
        return self.tables.pruned_at

    @writes
    def set_stamp(self, stamp: datetime | None) -> None:
        self.tables.pruned_at = stamp

    def positions(self, kind: str) -> dict[Any, Position]:
        """Of each key: its time and its place in insertion order."""
        tables = self.tables
        if kind == "approvals":
            return {id: (row.created_at, row.sequence) for id, row in tables.approvals.items()}
        if kind == "idempotency":
            return {key: (row.saved_at, place) for key, (place, row) in tables.keys.items()}
        if kind == "posted":
            return {id: (job.posted_at, id) for id, job in tables.jobs.items() if job.posted_at}
        if kind == "events":
            return {id: (row.created_at, id) for id, row in tables.events.items()}
        return {user: (row.updated_at, 0) for user, row in tables.sessions.items()}

    def _delete(self, kind: str, keys: Sequence[Any]) -> int:
        names = {"idempotency": "keys", "posted": "jobs"}
        for key in keys:
            del getattr(self.tables, names.get(kind, kind))[key]
        return len(keys)

    @writes
    def delete_older(self, kind: str, cutoff: datetime, *, limit: int) -> int:
        if kind == "nonces":
            edge = milliseconds(cutoff)
            return self._delete(kind, [key for key, ms in self.tables.nonces.items() if ms < edge][:limit])
        positions = self.positions(kind)
        old = [key for key, (moment, _) in positions.items() if self.older(moment, cutoff)]
        return self._delete(kind, sorted(old, key=positions.__getitem__)[:limit])

    @reads
    def newest_beyond(self, kind: str, cap: int) -> Position | None:
        positions = sorted(self.positions(kind).values(), reverse=True)
        return positions[cap] if len(positions) > cap else None

    @writes
    def delete_up_to(self, kind: str, edge: Position, *, limit: int) -> int:
        doomed = [key for key, position in self.positions(kind).items() if self.doomed(position, edge)]
        return self._delete(kind, doomed[:limit])


class NaiveEngine(NaiveBackend):
    """The engine without a bug."""

    jobs_type = NaiveJobs
    sessions_type = NaiveSessions
    approvals_type = NaiveApprovals
    idempotency_type = NaiveIdempotency
    nonces_type = NaiveNonces
    metrics_type = NaiveMetrics
    lock_type = NaiveLocks
    events_type = NaiveEvents
    snapshots_type = NaiveSnapshots
    documents_type = NaiveDocuments
    retention_type = NaiveRetention
