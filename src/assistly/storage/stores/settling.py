"""Turns the outcome of a claim into the settlement that an engine applies."""

from __future__ import annotations

from datetime import datetime

from .. import validation as check
from ..engine.values import Settlement
from ..records import Failed, Job, Outcome, Posted, Snoozed, Unknown
from ..retry import RetryPolicy

OUTCOME_UNKNOWN = "outcome unknown"
"""The reason of a dead letter with an unknown outcome begins with this and a colon."""


def claimed_job(argument: str, value: object) -> Job:
    """Return a job whose claim can be looked up. Raises InvalidValue for anything else."""
    job = check.instance(argument, value, Job)
    check.whole(f"{argument}.id", job.id, least=0, most=check.MAX_ID)
    check.whole(f"{argument}.claim", job.claim, least=0, most=check.MAX_ID)
    check.whole(f"{argument}.retries", job.retries, least=0, most=check.MAX_ID)
    return job


def claims_of(jobs: object) -> list[tuple[int, int]]:
    """Return id and claim of each job. Raises InvalidValue for anything but jobs that were claimed."""
    held = [claimed_job("jobs", job) for job in check.items("jobs", jobs, "Job")]
    return [(job.id, job.claim) for job in held]


def settlement(outcome: Outcome, retry: RetryPolicy, now: datetime) -> Settlement:
    """Return the settlement for an outcome. Raises InvalidValue for a wrong outcome, or a wrong field."""
    if not isinstance(outcome, Outcome):
        raise check.wrong_type("outcomes", "Posted, Failed, Snoozed, Released or Unknown", outcome)
    job = claimed_job("job", outcome.job)
    if isinstance(outcome, Posted):
        return Settlement("posted", job, remote_id=check.optional_name("remote_id", outcome.remote_id))
    if isinstance(outcome, Failed):
        error = check.content("error", outcome.error)
        retry_at = check.optional_utc("retry_at", outcome.retry_at)
        final = not check.flag("retryable", outcome.retryable)
        at = retry_at or retry.next_attempt(now, job)
        return Settlement("failed", job, error=error, at=at, final=final)
    if isinstance(outcome, Unknown):
        error = f"{OUTCOME_UNKNOWN}: {check.content('error', outcome.error)}"
        return Settlement("failed", job, error=error, at=now, final=True, keep_publish=True)
    if isinstance(outcome, Snoozed):
        return Settlement("snoozed", job, at=check.utc("until", outcome.until))
    return Settlement("released", job)


def expire(job: Job, retry: RetryPolicy, now: datetime) -> Settlement:
    """Return the settlement for a claim whose lease has expired."""
    begun = job.publish_started_at
    if begun is None:
        error = f"lease expired: worker {job.worker_id!r} did not settle the job by {job.lease_until}"
        return Settlement("failed", job, error=error, at=retry.next_attempt(now, job))
    error = (
        f"{OUTCOME_UNKNOWN}: worker {job.worker_id!r} began to publish at {begun} and its lease expired at "
        f"{job.lease_until}; check whether it was published, then resolve the job"
    )
    return Settlement("failed", job, error=error, at=now, final=True, keep_publish=True)
