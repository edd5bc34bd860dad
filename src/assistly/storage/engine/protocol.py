"""What an engine implements: mechanism, no policy.

`Storage` and its stores stand above this line. They validate, read the clock, compute times and
cutoffs, encode JSON, serialize the calls on a transaction and decide what a result means. What
reaches an engine is canonical, and an engine may rely on it:

- times are aware datetimes in UTC; they are stored with microseconds and come back equal;
- names (keys, nonces, ids, platforms, users, owners, kinds) have 1 to 512 bytes of UTF-8, without
  NUL and lone surrogates. Where they order, they order by code point over all of these bytes;
- contents and JSON have at most 1 MiB;
- JSON arrives as `JsonText`, the canonical text of the value. It comes back decoded, equal to
  `json.loads` of that text in value and in type, as a fresh object on every read;
- limits are whole numbers from 1 to 10,000.

An engine owes this in return:

- each method is atomic, also against other processes, and durable when it returns, unless it runs
  inside `transaction()` or on a bound connection;
- a method that returns None or False has changed nothing, and so has one that raises, except
  `OutcomeUnknown`;
- `updated_at` of a job becomes `now` in every method that changes the job, also where the change
  leaves all other fields as they were (a repeated `begin_publish`);
- "insertion order" is the order in which rows were first inserted; ids grow with it, and an id is
  not used again after its row was deleted;
- text orders by code point;
- driver exceptions are turned into the errors of `assistly.storage.errors`; the schema is made
  ready on first use, and a first use that failed is tried again by the next one.

`assistly.storage.engine.BackendBase` derives most members from a few; `KeyValueBackend` derives all
of them from an ordered transactional map; `assistly.storage.testing` holds the suite that an engine
proves itself with; `docs/engines.md` is the guide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, Protocol

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
from .values import (
    IdempotencyRow,
    JobDraft,
    JsonText,
    KeyClaim,
    PrunedByAge,
    PrunedByCap,
    Settlement,
)

PROTOCOL_VERSION = 1
"""The version of this protocol. An engine states the one that it was written for."""

OLDEST_PROTOCOL_VERSION = 1
"""Engines of an older version are refused; those from here on run, on the defaults of `BackendBase`."""


class JobStore(Protocol):
    """The queue.

    A job is *waiting* when it is scheduled or retrying, *due* when it is waiting and `due_at <= now`,
    and *late* when it is due and `scheduled_at + max_lateness < now`. What each change does to a job is
    defined by the functions of `assistly.storage.transitions`, named in brackets below.
    """

    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        """Insert in order; None for a draft whose key is taken, in the table or in the batch. [new]"""

    def prepare_gap_checks(self) -> None:
        """`in_window` is about to be called: make an index for it, if the engine has none by default."""

    def lock_platforms(self, platforms: Sequence[str]) -> None:
        """Until the enclosing transaction ends, let no other transaction past this for these platforms.

        Nothing to do where transactions exclude each other.
        """

    def in_window(
        self, platform: str, earliest: datetime, latest: datetime, *, exclude: int | None = None
    ) -> Job | None:
        """The scheduled, retrying or processing job with earliest <= scheduled_at <= latest that is first
        by (scheduled_at, id)."""

    def by_key(self, idempotency_key: str) -> Job | None:
        """The job with this idempotency key."""

    def get(self, id: int, *, lock: bool = False) -> Job | None:
        """With `lock`, the row stays as it is for others until the enclosing transaction ends."""

    def save(self, job: Job) -> None:
        """Replace the stored job of this id, which the enclosing transaction has locked."""

    def reschedule(
        self,
        id: int,
        scheduled_at: datetime,
        *,
        content: str | None,
        metadata: JsonText | None,
        now: datetime,
    ) -> Job | None:
        """Move a waiting job; None where there is none of that id. [rescheduled]"""

    def list(
        self, *, status: JobStatus | None, platform: str | None, after: int, limit: int
    ) -> Sequence[Job]:
        """Jobs with id > after, by id."""

    def counts(self, *, posted: bool = True) -> dict[JobStatus, int]:
        """Statuses without jobs may be missing, and so may `posted` where it is not asked for."""

    def remove(self, id: int) -> bool:
        """Delete the job in whatever status."""

    def waiting(
        self,
        *,
        until: datetime | None,
        platforms: Sequence[str] | None,
        after: tuple[datetime, int] | None,
        limit: int,
    ) -> Sequence[Job]:
        """Waiting jobs by (due_at, id), with due_at <= until (None: all) and (due_at, id) > after."""

    def next_due_at(self) -> datetime | None:
        """The least due_at of the waiting jobs."""

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
        """Hold the first due jobs by (due_at, id) that are not late; returned in that order. [claimed]

        Jobs that another claimer is just taking are passed over, not waited for. With
        `unless_overdue`, hold none while the lease of any job has run out or a due job of these
        platforms is late.
        """

    def late(self, *, limit: int, platforms: Sequence[str] | None, now: datetime) -> Sequence[Job]:
        """The first late jobs, by (scheduled_at + max_lateness, id). Changes nothing."""

    def dead_letter_late(
        self, *, limit: int, platforms: Sequence[str] | None, reason: str, now: datetime
    ) -> int:
        """Move the first late jobs to the dead letters; how many. [dead_lettered_late]"""

    def expired(self, *, limit: int, now: datetime) -> Sequence[Job]:
        """Processing jobs with lease_until <= now, by (lease_until, id). Changes nothing."""

    def extend(
        self, claims: Sequence[tuple[int, int]], *, lease_until: datetime, now: datetime
    ) -> Sequence[Job]:
        """Of these (id, claim): the ones in processing with lease_until > now, by id. [extended]"""

    def begin_publish(self, id: int, claim: int, *, now: datetime) -> Job | None:
        """Note that publishing begins, if the claim holds and lease_until > now. [publish_begun]"""

    def settle(
        self, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
    ) -> Sequence[Job | None]:
        """One result for each, None where the fence does not hold. [settled]

        A second settlement of the same claim in one batch is lost. With `expired_only` (kind
        `failed`) the fence also takes lease_until <= now and, unless `keep_publish`, that
        publish_started_at is not set: publishing may have begun since the caller looked.
        """

    def replay(self, id: int, scheduled_at: datetime, *, now: datetime) -> Job | None:
        """Schedule a dead letter anew; None where there is none of that id. [replayed]"""

    def replay_many(
        self, *, platform: str | None, limit: int | None, scheduled_at: datetime, now: datetime
    ) -> int:
        """`replay` for the first dead letters by id; how many."""

    def wait(self, timeout: float) -> None:
        """Return after `timeout` seconds, or sooner when jobs may have changed, in this process or another.

        A change counts if it was committed after this thread's latest call of `next_due_at`, or if the
        thread made none. Returning early without a change is allowed; sleeping through one is not.
        Never called on the backend of a transaction.
        """


class SessionStore(Protocol):
    """User sessions."""

    def get(self, user_id: str, *, lock: bool = False) -> Session | None:
        """With `lock`, the session stays as it is for others until the enclosing transaction ends."""

    def put(
        self, user_id: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Session | None:
        """Version 1 for a new one, else one more. None if it is not at `expected_version` (0: absent)."""

    def delete(self, user_id: str) -> bool:
        """True if there was one."""

    def list(self, *, after: str | None, limit: int) -> Sequence[Session]:
        """Sessions with user_id > after, by user_id."""


class ApprovalStore(Protocol):
    """Approvals."""

    def add(self, id: str, payload: JsonText, *, status: str, created_at: datetime) -> Approval | None:
        """None if the id is taken."""

    def get(self, id: str, *, lock: bool = False) -> Approval | None:
        """With `lock`, the approval stays as it is for others until the enclosing transaction ends."""

    def list(
        self, *, status: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Approval]:
        """By (created_at, sequence), newest first, below `before`."""

    def decide(
        self, id: str, status: str, *, expected: str, payload: JsonText | None, now: datetime
    ) -> Approval | None:
        """Set status, decided_at = now and, if given, the payload, where the status is `expected`."""


class IdempotencyStore(Protocol):
    """Idempotency keys."""

    def claim(
        self, key: str, *, fingerprint: str | None, token: int, lease_until: datetime, now: datetime
    ) -> IdempotencyRow:
        """Take the key if that is possible; the row as it is afterwards. [key_taken]"""

    def claim_many(self, claims: Sequence[KeyClaim]) -> Sequence[IdempotencyRow | None]:
        """`claim` for each of several distinct keys, in order.

        None where `claim` has to be called for that key alone, since it was given up meanwhile.
        """

    def complete(self, key: str, token: int, value: JsonText, *, now: datetime) -> bool:
        """Store the value if the key is in progress under this token: completed, saved_at = now, token and
        lease_until cleared, the fingerprint kept."""

    def abandon(self, key: str, token: int) -> bool:
        """Delete the key if it is in progress under this token."""

    def put(self, key: str, value: JsonText, *, saved_at: datetime) -> IdempotencyRecord:
        """Completed whatever was there, without a fingerprint; its place in insertion order stays."""

    def put_many(self, results: Sequence[tuple[str, JsonText, datetime]]) -> None:
        """`put` for each (key, value, saved_at) of several distinct keys: all or nothing, in order."""

    def get(self, key: str) -> IdempotencyRecord | None:
        """A completed one."""


class NonceStore(Protocol):
    """Webhook nonces."""

    def register(self, nonce: str, timestamp_ms: int) -> bool:
        """True if it was not there."""

    def register_many(self, nonces: Sequence[tuple[str, int]]) -> Sequence[bool]:
        """`register` for each of several distinct nonces: all or nothing, in order."""

    def seen(self, nonce: str) -> bool:
        """Whether it is stored."""


class MetricStore(Protocol):
    """Counters and latencies. Writers on many connections must not queue up behind each other."""

    def increment(self, name: str, by: int) -> None:
        """Add to one counter."""

    def increment_many(self, by_name: Mapping[str, int]) -> None:
        """All or nothing."""

    def observe_latency(self, nanoseconds: int) -> None:
        """One request."""

    def observe_latencies(self, count: int, total: int, longest: int) -> None:
        """`count` requests: the sum of their nanoseconds, and the longest."""

    def read(self) -> Metrics:
        """Whole nanoseconds are summed, and divided once: the total does not depend on their order."""


class LockStore(Protocol):
    """Named locks. Expired means expires_at <= now; a released lock has no owner. The fence outlives both."""

    def acquire(self, name: str, owner_id: str, *, expires_at: datetime, now: datetime) -> WorkerLock | None:
        """None if another owner holds it. [lock_acquired]"""

    def renew(
        self, name: str, owner_id: str, fence: int, *, expires_at: datetime, now: datetime
    ) -> WorkerLock | None:
        """The new expires_at, if this owner holds it under this fence."""

    def release(self, name: str, owner_id: str, fence: int, *, now: datetime) -> bool:
        """Free it, if this owner holds it under this fence."""

    def current(self, name: str, *, now: datetime) -> WorkerLock | None:
        """The lock, while it is held."""


class EventStore(Protocol):
    """The append-only event log."""

    def append(self, events: Sequence[tuple[str, JsonText, datetime]]) -> Sequence[Event]:
        """All or nothing, in order."""

    def get(self, id: int) -> Event | None:
        """Also one that `read_after` still holds back."""

    def list(
        self, *, event_type: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Event]:
        """By (created_at, id), newest first, below `before`."""

    def read_after(self, id: int, *, event_type: str | None, limit: int) -> Sequence[Event]:
        """By id. Nothing with a lower id than a returned event may become visible later."""


class SnapshotStore(Protocol):
    """One JSON payload for each kind."""

    def put(self, kind: str, payload: JsonText, *, now: datetime) -> Snapshot:
        """Replace it, or make it."""

    def get(self, kind: str) -> Snapshot | None:
        """The snapshot of this kind."""

    def list(self) -> Sequence[Snapshot]:
        """By kind."""


class RetentionStore(Protocol):
    """Deletes in batches; each call is one batch of at most `limit` rows, and returns how many."""

    def begin_prune(self, *, now: datetime, interval: timedelta) -> bool:
        """Stamp the database with `now`, unless its stamp is nearer to it than `interval` on either side."""

    def reset_prune(self, *, now: datetime) -> None:
        """Take the stamp back if it is still `now`, so that the next call may prune."""

    def delete_older(self, kind: PrunedByAge, cutoff: datetime, *, limit: int) -> int:
        """Rows with time < cutoff, oldest first: created_at, saved_at, timestamp_ms (against the cutoff in
        whole milliseconds, rounded down), posted_at (posted jobs alone), created_at, updated_at."""

    def newest_beyond(self, kind: PrunedByCap, cap: int) -> tuple[datetime, int] | None:
        """The (time, insertion) of the newest row outside the newest `cap`; None if there is none."""

    def delete_up_to(self, kind: PrunedByCap, edge: tuple[datetime, int], *, limit: int) -> int:
        """Rows with (time, insertion) <= edge."""


class StorageBackend(Protocol):
    """An engine. One object serves many threads, and survives a fork into a child.

    After a fork the child's first use opens connections of its own. Where that cannot be safe, every call
    in the child raises StorageUnavailable that says so. A transaction that was open at the fork is the
    parent's: in the child its calls, and its end, raise StorageClosed and change nothing.
    """

    @property
    def protocol_version(self) -> int:
        """The PROTOCOL_VERSION that this engine was written for."""

    @property
    def in_process(self) -> bool:
        """Calls wait for neither disk nor network: `AsyncStorage` makes them on the event loop."""

    @property
    def durable(self) -> bool:
        """What was written is there after the process has ended."""

    @property
    def multi_process(self) -> bool:
        """Several processes may use the same data at once."""

    @property
    def binds(self) -> bool:
        """`bind` takes connections."""

    @property
    def writers(self) -> int:
        """How many single writes may be under way before further ones are collected into batches.

        0: none are, since a batch saves neither a round trip nor a flush to disk. An embedded engine
        whose commits wait for the disk, one at a time, says 1.
        """

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
        """The engine's own clock, which the processes that share the data agree on."""

    def ping(self) -> None:
        """One trip to the engine; makes the schema ready as any first use does."""

    def migrate(self) -> list[str]:
        """Apply the pending migrations, whatever `auto_migrate` says; the names of those applied now."""

    def maintain(self) -> None:
        """Clean up what slows the engine down (Postgres: vacuum the table of jobs), if that is worth it now.

        Called by a worker once a minute, and by `Storage.maintain`. It may take long, and holds nobody up.
        """

    def transaction(self) -> AbstractContextManager[StorageBackend]:
        """All that the yielded backend does is committed at the end, or undone by an exception.

        `transaction()` of the yielded backend is a savepoint. The yielded backend is used from any
        thread, one call at a time, and the block may be left on another thread than it was entered on:
        `Storage` sees to the first, and to it that nothing is called after the end. Calls on this backend
        itself do not take part. Waiting for another transaction has a limit: StorageUnavailable.
        """

    def bind(self, connection: Any) -> StorageBackend:
        """The same operations inside the transaction of a driver connection that the caller owns.

        Raises InvalidValue for what is no open connection of this engine.
        """

    def close(self) -> None:
        """Give every resource back; later calls raise StorageClosed. Closing twice is fine.

        A transaction that is open then is undone: its calls, and its end, raise StorageClosed. On the
        backend of a transaction or of a bound connection it does nothing.
        """
