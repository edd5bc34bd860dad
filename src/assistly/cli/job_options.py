"""The options that say which jobs are meant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from .values import duration, time

if TYPE_CHECKING:
    from assistly.views.job_filter import JobFilter


def _status(text: str) -> str:
    from assistly.storage import JobStatus

    status = text.replace("-", "_").lower()
    if status not in [*JobStatus]:
        raise typer.BadParameter(f"{text!r} is no status: there are {', '.join(JobStatus)}")
    return status


def past(text: str) -> datetime:
    """A time, or a duration before now."""
    if text[:1].isdigit() and text[-1:] in "smhdw":
        return datetime.now(UTC) - duration(text)
    return time(text)


Id = Annotated[int, typer.Argument(min=1, metavar="ID", help="The id of the job.")]
Ids = Annotated[
    list[int] | None, typer.Argument(min=1, metavar="[ID]...", help="The ids of jobs; else filter options.")
]
Statuses = Annotated[
    list[str] | None,
    typer.Option("--status", parser=_status, metavar="STATUS", help="Of this status. May be repeated."),
]
Platform = Annotated[str | None, typer.Option("--platform", help="Of this platform.")]
DueWithin = Annotated[
    timedelta | None,
    typer.Option(
        "--due-within", parser=duration, metavar="DURATION", help="Waiting, and due by then: 1h. Or overdue."
    ),
]
Since = Annotated[
    datetime | None,
    typer.Option("--since", parser=past, metavar="TIME", help="Changed since this time, or within 2h."),
]
Match = Annotated[
    str | None, typer.Option("--match", metavar="TEXT", help="With this text in the content, in any case.")
]
Key = Annotated[str | None, typer.Option("--key", help="With this idempotency key.")]
All = Annotated[bool, typer.Option("--all", help="Without a filter: all that the command is for.")]
After = Annotated[
    int,
    typer.Option("--after", min=0, metavar="ID", help="Those behind this job: the last of a page before."),
]


def job_filter(
    statuses: list[str] | None,
    platform: str | None,
    due_within: timedelta | None,
    since: datetime | None,
    match: str | None,
    key: str | None,
) -> JobFilter:
    """The filter that the options describe."""
    from assistly.views.job_filter import JobFilter

    until = None if due_within is None else datetime.now(UTC) + due_within
    return JobFilter(tuple(dict.fromkeys(statuses or ())), platform, until, since, match, key)
