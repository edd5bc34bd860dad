"""The other stores of the naive engine."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from assistly.storage.engine.protocol import IdempotencyRow, KeyClaim
from assistly.storage.records import (
    Approval,
    Event,
    IdempotencyRecord,
    Latency,
    Metrics,
    Session,
    Snapshot,
    WorkerLock,
)
from assistly.storage.validation import JsonText

from .engine import Lock, NaiveBackend, Store, locked
from .queue import NaiveJobs

Place = tuple[datetime, int]


class NaiveSessions(Store):
    def at_version(self, version: int, expected: int | None) -> bool:
        return expected in (None, version)

    def decoded(self, text: JsonText) -> Any:
        return json.loads(text)

    @locked
    def get(self, user_id: str, *, lock: bool = False) -> Session | None:
        return self.tables.sessions.get(user_id)

    @locked
    def put(
        self, user_id: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Session | None:
        current = self.tables.sessions.get(user_id)
        version = current.version if current else 0
        if not self.at_version(version, expected_version):
            return None
        self.tables.sessions[user_id] = Session(user_id, self.decoded(data), version + 1, now)
        return self.tables.sessions[user_id]

    @locked
    def delete(self, user_id: str) -> bool:
        return self.tables.sessions.pop(user_id, None) is not None

    @locked
    def list(self, *, after: str | None, limit: int) -> builtins.list[Session]:
        names = sorted(name for name in self.tables.sessions if after is None or name > after)
        return [self.tables.sessions[name] for name in names[:limit]]


class NaiveApprovals(Store):
    def order(self, row: Approval) -> Any:
        return row.created_at, row.sequence

    @locked
    def add(self, id: str, payload: JsonText, *, status: str, created_at: datetime) -> Approval | None:
        if id in self.tables.approvals:
            return None
        row = Approval(id, status, json.loads(payload), created_at, None, self.number())
        self.tables.approvals[id] = row
        return row

    @locked
    def get(self, id: str, *, lock: bool = False) -> Approval | None:
        return self.tables.approvals.get(id)

    @locked
    def list(self, *, status: str | None, before: Place | None, limit: int) -> builtins.list[Approval]:
        rows = sorted(self.tables.approvals.values(), key=self.order, reverse=True)
        return [
            row
            for row in rows
            if status in (None, row.status) and (before is None or (row.created_at, row.sequence) < before)
        ][:limit]

    @locked
    def decide(
        self, id: str, status: str, *, expected: str, payload: JsonText | None, now: datetime
    ) -> Approval | None:
        row = self.tables.approvals.get(id)
        if row is None or row.status != expected:
            return None
        row = replace(row, status=status, decided_at=now)
        self.tables.approvals[id] = row if payload is None else replace(row, payload=json.loads(payload))
        return self.tables.approvals[id]


class NaiveIdempotency(Store):
    def holds(self, row: IdempotencyRow, token: int) -> bool:
        return not row.completed and row.token == token

    def _row(self, key: str) -> IdempotencyRow | None:
        return self.tables.keys[key][1] if key in self.tables.keys else None

    def _save(self, row: IdempotencyRow) -> IdempotencyRow:
        place = self.tables.keys[row.key][0] if row.key in self.tables.keys else self.number()
        self.tables.keys[row.key] = (place, row)
        return row

    @locked
    def claim(
        self, key: str, *, fingerprint: str | None, token: int, lease_until: datetime, now: datetime
    ) -> IdempotencyRow:
        row = self._row(key)
        if row is not None:
            other = None not in (fingerprint, row.fingerprint) and fingerprint != row.fingerprint
            if row.completed or other or (row.lease_until is not None and row.lease_until > now):
                return row
            fingerprint = row.fingerprint or fingerprint
        return self._save(IdempotencyRow(key, False, None, now, fingerprint, token, lease_until))

    def claim_many(self, claims: Sequence[KeyClaim]) -> builtins.list[IdempotencyRow | None]:
        return [self.claim(**asdict(claim)) for claim in claims]

    @locked
    def complete(self, key: str, token: int, value: JsonText, *, now: datetime) -> bool:
        row = self._row(key)
        if row is None or not self.holds(row, token):
            return False
        self._save(IdempotencyRow(key, True, json.loads(value), now, row.fingerprint, None, None))
        return True

    @locked
    def abandon(self, key: str, token: int) -> bool:
        row = self._row(key)
        if row is None or not self.holds(row, token):
            return False
        del self.tables.keys[key]
        return True

    @locked
    def put(self, key: str, value: JsonText, *, saved_at: datetime) -> IdempotencyRecord:
        self._save(IdempotencyRow(key, True, json.loads(value), saved_at, None, None, None))
        return IdempotencyRecord(key, json.loads(value), saved_at, None)

    @locked
    def put_many(self, results: Sequence[tuple[str, JsonText, datetime]]) -> None:
        for key, value, saved_at in results:
            self.put(key, value, saved_at=saved_at)

    @locked
    def get(self, key: str) -> IdempotencyRecord | None:
        row = self._row(key)
        if row is None or not row.completed:
            return None
        return IdempotencyRecord(key, row.value, row.saved_at, row.fingerprint)


class NaiveNonces(Store):
    @locked
    def register(self, nonce: str, timestamp_ms: int) -> bool:
        if nonce in self.tables.nonces:
            return False
        self.tables.nonces[nonce] = timestamp_ms
        return True

    @locked
    def register_many(self, nonces: Sequence[tuple[str, int]]) -> builtins.list[bool]:
        return [self.register(*nonce) for nonce in nonces]

    @locked
    def seen(self, nonce: str) -> bool:
        return nonce in self.tables.nonces


class NaiveMetrics(Store):
    @locked
    def increment(self, name: str, by: int) -> None:
        self.tables.counters[name] = self.tables.counters.get(name, 0) + by

    @locked
    def increment_many(self, by_name: Mapping[str, int]) -> None:
        for name, by in by_name.items():
            self.increment(name, by)

    def observe_latency(self, nanoseconds: int) -> None:
        self.observe_latencies(1, nanoseconds, nanoseconds)

    @locked
    def observe_latencies(self, count: int, total: int, longest: int) -> None:
        self.tables.latency.append((count, total, longest))

    @locked
    def read(self) -> Metrics:
        observed = self.tables.latency
        counts, totals, longest = zip((0, 0, 0), *observed, strict=True)
        latency = Latency(sum(counts), sum(totals) / 1e6, max(longest) / 1e6)
        return Metrics(self.tables.counters, latency)


class NaiveLock(Store):
    def next_fence(self, lock: Lock) -> int:
        return lock.fence + 1

    @locked
    def acquire(self, name: str, owner_id: str, *, expires_at: datetime, now: datetime) -> WorkerLock | None:
        held = self.current(name, now=now)
        if held is not None and held.owner_id != owner_id:
            return None
        lock = self.tables.locks.setdefault(name, Lock(0, None))
        if held is None:
            lock.fence = self.next_fence(lock)
            held = WorkerLock(name, owner_id, lock.fence, now, expires_at)
        lock.held = replace(held, expires_at=expires_at)
        return lock.held

    def _is_held(self, name: str, owner_id: str, fence: int, now: datetime) -> bool:
        held = self.current(name, now=now)
        return held is not None and (held.owner_id, held.fence) == (owner_id, fence)

    @locked
    def renew(
        self, name: str, owner_id: str, fence: int, *, expires_at: datetime, now: datetime
    ) -> WorkerLock | None:
        if not self._is_held(name, owner_id, fence, now):
            return None
        return self.acquire(name, owner_id, expires_at=expires_at, now=now)

    @locked
    def release(self, name: str, owner_id: str, fence: int, *, now: datetime) -> bool:
        if not self._is_held(name, owner_id, fence, now):
            return False
        self.tables.locks[name].held = None
        return True

    @locked
    def current(self, name: str, *, now: datetime) -> WorkerLock | None:
        lock = self.tables.locks.get(name)
        if lock is None or lock.held is None or lock.held.expires_at <= now:
            return None
        return lock.held


class NaiveEvents(Store):
    @locked
    def append(self, events: Sequence[tuple[str, JsonText, datetime]]) -> builtins.list[Event]:
        rows = [Event(self.number(), kind, json.loads(payload), at) for kind, payload, at in events]
        self.tables.events.update({row.id: row for row in rows})
        return rows

    @locked
    def get(self, id: int) -> Event | None:
        return self.tables.events.get(id)

    @locked
    def list(self, *, event_type: str | None, before: Place | None, limit: int) -> builtins.list[Event]:
        rows = sorted(self.tables.events.values(), key=lambda row: (row.created_at, row.id), reverse=True)
        return [
            row
            for row in rows
            if event_type in (None, row.event_type) and (before is None or (row.created_at, row.id) < before)
        ][:limit]

    @locked
    def read_after(self, id: int, *, event_type: str | None, limit: int) -> builtins.list[Event]:
        rows = [row for row in self.tables.events.values() if row.id > id]
        return [row for row in rows if event_type in (None, row.event_type)][:limit]


class NaiveSnapshots(Store):
    @locked
    def put(self, kind: str, payload: JsonText, *, now: datetime) -> Snapshot:
        self.tables.snapshots[kind] = Snapshot(kind, json.loads(payload), now)
        return self.tables.snapshots[kind]

    @locked
    def get(self, kind: str) -> Snapshot | None:
        return self.tables.snapshots.get(kind)

    @locked
    def list(self) -> builtins.list[Snapshot]:
        return [self.tables.snapshots[kind] for kind in sorted(self.tables.snapshots)]


class NaiveRetention(Store):
    def older(self, moment: datetime, cutoff: datetime) -> bool:
        return moment < cutoff

    def doomed(self, place: Place, edge: Place) -> bool:
        return place <= edge

    @locked
    def begin_prune(self, *, now: datetime, interval: timedelta) -> bool:
        stamp = self.tables.pruned_at
        if stamp is not None and abs(now - stamp) < interval:
            return False
        self.tables.pruned_at = now
        return True

    @locked
    def reset_prune(self, *, now: datetime) -> None:
        if self.tables.pruned_at == now:
            self.tables.pruned_at = None

    def _rows(self, kind: str) -> dict[Any, Place]:
        """Of each key: its time and its place in insertion order."""
        if kind == "approvals":
            return {id: (row.created_at, row.sequence) for id, row in self.tables.approvals.items()}
        if kind == "idempotency":
            return {key: (row.saved_at, place) for key, (place, row) in self.tables.keys.items()}
        if kind == "posted":
            return {id: (job.posted_at, id) for id, job in self.tables.jobs.items() if job.posted_at}
        if kind == "events":
            return {id: (row.created_at, id) for id, row in self.tables.events.items()}
        return {user: (row.updated_at, 0) for user, row in self.tables.sessions.items()}

    def _delete(self, kind: str, keys: Sequence[Any]) -> int:
        names = {"idempotency": "keys", "posted": "jobs"}
        for key in keys:
            del getattr(self.tables, names.get(kind, kind))[key]
        return len(keys)

    @locked
    def delete_older(self, kind: str, cutoff: datetime, *, limit: int) -> int:
        old = [key for key, (moment, _) in self._rows(kind).items() if self.older(moment, cutoff)]
        return self._delete(kind, old[:limit])

    @locked
    def delete_nonces(self, cutoff_ms: int, *, limit: int) -> int:
        old = [nonce for nonce, moment in self.tables.nonces.items() if moment < cutoff_ms]
        return self._delete("nonces", old[:limit])

    @locked
    def newest_beyond(self, kind: str, cap: int) -> Place | None:
        places = sorted(self._rows(kind).values(), reverse=True)
        return places[cap] if len(places) > cap else None

    @locked
    def delete_up_to(self, kind: str, edge: Place, *, limit: int) -> int:
        doomed = [key for key, place in self._rows(kind).items() if self.doomed(place, edge)]
        return self._delete(kind, doomed[:limit])


class PlainEngine(NaiveBackend):
    """The engine without a bug."""

    jobs_type = NaiveJobs
    sessions_type = NaiveSessions
    approvals_type = NaiveApprovals
    idempotency_type = NaiveIdempotency
    nonces_type = NaiveNonces
    metrics_type = NaiveMetrics
    lock_type = NaiveLock
    events_type = NaiveEvents
    snapshots_type = NaiveSnapshots
    retention_type = NaiveRetention
