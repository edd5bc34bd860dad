"""Changes of one stored job, each in a transaction that has locked it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from .. import transitions
from .. import validation as check
from ..engine.protocol import StorageBackend
from ..errors import ClaimLost, NotFound, StatusConflict
from ..records import Job, JobStatus, Json
from .context import Context

Change = Callable[[Job, datetime], Job]
"""Makes the new job from the stored one and the time. Raises an error if the change is not allowed."""


def change(context: Context, id: int, make: Change, now: datetime | None) -> Job:
    """Replace the job of this id, and return the new one. Raises NotFound, and what `make` raises."""

    given, id = id, check.identity("id", id)

    def attempt(backend: StorageBackend) -> Job:
        job = backend.jobs.get(id, lock=True)
        if job is None:
            raise NotFound(f"there is no job {check.shown(given)}")
        changed = make(job, context.now(now, backend))
        backend.jobs.save(changed)
        return changed

    return context.atomically(attempt)


def resolution(remote_id: str | None, *, posted: bool, claim: int | None) -> Change:
    """See `Queue.resolve`."""

    def make(job: Job, now: datetime) -> Job:
        if claim is not None and job.claim != claim:
            raise StatusConflict(
                f"this resolves claim {claim} of job {job.id}, but its claim is {job.claim}: "
                "nothing was changed",
                job,
            )
        if posted:
            resolved = transitions.resolved_posted(job, remote_id=remote_id, now=now)
        else:
            resolved = transitions.resolved_unpublished(job, now=now)
        if resolved is None:
            raise StatusConflict(
                f"job {job.id} is {job.status}, and its outcome is not unknown: nothing was changed", job
            )
        return resolved

    return make


def cancellation(job: Job, now: datetime) -> Job:
    """See `Queue.cancel`."""
    cancelled = transitions.cancelled(job, now=now)
    if cancelled is None:
        found = f"{job.status}: it cannot be cancelled"
        if job.status is JobStatus.CANCELLED:
            found = "cancelled already"
        elif job.status is JobStatus.PROCESSING:
            found = "processing, and publishing has begun: it can no longer be cancelled"
        raise StatusConflict(f"job {job.id} is {found}; nothing was changed", job)
    return cancelled


def checkpoint_of(held: Job, data: Json) -> Change:
    """See `Queue.checkpoint`. `held` is the record that the caller has."""

    def make(job: Job, now: datetime) -> Job:
        noted = transitions.checkpointed(job, held.claim, data=data, now=now)
        if noted is not None:
            return noted
        if not transitions.holds(job, held.claim):
            raise claim_lost(held, job)
        raise StatusConflict(
            f"publishing of job {job.id} has not begun: call begin_publish first; nothing was changed", job
        )

    return make


def claim_lost(held: Job, current: Job | None) -> ClaimLost:
    """The error for a holder whose claim is lost. `current` is the stored job."""
    if current is None:
        found = "it was removed"
    elif current.status is not JobStatus.PROCESSING:
        found = f"it is now {current.status}"
    elif current.claim != held.claim:
        found = f"it was claimed again by {current.worker_id!r}"
    else:
        found = f"its lease expired at {current.lease_until}"
    return ClaimLost(f"claim {held.claim} on job {held.id} is lost: {found}; nothing was changed")
