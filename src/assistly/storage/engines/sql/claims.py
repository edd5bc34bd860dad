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
from .new_jobs import make_job
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

_NO_PAST: tuple[Any, ...] = (1, 0, [], *(None for _ in _RARE))


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
        (
            due_at, id, platform, content, metadata, scheduled_at, created_at, max_retries,
            idempotency_key, past,
        ) = row  # fmt: skip
        (
            claim, retries, attempts, next_retry_at, remote_id, posted_at, last_error, dead_letter_at,
            dead_letter_reason, replayed_at, publish_started_at, max_lateness,
        ) = _NO_PAST if past is None else decoded(past)  # fmt: skip
        jobs.append(
            make_job(
                id,
                JobStatus.PROCESSING,
                platform,
                content,
                {} if metadata is None else decoded(metadata),
                time(scheduled_at),
                time(created_at),
                now,
                retries,
                max_retries,
                None if next_retry_at is None else from_microseconds(next_retry_at),
                time(due_at),
                idempotency_key,
                remote_id,
                None if posted_at is None else from_microseconds(posted_at),
                last_error,
                None if dead_letter_at is None else from_microseconds(dead_letter_at),
                dead_letter_reason,
                None if replayed_at is None else from_microseconds(replayed_at),
                claim,
                worker_id,
                lease_until,
                None if publish_started_at is None else from_microseconds(publish_started_at),
                None if max_lateness is None else timedelta(microseconds=max_lateness),
                tuple(map(decoded_attempt, attempts)) if attempts else (),
            )
        )
    return jobs
