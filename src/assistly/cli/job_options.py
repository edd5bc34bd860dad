"""The options that say which jobs are meant."""

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
        raise typer.BadParameter(f"{text!r} is no status: there are {', '.join(JobStatus)}")
    return status


def _complete_kind(incomplete: str) -> list[str]:
    from assistly.views.job_filter import KINDS

    return [kind for kind in KINDS if kind.startswith(incomplete)]


def _kind(text: str) -> str:
    from assistly.views.job_filter import KINDS

    if text not in KINDS:
        raise typer.BadParameter(f"{text!r} is no kind of dead letters: there are {', '.join(KINDS)}")
    return text


Id = Annotated[int, typer.Argument(min=1, metavar="ID", help="The id of the job.")]
Ids = Annotated[
    list[int] | None, typer.Argument(min=1, metavar="ID", help="The ids of jobs; else filter options.")
]
Statuses = Annotated[
    list[str] | None,
    typer.Option(
        "--status",
        parser=_status,
        metavar="STATUS",
        help="Of this status. May be repeated.",
        autocompletion=_complete_status,
    ),
]
Platform = Annotated[str | None, typer.Option("--platform", metavar="NAME", help="Of this platform.")]
DueWithin = Annotated[
    timedelta | None,
    typer.Option(
        "--due-within",
        parser=duration,
        metavar="DURATION",
        help="Waiting, and due within this time: 1h. Overdue jobs are due.",
    ),
]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since", parser=time_before_now, metavar="TIME", help="Changed since a time, or in the last 2h."
    ),
]
Match = Annotated[
    str | None,
    typer.Option("--match", metavar="TEXT", help="With this text in the content, in upper or lower case."),
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
All = Annotated[
    bool, typer.Option("--all", help="Instead of a filter: all jobs that can be changed this way.")
]
After = Annotated[
    int,
    typer.Option(
        "--after", min=0, metavar="ID", help="Only those after this job: the last of the previous page."
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
    """The filter that the options describe. Raises BadParameter for an option with an empty text."""
    from assistly.views.job_filter import JobFilter

    for option, text in (("--platform", platform), ("--match", match), ("--key", key)):
        if text is not None and not text.strip():
            raise typer.BadParameter(
                f"{option} needs a text (is a variable of the shell not set?); to change all jobs say --all"
            )
    until = None if due_within is None else datetime.now(UTC) + due_within
    if kind is not None and not statuses:
        statuses = ["dead_letter"]
    return JobFilter(tuple(dict.fromkeys(statuses or ())), platform, until, since, match, key, kind)
