"""`assistly jobs cancel`, `move`, `remove`, `replay` and `resolve`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .job_changes import JobChange, Person, Requested, change_jobs
from .job_options import All, DueWithin, Ids, Key, Match, Platform, Since, Statuses, job_filter
from .options import By, DryRun, Json, Note, Utc, Yes
from .output import Output
from .values import duration, time_from_now

if TYPE_CHECKING:
    from assistly.storage import Job, Storage

_WAITING = ("scheduled", "retrying")
_KEPT = 1000
"""How many characters of a job's content the event of its removal keeps."""
_BEGUN = "publishing has begun"
_UNKNOWN = "nobody knows whether it was published (see `assistly jobs resolve`, or --unknown)"
_MISSED = "it was missed, so it is late by now (see --missed)"


def shift(text: str) -> timedelta:
    """Parse a duration, with a - in front if it is to be earlier: +2h, 2h or -30m."""
    return -duration(text[1:]) if text.startswith("-") else duration(text)


def cancel(
    ids: Ids = None,
    status: Statuses = None,
    platform: Platform = None,
    due_within: DueWithin = None,
    since: Since = None,
    match: Match = None,
    key: Key = None,
    everything: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Cancel jobs that are not being published yet: they stay stored, and their keys stay taken.

    With filter options it cancels all waiting jobs that match, after asking. A job that a worker claims
    meanwhile is left alone. Those that workers hold already are included with --status processing, as long as
    publishing has not begun.
    """

    def do(tx: Storage, job: Job) -> tuple[Job | None, dict[str, Any]]:
        return tx.queue.cancel(job.id), {}

    wanted = job_filter(status, platform, due_within, since, match, key)
    change = JobChange("cancel", "cancelled", do, _WAITING, ("processing",), _begun)
    requested = Requested(ids or [], wanted, everything)
    change_jobs(Output(json=json, utc=utc), change, requested, Person(by, note), yes=yes, dry_run=dry_run)


def move(
    id: Annotated[int | None, typer.Argument(min=1, metavar="ID", help="The id of the job.")] = None,
    when: Annotated[
        Any,
        typer.Argument(parser=time_from_now, metavar="TIME", help="When it is due: a time, or +2h from now."),
    ] = None,
    to: Annotated[
        Any, typer.Option("--to", parser=time_from_now, metavar="TIME", help="When all are due: or +2h.")
    ] = None,
    by_how_much: Annotated[
        timedelta | None,
        typer.Option(
            "--shift", parser=shift, metavar="DURATION", help="How much later (-30m: earlier) each is due."
        ),
    ] = None,
    status: Statuses = None,
    platform: Platform = None,
    due_within: DueWithin = None,
    since: Since = None,
    match: Match = None,
    key: Key = None,
    everything: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Move waiting jobs to another time: `move 7 +2h`, `move 7 2026-03-01T09:00Z`, `move 7 --shift -30m`.

    A duration behind the id or --to counts from now, and that of --shift from the job's own time. With filter
    options it moves all waiting jobs that match, after asking: each by --shift, or all --to one time. A
    pending retry is dropped: the job is due at the new time.
    """
    given = [value for value in (when, to, by_how_much) if value is not None]
    if len(given) != 1:
        raise typer.BadParameter("give one new time: TIME behind the id, --to TIME, or --shift +2h")
    target = to if when is None else when

    def new_time(job: Job) -> datetime:
        return target or moved_by(job.due_at, by_how_much or timedelta(0))

    def do(tx: Storage, job: Job) -> tuple[Job | None, dict[str, Any]]:
        moved = tx.queue.reschedule(job.id, new_time(job))
        return moved, {"from": job.due_at.isoformat(), "to": moved.due_at.isoformat()}

    def refused(job: Job) -> str | None:
        from assistly.storage import InvalidValue

        try:
            new_time(job)
        except InvalidValue as error:
            return str(error)
        return None

    wanted = job_filter(status, platform, due_within, since, match, key)
    change = JobChange("move", "moved", do, _WAITING, (), refused, new_time=new_time)
    requested = Requested([] if id is None else [id], wanted, everything)
    change_jobs(Output(json=json, utc=utc), change, requested, Person(by, note), yes=yes, dry_run=dry_run)


def _begun(job: Job) -> str | None:
    return _BEGUN if job.status == "processing" and job.publish_started_at is not None else None


def moved_by(at: datetime, length: timedelta) -> datetime:
    """`at` and `length` later. Raises InvalidValue if that is no time any more."""
    from assistly.storage import InvalidValue

    try:
        return at + length
    except OverflowError:
        from assistly.views.jobs import span

        side = "before" if length < timedelta(0) else "after"
        raise InvalidValue(
            f"there is no time {span(abs(length))} {side} {at}: the year must be 1 to 9999"
        ) from None


def remove(
    ids: Ids = None,
    status: Statuses = None,
    platform: Platform = None,
    due_within: DueWithin = None,
    since: Since = None,
    match: Match = None,
    key: Key = None,
    everything: All = False,
    unknown: Annotated[bool, typer.Option("--unknown", help="Also those with an unknown outcome.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Delete jobs for good, and free their idempotency keys. `jobs cancel` keeps both.

    It asks before it deletes a job whose post is still to come. The event keeps the job's time, and the first
    1,000 characters of its content. With filter options it removes all that match, after asking, but for
    those that workers hold. A job that is being published is not removed, and one with an unknown outcome
    only with --unknown: it may be on the platform, and its key keeps it from being posted again.
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
        return job.status in _WAITING

    wanted = job_filter(status, platform, due_within, since, match, key)
    statuses = (*_WAITING, "posted", "dead_letter", "cancelled")

    def refused(job: Job) -> str | None:
        return _UNKNOWN if job.outcome_unknown and not unknown else _begun(job)

    change = JobChange("remove", "removed", do, statuses, ("processing",), refused, loses=is_to_come)
    requested = Requested(ids or [], wanted, everything)
    change_jobs(Output(json=json, utc=utc), change, requested, Person(by, note), yes=yes, dry_run=dry_run)


def _require_removable(tx: Storage, job: Job, *, unknown: bool) -> None:
    """Raise Conflict unless the job may be removed. Until `tx` ends no worker can claim it."""
    from assistly.storage import Conflict, StatusConflict

    if job.status == "posted":
        return
    if job.outcome_unknown and not unknown:
        raise Conflict(f"job {job.id} is not removed: {_UNKNOWN}")
    # Changing the job locks it. The change goes with the job.
    if job.status in ("dead_letter", "cancelled"):
        locked = tx.queue.replay(job.id)
    else:
        try:
            locked = tx.queue.cancel(job.id)
        except StatusConflict as error:
            found = error.current.status
            reason = _BEGUN if found == "processing" else f"it is {found} by now"
            raise Conflict(f"job {job.id} is not removed: {reason}") from None
    if locked is None or locked.claim != job.claim:
        raise Conflict(f"job {job.id} was changed meanwhile: nothing was removed")


def replay(
    ids: Ids = None,
    status: Statuses = None,
    platform: Platform = None,
    since: Since = None,
    match: Match = None,
    key: Key = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every dead letter that was neither missed nor of unknown outcome.")
    ] = False,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Also those that may have been published already.")
    ] = False,
    missed: Annotated[
        bool, typer.Option("--missed", help="Of many: those that were not claimed in time, too.")
    ] = False,
    at: Annotated[
        Any,
        typer.Option(
            "--at",
            parser=time_from_now,
            metavar="TIME",
            help="When they are due: or +2h. Default: now, or the time of a cancelled job if it is to come.",
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Schedule dead letters and cancelled jobs anew, to be published now.

    A cancelled job whose time is still to come keeps that time. --at gives another one.

    With --all or filter options it replays all dead letters that match, after asking; cancelled jobs with
    --status cancelled. It leaves out those that were missed: they are late. A job with an unknown outcome may
    have been published already, and is replayed only with --unknown: look at the platform, then use
    `jobs resolve`.
    """

    def do(tx: Storage, job: Job) -> tuple[Job | None, dict[str, Any]]:
        from assistly.storage import Conflict, NotFound

        if job.outcome_unknown and not unknown:
            raise Conflict(
                f"job {job.id} may have been published already: look at {job.platform}, then `assistly jobs "
                f"resolve {job.id} --posted` or `--not-posted`; --unknown replays it all the same"
            )
        # Of others the outcome might become unknown before they are replayed.
        is_replayable = job.status in ("dead_letter", "cancelled")
        again = tx.queue.replay(job.id, scheduled_at=new_time(job)) if is_replayable else None
        if again is None:
            raise NotFound(f"there is no dead letter and no cancelled job {job.id}: it is {job.status}")
        return again, {"reason": job.dead_letter_reason, "outcome_unknown": job.outcome_unknown}

    def new_time(job: Job) -> datetime | None:
        keeps_its_own = job.status == "cancelled" and job.scheduled_at > datetime.now(UTC)
        return at or (job.scheduled_at if keeps_its_own else None)

    def refused(job: Job) -> str | None:
        return _UNKNOWN if job.outcome_unknown and not unknown else None

    def left_out(job: Job) -> str | None:
        return _MISSED if job.missed and not missed else None

    wanted = job_filter(status, platform, None, since, match, key)
    change = JobChange(
        "replay", "replayed", do, ("dead_letter",), ("cancelled",), refused, left_out, new_time
    )
    requested = Requested(ids or [], wanted, everything)
    change_jobs(Output(json=json, utc=utc), change, requested, Person(by, note), yes=yes, dry_run=dry_run)


def resolve(
    id: Annotated[
        int | None, typer.Argument(min=1, metavar="ID", help="The dead letter with the unknown outcome.")
    ] = None,
    posted: Annotated[
        bool, typer.Option("--posted", help="It is on the platform: look there first.")
    ] = False,
    not_posted: Annotated[
        bool, typer.Option("--not-posted", help="It is not on the platform: look there first.")
    ] = False,
    remote_id: Annotated[
        str | None, typer.Option(metavar="TEXT", help="With --posted: its id on the platform.")
    ] = None,
    platform: Platform = None,
    since: Since = None,
    match: Match = None,
    key: Key = None,
    everything: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Answer whether jobs with an unknown outcome were published.

    With --posted a job counts as posted, and its idempotency key stays taken. With --not-posted it is
    scheduled anew, to be published now. With filter options the answer is given for all unknown outcomes that
    match, after asking.
    """
    if posted == not_posted:
        raise typer.BadParameter("look at the platform, then say either --posted or --not-posted")
    if remote_id is not None and (not posted or id is None):
        raise typer.BadParameter("--remote-id goes with an id and --posted")

    def do(tx: Storage, job: Job) -> tuple[Job | None, dict[str, Any]]:
        answered = tx.queue.resolve(job.id, posted=posted, remote_id=remote_id, claim=job.claim)
        return answered, {"posted": posted, "remote_id": remote_id}

    def refused(job: Job) -> str | None:
        return None if job.outcome_unknown else "its outcome is not unknown"

    wanted = job_filter(None, platform, None, since, match, key)
    change = JobChange("resolve", "resolved", do, ("dead_letter",), (), refused)
    requested = Requested([] if id is None else [id], wanted, everything)
    change_jobs(Output(json=json, utc=utc), change, requested, Person(by, note), yes=yes, dry_run=dry_run)
