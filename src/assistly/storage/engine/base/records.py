"""All kinds of record but jobs, derived from a few methods each."""

from __future__ import annotations

import builtins
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast

from ... import transitions
from ...errors import ConfigurationError
from ...records import Approval, Event, IdempotencyRecord, Metrics, Session, Snapshot, WorkerLock
from ..transfer import Row
from ..values import (
    Document,
    IdempotencyRow,
    JsonText,
    KeyClaim,
    LockRow,
    PrunedByAge,
    PrunedByCap,
    lock_of_row,
)
from .backend import B, BackendBase, StoreBase

_PAGE = 1000

MOST_DELETED = 10_000
"""Rows that the default of `RetentionStoreBase.count_prunable` deletes at most before it undoes that."""


class SessionStoreBase(StoreBase[B], ABC):
    """Required: get, save, delete, list."""

    attribute = "sessions"

    @abstractmethod
    def get(self, user_id: str, *, lock: bool = False) -> Session | None:
        """The session, or None. With `lock` others cannot change it until the enclosing transaction ends."""

    @abstractmethod
    def save(self, user_id: str, data: JsonText, *, version: int, now: datetime) -> Session:
        """Insert or replace."""

    @abstractmethod
    def delete(self, user_id: str) -> bool:
        """Delete the session. False if there is none."""

    @abstractmethod
    def list(self, *, after: str | None, limit: int) -> Sequence[Session]:
        """Sessions with user_id > after, by user_id."""

    def put(
        self, user_id: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Session | None:
        """From `get` and `save`."""
        with self._atomic() as sessions:
            current = sessions.get(user_id, lock=True)
            version = current.version if current else 0
            if expected_version not in (None, version):
                return None
            return sessions.save(user_id, data, version=version + 1, now=now)


class DocumentStoreBase(StoreBase[B], ABC):
    """Required: get, save, delete, list."""

    attribute = "documents"

    @abstractmethod
    def get(self, collection: str, key: str, *, lock: bool = False) -> Document | None:
        """The document, or None. With `lock` others cannot change it until the enclosing transaction ends."""

    @abstractmethod
    def save(self, collection: str, key: str, data: JsonText, *, version: int, now: datetime) -> Document:
        """Insert or replace."""

    @abstractmethod
    def delete(self, collection: str, key: str) -> bool:
        """Delete the document. False if there is none."""

    @abstractmethod
    def list(self, collection: str, *, after: str | None, limit: int) -> Sequence[Document]:
        """Documents of the collection with key > after, by key."""

    def put(
        self, collection: str, key: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Document | None:
        """From `get` and `save`."""
        with self._atomic() as documents:
            current = documents.get(collection, key, lock=True)
            version = current.version if current else 0
            if expected_version not in (None, version):
                return None
            return documents.save(collection, key, data, version=version + 1, now=now)


class ApprovalStoreBase(StoreBase[B], ABC):
    """Required: add, get, save, list."""

    attribute = "approvals"

    @abstractmethod
    def add(self, id: str, payload: JsonText, *, status: str, created_at: datetime) -> Approval | None:
        """Insert an approval; None if the id is taken."""

    @abstractmethod
    def get(self, id: str, *, lock: bool = False) -> Approval | None:
        """The approval, or None. With `lock` others cannot change it until the enclosing transaction ends."""

    @abstractmethod
    def save(self, approval: Approval) -> None:
        """Replace the stored approval of this id, which the enclosing transaction has locked."""

    @abstractmethod
    def list(
        self, *, status: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Approval]:
        """Approvals by (created_at, sequence), newest first, below `before`."""

    def decide(
        self, id: str, status: str, *, expected: str, payload: JsonText | None, now: datetime
    ) -> Approval | None:
        """From `get` and `save`."""
        with self._atomic() as approvals:
            approval = approvals.get(id, lock=True)
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

    attribute = "idempotency"

    @abstractmethod
    def row(self, key: str, *, lock: bool = False) -> IdempotencyRow | None:
        """The key as it is stored, or None."""

    @abstractmethod
    def save(self, row: IdempotencyRow) -> None:
        """Insert or replace. A replaced key keeps its place in insertion order."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete a key that is stored."""

    def claim(
        self, key: str, *, fingerprint: str | None, token: int, lease_until: datetime, now: datetime
    ) -> IdempotencyRow:
        """From `row` and `save`."""
        claim = KeyClaim(key, fingerprint, token, lease_until, now)
        with self._atomic() as keys:
            row = keys.row(key, lock=True)
            taken = transitions.key_taken(row, claim)
            if taken is None:
                assert row is not None  # noqa: S101 - a free key can be taken
                return row
            keys.save(taken)
            return taken

    def claim_many(self, claims: Sequence[KeyClaim]) -> Sequence[IdempotencyRow | None]:
        """One after the other, in one transaction."""
        with self._atomic() as keys:
            return [
                keys.claim(
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
        with self._atomic() as keys:
            completed = transitions.key_completed(keys.row(key, lock=True), token, json.loads(value), now=now)
            if completed is not None:
                keys.save(completed)
            return completed is not None

    def abandon(self, key: str, token: int) -> bool:
        """From `row` and `delete`."""
        with self._atomic() as keys:
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
        with self._atomic() as keys:
            for key, value, saved_at in results:
                keys.put(key, value, saved_at=saved_at)

    def get(self, key: str) -> IdempotencyRecord | None:
        """From `row`."""
        row = self.row(key)
        if row is None or not row.completed:
            return None
        return IdempotencyRecord(row.key, row.value, row.saved_at, row.fingerprint)

    def forget(self, key: str) -> bool:
        """From `row` and `delete`."""
        with self._atomic() as keys:
            is_stored = keys.row(key, lock=True) is not None
            if is_stored:
                keys.delete(key)
            return is_stored


class NonceStoreBase(StoreBase[B], ABC):
    """Required: register, seen."""

    attribute = "nonces"

    @abstractmethod
    def register(self, nonce: str, timestamp_ms: int) -> bool:
        """Store the nonce; False if it is stored already."""

    @abstractmethod
    def seen(self, nonce: str) -> bool:
        """Whether the nonce is stored."""

    def register_many(self, nonces: Sequence[tuple[str, int]]) -> Sequence[bool]:
        """One after the other, in one transaction."""
        with self._atomic() as store:
            return [store.register(nonce, timestamp_ms) for nonce, timestamp_ms in nonces]


class MetricStoreBase(StoreBase[B], ABC):
    """Required: increment_many, observe_latencies, read."""

    attribute = "metrics"

    @abstractmethod
    def increment_many(self, by_name: Mapping[str, int]) -> None:
        """Add a number to each of several counters: all or nothing."""

    @abstractmethod
    def observe_latencies(self, count: int, total: int, longest: int) -> None:
        """Add `count` requests: the sum of their durations and the longest one, in nanoseconds."""

    @abstractmethod
    def read(self) -> Metrics:
        """All metrics. Sums are kept in whole nanoseconds, and converted to milliseconds here."""

    def increment(self, name: str, by: int) -> None:
        """A batch of one."""
        self.increment_many({name: by})

    def observe_latency(self, nanoseconds: int) -> None:
        """A batch of one."""
        self.observe_latencies(1, nanoseconds, nanoseconds)


class LockStoreBase(StoreBase[B], ABC):
    """Required: load, save."""

    attribute = "lock"

    @abstractmethod
    def load(self, name: str, *, lock: bool = False) -> LockRow | None:
        """The lock as it is stored, held or not, or None."""

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

    def list(self, *, now: datetime) -> Sequence[WorkerLock]:
        """From `read_rows` of the backend. Raises ConfigurationError if it has none of its own."""
        if type(self._backend).read_rows is BackendBase.read_rows:
            raise ConfigurationError(
                f"the engine {type(self._backend).__name__} cannot list its locks: it has neither "
                "`lock.list` nor `read_rows`"
            )
        found: builtins.list[WorkerLock] = []
        after: Row | None = None
        while rows := self._backend.read_rows("locks", after=after, limit=_PAGE):
            held = (transitions.lock_held(lock_of_row(row), now=now) for row in rows)
            found += [lock for lock in held if lock is not None]
            after = rows[-1][:1]
        return found

    def _change(self, name: str, change: Callable[[LockRow | None], LockRow | None]) -> LockRow | None:
        with self._atomic() as locks:
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

    attribute = "events"

    @abstractmethod
    def append(self, events: Sequence[tuple[str, JsonText, datetime]]) -> Sequence[Event]:
        """Insert (event_type, payload, created_at): all or nothing, in order."""

    @abstractmethod
    def list(
        self, *, event_type: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Event]:
        """Events by (created_at, id), newest first, below `before`."""

    @abstractmethod
    def read_after(self, id: int, *, event_type: str | None, limit: int) -> Sequence[Event]:
        """Events with a higher id, by id. No event with a lower id than a returned one may appear later."""

    def get(self, id: int) -> Event | None:
        """From `read_after`, for an engine that holds no event back."""
        found = self.read_after(id - 1, event_type=None, limit=1)
        return found[0] if found and found[0].id == id else None


class SnapshotStoreBase(StoreBase[B], ABC):
    """Required: put, get, list."""

    attribute = "snapshots"

    @abstractmethod
    def put(self, kind: str, payload: JsonText, *, now: datetime) -> Snapshot:
        """Insert or replace."""

    @abstractmethod
    def get(self, kind: str) -> Snapshot | None:
        """The snapshot of this kind, or None."""

    @abstractmethod
    def list(self) -> Sequence[Snapshot]:
        """All snapshots, by kind."""


class _Undo(Exception):
    """Raised to end a transaction without storing what it did."""

    def __init__(self, count: int) -> None:
        self.count = count


class RetentionStoreBase(StoreBase[B], ABC):
    """Required: stamp, set_stamp, delete_older, newest_beyond, delete_up_to."""

    attribute = "retention"

    @abstractmethod
    def stamp(self) -> datetime | None:
        """The time of the last prune; None if there is none."""

    @abstractmethod
    def set_stamp(self, stamp: datetime | None) -> None:
        """Store the time of the last prune, or delete it with None."""

    @abstractmethod
    def delete_older(self, kind: PrunedByAge, cutoff: datetime, *, limit: int) -> int:
        """Delete rows with time < cutoff, oldest first, at most `limit`; return how many.

        The protocol says which time counts for each kind.
        """

    @abstractmethod
    def newest_beyond(self, kind: PrunedByCap, cap: int) -> tuple[datetime, int] | None:
        """The (time, insertion) of the newest row beyond the newest `cap`; None if there is none."""

    @abstractmethod
    def delete_up_to(self, kind: PrunedByCap, edge: tuple[datetime, int], *, limit: int) -> int:
        """Delete rows with (time, insertion) <= edge, at most `limit`; return how many."""

    def count_prunable(self, kind: PrunedByAge, bound: datetime | tuple[datetime, int]) -> tuple[int, bool]:
        """From `delete_older` and `delete_up_to`, in a transaction that is undone: up to 10,000 rows.

        An engine overrides it to count more, and without keeping writers waiting.
        """
        try:
            with self._atomic() as retention:
                if isinstance(bound, datetime):
                    raise _Undo(retention.delete_older(kind, bound, limit=MOST_DELETED))
                raise _Undo(retention.delete_up_to(cast("PrunedByCap", kind), bound, limit=MOST_DELETED))
        except _Undo as undo:
            return undo.count, undo.count < MOST_DELETED

    def begin_prune(self, *, now: datetime, interval: timedelta) -> bool:
        """From `stamp` and `set_stamp`."""
        with self._atomic() as retention:
            may = transitions.may_prune(retention.stamp(), now=now, interval=interval)
            if may:
                retention.set_stamp(now)
            return may

    def reset_prune(self, *, now: datetime) -> None:
        """From `stamp` and `set_stamp`."""
        with self._atomic() as retention:
            if retention.stamp() == now:
                retention.set_stamp(None)
