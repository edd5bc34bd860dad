"""The values that pass between the stores and an engine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from ..records import Job, JsonValue, record
from ..validation import JsonText as JsonText

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

ATTEMPT_ERROR_LENGTH = 4096
"""Characters of an error that an `Attempt` keeps."""

KEPT_ATTEMPTS = 20
"""Failed attempts that a job keeps; the oldest are dropped."""

PrunedByAge = Literal["approvals", "idempotency", "nonces", "posted", "events", "sessions"]
PrunedByCap = Literal["approvals", "idempotency"]

MOST_COUNTED = 1_000_000
"""Records that the engines of this package count at most to say what a prune would delete."""


@record
class JobDraft:
    """A job to insert, with status `scheduled`."""

    platform: str
    content: str
    metadata: JsonText
    scheduled_at: datetime
    idempotency_key: str | None
    max_retries: int
    max_lateness: timedelta | None


@record
class Settlement:
    """How one claim ends; `transitions.settled` says what each kind does.

    `job` is the record that the caller has. The settlement applies only if the stored job of its `id` is in
    `processing` under its `claim`. `at` is when a failed or snoozed job falls due again. `final`: a failed
    job is not retried. `keep_publish`: the outcome is unknown, so a failed job keeps publish_started_at, and
    gets the time of the settlement if it has none.
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
        """The id of the job."""
        return self.job.id

    @property
    def claim(self) -> int:
        """The claim that ends."""
        return self.job.claim


@record
class IdempotencyRow:
    """A stored idempotency key.

    While it is in progress, `completed` is False, `value` is None, and `token` identifies the holder.
    """

    key: str
    completed: bool
    value: JsonValue
    saved_at: datetime
    fingerprint: str | None
    token: int | None
    lease_until: datetime | None


@record
class KeyClaim:
    """A request to take an idempotency key until `lease_until`. `token` identifies the caller."""

    key: str
    fingerprint: str | None
    token: int
    lease_until: datetime
    now: datetime


PAUSES = "pauses"
"""The collection of documents that pause platforms: the key is the platform, and `until` in the data is when
the pause ends, in microseconds since 1970 (null: when somebody ends it)."""


@record
class Document:
    """A JSON value of a collection, such as the pause of a platform.

    `version` is 1 for a new one, and one more with each change. `updated_at` is when it changed last.
    """

    collection: str
    key: str
    data: JsonValue
    version: int
    updated_at: datetime


def pause_end(document: Document) -> datetime | None:
    """When a pause ends, from its document; None if somebody has to end it."""
    until: int | None = document.data["until"]
    return None if until is None else _EPOCH + timedelta(microseconds=until)


def stored_until(until: datetime | None) -> int | None:
    """The inverse of `pause_end`: what a document holds."""
    return None if until is None else (until - _EPOCH) // timedelta(microseconds=1)


@record
class LockRow:
    """A stored lock. A released one has no owner; its fence stays."""

    name: str
    owner_id: str | None
    fence: int
    acquired_at: datetime
    expires_at: datetime


def lock_of_row(row: tuple[Any, ...]) -> LockRow:
    """A lock from its row of the kind `locks`, whose times are in microseconds since 1970."""
    name, owner_id, fence, acquired_at, expires_at = row
    times = (_EPOCH + timedelta(microseconds=time) for time in (acquired_at, expires_at))
    return LockRow(name, owner_id, fence, *times)
