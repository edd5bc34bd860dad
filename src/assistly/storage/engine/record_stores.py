"""The protocol of all stores but that of jobs. `protocol.py` says what holds for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from ..records import Approval, Event, IdempotencyRecord, Metrics, Session, Snapshot, WorkerLock
from .values import Document, IdempotencyRow, JsonText, KeyClaim, PrunedByAge, PrunedByCap


class SessionStore(Protocol):
    """User sessions."""

    def get(self, user_id: str, *, lock: bool = False) -> Session | None:
        """The session, or None. With `lock` others cannot change it until the enclosing transaction ends."""

    def put(
        self, user_id: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Session | None:
        """Insert with version 1, or replace with version + 1.

        None, and nothing is stored, if the session is not at `expected_version` (0: does not exist).
        """

    def delete(self, user_id: str) -> bool:
        """Delete the session. False if there is none."""

    def list(self, *, after: str | None, limit: int) -> Sequence[Session]:
        """Sessions with user_id > after, by user_id."""


class ApprovalStore(Protocol):
    """Approvals."""

    def add(self, id: str, payload: JsonText, *, status: str, created_at: datetime) -> Approval | None:
        """Insert an approval; None if the id is taken."""

    def get(self, id: str, *, lock: bool = False) -> Approval | None:
        """The approval, or None. With `lock` others cannot change it until the enclosing transaction ends."""

    def list(
        self, *, status: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Approval]:
        """Approvals by (created_at, sequence), newest first, below `before`."""

    def decide(
        self, id: str, status: str, *, expected: str, payload: JsonText | None, now: datetime
    ) -> Approval | None:
        """Set status, decided_at = now and, if given, the payload. None if the status is not `expected`."""


class IdempotencyStore(Protocol):
    """Idempotency keys."""

    def claim(
        self, key: str, *, fingerprint: str | None, token: int, lease_until: datetime, now: datetime
    ) -> IdempotencyRow:
        """Take the key if it can be taken; return the row as it is afterwards. [key_taken]"""

    def claim_many(self, claims: Sequence[KeyClaim]) -> Sequence[IdempotencyRow | None]:
        """`claim` several distinct keys, in order.

        None for a key whose row vanished during the call: the caller then calls `claim` for that key.
        """

    def complete(self, key: str, token: int, value: JsonText, *, now: datetime) -> bool:
        """Store the value if the key is in progress under this token: completed, saved_at = now, token and
        lease_until cleared, the fingerprint kept."""

    def abandon(self, key: str, token: int) -> bool:
        """Delete the key if it is in progress under this token."""

    def put(self, key: str, value: JsonText, *, saved_at: datetime) -> IdempotencyRecord:
        """Store a completed key, whatever was stored before, without a fingerprint. [key_put]

        A key that exists keeps its place in insertion order.
        """

    def put_many(self, results: Sequence[tuple[str, JsonText, datetime]]) -> None:
        """`put` each (key, value, saved_at) of several distinct keys: all or nothing, in order."""

    def get(self, key: str) -> IdempotencyRecord | None:
        """The result of the key; None if it is unknown or in progress."""

    def row(self, key: str) -> IdempotencyRow | None:
        """The key as it is stored, or None."""

    def forget(self, key: str) -> bool:
        """Delete the key, completed or in progress. False if it is unknown."""


class NonceStore(Protocol):
    """Webhook nonces."""

    def register(self, nonce: str, timestamp_ms: int) -> bool:
        """Store the nonce; False if it is stored already."""

    def register_many(self, nonces: Sequence[tuple[str, int]]) -> Sequence[bool]:
        """`register` several distinct nonces: all or nothing, in order."""

    def seen(self, nonce: str) -> bool:
        """Whether the nonce is stored."""


class MetricStore(Protocol):
    """Counters and latencies. Writers on many connections must not queue up behind each other."""

    def increment(self, name: str, by: int) -> None:
        """Add a number to one counter."""

    def increment_many(self, by_name: Mapping[str, int]) -> None:
        """Add a number to each of several counters: all or nothing."""

    def observe_latency(self, nanoseconds: int) -> None:
        """Add one request."""

    def observe_latencies(self, count: int, total: int, longest: int) -> None:
        """Add `count` requests: the sum of their durations and the longest one, in nanoseconds."""

    def read(self) -> Metrics:
        """All metrics. Sums are kept in whole nanoseconds, and converted to milliseconds here."""


class LockStore(Protocol):
    """Named locks. Expired means expires_at <= now; a released lock has no owner. The fence outlives both."""

    def acquire(self, name: str, owner_id: str, *, expires_at: datetime, now: datetime) -> WorkerLock | None:
        """Take the lock; None if another owner holds it. [lock_acquired]"""

    def renew(
        self, name: str, owner_id: str, fence: int, *, expires_at: datetime, now: datetime
    ) -> WorkerLock | None:
        """Set expires_at; None unless this owner holds the lock under this fence. [lock_renewed]"""

    def release(self, name: str, owner_id: str, fence: int, *, now: datetime) -> bool:
        """Free the lock; False unless this owner holds it under this fence. [lock_released]"""

    def current(self, name: str, *, now: datetime) -> WorkerLock | None:
        """The lock if it is held, else None. [lock_held]"""

    def list(self, *, now: datetime) -> Sequence[WorkerLock]:
        """All locks that are held, by name. [lock_held]"""


class EventStore(Protocol):
    """The append-only event log."""

    def append(self, events: Sequence[tuple[str, JsonText, datetime]]) -> Sequence[Event]:
        """Insert (event_type, payload, created_at): all or nothing, in order."""

    def get(self, id: int) -> Event | None:
        """The event, or None; also an event that `read_after` still holds back."""

    def list(
        self, *, event_type: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Event]:
        """Events by (created_at, id), newest first, below `before`."""

    def read_after(self, id: int, *, event_type: str | None, limit: int) -> Sequence[Event]:
        """Events with a higher id, by id. No event with a lower id than a returned one may appear later."""


class SnapshotStore(Protocol):
    """One JSON payload for each kind."""

    def put(self, kind: str, payload: JsonText, *, now: datetime) -> Snapshot:
        """Insert or replace."""

    def get(self, kind: str) -> Snapshot | None:
        """The snapshot of this kind, or None."""

    def list(self) -> Sequence[Snapshot]:
        """All snapshots, by kind."""


class DocumentStore(Protocol):
    """Small JSON documents, by collection and key. Since protocol version 2."""

    def get(self, collection: str, key: str, *, lock: bool = False) -> Document | None:
        """The document, or None. With `lock` others cannot change it until the enclosing transaction ends."""

    def put(
        self, collection: str, key: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Document | None:
        """Insert with version 1, or replace with version + 1.

        None, and nothing is stored, if the document is not at `expected_version` (0: does not exist).
        """

    def delete(self, collection: str, key: str) -> bool:
        """Delete the document. False if there is none."""

    def list(self, collection: str, *, after: str | None, limit: int) -> Sequence[Document]:
        """Documents of the collection with key > after, by key.

        A change in the collection PAUSES ends `JobStore.wait`, as a change of jobs does.
        """


class RetentionStore(Protocol):
    """Deletes in batches: each call deletes at most `limit` rows, and returns how many."""

    def begin_prune(self, *, now: datetime, interval: timedelta) -> bool:
        """Store `now` as the time of the last prune; False if the stored one is less than `interval` away
        from it, in the past or in the future. [may_prune]"""

    def reset_prune(self, *, now: datetime) -> None:
        """Delete the time of the last prune if it is still `now`, so that the next call may prune."""

    def delete_older(self, kind: PrunedByAge, cutoff: datetime, *, limit: int) -> int:
        """Rows with time < cutoff, oldest first: created_at, saved_at, timestamp_ms (against the cutoff in
        whole milliseconds, rounded down), posted_at (posted jobs alone), created_at, updated_at."""

    def newest_beyond(self, kind: PrunedByCap, cap: int) -> tuple[datetime, int] | None:
        """The (time, insertion) of the newest row beyond the newest `cap`; None if there is none."""

    def delete_up_to(self, kind: PrunedByCap, edge: tuple[datetime, int], *, limit: int) -> int:
        """Rows with (time, insertion) <= edge."""

    def count_prunable(self, kind: PrunedByAge, bound: datetime | tuple[datetime, int]) -> tuple[int, bool]:
        """How many rows `delete_older(kind, bound)`, or for an edge `delete_up_to`, would delete in all.

        False beside it: there may be more, and the engine has stopped counting. It changes nothing.
        """
