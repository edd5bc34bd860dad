"""`assistly jobs cancel`, `move`, `remove`, `replay` and `resolve`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistly.operations.audit import Person

from .job_changes import Requested, change_jobs
from .job_options import All, DueWithin, Ids, Key, Match, Platform, Since, Statuses, job_filter
from .options import By, DryRun, Json, Note, Utc, Yes
from .output import Output
from .values import duration, time_from_now

if TYPE_CHECKING:
    from assistly.storage import Job


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
    from assistly.operations import job_changes as operations

    wanted = job_filter(status, platform, due_within, since, match, key)
    change = operations.cancel()
    requested = Requested(ids or [], wanted, everything)
    change_jobs(Output(json=json, utc=utc), change, requested, Person(by, note), yes=yes, dry_run=dry_run)


def move(
    id: Annotated[int | None, typer.Argument(min=1, metavar="ID", help="The id of the job.")] = None,
    when: Annotated[
        Any,
        typer.Argument(
            parser=time_from_now, metavar="TIME", help="When it is due: a time with an offset, or +2h."
        ),
    ] = None,
    to: Annotated[
        Any,
        typer.Option(
            "--to",
            parser=time_from_now,
            metavar="TIME",
            help="When all are due: a time with an offset, or +2h.",
        ),
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
    from assistly.operations import job_changes as operations

    given = [value for value in (when, to, by_how_much) if value is not None]
    if len(given) != 1:
        raise typer.BadParameter("give one new time: TIME behind the id, --to TIME, or --shift +2h")
    target = to if when is None else when

    def new_time(job: Job) -> datetime:
        return target or operations.moved_by(job.due_at, by_how_much or timedelta(0))

    wanted = job_filter(status, platform, due_within, since, match, key)
    change = operations.move(new_time)
    requested = Requested([] if id is None else [id], wanted, everything)
    change_jobs(Output(json=json, utc=utc), change, requested, Person(by, note), yes=yes, dry_run=dry_run)


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
    from assistly.operations import job_changes as operations

    wanted = job_filter(status, platform, due_within, since, match, key)
    change = operations.remove(unknown=unknown)
    requested = Requested(ids or [], wanted, everything)
    change_jobs(Output(json=json, utc=utc), change, requested, Person(by, note), yes=yes, dry_run=dry_run)


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
        bool, typer.Option("--missed", help="With --all or filters: include missed jobs.")
    ] = False,
    at: Annotated[
        Any,
        typer.Option(
            "--at",
            parser=time_from_now,
            metavar="TIME",
            help="A time with an offset, or +2h. Default: now, or the time of a cancelled job if that is to "
            "come.",
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Schedule dead letters and cancelled jobs again, to be published now.

    A cancelled job whose time is still to come keeps that time. --at gives another one.

    With --all or filter options it replays all dead letters that match, after asking; cancelled jobs with
    --status cancelled. It leaves out those that were missed: they are late. A job with an unknown outcome may
    have been published already, and is replayed only with --unknown: look at the platform, then use
    `jobs resolve`.
    """
    from assistly.operations import job_changes as operations

    wanted = job_filter(status, platform, None, since, match, key)
    change = operations.replay(unknown=unknown, missed=missed, at=at)
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
    scheduled again, to be published now. With filter options the answer is given for all unknown outcomes
    that match, after asking.
    """
    from assistly.operations import job_changes as operations

    if posted == not_posted:
        raise typer.BadParameter("look at the platform, then say either --posted or --not-posted")
    if remote_id is not None and (not posted or id is None):
        raise typer.BadParameter("--remote-id goes with an id and --posted")
    wanted = job_filter(None, platform, None, since, match, key)
    change = operations.resolve(posted=posted, remote_id=remote_id)
    requested = Requested([] if id is None else [id], wanted, everything)
    change_jobs(Output(json=json, utc=utc), change, requested, Person(by, note), yes=yes, dry_run=dry_run)
