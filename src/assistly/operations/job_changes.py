"""The changes that people make to jobs: cancel, move, remove, replay and resolve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from assistly.storage import Conflict, InvalidValue, NotFound, StatusConflict
from assistly.views.text import span

if TYPE_CHECKING:
    from assistly.storage import Job, Storage

WAITING = ("scheduled", "retrying")
"""The statuses of jobs that are not published yet and that no worker holds."""

UNKNOWN = "nobody knows whether it was published"
MISSED = "it was missed and is now late"
HELD = ("a worker holds it", "a worker holds them")
"""Why jobs are skipped. Of HELD, the first is for one job, the second for several."""

_KEPT = 1000
"""How many characters of the content the event of a removal keeps."""
_BEGUN = "publishing has begun"


@dataclass(frozen=True, slots=True)
class JobChange:
    """A change of a job.

    `verb` and `participle` name it: cancel, cancelled. `apply` makes the change in a transaction, to the job
    as it was read, and returns the changed job (None: removed) and the details of the event; it raises a
    StorageError if the job does not allow the change. `statuses` are the statuses that it applies to by
    default; `other_statuses` may be requested too. `refused` says why a job with one of these statuses cannot
    be changed, and `left_out` why a matching job is skipped (None: it is not). `new_time` returns when a job
    will be due, for changes that schedule it (None: now). `loses` says whether to ask first about a job that
    was named by its id, because the change deletes a post that is not published yet.
    """

    verb: str
    participle: str
    apply: Callable[[Storage, Job], tuple[Job | None, dict[str, Any]]]
    statuses: tuple[str, ...]
    other_statuses: tuple[str, ...] = ()
    refused: Callable[[Job], str | None] = lambda _: None
    left_out: Callable[[Job], str | None] = lambda _: None
    new_time: Callable[[Job], datetime | None] = lambda _: None
    loses: Callable[[Job], bool] = lambda _: False

    def obstacle(self, job: Job | None) -> str | None:
        """Why the job cannot be changed, as far as is known beforehand (None: it can)."""
        if job is None:
            return "there is no such job"
        if job.status not in (*self.statuses, *self.other_statuses):
            return f"it is {job.status}"
        return self.refused(job)


def cancel() -> JobChange:
    """Cancel a job that is not being published yet. It stays stored, and keeps its idempotency key."""

    def do(tx: Storage, job: Job) -> tuple[Job | None, dict[str, Any]]:
        return tx.queue.cancel(job.id), {}

    return JobChange("cancel", "cancelled", do, WAITING, ("processing",), _begun)


def move(new_time: Callable[[Job], datetime]) -> JobChange:
    """Make a waiting job due at another time, which replaces that of a pending retry.

    `new_time` may raise InvalidValue if there is no such time.
    """

    def do(tx: Storage, job: Job) -> tuple[Job | None, dict[str, Any]]:
        moved = tx.queue.reschedule(job.id, new_time(job))
        return moved, {"from": job.due_at.isoformat(), "to": moved.due_at.isoformat()}

    def refused(job: Job) -> str | None:
        try:
            new_time(job)
        except InvalidValue as error:
            return str(error)
        return None

    return JobChange("move", "moved", do, WAITING, (), refused, new_time=new_time)


def moved_by(at: datetime, length: timedelta) -> datetime:
    """The time `length` after `at`. Raises InvalidValue if it is out of range."""
    try:
        return at + length
    except OverflowError:
        side = "before" if length < timedelta(0) else "after"
        raise InvalidValue(
            f"{span(abs(length))} {side} {at} is out of range: the year must be 1 to 9999"
        ) from None


def remove(*, unknown: bool = False) -> JobChange:
    """Delete a job permanently, and free its idempotency key.

    A job that is being published is not deleted, and one with an unknown outcome only if `unknown`. The event
    keeps the job's time and the first 1,000 characters of its content.
    """

    def do(tx: Storage, job: Job) -> tuple[Job | None, dict[str, Any]]:
        _require_removable(tx, job, unknown=unknown)
        tx.queue.remove(job.id)
        return None, {
            "status": str(job.status),
            "platform": job.platform,
            "key": job.idempotency_key,
            "due": job.due_at.isoformat(),
            "content": job.content[:_KEPT],
        }

    def is_to_come(job: Job) -> bool:
        return job.status in WAITING

    def refused(job: Job) -> str | None:
        return UNKNOWN if job.outcome_unknown and not unknown else _begun(job)

    statuses = (*WAITING, "posted", "dead_letter", "cancelled")
    return JobChange("remove", "removed", do, statuses, ("processing",), refused, loses=is_to_come)


def replay(*, unknown: bool = False, missed: bool = False, at: datetime | None = None) -> JobChange:
    """Schedule a dead letter or a cancelled job again, due `at` that time.

    The default is now, or the time of a cancelled job if it is in the future. A job with an unknown outcome
    may have been published already, and is replayed only if `unknown`. When several jobs are replayed, missed
    ones are skipped unless `missed`.
    """

    def do(tx: Storage, job: Job) -> tuple[Job | None, dict[str, Any]]:
        if job.outcome_unknown and not unknown:
            raise Conflict(
                f"job {job.id} may have been published already: look at {job.platform}, then `assistly jobs "
                f"resolve {job.id} --posted` or `--not-posted`; --unknown replays it anyway"
            )
        # The outcome of other jobs might become unknown before they are replayed.
        is_replayable = job.status in ("dead_letter", "cancelled")
        again = tx.queue.replay(job.id, scheduled_at=new_time(job)) if is_replayable else None
        if again is None:
            raise NotFound(
                f"job {job.id} is {job.status}: only dead letters and cancelled jobs can be replayed"
            )
        return again, {"reason": job.dead_letter_reason, "outcome_unknown": job.outcome_unknown}

    def new_time(job: Job) -> datetime | None:
        keeps_its_own = job.status == "cancelled" and job.scheduled_at > datetime.now(UTC)
        return at or (job.scheduled_at if keeps_its_own else None)

    def refused(job: Job) -> str | None:
        return UNKNOWN if job.outcome_unknown and not unknown else None

    def left_out(job: Job) -> str | None:
        return MISSED if job.missed and not missed else None

    return JobChange("replay", "replayed", do, ("dead_letter",), ("cancelled",), refused, left_out, new_time)


def resolve(*, posted: bool, remote_id: str | None = None) -> JobChange:
    """Record whether a job with an unknown outcome was published.

    If it was, it counts as posted, with the `remote_id` if that is known, and keeps its idempotency key. If
    not, it is scheduled again, due now.
    """

    def do(tx: Storage, job: Job) -> tuple[Job | None, dict[str, Any]]:
        answered = tx.queue.resolve(job.id, posted=posted, remote_id=remote_id, claim=job.claim)
        return answered, {"posted": posted, "remote_id": remote_id}

    def refused(job: Job) -> str | None:
        return None if job.outcome_unknown else "its outcome is not unknown"

    return JobChange("resolve", "resolved", do, ("dead_letter",), (), refused)


def _begun(job: Job) -> str | None:
    return _BEGUN if job.status == "processing" and job.publish_started_at is not None else None


def _require_removable(tx: Storage, job: Job, *, unknown: bool) -> None:
    """Raise Conflict unless the job may be removed. Until `tx` ends, no worker can claim it."""
    if job.status == "posted":
        return
    if job.outcome_unknown and not unknown:
        raise Conflict(f"job {job.id} is not removed: {UNKNOWN}; resolve it first")
    # Changing the job locks it. The change is deleted with the job.
    if job.status in ("dead_letter", "cancelled"):
        locked = tx.queue.replay(job.id)
    else:
        try:
            locked = tx.queue.cancel(job.id)
        except StatusConflict as error:
            found = error.current.status
            reason = _BEGUN if found == "processing" else f"it is now {found}"
            raise Conflict(f"job {job.id} is not removed: {reason}") from None
    if locked is None or locked.claim != job.claim:
        raise Conflict(f"job {job.id} has changed meanwhile: nothing was removed")
