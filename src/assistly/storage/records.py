"""The stored kinds of record, and the values that operations take and return.

All times are aware datetimes in UTC with microseconds. Records are snapshots: changing
what is stored takes an operation, and no change to a record reaches the database.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")

Json = Any
"""None, bool, int, finite float, str, list or dict with str keys, checked at run time."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """A dataclass with slots that type checkers take for frozen.

    At run time it is not: the `__init__` of a frozen dataclass takes five times as long.
    """
    return dataclass(slots=True)(cls)


class JobStatus(StrEnum):
    SCHEDULED = "scheduled"
    RETRYING = "retrying"
    PROCESSING = "processing"
    POSTED = "posted"
    DEAD_LETTER = "dead_letter"


@record
class Attempt:
    """A failed attempt. `number` counts from 1 since the job was scheduled or replayed."""

    number: int
    at: datetime
    worker_id: str | None
    error: str


@record
class Job:
    """A job of the queue.

    `due_at` is `next_retry_at` if that is set, else `scheduled_at`. `claim` grows with each
    claim and fences every call of the holder. `worker_id` and `lease_until` are set while the
    job is held. `attempts` holds the last 20 failed ones, oldest first.
    """

    id: int
    status: JobStatus
    platform: str
    content: str
    metadata: dict[str, Json]
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


@record
class NewJob:
    """What `schedule_many` takes; the fields are the arguments of `schedule`."""

    platform: str
    content: str
    scheduled_at: datetime | None = None
    idempotency_key: str | None = None
    min_gap: timedelta | None = None
    metadata: dict[str, Json] | None = None
    max_retries: int | None = None
    max_lateness: timedelta | None = None


@record
class Posted:
    job: Job
    remote_id: str | None = None


@record
class Failed:
    job: Job
    error: str
    retry_at: datetime | None = None
    retryable: bool = True


@record
class Snoozed:
    job: Job
    until: datetime


@record
class Released:
    job: Job


@record
class Unknown:
    """Nobody can tell whether it was published: for a person to decide."""

    job: Job
    error: str


Outcome = Posted | Failed | Snoozed | Released | Unknown
"""How a claim ends."""


@record
class Settled:
    """What became of a batch: the settled jobs in input order, and the ids whose claim was lost."""

    jobs: list[Job]
    lost: list[int]


@record
class Session:
    user_id: str
    data: Json
    version: int
    updated_at: datetime


@record
class Approval:
    """`sequence` is the insertion order, which breaks ties of `created_at`."""

    id: str
    status: str
    payload: Json
    created_at: datetime
    decided_at: datetime | None
    sequence: int


class ClaimState(StrEnum):
    ACQUIRED = "acquired"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"


@record
class IdempotencyClaim:
    """The answer to `claim`. `value` is the first result once the state is `completed`."""

    key: str
    state: ClaimState
    value: Json
    fingerprint: str | None
    lease_until: datetime | None
    token: int = field(repr=False)


@record
class IdempotencyRecord:
    key: str
    value: Json
    saved_at: datetime
    fingerprint: str | None


@record
class Latency:
    count: int
    total_ms: float
    max_ms: float


@record
class Metrics:
    counters: dict[str, int]
    latency: Latency


@record
class WorkerLock:
    """A held lock. `fence` grows with every change of owner, also across releases."""

    name: str
    owner_id: str
    fence: int
    acquired_at: datetime
    expires_at: datetime


@record
class NewEvent:
    event_type: str
    payload: Json
    created_at: datetime | None = None


@record
class Event:
    id: int
    event_type: str
    payload: Json
    created_at: datetime


@record
class Snapshot:
    kind: str
    payload: Json
    updated_at: datetime


@record
class PruneReport:
    """How many records of each kind a prune deleted; `ran` is False where the minute was used up."""

    ran: bool
    approvals: int = 0
    idempotency: int = 0
    nonces: int = 0
    posted: int = 0
    events: int = 0
    sessions: int = 0

    @property
    def total(self) -> int:
        return self.approvals + self.idempotency + self.nonces + self.posted + self.events + self.sessions
