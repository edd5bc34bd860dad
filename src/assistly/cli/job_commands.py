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
    """Parse a duration, with a leading - for earlier: +2h, 2h or -30m."""
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
    """Cancel jobs that are not being published yet. They stay stored, and keep their idempotency keys.

    With filter options, cancels all waiting jobs that match, after asking. Skips a job that a worker claims
    meanwhile. --status processing includes jobs that workers already hold, if publishing has not begun.
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
            parser=time_from_now, metavar="TIME", help="The new due time: a time with an offset, or +2h."
        ),
    ] = None,
    to: Annotated[
        Any,
        typer.Option(
            "--to",
            parser=time_from_now,
            metavar="TIME",
            help="The new due time of all: a time with an offset, or +2h.",
        ),
    ] = None,
    by_how_much: Annotated[
        timedelta | None,
        typer.Option(
            "--shift", parser=shift, metavar="DURATION", help="How much later each is due (-30m: earlier)."
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

    A duration after the id or --to counts from now; --shift counts from the job's own time. With filter
    options, moves all waiting jobs that match, after asking: each by --shift, or all --to one time. The new
    time replaces that of a pending retry.
    """
    from assistly.operations import job_changes as operations

    given = [value for value in (when, to, by_how_much) if value is not None]
    if len(given) != 1:
        raise typer.BadParameter("give one new time: TIME after the id, --to TIME, or --shift +2h")
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
    unknown: Annotated[bool, typer.Option("--unknown", help="Include jobs with an unknown outcome.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Delete jobs permanently, and free their idempotency keys. `jobs cancel` keeps both.

    Asks before it deletes a job that is not published yet. The event keeps the job's time and the first
    1,000 characters of its content. With filter options, deletes all jobs that match, after asking, except
    those that workers hold. Never deletes a job that is being published. Deletes a job with an unknown
    outcome only with --unknown: it may be on the platform, and its key prevents a second post.
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
        bool, typer.Option("--all", help="All dead letters except missed jobs and unknown outcomes.")
    ] = False,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Include jobs that may have been published already.")
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
            help="A time with an offset, or +2h. Default: now, or the future time of a cancelled job.",
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Schedule dead letters and cancelled jobs again, due now.

    A cancelled job whose time is in the future keeps that time. --at sets another one.

    With --all or filter options, replays all dead letters that match, after asking; with --status cancelled,
    cancelled jobs. Skips missed jobs unless --missed is given, because they are late. A job with an unknown
    outcome may have been published already: look at the platform, then use `jobs resolve`. Only --unknown
    replays it.
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
        bool, typer.Option("--posted", help="The post is on the platform. Look there first.")
    ] = False,
    not_posted: Annotated[
        bool, typer.Option("--not-posted", help="The post is not on the platform. Look there first.")
    ] = False,
    remote_id: Annotated[
        str | None, typer.Option(metavar="TEXT", help="With --posted: the id of the post on the platform.")
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
    """Record whether jobs with an unknown outcome were published.

    With --posted, a job counts as posted and keeps its idempotency key. With --not-posted, it is scheduled
    again, due now. With filter options, the answer applies to all unknown outcomes that match, after asking.
    """
    from assistly.operations import job_changes as operations

    if posted == not_posted:
        raise typer.BadParameter("look at the platform, then give --posted or --not-posted")
    if remote_id is not None and (not posted or id is None):
        raise typer.BadParameter("--remote-id needs an ID and --posted")
    wanted = job_filter(None, platform, None, since, match, key)
    change = operations.resolve(posted=posted, remote_id=remote_id)
    requested = Requested([] if id is None else [id], wanted, everything)
    change_jobs(Output(json=json, utc=utc), change, requested, Person(by, note), yes=yes, dry_run=dry_run)
