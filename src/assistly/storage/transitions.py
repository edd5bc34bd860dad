"""All state changes of jobs, idempotency keys and locks, as pure functions from the old value to the new one.

A function returns None if the change is not allowed. Key-value engines run these functions; SQL engines say
the same in SQL, and a test compares the two for every operation and status.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta

from .engine.values import (
    ATTEMPT_ERROR_LENGTH,
    KEPT_ATTEMPTS,
    IdempotencyRow,
    JobDraft,
    KeyClaim,
    LockRow,
    Settlement,
)
from .records import Attempt, Job, JobStatus, Json, WorkerLock
from .validation import EMPTY_OBJECT, JsonText, later

WAITING = (JobStatus.SCHEDULED, JobStatus.RETRYING)
"""The statuses of jobs that wait for their time."""

ACTIVE = (*WAITING, JobStatus.PROCESSING)
"""The statuses of jobs that `min_gap` keeps others away from."""

REPLAYABLE = (JobStatus.DEAD_LETTER, JobStatus.CANCELLED)
"""The statuses of jobs that `replayed` schedules again."""


def new(draft: JobDraft, id: int, now: datetime) -> Job:
    """The job that `draft` becomes."""
    # Positional: with keyword arguments this call takes more than twice as long.
    return Job(
        id,
        JobStatus.SCHEDULED,
        draft.platform,
        draft.content,
        {} if draft.metadata == EMPTY_OBJECT else json.loads(draft.metadata),
        draft.scheduled_at,
        now,  # created_at
        now,  # updated_at
        0,  # retries
        draft.max_retries,
        None,  # next_retry_at
        draft.scheduled_at,  # due_at
        draft.idempotency_key,
        None,  # remote_id
        None,  # posted_at
        None,  # last_error
        None,  # dead_letter_at
        None,  # dead_letter_reason
        None,  # replayed_at
        0,  # claim
        None,  # worker_id
        None,  # lease_until
        None,  # publish_started_at
        draft.max_lateness,
        (),  # attempts
        None,  # checkpoint
    )


def late_after(job: Job) -> datetime | None:
    """The last time at which the job may be claimed; None if it has no `max_lateness`."""
    return None if job.max_lateness is None else later(job.scheduled_at, job.max_lateness)


def check_at(job: Job) -> datetime | None:
    """When a sweep must check the job: the end of its lease, or the time after which it is late."""
    if job.status is JobStatus.PROCESSING:
        return job.lease_until
    return late_after(job) if job.status in WAITING else None


def is_due(job: Job, now: datetime) -> bool:
    """Whether the job waits and its time has come. It may be late already."""
    return job.status in WAITING and job.due_at <= now


def is_late(job: Job, now: datetime) -> bool:
    """Whether the job is due, but too late to be claimed."""
    limit = late_after(job)
    return limit is not None and limit < now and is_due(job, now)


def is_expired(job: Job, now: datetime) -> bool:
    """Whether the job is claimed and its lease has run out."""
    return job.status is JobStatus.PROCESSING and job.lease_until is not None and job.lease_until <= now


def claimed(job: Job, *, worker_id: str, lease_until: datetime, now: datetime) -> Job | None:
    """A job that is due and not late, claimed by a worker."""
    if not is_due(job, now) or is_late(job, now):
        return None
    return replace(
        job,
        status=JobStatus.PROCESSING,
        claim=job.claim + 1,
        worker_id=worker_id,
        lease_until=lease_until,
        updated_at=now,
    )


def dead_lettered_late(job: Job, *, reason: str, now: datetime) -> Job | None:
    """A late job, as a dead letter. Its retries and attempts do not change."""
    if not is_late(job, now):
        return None
    return replace(
        job,
        status=JobStatus.DEAD_LETTER,
        next_retry_at=None,
        due_at=job.scheduled_at,
        dead_letter_at=now,
        dead_letter_reason=reason,
        updated_at=now,
    )


def holds(job: Job, claim: int) -> bool:
    """Whether the job is held under this claim. Its lease may have run out."""
    return job.status is JobStatus.PROCESSING and job.claim == claim


def _holds_lease(job: Job, claim: int, now: datetime) -> bool:
    return holds(job, claim) and job.lease_until is not None and job.lease_until > now


def extended(job: Job, claim: int, *, lease_until: datetime, now: datetime) -> Job | None:
    """The job with a longer lease. Only while the lease lasts."""
    return replace(job, lease_until=lease_until, updated_at=now) if _holds_lease(job, claim, now) else None


def publish_begun(job: Job, claim: int, *, now: datetime) -> Job | None:
    """The job with `publish_started_at` set, unless it was set before. Only while the lease lasts."""
    if not _holds_lease(job, claim, now):
        return None
    return replace(job, publish_started_at=job.publish_started_at or now, updated_at=now)


def settled(job: Job, settlement: Settlement, *, now: datetime, expired_only: bool = False) -> Job | None:
    """The job after its claim has ended. Only if it is held under the claim of the settlement.

    posted:    posted_at = now; remote_id is set; checkpoint is cleared.
    failed:    retries + 1; last_error and an attempt are added. The job is a dead letter if the settlement
               is final or retries reaches max_retries; else retrying, due at `settlement.at`.
               publish_started_at is cleared; with `keep_publish` it is kept, and `now` if it is not set.
    snoozed:   due at `settlement.at`; publish_started_at is cleared.
    released:  as before the claim; publish_started_at is cleared.

    A snoozed or released job is retrying if an attempt has failed, else scheduled. See `JobStore.settle` for
    `expired_only`.
    """
    if not holds(job, settlement.claim):
        return None
    if expired_only:
        begun_meanwhile = job.publish_started_at is not None and not settlement.keep_publish
        if begun_meanwhile or not is_expired(job, now):
            return None
    free = replace(job, worker_id=None, lease_until=None, updated_at=now)
    match settlement.kind:
        case "posted":
            return replace(
                free,
                status=JobStatus.POSTED,
                posted_at=now,
                remote_id=settlement.remote_id,
                next_retry_at=None,
                due_at=job.scheduled_at,
                checkpoint=None,
            )
        case "failed":
            return _failed(free, job.worker_id, settlement, now)
        case "snoozed":
            return _handed_back(free, settlement.at)
        case "released":
            return _handed_back(free, job.next_retry_at)


def _failed(job: Job, worker_id: str | None, settlement: Settlement, now: datetime) -> Job:
    retries = job.retries + 1
    attempt = Attempt(retries, now, worker_id, settlement.error[:ATTEMPT_ERROR_LENGTH])
    is_final = settlement.final or retries >= job.max_retries
    next_retry_at = None if is_final else settlement.at
    return replace(
        job,
        status=JobStatus.DEAD_LETTER if is_final else JobStatus.RETRYING,
        retries=retries,
        last_error=settlement.error,
        attempts=(*job.attempts, attempt)[-KEPT_ATTEMPTS:],
        next_retry_at=next_retry_at,
        due_at=next_retry_at or job.scheduled_at,
        dead_letter_at=now if is_final else job.dead_letter_at,
        dead_letter_reason=settlement.error if is_final else job.dead_letter_reason,
        publish_started_at=(job.publish_started_at or now) if settlement.keep_publish else None,
    )


def _handed_back(job: Job, next_retry_at: datetime | None) -> Job:
    return replace(
        job,
        status=JobStatus.RETRYING if job.retries else JobStatus.SCHEDULED,
        next_retry_at=next_retry_at,
        due_at=next_retry_at or job.scheduled_at,
        publish_started_at=None,
    )


def checkpointed(job: Job, claim: int, *, data: Json, now: datetime) -> Job | None:
    """The job with a checkpoint. Only while it is held, and after publishing has begun.

    Its lease may have run out: what was done on the platform is worth noting as long as nobody took the job.
    """
    if not holds(job, claim) or job.publish_started_at is None:
        return None
    return replace(job, checkpoint=data, updated_at=now)


def cancelled(job: Job, *, now: datetime) -> Job | None:
    """A job that is not to be published any more. Only if it waits, or publishing has not begun."""
    may_be_held = job.status is JobStatus.PROCESSING and job.publish_started_at is None
    if job.status not in WAITING and not may_be_held:
        return None
    return replace(
        job,
        status=JobStatus.CANCELLED,
        next_retry_at=None,
        due_at=job.scheduled_at,
        worker_id=None,
        lease_until=None,
        updated_at=now,
    )


def resolved_posted(job: Job, *, remote_id: str | None, now: datetime) -> Job | None:
    """A dead letter with an unknown outcome that was published after all, when publishing began."""
    if not job.outcome_unknown:
        return None
    return replace(
        job,
        status=JobStatus.POSTED,
        posted_at=job.publish_started_at,
        remote_id=remote_id,
        dead_letter_at=None,
        dead_letter_reason=None,
        checkpoint=None,
        updated_at=now,
    )


def resolved_unpublished(job: Job, *, now: datetime) -> Job | None:
    """A dead letter with an unknown outcome that was not published: due again now.

    As after `replayed`, but the checkpoint stays: the next attempt goes on from there.
    """
    again = replayed(job, now, now=now) if job.outcome_unknown else None
    return None if again is None else replace(again, checkpoint=job.checkpoint)


def replayed(job: Job, scheduled_at: datetime, *, now: datetime) -> Job | None:
    """A dead letter or a cancelled job, scheduled again. Its attempts stay."""
    if job.status not in REPLAYABLE:
        return None
    return replace(
        job,
        status=JobStatus.SCHEDULED,
        scheduled_at=scheduled_at,
        due_at=scheduled_at,
        retries=0,
        replayed_at=now,
        updated_at=now,
        next_retry_at=None,
        last_error=None,
        dead_letter_at=None,
        dead_letter_reason=None,
        publish_started_at=None,
        checkpoint=None,
    )


def rescheduled(
    job: Job, scheduled_at: datetime, *, content: str | None, metadata: JsonText | None, now: datetime
) -> Job | None:
    """A waiting job, due at another time, with other content and metadata if given. Drops a pending retry."""
    if job.status not in WAITING:
        return None
    return replace(
        job,
        scheduled_at=scheduled_at,
        due_at=scheduled_at,
        next_retry_at=None,
        content=job.content if content is None else content,
        metadata=job.metadata if metadata is None else json.loads(metadata),
        updated_at=now,
    )


def key_taken(row: IdempotencyRow | None, claim: KeyClaim) -> IdempotencyRow | None:
    """The key, held by this claim.

    Only if it is free, or in progress with a lease that has run out and no other fingerprint: two
    fingerprints differ only if both are set. A fingerprint that is set stays.
    """
    if row is None:
        return IdempotencyRow(
            claim.key, False, None, claim.now, claim.fingerprint, claim.token, claim.lease_until
        )
    if row.completed or row.lease_until is None or row.lease_until > claim.now:
        return None
    if None not in (row.fingerprint, claim.fingerprint) and row.fingerprint != claim.fingerprint:
        return None
    return replace(
        row,
        saved_at=claim.now,
        fingerprint=row.fingerprint or claim.fingerprint,
        token=claim.token,
        lease_until=claim.lease_until,
    )


def holds_key(row: IdempotencyRow | None, token: int) -> bool:
    """Whether the key is in progress under this token."""
    return row is not None and not row.completed and row.token == token


def key_completed(
    row: IdempotencyRow | None, token: int, value: Json, *, now: datetime
) -> IdempotencyRow | None:
    """The key with its result. Only if it is in progress under this token."""
    if row is None or not holds_key(row, token):
        return None
    return replace(row, completed=True, value=value, saved_at=now, token=None, lease_until=None)


def key_put(key: str, value: Json, *, saved_at: datetime) -> IdempotencyRow:
    """The key with a result, whatever was stored before."""
    return IdempotencyRow(key, True, value, saved_at, None, None, None)


def lock_held(row: LockRow | None, *, now: datetime) -> WorkerLock | None:
    """The lock if it is held; None if it is free or has expired."""
    if row is None or row.owner_id is None or row.expires_at <= now:
        return None
    return WorkerLock(row.name, row.owner_id, row.fence, row.acquired_at, row.expires_at)


def lock_acquired(
    row: LockRow | None, name: str, owner_id: str, *, expires_at: datetime, now: datetime
) -> LockRow | None:
    """The lock, held by this owner until `expires_at`. Only if no other owner holds it.

    If this owner holds it already, fence and acquired_at stay, even if `expires_at` is earlier than before.
    If the lock was free or had expired, the fence grows.
    """
    held = lock_held(row, now=now)
    if held is None:
        fence = row.fence + 1 if row else 1
        return LockRow(name, owner_id, fence, now, expires_at)
    if held.owner_id != owner_id:
        return None
    return LockRow(name, owner_id, held.fence, held.acquired_at, expires_at)


def lock_renewed(
    row: LockRow | None, owner_id: str, fence: int, *, expires_at: datetime, now: datetime
) -> LockRow | None:
    """The lock with another expiry. Only if this owner holds it under this fence."""
    held = lock_held(row, now=now)
    if row is None or held is None or (held.owner_id, held.fence) != (owner_id, fence):
        return None
    return replace(row, expires_at=expires_at)


def lock_released(row: LockRow | None, owner_id: str, fence: int, *, now: datetime) -> LockRow | None:
    """The lock without an owner. Only if this owner holds it under this fence."""
    renewed = lock_renewed(row, owner_id, fence, expires_at=now, now=now)
    return None if renewed is None else replace(renewed, owner_id=None)


def may_prune(stamp: datetime | None, *, now: datetime, interval: timedelta) -> bool:
    """Whether the last prune is at least `interval` away: in the past, or (clock set back) in the future."""
    return stamp is None or abs(now - stamp) >= interval
