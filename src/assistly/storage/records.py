"""The stored kinds of record, and the values that operations take and return.

All times are aware datetimes in UTC with microseconds. Records are snapshots: changing
what is stored takes an operation, and no change to a record reaches the database.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, make_dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

R = TypeVar("R")

Json = Any
"""None, bool, int, finite float, str, list or dict with str keys, checked at run time."""


class JobStatus(StrEnum):
    SCHEDULED = "scheduled"
    RETRYING = "retrying"
    PROCESSING = "processing"
    POSTED = "posted"
    DEAD_LETTER = "dead_letter"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A failed attempt. `number` counts from 1 since the job was scheduled or replayed."""

    number: int
    at: datetime
    worker_id: str | None
    error: str


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Posted:
    job: Job
    remote_id: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    job: Job
    error: str
    retry_at: datetime | None = None
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class Snoozed:
    job: Job
    until: datetime


@dataclass(frozen=True, slots=True)
class Released:
    job: Job


@dataclass(frozen=True, slots=True)
class Unclear:
    """Nobody can tell whether it was published: for a person to decide."""

    job: Job
    error: str


Outcome = Posted | Failed | Snoozed | Released | Unclear
"""How a claim ends."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a batch: the settled jobs in input order, and the ids whose claim was lost."""

    jobs: list[Job]
    lost: list[int]


@dataclass(frozen=True, slots=True)
class Session:
    user_id: str
    data: Json
    version: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """The answer to `claim`. `value` is the first result once the state is `completed`."""

    key: str
    state: ClaimState
    value: Json
    fingerprint: str | None
    lease_until: datetime | None
    token: int = field(repr=False)


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    key: str
    value: Json
    saved_at: datetime
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class Latency:
    count: int
    total_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Metrics:
    counters: dict[str, int]
    latency: Latency


@dataclass(frozen=True, slots=True)
class WorkerLock:
    """A held lock. `fence` grows with every change of owner, also across releases."""

    name: str
    owner_id: str
    fence: int
    acquired_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class NewEvent:
    event_type: str
    payload: Json
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Event:
    id: int
    event_type: str
    payload: Json
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    kind: str
    payload: Json
    updated_at: datetime


@dataclass(frozen=True, slots=True)
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


def maker(kind: type[R]) -> Callable[..., R]:
    """`kind` for engines that make many: every field, by position, and no check of a type.

    The `__init__` of a frozen dataclass sets each field through `object.__setattr__`. Here a twin
    with the same slots sets them directly, and then becomes one of `kind`: five times as fast.
    """
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    twin = make_dataclass(kind.__name__, names, slots=True, eq=False, repr=False)

    def make(*values: Any) -> R:
        record: Any = twin(*values)
        record.__class__ = kind
        return record  # type: ignore[no-any-return]

    return make


def unfrozen(kind: type[R]) -> type[Any]:
    """`kind` with fields that can be set, for a function that makes many and knows most of the fields.

    Nobody is to see such a record: the function turns it into one of `kind`, by its `__class__`.
    """
    setters = {"__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    return type(kind.__name__, (kind,), {"__slots__": (), **setters})
