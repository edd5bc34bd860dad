"""What an engine implements: mechanism, no policy.

`Storage` and its stores stand above this line. They validate, read the clock, compute
times and cutoffs, encode JSON and decide what a result means. What reaches an engine is
canonical, and an engine may rely on it:

- times are aware datetimes in UTC; they are stored with microseconds and come back equal;
- text has been checked (no NUL, no lone surrogates, within its limits);
- JSON arrives as `JsonText`: the canonical text of the value. It comes back decoded, equal
  to `json.loads` of that text in value and in type, as a fresh object on every read;
- limits are small positive integers.

An engine owes this in return:

- each method is atomic, also against other processes, and durable when it returns, unless
  it runs inside `transaction()` or on a bound connection;
- "insertion order" is the order in which rows were first inserted; ids grow with it;
- text orders by code point;
- a method that returns None or False has changed nothing;
- driver exceptions are turned into the errors of `assistly.storage.errors`; the schema is
  made ready on first use, and a first use that failed is tried again by the next one.

`assistly.storage.testing` holds the suite that an engine proves itself with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from .records import (
    Approval,
    Event,
    IdempotencyRecord,
    Job,
    JobStatus,
    Json,
    Metrics,
    Session,
    Snapshot,
    WorkerLock,
)
from .validation import JsonText as JsonText


@dataclass(frozen=True, slots=True)
class JobDraft:
    """A job to insert, with status `scheduled`."""

    platform: str
    content: str
    metadata: JsonText
    scheduled_at: datetime
    idempotency_key: str | None
    max_retries: int
    max_lateness: timedelta | None


@dataclass(frozen=True, slots=True)
class Settlement:
    """How one claim ends. The fence is `id` and `claim` of a job that is in `processing`.

    `job` is the record that the caller has. While the fence holds, it differs from the stored one at
    most in lease_until, updated_at, publish_started_at and what the caller did to its metadata: what
    else a posted job is made of need not be read back.

    posted:    status `posted`, posted_at = now, remote_id; next_retry_at cleared.
    failed:    retries + 1, last_error = error, and an attempt (number = the new retries, at =
               now, the row's worker_id, error) appended, of which the last 20 are kept. If
               `final` or retries >= max_retries: `dead_letter`, dead_letter_at = now,
               dead_letter_reason = error, next_retry_at cleared; else `retrying` with
               next_retry_at = `at`. publish_started_at is cleared unless `keep_publish`.
    snoozed:   next_retry_at = `at`; status as before the claim; publish_started_at cleared.
    released:  status as before the claim; publish_started_at cleared.

    In every case worker_id and lease_until are cleared, due_at follows its rule, updated_at =
    now. The status before a claim is `retrying` where retries > 0, else `scheduled`.
    """

    kind: Literal["posted", "failed", "snoozed", "released"]
    job: Job
    remote_id: str | None = None
    error: str = ""
    at: datetime | None = None
    final: bool = False
    keep_publish: bool = False

    @property
    def id(self) -> int:
        return self.job.id

    @property
    def claim(self) -> int:
        return self.job.claim


class JobStore(Protocol):
    """The queue. A job is *due* when it is scheduled or retrying and `due_at <= now`."""

    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        """Insert in order; None for a draft whose idempotency key is taken, in the table or in the batch.

        A draft may be made only when it is asked for, which takes time and may raise InvalidValue:
        go through them once, and where all that was inserted before is undone then.
        """

    def expect_gaps(self) -> None:
        """`in_window` is about to be asked, perhaps in a transaction that is then undone.

        Called before that, for what an engine makes once, when somebody keeps jobs apart.
        """

    def lock_platforms(self, platforms: Sequence[str]) -> None:
        """Until the enclosing transaction ends, let no other transaction past this for these platforms."""

    def in_window(
        self, platform: str, earliest: datetime, latest: datetime, *, exclude: int | None = None
    ) -> Job | None:
        """The active job with earliest <= scheduled_at <= latest that is first by (scheduled_at, id)."""

    def by_key(self, idempotency_key: str) -> Job | None: ...

    def get(self, id: int, *, lock: bool = False) -> Job | None:
        """With `lock`, the row stays as it is for others until the enclosing transaction ends."""

    def reschedule(
        self,
        id: int,
        scheduled_at: datetime,
        *,
        content: str | None,
        metadata: JsonText | None,
        now: datetime,
    ) -> Job | None:
        """Only a scheduled or retrying job: a new time, next_retry_at cleared; status and retries stay."""

    def list(
        self, *, status: JobStatus | None, platform: str | None, after: int, limit: int
    ) -> Sequence[Job]:
        """Jobs with id > after, by id."""

    def counts(self, *, posted: bool = True) -> dict[JobStatus, int]:
        """Statuses without jobs may be missing, and so is `posted` where it is not asked for."""

    def remove(self, id: int) -> bool: ...

    def next_due_at(self) -> datetime | None:
        """The least due_at of the scheduled and retrying jobs."""

    def claim(
        self,
        *,
        worker_id: str,
        limit: int,
        lease_until: datetime,
        platforms: Sequence[str] | None,
        now: datetime,
        only_when_swept: bool = False,
    ) -> Sequence[Job]:
        """Hold the first due jobs by (due_at, id), leaving out the missed ones; returned in that order.

        Rows that another claimer is just taking are passed over, not waited for. Sets status
        `processing`, claim + 1, worker_id, lease_until, updated_at. With `only_when_swept` it holds
        none while `expired` or `bury_missed` would find something to do.
        """

    def bury_missed(self, *, limit: int, platforms: Sequence[str] | None, reason: str, now: datetime) -> int:
        """Move due jobs with scheduled_at + max_lateness < now to the dead letters; how many."""

    def expired(self, *, limit: int, now: datetime) -> Sequence[Job]:
        """Processing jobs with lease_until <= now, by (lease_until, id). Changes nothing."""

    def extend(
        self, claims: Sequence[tuple[int, int]], *, lease_until: datetime, now: datetime
    ) -> Sequence[Job]:
        """Of these (id, claim): the ones in processing with lease_until > now, by id, with the new lease."""

    def begin_publish(self, id: int, claim: int, *, now: datetime) -> Job | None:
        """Set publish_started_at (once) if the claim holds and lease_until > now."""

    def settle(
        self, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
    ) -> Sequence[Job | None]:
        """One result for each, None where the fence does not hold.

        A second settlement of the same claim in one batch is lost. With `expired_only` (kind
        `failed`) the fence also takes lease_until <= now and, unless `keep_publish`, that
        publish_started_at is not set: publishing may have begun since the caller looked.
        """

    def replay(self, id: int, scheduled_at: datetime, *, now: datetime) -> Job | None:
        """Only a dead letter: `scheduled`, retries 0, replayed_at = now; clears next_retry_at,
        last_error, dead_letter_at, dead_letter_reason and publish_started_at."""

    def replay_many(
        self, *, platform: str | None, limit: int | None, scheduled_at: datetime, now: datetime
    ) -> int:
        """`replay` for the first dead letters by id; how many."""

    def wait(self, timeout: float) -> datetime | None:
        """Return after `timeout` seconds, or sooner when jobs may have changed.

        If all that changed since the thread's `next_due_at` is one more waiting job, its due_at may
        be returned: then nobody asks for the least one again.
        """


class SessionStore(Protocol):
    def get(self, user_id: str, *, lock: bool = False) -> Session | None: ...

    def put(
        self, user_id: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Session | None:
        """Version 1 for a new one, else one more. None if it is not at `expected_version` (0: absent)."""

    def delete(self, user_id: str) -> bool: ...

    def list(self, *, after: str | None, limit: int) -> Sequence[Session]:
        """By user_id."""


class ApprovalStore(Protocol):
    def add(self, id: str, payload: JsonText, *, status: str, created_at: datetime) -> Approval | None:
        """None if the id is taken."""

    def get(self, id: str, *, lock: bool = False) -> Approval | None: ...

    def list(
        self, *, status: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Approval]:
        """By (created_at, sequence), newest first, below `before`."""

    def decide(
        self, id: str, status: str, *, expected: str, payload: JsonText | None, now: datetime
    ) -> Approval | None:
        """Set status, decided_at = now and, if given, the payload, where the status is `expected`."""


@dataclass(frozen=True, slots=True)
class IdempotencyRow:
    """A stored key. In progress: `completed` is False, `value` None, `token` the holder's."""

    key: str
    completed: bool
    value: Json
    saved_at: datetime
    fingerprint: str | None
    token: int | None
    lease_until: datetime | None


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """The arguments of `IdempotencyStore.claim`."""

    key: str
    fingerprint: str | None
    token: int
    lease_until: datetime
    now: datetime


class IdempotencyStore(Protocol):
    def claim(
        self, key: str, *, fingerprint: str | None, token: int, lease_until: datetime, now: datetime
    ) -> IdempotencyRow:
        """Take the key if it is free, or in progress with lease_until <= now and no other fingerprint.

        Taken: token, lease_until and saved_at = now are set, and the fingerprint where none was.
        Two fingerprints are "other" only if both are set. Returns the row as it is afterwards.
        """

    def claim_many(self, claims: Sequence[KeyClaim]) -> Sequence[IdempotencyRow | None]:
        """`claim` for each of several distinct keys, in order.

        None for a key that was given up meanwhile: `claim` has to be called for it.
        """

    def complete(self, key: str, token: int, value: JsonText, *, now: datetime) -> bool:
        """Store the value, saved_at = now, if the key is in progress under this token."""

    def abandon(self, key: str, token: int) -> bool:
        """Delete the key if it is in progress under this token."""

    def put(self, key: str, value: JsonText, *, saved_at: datetime) -> IdempotencyRecord:
        """Completed whatever was there, without a fingerprint; its place in insertion order stays."""

    def put_many(self, results: Sequence[tuple[str, JsonText, datetime]]) -> None:
        """`put` for each (key, value, saved_at) of several distinct keys: all or nothing, in order."""

    def get(self, key: str) -> IdempotencyRecord | None:
        """A completed one."""


class NonceStore(Protocol):
    def register(self, nonce: str, timestamp_ms: int) -> bool:
        """True if it was not there."""

    def register_many(self, nonces: Sequence[tuple[str, int]]) -> Sequence[bool]:
        """`register` for each of several distinct nonces: all or nothing, in order."""

    def seen(self, nonce: str) -> bool: ...


class MetricStore(Protocol):
    def increment(self, name: str, by: int) -> None: ...

    def increment_many(self, by_name: Mapping[str, int]) -> None:
        """All or nothing."""

    def observe_latency(self, nanoseconds: int) -> None: ...

    def observe_latencies(self, count: int, total: int, longest: int) -> None:
        """`count` of them at once: the sum of their nanoseconds, and the most."""

    def read(self) -> Metrics:
        """Whole nanoseconds are summed, and divided once: the total does not depend on their order."""


class LockStore(Protocol):
    """Expired means expires_at <= now; a released lock has no owner. The fence outlives both."""

    def acquire(self, name: str, owner_id: str, *, expires_at: datetime, now: datetime) -> WorkerLock | None:
        """None if another owner holds it. Its holder gets a new expires_at and keeps the rest."""

    def renew(
        self, name: str, owner_id: str, fence: int, *, expires_at: datetime, now: datetime
    ) -> WorkerLock | None: ...

    def release(self, name: str, owner_id: str, fence: int, *, now: datetime) -> bool: ...

    def current(self, name: str, *, now: datetime) -> WorkerLock | None: ...


class EventStore(Protocol):
    def append(self, events: Sequence[tuple[str, JsonText, datetime]]) -> Sequence[Event]:
        """All or nothing, in order."""

    def get(self, id: int) -> Event | None: ...

    def list(
        self, *, event_type: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Event]:
        """By (created_at, id), newest first, below `before`."""

    def read_after(self, id: int, *, event_type: str | None, limit: int) -> Sequence[Event]:
        """By id. Nothing with a lower id than a returned event may become visible later."""


class SnapshotStore(Protocol):
    def put(self, kind: str, payload: JsonText, *, now: datetime) -> Snapshot: ...

    def get(self, kind: str) -> Snapshot | None: ...

    def list(self) -> Sequence[Snapshot]:
        """By kind."""


PrunedByAge = Literal["approvals", "idempotency", "posted", "events", "sessions"]
PrunedByCap = Literal["approvals", "idempotency"]


class RetentionStore(Protocol):
    """Deletes in batches; each call is one batch of at most `limit` rows, and returns how many."""

    def begin_prune(self, *, now: datetime, interval: timedelta) -> bool:
        """Stamp the database with `now`, unless its stamp is nearer to it than `interval` on either side."""

    def reset_prune(self, *, now: datetime) -> None:
        """Take the stamp back if it is still `now`, so that the next call may prune."""

    def delete_older(self, kind: PrunedByAge, cutoff: datetime, *, limit: int) -> int:
        """By created_at, saved_at, posted_at (posted jobs alone), created_at, updated_at: time < cutoff."""

    def delete_nonces(self, cutoff_ms: int, *, limit: int) -> int:
        """timestamp_ms < cutoff_ms."""

    def newest_beyond(self, kind: PrunedByCap, cap: int) -> tuple[datetime, int] | None:
        """The (time, insertion) of the newest row outside the newest `cap`; None if there is none."""

    def delete_up_to(self, kind: PrunedByCap, edge: tuple[datetime, int], *, limit: int) -> int:
        """(time, insertion) <= edge."""


class StorageBackend(Protocol):
    """An engine. One object serves many threads, and survives a fork into a child."""

    @property
    def jobs(self) -> JobStore: ...
    @property
    def sessions(self) -> SessionStore: ...
    @property
    def approvals(self) -> ApprovalStore: ...
    @property
    def idempotency(self) -> IdempotencyStore: ...
    @property
    def nonces(self) -> NonceStore: ...
    @property
    def metrics(self) -> MetricStore: ...
    @property
    def lock(self) -> LockStore: ...
    @property
    def events(self) -> EventStore: ...
    @property
    def snapshots(self) -> SnapshotStore: ...
    @property
    def retention(self) -> RetentionStore: ...

    def now(self) -> datetime:
        """The engine's own clock, which the processes that share the database agree on."""

    def now_ms(self) -> int:
        """`now` in whole milliseconds since the epoch, rounded down: to make a datetime takes longer."""

    def ping(self) -> None:
        """One trip to the engine; makes the schema ready as any first use does."""

    def migrate(self) -> list[str]:
        """Apply the pending migrations, whatever `auto_migrate` says; the names of those applied now."""

    def writers(self) -> int:
        """How many single writes can be under way side by side; others may wait, and share a statement.

        0 where this thread's writes must not travel with others, since they join a transaction or
        are on a caller's connection, and where nothing is gained, since a statement costs no trip.
        """

    def transaction(self) -> AbstractContextManager[StorageBackend]:
        """All that the yielded backend does is committed at the end, or undone by an exception.

        Calls that the same thread makes on this backend meanwhile join it. Inside another
        transaction it is a savepoint. After the end, the yielded backend raises StorageClosed.
        """

    def bind(self, connection: Any) -> StorageBackend:
        """The same operations inside the transaction of a driver connection that the caller owns.

        Raises InvalidValue for what is no open connection of this engine.
        """

    def close(self) -> None:
        """Give every resource back; later calls raise StorageClosed. Closing twice is fine."""
