"""The records, and the values that operations take and return.

All times are aware datetimes in UTC with microseconds. A record is a copy: changing its attributes does not
change the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar, dataclass_transform

T = TypeVar("T")

JsonResult = TypeVar("JsonResult", bound="Json")

MISSED = "missed: "
"""The prefix of the reason of a dead letter that a claim found after its `max_lateness`."""

TRACE_CONTEXT = "assistly.trace"
"""The key in the metadata of a job under which instrumented programs store the trace that scheduled it.

Its value is an object with `traceparent` and perhaps `tracestate`, as in W3C Trace Context.
"""

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""A JSON value that is stored: None, bool, int, finite float, str, list or dict with str keys.

Type checkers accept other sequences and mappings, too, since they would refuse a `list[str]` or a
`dict[str, int]` otherwise. At run time those are `InvalidValue`.
"""

JsonValue: TypeAlias = Any
"""A JSON value that is read: None, bool, int, float, str, list or dict. The application knows which."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Make `cls` a dataclass with slots that type checkers treat as frozen.

    It is not frozen at run time, since the `__init__` of a frozen dataclass takes five times as long.
    """
    return dataclass(slots=True)(cls)


class JobStatus(StrEnum):
    """The status of a job. Jobs in the first three are active."""

    SCHEDULED = "scheduled"
    """Waits for its time; no attempt has failed since it was scheduled or replayed."""
    RETRYING = "retrying"
    """Waits for its next attempt, after a failed one."""
    PROCESSING = "processing"
    """Claimed by a worker."""
    POSTED = "posted"
    """Published."""
    DEAD_LETTER = "dead_letter"
    """No further attempts. A person replays it, or resolves it if its outcome is unknown."""
    CANCELLED = "cancelled"
    """Will not be published. The job and its idempotency key stay."""


@record
class Attempt:
    """A failed attempt to publish a job.

    `number` counts from 1 since the job was scheduled or replayed; `at` is when it failed; `worker_id`
    is the worker that held the job, if any; `error` has at most 4096 characters.
    """

    number: int
    at: datetime
    worker_id: str | None
    error: str


@record
class Job:
    """A job of the queue.

    `scheduled_at` is the requested time; `due_at` is when the job is due: `next_retry_at` if that is set,
    else `scheduled_at`. `retries` counts the failed attempts since the job was scheduled or replayed; when it
    reaches `max_retries`, the job becomes a dead letter. `claim` is the fence: it grows with each claim, and
    calls with an older one raise ClaimLost. `worker_id` and `lease_until` are set while the job is claimed.
    `publish_started_at` is set by `begin_publish`, and kept when the job is posted or its outcome is unknown.
    `remote_id` is the id on the platform. `dead_letter_reason` says why the job became a dead letter;
    `replayed_at` is when it was last replayed. `max_lateness` is how long after `scheduled_at` it may be
    claimed (None: no limit). `attempts` holds the last 20 failed attempts, oldest first. `checkpoint` is the
    progress of publishing that `queue.checkpoint` last stored.
    """

    id: int
    status: JobStatus
    platform: str
    content: str
    metadata: dict[str, JsonValue]
    scheduled_at: datetime
    created_at: datetime
    updated_at: datetime
    retries: int
    max_retries: int
    next_retry_at: datetime | None
    due_at: datetime
    idempotency_key: str | None
    remote_id: str | None
    posted_at: datetime | None
    last_error: str | None
    dead_letter_at: datetime | None
    dead_letter_reason: str | None
    replayed_at: datetime | None
    claim: int
    worker_id: str | None
    lease_until: datetime | None
    publish_started_at: datetime | None
    max_lateness: timedelta | None
    attempts: tuple[Attempt, ...]
    checkpoint: JsonValue = None

    @property
    def outcome_unknown(self) -> bool:
        """Whether the job is a dead letter that may or may not have been published."""
        return self.status is JobStatus.DEAD_LETTER and self.publish_started_at is not None

    @property
    def missed(self) -> bool:
        """Whether the job is a dead letter because a claim found it after its `max_lateness`."""
        return (
            self.status is JobStatus.DEAD_LETTER
            and self.publish_started_at is None
            and self.dead_letter_reason is not None
            and self.dead_letter_reason.startswith(MISSED)
            and self.dead_letter_reason != self.last_error
        )


@record
class NewJob:
    """A job for `queue.schedule_many`; the fields are the arguments of `queue.schedule`."""

    platform: str
    content: str
    scheduled_at: datetime | None = None
    idempotency_key: str | None = None
    min_gap: timedelta | None = None
    metadata: Mapping[str, Json] | None = None
    max_retries: int | None = None
    max_lateness: timedelta | None = None


@record
class Posted:
    """The claimed job was published; `remote_id` is its id on the platform, if that is known."""

    job: Job
    remote_id: str | None = None


@record
class Failed:
    """The claimed job was not published; the fields are the arguments of `queue.mark_failed`."""

    job: Job
    error: str
    retry_at: datetime | None = None
    retryable: bool = True


@record
class Snoozed:
    """The claimed job returns to the queue and is due at `until`. This uses no attempt."""

    job: Job
    until: datetime


@record
class Released:
    """The claimed job returns to the queue as it was before the claim. This uses no attempt."""

    job: Job


@record
class Unknown:
    """The claimed job may or may not have been published: it becomes a dead letter, and a person decides."""

    job: Job
    error: str


Outcome = Posted | Failed | Snoozed | Released | Unknown
"""How a claim ends."""


@record
class Claimed:
    """The result of `queue.sweep_and_claim`.

    `jobs` are the claimed jobs, by (due_at, id). `rescued` were reclaimed from workers whose lease had
    expired, and `missed` became dead letters because they were past their `max_lateness`.
    """

    jobs: list[Job]
    rescued: list[Job]
    missed: list[Job]


@record
class Settled:
    """The result of `queue.settle`: the settled jobs in input order, and the ids whose claim was lost."""

    jobs: list[Job]
    lost: list[int]


@record
class QueueDepth:
    """How many jobs of a platform have a status, from `queue.depths`.

    If it is not `exact`, only the first jobs of this status were counted, over all platforms: there are more
    of them, on this platform or on others. Of waiting jobs, `due` are due; `oldest_due_at` is the earliest
    `due_at` of these, and `next_due_at` the earliest of the others. Of processing jobs, the leases of
    `expired` have run out. Of dead letters, the outcome of `unknown` is unknown, and `missed` were not
    claimed in time. In the rows of other statuses these are 0 and None.
    """

    platform: str
    status: JobStatus
    count: int
    exact: bool = True
    due: int = 0
    oldest_due_at: datetime | None = None
    next_due_at: datetime | None = None
    expired: int = 0
    unknown: int = 0
    missed: int = 0


@record
class TimelineCount:
    """How many jobs of a platform have a status within an interval, from `queue.timeline`.

    The interval begins at `start`. If it is not `exact`, counting has stopped: there are more such jobs, on
    this platform or on others.
    """

    start: datetime
    platform: str
    status: JobStatus
    count: int
    exact: bool = True


@record
class Session:
    """The data of a user. `version` is 1 for a new session, and one more with each change."""

    user_id: str
    data: JsonValue
    version: int
    updated_at: datetime


@record
class Approval:
    """A request for a decision, decided at `decided_at` (None: not yet).

    `sequence` is the insertion order, which orders approvals of the same time in lists.
    """

    id: str
    status: str
    payload: JsonValue
    created_at: datetime
    decided_at: datetime | None
    sequence: int


class ClaimState(StrEnum):
    """The state of a key after `idempotency.claim`, and what the caller does next."""

    ACQUIRED = "acquired"
    """The caller holds the key: run the command, then complete or abandon the claim."""
    IN_PROGRESS = "in_progress"
    """Another caller holds the key: try again later."""
    COMPLETED = "completed"
    """The command was run before: use its result."""


@record
class IdempotencyClaim:
    """The result of `idempotency.claim`.

    `value` is the first result if the state is `completed`, else None. `fingerprint` is the stored one.
    `lease_until` is when another caller can acquire a key that is in progress. `token` identifies this
    caller.
    """

    key: str
    state: ClaimState
    value: JsonValue
    fingerprint: str | None
    lease_until: datetime | None
    token: int = field(repr=False)


@record
class IdempotencyRecord:
    """The stored result of a key, saved at `saved_at`."""

    key: str
    value: JsonValue
    saved_at: datetime
    fingerprint: str | None


@record
class Latency:
    """How many requests were observed, and their total and longest duration in milliseconds."""

    count: int
    total_ms: float
    max_ms: float


@record
class Metrics:
    """All counters by name, and the latency of requests."""

    counters: dict[str, int]
    latency: Latency


@record
class WorkerLock:
    """A lock that `owner_id` holds until `expires_at`.

    `fence` grows with each change of owner, and does not start again after a release.
    """

    name: str
    owner_id: str
    fence: int
    acquired_at: datetime
    expires_at: datetime


@record
class NewEvent:
    """An event for `events.append_many`; the fields are the arguments of `events.append`."""

    event_type: str
    payload: Json
    created_at: datetime | None = None


@record
class Event:
    """An event of the log. Ids grow, but not always in the order of `created_at`."""

    id: int
    event_type: str
    payload: JsonValue
    created_at: datetime


@record
class Snapshot:
    """The payload of a kind, and when it was stored."""

    kind: str
    payload: JsonValue
    updated_at: datetime


@record
class PoolConnections:
    """The connections of a storage's pool: how many are in use, open, and may be open (None: no limit).

    Those that are just being opened count as in use.
    """

    in_use: int
    open: int
    most: int | None


@record
class PruneReport:
    """How many records of each kind a prune deleted.

    `ran` is False if it did nothing, because the last prune was less than a minute ago.
    """

    ran: bool
    approvals: int = 0
    idempotency: int = 0
    nonces: int = 0
    posted: int = 0
    events: int = 0
    sessions: int = 0

    @property
    def total(self) -> int:
        """How many records of all kinds were deleted."""
        return self.approvals + self.idempotency + self.nonces + self.posted + self.events + self.sessions


@record
class PrunableCount:
    """How many records of a kind a prune would delete, by their age and beyond the cap.

    With `is_exact` False there are at least so many: counting has stopped at a limit.
    """

    by_age: int = 0
    by_cap: int = 0
    is_exact: bool = True

    @property
    def total(self) -> int:
        """How many records would be deleted."""
        return self.by_age + self.by_cap


@record
class Prunable:
    """What a prune would delete, by kind of record."""

    approvals: PrunableCount
    idempotency: PrunableCount
    nonces: PrunableCount
    posted: PrunableCount
    events: PrunableCount
    sessions: PrunableCount


@record
class Platform:
    """What all workers share about a platform: whether it is paused, and how many jobs it takes.

    `paused_until` is when the pause ends; None if it is not paused, or until somebody resumes it. `reason`
    and `by` are what the pause was given. `limit` is how many jobs in how long (None: no limit).
    `updated_at` is when the pause or the limit was set last.
    """

    name: str
    paused: bool
    paused_until: datetime | None
    reason: str | None
    by: str | None
    limit: tuple[int, timedelta] | None
    updated_at: datetime


@record
class Schedule:
    """A recurring post: each of its slots becomes a job with this platform, content and metadata.

    Slots are the times of `cron` in the wall-clock time of `zone`, or `starts_at` and each `every` after it;
    one of the two is None. `starts_at` is the time of the first `put` unless it was given; after `ends_at`
    there are no slots (None: without end). `max_lateness` and `max_retries` are those of the jobs (None: the
    defaults of `queue.schedule`). `catch_up` says which slots still become jobs that passed before they had
    one, since nobody ran the schedules: "none", "last" or "all" of them. `updated_at` is when one of these
    was changed last. `made_until`: no slot up to then becomes a job any more.
    """

    id: str
    platform: str
    content: str
    metadata: dict[str, JsonValue]
    cron: str | None
    every: timedelta | None
    zone: str
    starts_at: datetime
    ends_at: datetime | None
    max_lateness: timedelta | None
    max_retries: int | None
    catch_up: str
    enabled: bool
    updated_at: datetime
    made_until: datetime
