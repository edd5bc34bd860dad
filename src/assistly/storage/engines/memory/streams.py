"""Metrics, locks, events and snapshots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import count, islice
from typing import NamedTuple

from ...engine.values import JsonText
from ...records import Event, Latency, Metrics, Snapshot, WorkerLock
from .keyed import LATEST
from .scope import Scope
from .tables import Journal, Key, Ordered, Table, within

_NANOSECONDS_PER_MILLISECOND = 1_000_000


class LatencyRow(NamedTuple):
    observations: int
    total: int
    longest: int


class MetricTables:
    def __init__(self, journal: Journal) -> None:
        self.counters: Table[str, int] = Table(journal)
        self.latency: Table[None, LatencyRow] = Table(journal)


class MemoryMetricStore:
    def __init__(self, scope: Scope, tables: MetricTables) -> None:
        self._scope = scope
        self._counters = tables.counters
        self._latency = tables.latency

    def increment(self, name: str, by: int) -> None:
        with self._scope:
            self._counters.put(name, self._counters.rows.get(name, 0) + by)

    def increment_many(self, by_name: Mapping[str, int]) -> None:
        with self._scope:
            for name, by in by_name.items():
                self._counters.put(name, self._counters.rows.get(name, 0) + by)

    def observe_latency(self, nanoseconds: int) -> None:
        self.observe_latencies(1, nanoseconds, nanoseconds)

    def observe_latencies(self, count: int, total: int, longest: int) -> None:
        with self._scope:
            old = self._latency_row()
            row = LatencyRow(old.observations + count, old.total + total, max(old.longest, longest))
            self._latency.put(None, row)

    def read(self) -> Metrics:
        with self._scope:
            row = self._latency_row()
            latency = Latency(
                row.observations,
                row.total / _NANOSECONDS_PER_MILLISECOND,
                row.longest / _NANOSECONDS_PER_MILLISECOND,
            )
            return Metrics(dict(self._counters.rows), latency)

    def _latency_row(self) -> LatencyRow:
        return self._latency.rows.get(None, LatencyRow(0, 0, 0))


class LockRow(NamedTuple):
    """A released lock has no owner and keeps its fence."""

    name: str
    owner_id: str | None
    fence: int
    acquired_at: datetime
    expires_at: datetime

    def held(self, now: datetime) -> WorkerLock | None:
        if self.owner_id is None or self.expires_at <= now:
            return None
        return WorkerLock(self.name, self.owner_id, self.fence, self.acquired_at, self.expires_at)


class MemoryLockStore:
    def __init__(self, scope: Scope, table: Table[str, LockRow]) -> None:
        self._scope = scope
        self._table = table

    def acquire(self, name: str, owner_id: str, *, expires_at: datetime, now: datetime) -> WorkerLock | None:
        with self._scope:
            row = self._table.rows.get(name)
            holder = None if row is None else row.held(now)
            if holder is not None and holder.owner_id != owner_id:
                return None
            if row is None:
                row = LockRow(name, owner_id, 1, now, expires_at)
            elif holder is None:
                row = LockRow(name, owner_id, row.fence + 1, now, expires_at)
            else:
                row = row._replace(expires_at=expires_at)
            self._table.put(name, row)
            return WorkerLock(name, owner_id, row.fence, row.acquired_at, expires_at)

    def renew(
        self, name: str, owner_id: str, fence: int, *, expires_at: datetime, now: datetime
    ) -> WorkerLock | None:
        with self._scope:
            row = self._held(name, owner_id, fence, now)
            if row is None:
                return None
            self._table.put(name, row._replace(expires_at=expires_at))
            return WorkerLock(name, owner_id, fence, row.acquired_at, expires_at)

    def release(self, name: str, owner_id: str, fence: int, *, now: datetime) -> bool:
        with self._scope:
            row = self._held(name, owner_id, fence, now)
            if row is None:
                return False
            self._table.put(name, row._replace(owner_id=None))
            return True

    def current(self, name: str, *, now: datetime) -> WorkerLock | None:
        with self._scope:
            row = self._table.rows.get(name)
            return None if row is None else row.held(now)

    def _held(self, name: str, owner_id: str, fence: int, now: datetime) -> LockRow | None:
        row = self._table.rows.get(name)
        if row is None or row.held(now) is None:
            return None
        return row if (row.owner_id, row.fence) == (owner_id, fence) else None


class EventRow(NamedTuple):
    id: int
    event_type: str
    payload: JsonText
    created_at: datetime

    def decoded(self) -> Event:
        return Event(self.id, self.event_type, json.loads(self.payload), self.created_at)


class EventTable(Table[int, EventRow]):
    def __init__(self, journal: Journal) -> None:
        self.ids = count(1)
        self.by_id: Ordered[EventRow] = Ordered(lambda row: (row.id,))
        self.by_time: Ordered[EventRow] = Ordered(lambda row: (row.created_at, row.id))
        self.by_type_and_id: Ordered[EventRow] = Ordered(lambda row: (row.event_type, row.id))
        self.by_type_and_time: Ordered[EventRow] = Ordered(
            lambda row: (row.event_type, row.created_at, row.id)
        )
        super().__init__(journal, self.by_id, self.by_time, self.by_type_and_id, self.by_type_and_time)


class MemoryEventStore:
    def __init__(self, scope: Scope, table: EventTable) -> None:
        self._scope = scope
        self._table = table

    def append(self, events: Sequence[tuple[str, JsonText, datetime]]) -> Sequence[Event]:
        with self._scope:
            rows = [EventRow(next(self._table.ids), *event) for event in events]
            for row in rows:
                self._table.put(row.id, row)
            return [row.decoded() for row in rows]

    def get(self, id: int) -> Event | None:
        with self._scope:
            row = self._table.rows.get(id)
            return None if row is None else row.decoded()

    def list(
        self, *, event_type: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Event]:
        with self._scope:
            below: Key = LATEST if before is None else before
            if event_type is None:
                keys = self._table.by_time.descending(below)
            else:
                keys = self._table.by_type_and_time.descending((event_type, *below))
                keys = within((event_type,), keys)
            return [self._table.rows[key[-1]].decoded() for key in islice(keys, limit)]

    def read_after(self, id: int, *, event_type: str | None, limit: int) -> Sequence[Event]:
        with self._scope:
            if event_type is None:
                keys = self._table.by_id.ascending((id,))
            else:
                keys = within((event_type,), self._table.by_type_and_id.ascending((event_type, id)))
            return [self._table.rows[key[-1]].decoded() for key in islice(keys, limit)]


class SnapshotRow(NamedTuple):
    kind: str
    payload: JsonText
    updated_at: datetime

    def decoded(self) -> Snapshot:
        return Snapshot(self.kind, json.loads(self.payload), self.updated_at)


class MemorySnapshotStore:
    def __init__(self, scope: Scope, table: Table[str, SnapshotRow]) -> None:
        self._scope = scope
        self._table = table

    def put(self, kind: str, payload: JsonText, *, now: datetime) -> Snapshot:
        with self._scope:
            row = SnapshotRow(kind, payload, now)
            self._table.put(kind, row)
            return row.decoded()

    def get(self, kind: str) -> Snapshot | None:
        with self._scope:
            row = self._table.rows.get(kind)
            return None if row is None else row.decoded()

    def list(self) -> Sequence[Snapshot]:
        with self._scope:
            return [self._table.rows[kind].decoded() for kind in sorted(self._table.rows)]
