"""The protocol that an engine implements: mechanism, no policy.

`Storage` and its stores call the engine. They validate arguments, read the clock, compute times and
cutoffs, encode JSON, serialize the calls on a transaction and interpret the results. An engine may rely
on this:

- times are aware datetimes in UTC; they are stored with microseconds and come back equal;
- names (keys, nonces, ids, platforms, users, owners, kinds) have 1 to 512 bytes of UTF-8, without
  NUL and lone surrogates. Where they order, they order by code point over all of these bytes;
- contents and JSON have at most 1 MiB;
- JSON arrives as `JsonText`, the canonical text of the value. It comes back decoded, equal to
  `json.loads` of that text in value and in type, as a fresh object on every read;
- limits are whole numbers from 1 to 10,000.

In return an engine guarantees this:

- each method is atomic, also against other processes, and durable when it returns, unless it runs
  inside `transaction()` or on a bound connection;
- a method that returns None or False has changed nothing, and so has one that raises, except
  `OutcomeUnknown`;
- `updated_at` of a job becomes `now` in every method that changes the job, also where the change
  leaves all other fields as they were (a repeated `begin_publish`);
- "insertion order" is the order in which rows were first inserted; ids grow in that order, and an id is
  never used again after its row was deleted;
- text orders by code point;
- driver exceptions become the errors of `assistly.storage.errors`; the first use prepares the schema,
  and after a failed first use the next one tries again.

`assistly.storage.engine.BackendBase` derives most members from a few; `KeyValueBackend` derives all
of them from an ordered transactional map; `assistly.storage.testing` holds the contract suite that every
engine must pass; `docs/engines.md` is the guide.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

from ..records import Job, JobStatus
from .record_stores import (
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
from .values import JobDraft, JsonText, Settlement

PROTOCOL_VERSION = 2
"""The version of this protocol. An engine states the version that it was written for."""

OLDEST_PROTOCOL_VERSION = 2
"""The oldest supported version: older engines are refused. `BackendBase` has defaults for newer members."""


class JobStore(Protocol):
    """The queue.

    A job is *waiting* when it is scheduled or retrying, *due* when it is waiting and `due_at <= now`,
    and *late* when it is due and `scheduled_at + max_lateness < now`. What each change does to a job is
    defined by the functions of `assistly.storage.transitions`, named in brackets below.
    """

    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        """Insert jobs in order; None for a draft whose key is taken, in the table or in the batch. [new]"""

    def prepare_gap_checks(self) -> None:
        """Called before `in_window`: create an index for it if the engine has none by default."""

    def lock_platforms(self, platforms: Sequence[str]) -> None:
        """Lock these platforms until the enclosing transaction ends, against other calls of this method.

        Nothing to do if write transactions exclude each other.
        """

    def in_window(
        self, platform: str, earliest: datetime, latest: datetime, *, exclude: int | None = None
    ) -> Job | None:
        """The scheduled, retrying or processing job with earliest <= scheduled_at <= latest that is first
        by (scheduled_at, id)."""

    def by_key(self, idempotency_key: str) -> Job | None:
        """The job with this idempotency key, or None."""

    def get(self, id: int, *, lock: bool = False) -> Job | None:
        """The job with this id, or None. `lock`: others cannot change it until the transaction ends."""

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
        """Move a waiting job; None if there is none with this id. [rescheduled]"""

    def list(
        self, *, status: JobStatus | None, platform: str | None, after: int, limit: int
    ) -> Sequence[Job]:
        """Jobs with id > after, by id."""

    def counts(self, *, posted: bool = True) -> dict[JobStatus, int]:
        """The number of jobs by status. Statuses without jobs may be missing, and posted if not asked for."""

    def remove(self, id: int) -> bool:
        """Delete the job in any status. False if there is none."""

    def waiting(
        self,
        *,
        until: datetime | None,
        platforms: Sequence[str] | None,
        after: tuple[datetime, int] | None,
        limit: int,
    ) -> Sequence[Job]:
        """Waiting jobs by (due_at, id), with due_at <= until (None: all) and (due_at, id) > after."""

    def next_due_at(
        self, *, platforms: Sequence[str] | None = None, now: datetime | None = None
    ) -> datetime | None:
        """The smallest due_at of the waiting jobs of these platforms; None if there are none.

        With `now`, when a claim may find a job: jobs of platforms that are paused then do not count, but the
        ends of pauses do, if these are in the future.
        """

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
        """Claim the first due jobs by (due_at, id) that are not late; return them in that order. [claimed]

        Jobs of platforms that are paused are left out: those with a document in the collection PAUSES whose
        `until` is null or after `now`. Jobs that a concurrent call is claiming are skipped, not waited for.
        With `unless_overdue`, claim none if the lease of any job has run out, or if a due job of these
        platforms is late.
        """

    def late(self, *, limit: int, platforms: Sequence[str] | None, now: datetime) -> Sequence[Job]:
        """The first late jobs, by (scheduled_at + max_lateness, id). Changes nothing."""

    def dead_letter_late(
        self, *, limit: int, platforms: Sequence[str] | None, reason: str, now: datetime
    ) -> Sequence[Job]:
        """Make the first late jobs dead letters; return them, in any order. [dead_lettered_late]"""

    def expired(self, *, limit: int, now: datetime) -> Sequence[Job]:
        """Processing jobs with lease_until <= now, by (lease_until, id). Changes nothing."""

    def extend(
        self, claims: Sequence[tuple[int, int]], *, lease_until: datetime, now: datetime
    ) -> Sequence[Job]:
        """Extend those of the (id, claim) whose claim holds with lease_until > now; by id. [extended]"""

    def begin_publish(self, id: int, claim: int, *, now: datetime) -> Job | None:
        """Store that publishing begins, if the claim holds with lease_until > now. [publish_begun]"""

    def begin_publish_many(self, claims: Sequence[tuple[int, int]], *, now: datetime) -> Sequence[Job | None]:
        """`begin_publish` several distinct (id, claim); one result for each, in order."""

    def settle(
        self, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
    ) -> Sequence[Job | None]:
        """End claims; one result for each, None if the claim does not hold. [settled]

        A second settlement of the same claim in one batch gets None. With `expired_only` (kind `failed`)
        a settlement also requires lease_until <= now and, unless `keep_publish`, that publish_started_at is
        not set, since publishing may have begun after the caller read the job.
        """

    def replay(self, id: int, scheduled_at: datetime, *, now: datetime) -> Job | None:
        """Schedule a dead letter or a cancelled job again; None if there is none with this id. [replayed]"""

    def replay_many(
        self,
        *,
        platform: str | None,
        limit: int | None,
        unknown: bool,
        missed: bool,
        scheduled_at: datetime,
        now: datetime,
    ) -> int:
        """`replay` the first dead letters by id; return how many.

        Those for which `Job.outcome_unknown` or `Job.missed` is true are left out unless asked for.
        """

    def wait(self, timeout: float) -> None:
        """Return after `timeout` seconds, or sooner when jobs may have changed, in this process or another.

        A change counts if it was committed after this thread's latest call of `next_due_at`, or if the
        thread made none. Returning early without a change is allowed; sleeping through one is not.
        Never called on the backend of a transaction.
        """


class StorageBackend(Protocol):
    """An engine. One object serves many threads, and can be used in a child after a fork.

    After a fork the child's first use opens connections of its own. Where that is not safe, every call in
    the child raises a StorageUnavailable that says why. A transaction that was open at the fork belongs to
    the parent: in the child its calls and its end raise StorageClosed and change nothing.
    """

    @property
    def protocol_version(self) -> int:
        """The PROTOCOL_VERSION that this engine was written for."""

    @property
    def in_process(self) -> bool:
        """Whether calls wait for neither disk nor network: `AsyncStorage` makes them on the event loop."""

    @property
    def durable(self) -> bool:
        """Whether data survives the end of the process."""

    @property
    def multi_process(self) -> bool:
        """Whether several processes may use the same data at once."""

    @property
    def binds(self) -> bool:
        """Whether `bind` accepts connections."""

    @property
    def writers(self) -> int:
        """How many batches of single writes may be in flight before further writes are queued for the next.

        0 turns batching off: right if a batch saves neither a round trip nor a flush to disk. An embedded
        engine whose commits wait for the disk, one at a time, says 1.
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
    def documents(self) -> DocumentStore: ...
    @property
    def retention(self) -> RetentionStore: ...

    def now(self) -> datetime:
        """The time of the engine's clock, which all processes that share the data agree on."""

    def ping(self) -> None:
        """Make one round trip to the engine. As any first use, it prepares the schema."""

    def migrate(self) -> list[str]:
        """Apply the pending migrations, whatever `auto_migrate` says; return the names of those applied."""

    def maintain(self) -> None:
        """Do the maintenance that keeps the engine fast, if it is due (Postgres: vacuum the table of jobs).

        Called by a worker once a minute, and by `Storage.maintain`. It may take long, but must not block
        other calls.
        """

    def transaction(self) -> AbstractContextManager[StorageBackend]:
        """Commit all calls on the yielded backend together at the end, or undo them after an exception.

        `transaction()` of the yielded backend is a savepoint. The yielded backend may be called from any
        thread, and the block may be left on another thread than it was entered on; `Storage` makes the
        calls one at a time, and none after the end. Calls on this backend itself do not take part. Waiting
        for another transaction is bounded: after 10 seconds it raises StorageUnavailable.
        """

    def bind(self, connection: Any) -> StorageBackend:
        """Return the same operations inside the transaction of a driver connection that the caller owns.

        Raises InvalidValue unless `connection` is an open connection of this engine's driver to its database.
        """

    def close(self) -> None:
        """Release all resources; later calls raise StorageClosed. Closing twice is fine.

        Open transactions are undone: their calls and their ends raise StorageClosed. On the backend of a
        transaction or of a bound connection it does nothing.
        """
