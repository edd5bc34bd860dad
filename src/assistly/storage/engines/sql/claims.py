"""What a claim brings back.

Each column of each row takes 0.1 µs on either side. So a claim leaves out what its statement set, and
what a job has only if it was claimed, snoozed or replayed before, or may be late, comes in one column,
which is NULL for most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from ...records import Job, JobStatus
from .attempts import decoded_attempt
from .database import Row
from .store import from_microseconds

_RARE = (
    "next_retry_at", "remote_id", "posted_at", "last_error", "dead_letter_at", "dead_letter_reason",
    "replayed_at", "publish_started_at", "max_lateness",
)  # fmt: skip

# It begins with what claims are ordered by.
CLAIMED = f"""
    due_at, id, platform, content, nullif(metadata, '{{}}'{{jsonb}}), scheduled_at, created_at, max_retries,
    idempotency_key,
    CASE WHEN claim <> 1 OR retries <> 0 OR attempts <> '[]'{{jsonb}}
        OR {" OR ".join(f"{column} IS NOT NULL" for column in _RARE)}
    THEN {{past}} END
"""

_Unfrozen: Any = Job
_new = object.__new__
_PROCESSING = JobStatus.PROCESSING


def claimed_jobs(
    rows: Sequence[Row],
    worker_id: str,
    lease_until: datetime,
    now: datetime,
    time: Callable[[Any], Any],
    decoded: Callable[[Any], Any],
) -> list[Job]:
    """`time` and `decoded` are the codec's, for times and JSON."""
    jobs = []
    for row in rows:
        job = _new(_Unfrozen)
        (
            due_at, job.id, job.platform, job.content, metadata, scheduled_at, created_at, job.max_retries,
            job.idempotency_key, past,
        ) = row  # fmt: skip
        job.status = _PROCESSING
        job.metadata = {} if metadata is None else decoded(metadata)
        job.scheduled_at = time(scheduled_at)
        job.due_at = time(due_at)
        job.created_at = time(created_at)
        job.updated_at = now
        job.worker_id = worker_id
        job.lease_until = lease_until
        if past is None:
            job.claim = 1
            job.retries = 0
            job.attempts = ()
            job.next_retry_at = job.remote_id = job.posted_at = job.last_error = job.dead_letter_at = None
            job.dead_letter_reason = job.replayed_at = job.publish_started_at = job.max_lateness = None
        else:
            _remember(job, *decoded(past))
        jobs.append(job)
    return jobs


def _remember(
    job: Any,
    claim: int,
    retries: int,
    attempts: list[dict[str, Any]],
    next_retry_at: int | None,
    remote_id: str | None,
    posted_at: int | None,
    last_error: str | None,
    dead_letter_at: int | None,
    dead_letter_reason: str | None,
    replayed_at: int | None,
    publish_started_at: int | None,
    max_lateness: int | None,
) -> None:
    job.claim = claim
    job.retries = retries
    job.attempts = tuple(map(decoded_attempt, attempts))
    job.next_retry_at = _moment(next_retry_at)
    job.remote_id = remote_id
    job.posted_at = _moment(posted_at)
    job.last_error = last_error
    job.dead_letter_at = _moment(dead_letter_at)
    job.dead_letter_reason = dead_letter_reason
    job.replayed_at = _moment(replayed_at)
    job.publish_started_at = _moment(publish_started_at)
    job.max_lateness = None if max_lateness is None else timedelta(microseconds=max_lateness)


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else from_microseconds(microseconds)
