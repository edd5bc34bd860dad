"""The options that select jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from .values import duration, time_before_now

if TYPE_CHECKING:
    from assistly.views.job_filter import JobFilter


def _complete_status(incomplete: str) -> list[str]:
    from assistly.storage import JobStatus

    return [str(status) for status in JobStatus if status.startswith(incomplete)]


def _status(text: str) -> str:
    from assistly.storage import JobStatus

    status = text.replace("-", "_").lower()
    if status not in [*JobStatus]:
        raise typer.BadParameter(f"{text!r} is not a status: use one of {', '.join(JobStatus)}")
    return status


def _complete_kind(incomplete: str) -> list[str]:
    from assistly.views.job_filter import KINDS

    return [kind for kind in KINDS if kind.startswith(incomplete)]


def _kind(text: str) -> str:
    from assistly.views.job_filter import KINDS

    if text not in KINDS:
        raise typer.BadParameter(f"{text!r} is not a kind of dead letter: use one of {', '.join(KINDS)}")
    return text


Id = Annotated[int, typer.Argument(min=1, metavar="ID", help="The id of the job.")]
Ids = Annotated[
    list[int] | None, typer.Argument(min=1, metavar="ID", help="The ids of jobs; or use filter options.")
]
Statuses = Annotated[
    list[str] | None,
    typer.Option(
        "--status",
        parser=_status,
        metavar="STATUS",
        help="With this status. Repeatable.",
        autocompletion=_complete_status,
    ),
]
Platform = Annotated[str | None, typer.Option("--platform", metavar="NAME", help="On this platform.")]
DueWithin = Annotated[
    timedelta | None,
    typer.Option(
        "--due-within",
        parser=duration,
        metavar="DURATION",
        help="Waiting, and due within this duration, such as 1h. Includes overdue jobs.",
    ),
]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since",
        parser=time_before_now,
        metavar="TIME",
        help="Changed since a time, or within a duration such as 2h.",
    ),
]
Match = Annotated[
    str | None,
    typer.Option("--match", metavar="TEXT", help="With this text in the content; case does not matter."),
]
Kind = Annotated[
    str | None,
    typer.Option(
        "--kind",
        parser=_kind,
        metavar="KIND",
        help="Dead letters of this kind: unknown (outcome), missed, or other.",
        autocompletion=_complete_kind,
    ),
]
Key = Annotated[str | None, typer.Option("--key", metavar="KEY", help="With this idempotency key.")]
All = Annotated[bool, typer.Option("--all", help="Without a filter: all jobs that can be changed this way.")]
After = Annotated[
    int,
    typer.Option(
        "--after", min=0, metavar="ID", help="Only those after this job, the last of the previous page."
    ),
]


def job_filter(
    statuses: list[str] | None,
    platform: str | None,
    due_within: timedelta | None,
    since: datetime | None,
    match: str | None,
    key: str | None,
    kind: str | None = None,
) -> JobFilter:
    """The filter that the options describe. Raises BadParameter for an empty option."""
    from assistly.views.job_filter import JobFilter

    for option, text in (("--platform", platform), ("--match", match), ("--key", key)):
        if text is not None and not text.strip():
            raise typer.BadParameter(
                f"{option} must not be empty (is a shell variable unset?); to change all jobs, use --all"
            )
    until = None if due_within is None else datetime.now(UTC) + due_within
    if kind is not None and not statuses:
        statuses = ["dead_letter"]
    return JobFilter(tuple(dict.fromkeys(statuses or ())), platform, until, since, match, key, kind)
