"""Defaults for engines: what can be derived from other members is derived here.

An author implements the abstract methods, and overrides any other where the engine can do better.
The derived operations read with `lock`, decide by `assistly.storage.transitions` and save, inside a
transaction. That is right where transactions exclude each other (SQLite, LMDB, a lock in memory). An
engine whose transactions run side by side must lock rows in `get(lock=True)`, and has to override
`IdempotencyStoreBase.claim` and `LockStoreBase.acquire`, which lock what may not be there yet.
"""

from __future__ import annotations

import builtins
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from .. import transitions
from ..errors import InvalidValue
from ..records import (
    Approval,
    Event,
    IdempotencyRecord,
    Job,
    JobStatus,
    Metrics,
    Session,
    Snapshot,
    WorkerLock,
)
from .protocol import (
    PROTOCOL_VERSION,
    ApprovalStore,
    EventStore,
    IdempotencyStore,
    JobStore,
    LockStore,
    MetricStore,
    NonceStore,
    RetentionStore,
    SessionStore,
    SnapshotStore,
)
from .values import (
    IdempotencyRow,
    JobDraft,
    JsonText,
    KeyClaim,
    LockRow,
    PrunedByAge,
    PrunedByCap,
    Settlement,
)

POLL_SECONDS = 0.1
"""How long `JobStoreBase.wait` sleeps at most: an engine that can tell changes overrides it."""

_PAGE = 100

B = TypeVar("B", bound="BackendBase")


class BackendBase(ABC):
    """An engine. A subclass sets the ten stores as attributes, and implements `transaction` and `close`."""

    protocol_version = PROTOCOL_VERSION
    in_process = False
    durable = True
    multi_process = True
    binds = False
    writers = 0

    jobs: JobStore
    sessions: SessionStore
    approvals: ApprovalStore
    idempotency: IdempotencyStore
    nonces: NonceStore
    metrics: MetricStore
    lock: LockStore
    events: EventStore
    snapshots: SnapshotStore
    retention: RetentionStore

    @abstractmethod
    def transaction(self) -> AbstractContextManager[BackendBase]:
        """See `StorageBackend.transaction`. What it yields has stores of its own."""

    @abstractmethod
    def close(self) -> None:
        """See `StorageBackend.close`."""

    def now(self) -> datetime:
        """The clock of this machine."""
        return datetime.now(UTC)

    def ping(self) -> None:
        """A look at a nonce."""
        self.nonces.seen("ping")

    def migrate(self) -> list[str]:
        """Nothing to apply."""
        return []

    def maintain(self) -> None:
        """Nothing to clean up."""

    def bind(self, connection: Any) -> BackendBase:
        """Refused."""
        raise InvalidValue(
            f"{type(self).__name__} has no connections to bind, and got a {type(connection).__name__}"
        )


class StoreBase(Generic[B]):
    """A store of `backend`, which may be the backend of a transaction."""

    def __init__(self, backend: B) -> None:
        self._backend = backend


class JobStoreBase(StoreBase[B], ABC):
    """Required: insert, in_window, by_key, get, save, list, counts, remove, waiting, late, expired."""

    @abstractmethod
    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]: ...

    @abstractmethod
    def in_window(
        self, platform: str, earliest: datetime, latest: datetime, *, exclude: int | None = None
    ) -> Job | None: ...

    @abstractmethod
    def by_key(self, idempotency_key: str) -> Job | None: ...

    @abstractmethod
    def get(self, id: int, *, lock: bool = False) -> Job | None: ...

    @abstractmethod
    def save(self, job: Job) -> None: ...

    @abstractmethod
    def list(
        self, *, status: JobStatus | None, platform: str | None, after: int, limit: int
    ) -> Sequence[Job]: ...

    @abstractmethod
    def counts(self, *, posted: bool = True) -> dict[JobStatus, int]: ...

    @abstractmethod
    def remove(self, id: int) -> bool: ...

    @abstractmethod
    def waiting(
        self,
        *,
        until: datetime | None,
        platforms: Sequence[str] | None,
        after: tuple[datetime, int] | None,
        limit: int,
    ) -> Sequence[Job]: ...

    @abstractmethod
    def late(self, *, limit: int, platforms: Sequence[str] | None, now: datetime) -> Sequence[Job]: ...

    @abstractmethod
    def expired(self, *, limit: int, now: datetime) -> Sequence[Job]: ...

    def prepare_gap_checks(self) -> None:
        """Nothing to prepare."""

    def lock_platforms(self, platforms: Sequence[str]) -> None:
        """Nothing to lock: transactions exclude each other."""

    def next_due_at(self) -> datetime | None:
        """From `waiting`."""
        first = self.waiting(until=None, platforms=None, after=None, limit=1)
        return first[0].due_at if first else None

    def claim(
        self,
        *,
        worker_id: str,
        limit: int,
        lease_until: datetime,
        platforms: Sequence[str] | None,
        now: datetime,
        unless_overdue: bool = False,
    ) -> Sequence[Job]:
        """From `waiting`, `expired` and `late`."""
        claimed: builtins.list[Job] = []
        after: tuple[datetime, int] | None = None
        with self._backend.transaction() as tx:
            jobs = tx.jobs
            if unless_overdue and (
                jobs.expired(limit=1, now=now) or jobs.late(limit=1, platforms=platforms, now=now)
            ):
                return []
            while len(claimed) < limit:
                page = jobs.waiting(until=now, platforms=platforms, after=after, limit=limit)
                for job in page[: limit - len(claimed)] if after is None else page:
                    held = _saved(
                        jobs,
                        job.id,
                        lambda job: transitions.claimed(
                            job, worker_id=worker_id, lease_until=lease_until, now=now
                        ),
                    )
                    if held is not None:
                        claimed.append(held)
                    if len(claimed) == limit:
                        break
                if len(page) < limit:
                    break
                after = page[-1].due_at, page[-1].id
        return claimed

    def dead_letter_late(
        self, *, limit: int, platforms: Sequence[str] | None, reason: str, now: datetime
    ) -> int:
        """From `late`."""
        with self._backend.transaction() as tx:
            late = tx.jobs.late(limit=limit, platforms=platforms, now=now)
            moved = [
                _saved(
                    tx.jobs,
                    job.id,
                    lambda job: transitions.dead_lettered_late(job, reason=reason, now=now),
                )
                for job in late
            ]
        return sum(job is not None for job in moved)

    def reschedule(
        self,
        id: int,
        scheduled_at: datetime,
        *,
        content: str | None,
        metadata: JsonText | None,
        now: datetime,
    ) -> Job | None:
        """From `get` and `save`."""
        return self._change(
            id,
            lambda job: transitions.rescheduled(
                job, scheduled_at, content=content, metadata=metadata, now=now
            ),
        )

    def extend(
        self, claims: Sequence[tuple[int, int]], *, lease_until: datetime, now: datetime
    ) -> Sequence[Job]:
        """From `get` and `save`."""
        extended: builtins.list[Job] = []
        with self._backend.transaction() as tx:
            for id, claim in sorted(set(claims)):
                job = _saved(
                    tx.jobs,
                    id,
                    lambda job, claim=claim: transitions.extended(  # type: ignore[misc]
                        job, claim, lease_until=lease_until, now=now
                    ),
                )
                if job is not None:
                    extended.append(job)
        return extended

    def begin_publish(self, id: int, claim: int, *, now: datetime) -> Job | None:
        """From `get` and `save`."""
        return self._change(id, lambda job: transitions.publish_begun(job, claim, now=now))

    def settle(
        self, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
    ) -> Sequence[Job | None]:
        """From `get` and `save`, in the order of the ids."""
        results: builtins.list[Job | None] = [None] * len(settlements)
        with self._backend.transaction() as tx:
            for place in sorted(range(len(settlements)), key=lambda place: settlements[place].id):
                one = settlements[place]
                results[place] = _saved(
                    tx.jobs,
                    one.id,
                    lambda job, one=one: transitions.settled(  # type: ignore[misc]
                        job, one, now=now, expired_only=expired_only
                    ),
                )
        return results

    def replay(self, id: int, scheduled_at: datetime, *, now: datetime) -> Job | None:
        """From `get` and `save`."""
        return self._change(id, lambda job: transitions.replayed(job, scheduled_at, now=now))

    def replay_many(
        self, *, platform: str | None, limit: int | None, scheduled_at: datetime, now: datetime
    ) -> int:
        """From `list`, `get` and `save`."""
        count = after = 0
        with self._backend.transaction() as tx:
            while limit is None or count < limit:
                most = _PAGE if limit is None else min(_PAGE, limit - count)
                page = tx.jobs.list(status=JobStatus.DEAD_LETTER, platform=platform, after=after, limit=most)
                for job in page:
                    replayed = _saved(
                        tx.jobs, job.id, lambda job: transitions.replayed(job, scheduled_at, now=now)
                    )
                    count += replayed is not None
                if len(page) < most:
                    break
                after = page[-1].id
        return count

    def wait(self, timeout: float) -> None:
        """Sleep for a moment: the caller looks again."""
        time.sleep(min(timeout, POLL_SECONDS))

    def _change(self, id: int, change: Callable[[Job], Job | None]) -> Job | None:
        with self._backend.transaction() as tx:
            return _saved(tx.jobs, id, change)


def _saved(jobs: JobStore, id: int, change: Callable[[Job], Job | None]) -> Job | None:
    job = jobs.get(id, lock=True)
    changed = None if job is None else change(job)
    if changed is not None:
        jobs.save(changed)
    return changed


class SessionStoreBase(StoreBase[B], ABC):
    """Required: get, save, delete, list."""

    @abstractmethod
    def get(self, user_id: str, *, lock: bool = False) -> Session | None: ...

    @abstractmethod
    def save(self, user_id: str, data: JsonText, *, version: int, now: datetime) -> Session:
        """Insert or replace."""

    @abstractmethod
    def delete(self, user_id: str) -> bool: ...

    @abstractmethod
    def list(self, *, after: str | None, limit: int) -> Sequence[Session]: ...

    def put(
        self, user_id: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Session | None:
        """From `get` and `save`."""
        with self._backend.transaction() as tx:
            sessions: Any = tx.sessions
            current: Session | None = sessions.get(user_id, lock=True)
            version = current.version if current else 0
            if expected_version not in (None, version):
                return None
            saved: Session = sessions.save(user_id, data, version=version + 1, now=now)
            return saved


class ApprovalStoreBase(StoreBase[B], ABC):
    """Required: add, get, save, list."""

    @abstractmethod
    def add(self, id: str, payload: JsonText, *, status: str, created_at: datetime) -> Approval | None: ...

    @abstractmethod
    def get(self, id: str, *, lock: bool = False) -> Approval | None: ...

    @abstractmethod
    def save(self, approval: Approval) -> None:
        """Replace the stored approval of this id, which the enclosing transaction has locked."""

    @abstractmethod
    def list(
        self, *, status: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Approval]: ...

    def decide(
        self, id: str, status: str, *, expected: str, payload: JsonText | None, now: datetime
    ) -> Approval | None:
        """From `get` and `save`."""
        with self._backend.transaction() as tx:
            approvals: Any = tx.approvals
            approval: Approval | None = approvals.get(id, lock=True)
            if approval is None or approval.status != expected:
                return None
            decided = replace(
                approval,
                status=status,
                decided_at=now,
                payload=approval.payload if payload is None else json.loads(payload),
            )
            approvals.save(decided)
            return decided


class IdempotencyStoreBase(StoreBase[B], ABC):
    """Required: row, save, delete."""

    @abstractmethod
    def row(self, key: str, *, lock: bool = False) -> IdempotencyRow | None:
        """The key as it is stored."""

    @abstractmethod
    def save(self, row: IdempotencyRow) -> None:
        """Insert or replace; what is replaced keeps its place in insertion order."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete the key, which is stored."""

    def claim(
        self, key: str, *, fingerprint: str | None, token: int, lease_until: datetime, now: datetime
    ) -> IdempotencyRow:
        """From `row` and `save`."""
        claim = KeyClaim(key, fingerprint, token, lease_until, now)
        with self._backend.transaction() as tx:
            keys: Any = tx.idempotency
            row: IdempotencyRow | None = keys.row(key, lock=True)
            taken = transitions.key_taken(row, claim)
            if taken is None:
                assert row is not None  # noqa: S101 - a free key can be taken
                return row
            keys.save(taken)
            return taken

    def claim_many(self, claims: Sequence[KeyClaim]) -> Sequence[IdempotencyRow | None]:
        """One after the other, in one transaction."""
        with self._backend.transaction() as tx:
            return [
                tx.idempotency.claim(
                    claim.key,
                    fingerprint=claim.fingerprint,
                    token=claim.token,
                    lease_until=claim.lease_until,
                    now=claim.now,
                )
                for claim in claims
            ]

    def complete(self, key: str, token: int, value: JsonText, *, now: datetime) -> bool:
        """From `row` and `save`."""
        with self._backend.transaction() as tx:
            keys: Any = tx.idempotency
            completed = transitions.key_completed(keys.row(key, lock=True), token, json.loads(value), now=now)
            if completed is not None:
                keys.save(completed)
            return completed is not None

    def abandon(self, key: str, token: int) -> bool:
        """From `row` and `delete`."""
        with self._backend.transaction() as tx:
            keys: Any = tx.idempotency
            held = transitions.holds_key(keys.row(key, lock=True), token)
            if held:
                keys.delete(key)
            return held

    def put(self, key: str, value: JsonText, *, saved_at: datetime) -> IdempotencyRecord:
        """From `save`."""
        row = transitions.key_put(key, json.loads(value), saved_at=saved_at)
        self.save(row)
        return IdempotencyRecord(key, row.value, saved_at, None)

    def put_many(self, results: Sequence[tuple[str, JsonText, datetime]]) -> None:
        """One after the other, in one transaction."""
        with self._backend.transaction() as tx:
            for key, value, saved_at in results:
                tx.idempotency.put(key, value, saved_at=saved_at)

    def get(self, key: str) -> IdempotencyRecord | None:
        """From `row`."""
        row = self.row(key)
        if row is None or not row.completed:
            return None
        return IdempotencyRecord(row.key, row.value, row.saved_at, row.fingerprint)


class NonceStoreBase(StoreBase[B], ABC):
    """Required: register, seen."""

    @abstractmethod
    def register(self, nonce: str, timestamp_ms: int) -> bool: ...

    @abstractmethod
    def seen(self, nonce: str) -> bool: ...

    def register_many(self, nonces: Sequence[tuple[str, int]]) -> Sequence[bool]:
        """One after the other, in one transaction."""
        with self._backend.transaction() as tx:
            return [tx.nonces.register(nonce, timestamp_ms) for nonce, timestamp_ms in nonces]


class MetricStoreBase(StoreBase[B], ABC):
    """Required: increment_many, observe_latencies, read."""

    @abstractmethod
    def increment_many(self, by_name: Mapping[str, int]) -> None: ...

    @abstractmethod
    def observe_latencies(self, count: int, total: int, longest: int) -> None: ...

    @abstractmethod
    def read(self) -> Metrics: ...

    def increment(self, name: str, by: int) -> None:
        """A batch of one."""
        self.increment_many({name: by})

    def observe_latency(self, nanoseconds: int) -> None:
        """A batch of one."""
        self.observe_latencies(1, nanoseconds, nanoseconds)


class LockStoreBase(StoreBase[B], ABC):
    """Required: load, save."""

    @abstractmethod
    def load(self, name: str, *, lock: bool = False) -> LockRow | None:
        """The lock as it is stored, held or not."""

    @abstractmethod
    def save(self, row: LockRow) -> None:
        """Insert or replace."""

    def acquire(self, name: str, owner_id: str, *, expires_at: datetime, now: datetime) -> WorkerLock | None:
        """From `load` and `save`."""
        row = self._change(
            name,
            lambda row: transitions.lock_acquired(row, name, owner_id, expires_at=expires_at, now=now),
        )
        return _as_lock(row)

    def renew(
        self, name: str, owner_id: str, fence: int, *, expires_at: datetime, now: datetime
    ) -> WorkerLock | None:
        """From `load` and `save`."""
        row = self._change(
            name,
            lambda row: transitions.lock_renewed(row, owner_id, fence, expires_at=expires_at, now=now),
        )
        return _as_lock(row)

    def release(self, name: str, owner_id: str, fence: int, *, now: datetime) -> bool:
        """From `load` and `save`."""
        released = self._change(name, lambda row: transitions.lock_released(row, owner_id, fence, now=now))
        return released is not None

    def current(self, name: str, *, now: datetime) -> WorkerLock | None:
        """From `load`."""
        return transitions.lock_held(self.load(name), now=now)

    def _change(self, name: str, change: Callable[[LockRow | None], LockRow | None]) -> LockRow | None:
        with self._backend.transaction() as tx:
            locks: Any = tx.lock
            changed = change(locks.load(name, lock=True))
            if changed is not None:
                locks.save(changed)
            return changed


def _as_lock(row: LockRow | None) -> WorkerLock | None:
    if row is None or row.owner_id is None:
        return None
    return WorkerLock(row.name, row.owner_id, row.fence, row.acquired_at, row.expires_at)


class EventStoreBase(StoreBase[B], ABC):
    """Required: append, list, read_after."""

    @abstractmethod
    def append(self, events: Sequence[tuple[str, JsonText, datetime]]) -> Sequence[Event]: ...

    @abstractmethod
    def list(
        self, *, event_type: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Event]: ...

    @abstractmethod
    def read_after(self, id: int, *, event_type: str | None, limit: int) -> Sequence[Event]: ...

    def get(self, id: int) -> Event | None:
        """From `read_after`, for an engine that holds no event back."""
        found = self.read_after(id - 1, event_type=None, limit=1)
        return found[0] if found and found[0].id == id else None


class SnapshotStoreBase(StoreBase[B], ABC):
    """Required: put, get, list."""

    @abstractmethod
    def put(self, kind: str, payload: JsonText, *, now: datetime) -> Snapshot: ...

    @abstractmethod
    def get(self, kind: str) -> Snapshot | None: ...

    @abstractmethod
    def list(self) -> Sequence[Snapshot]: ...


class RetentionStoreBase(StoreBase[B], ABC):
    """Required: stamp, set_stamp, delete_older, newest_beyond, delete_up_to."""

    @abstractmethod
    def stamp(self) -> datetime | None:
        """When the last prune was."""

    @abstractmethod
    def set_stamp(self, stamp: datetime | None) -> None:
        """Store when the last prune was; None where there is none any more."""

    @abstractmethod
    def delete_older(self, kind: PrunedByAge, cutoff: datetime, *, limit: int) -> int: ...

    @abstractmethod
    def newest_beyond(self, kind: PrunedByCap, cap: int) -> tuple[datetime, int] | None: ...

    @abstractmethod
    def delete_up_to(self, kind: PrunedByCap, edge: tuple[datetime, int], *, limit: int) -> int: ...

    def begin_prune(self, *, now: datetime, interval: timedelta) -> bool:
        """From `stamp` and `set_stamp`."""
        with self._backend.transaction() as tx:
            retention: Any = tx.retention
            may = transitions.may_prune(retention.stamp(), now=now, interval=interval)
            if may:
                retention.set_stamp(now)
            return may

    def reset_prune(self, *, now: datetime) -> None:
        """From `stamp` and `set_stamp`."""
        with self._backend.transaction() as tx:
            retention: Any = tx.retention
            if retention.stamp() == now:
                retention.set_stamp(None)
