"""`assistly jobs`: the group, and the commands that list, show and add."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistly.operations.audit import Person

from . import job_commands
from .job_import import import_jobs
from .job_options import (
    After,
    DueWithin,
    Id,
    Key,
    Kind,
    Match,
    Platform,
    Since,
    Statuses,
    job_filter,
)
from .opening import opened
from .options import By, Json, Limit, Note, Utc
from .output import Output, compact, jsonable, one_line
from .values import duration, json_object, time_from_now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assistly.storage import Event, Job, Storage
    from assistly.views.job_filter import JobFilter
    from assistly.views.jobs import Story

jobs = typer.Typer(
    name="jobs",
    help="Jobs: list and show them, add, move, cancel, replay and remove them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@jobs.command("list", short_help="List jobs, by id or by when they are due.")
def list_jobs(
    status: Statuses = None,
    platform: Platform = None,
    due_within: DueWithin = None,
    since: Since = None,
    match: Match = None,
    key: Key = None,
    kind: Kind = None,
    after: After = 0,
    limit: Limit = 100,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """List jobs by id; with --due-within, by due time, the next one first.

    The time shown is when the job is due, when its lease expires, or when it was posted, dead-lettered or
    cancelled.
    """
    out = Output(json=json, utc=utc)
    wanted = job_filter(status, platform, due_within, since, match, key, kind)
    with opened(out) as storage:
        _print_list(out, storage, wanted, after, limit)


def dead_letters(
    platform: Platform = None,
    kind: Kind = None,
    after: After = 0,
    limit: Limit = 100,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """List the jobs that failed permanently, were missed, or have an unknown outcome.

    This is `jobs list --status dead_letter`.
    """
    list_jobs(
        status=["dead_letter"],
        platform=platform,
        kind=kind,
        after=after,
        limit=limit,
        json=json,
        utc=utc,
    )


def _print_list(out: Output, storage: Storage, wanted: JobFilter, after: int, limit: int) -> None:
    found = list(islice(_selected(storage, wanted, after), limit + 1))
    page = found[:limit]
    following = page[-1].id if len(found) > limit else None
    if out.json:
        out.document({"jobs": page, "next": following})
        return
    if not page:
        out.say("no jobs" if wanted.statuses != ("dead_letter",) else "no dead letters")
        return
    has_errors = any(_error(job) for job in page)
    columns = ("id", "status", "platform", "time", "content", *(["error"] if has_errors else []))
    out.table(columns, [_row(out, job, has_errors=has_errors) for job in page], cut="content")
    if following is not None:
        out.remark(f"there are more: --after {following}")


def _selected(storage: Storage, wanted: JobFilter, after: int) -> Iterator[Job]:
    from assistly.storage import NotFound
    from assistly.views.job_filter import falling_due, matching

    if wanted.due_until is None:
        return matching(storage, wanted, after=after)
    last = storage.queue.get(after) if after else None
    if after and last is None:
        raise NotFound(f"job {after} no longer exists, so the list cannot continue after it: omit --after")
    return falling_due(storage, wanted, after=last)


def _row(out: Output, job: Job, *, has_errors: bool) -> tuple[str, ...]:
    from assistly.views.jobs import listed_time

    time = out.time(listed_time(job))
    row = (str(job.id), str(job.status), job.platform, time, one_line(job.content))
    return (*row, one_line(_error(job))) if has_errors else row


def _error(job: Job) -> str:
    return "" if job.status == "posted" else job.dead_letter_reason or job.last_error or ""


@jobs.command(short_help="Show a job, and what happens next.")
def show(id: Id, json: Json = False, utc: Utc = False) -> None:
    """Show a job: its attempts with their errors, who holds it, and what happens next and why."""
    from assistly.storage import NotFound
    from assistly.views.jobs import story

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        found = story(storage, id)
    if found.job is None:
        raise NotFound(found.reasons[0].text(out.time))
    if json:
        out.document(
            {
                "job": found.job,
                "reasons": reasons_document(out, found),
                "events": found.events,
                "events_complete": found.events_complete,
            }
        )
        return
    _print_story(out, found, found.job)


def reasons_document(out: Output, found: Story) -> list[dict[str, Any]]:
    """The reasons as JSON: codes, sentences, and the values in them."""
    return [
        {
            "code": str(reason.code),
            "text": reason.text(out.time),
            "details": {name: jsonable(value) for name, value in reason.details.items()},
        }
        for reason in found.reasons
    ]


def _print_story(out: Output, found: Story, job: Job) -> None:
    from assistly.views.text import span

    rows = [
        ("job", str(job.id)),
        ("status", str(job.status)),
        ("platform", job.platform),
        ("content", one_line(job.content)),
        ("metadata", compact(job.metadata) if job.metadata else ""),
        ("key", job.idempotency_key or ""),
        ("created", out.time(job.created_at)),
        ("scheduled for", out.time(job.scheduled_at)),
        ("due", out.time(job.due_at) if job.status in ("scheduled", "retrying") else ""),
        ("max lateness", span(job.max_lateness, exact=True) if job.max_lateness is not None else ""),
        ("attempts", _attempts(job)),
        ("held by", job.worker_id or ""),
        ("lease until", out.time(job.lease_until) if job.lease_until else ""),
        ("publishing since", out.time(job.publish_started_at) if job.publish_started_at else ""),
        ("checkpoint", compact(job.checkpoint) if job.checkpoint is not None else ""),
        ("posted", out.time(job.posted_at) if job.posted_at else ""),
        ("remote id", job.remote_id or ""),
        ("dead letter", out.time(job.dead_letter_at) if job.dead_letter_at else ""),
        ("reason", job.dead_letter_reason or ""),
        ("replayed", out.time(job.replayed_at) if job.replayed_at else ""),
        ("changed", out.time(job.updated_at)),
    ]
    out.table((), [(name, " ".join(value.split())) for name, value in rows if value])
    if job.attempts:
        out.say("\nattempts that failed, or whose outcome was unknown")
        attempts = [
            (
                str(attempt.number),
                out.time(attempt.at),
                attempt.worker_id or "-",
                one_line(attempt.error),
            )
            for attempt in job.attempts
        ]
        out.table(("attempt", "time", "worker", "error"), attempts)
    if found.events:
        out.say("\nwhat people did")
        events = [
            (out.time(event.created_at), _deed(out, event), *_person(event.payload)) for event in found.events
        ]
        out.table(("time", "what", "by", "note"), events)
    if not found.events_complete:
        out.remark("the event log is long: only its last events were searched for this job")
    out.say("\nwhat happens next, and why")
    for reason in found.reasons:
        out.say(reason.text(out.time))


def _attempts(job: Job) -> str:
    text = f"{job.retries} of {job.max_retries} failed"
    return text if job.replayed_at is None else f"{text} since it was replayed"


def _deed(out: Output, event: Event) -> str:
    """What a person did: the verb, and the details of the event."""
    verb = event.event_type.rpartition(".")[2]
    payload = event.payload
    if verb == "move":
        return f"{verb}: {_stored_time(out, payload.get('from'))} -> {_stored_time(out, payload.get('to'))}"
    if verb == "resolve":
        remote_id = payload.get("remote_id")
        answer = "posted" if payload.get("posted") else "not posted"
        return f"{verb}: {answer}{'' if remote_id is None else f', remote id {remote_id}'}"
    return verb


def _stored_time(out: Output, text: object) -> str:
    try:
        return out.time(datetime.fromisoformat(str(text)))
    except ValueError:
        return "?"


def _person(payload: dict[str, Any]) -> tuple[str, str]:
    return str(payload.get("by", "-")), str(payload.get("note") or "-")


@jobs.command()
def add(
    platform: Annotated[str, typer.Argument(metavar="PLATFORM", help="Where it is published.")],
    content: Annotated[str, typer.Argument(metavar="CONTENT", help="The text.")],
    at: Annotated[
        Any,
        typer.Option(
            "--at", parser=time_from_now, metavar="TIME", help="A time with an offset, or +2h. Default: now."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="An idempotency key: each key has at most one job."),
    ] = None,
    metadata: Annotated[
        Any, typer.Option("--metadata", parser=json_object, metavar="JSON", help="A JSON object.")
    ] = None,
    max_retries: Annotated[
        int | None,
        typer.Option(
            "--max-retries", min=1, metavar="COUNT", help="Maximum attempts. Default: SCHEDULE_MAX_RETRIES."
        ),
    ] = None,
    max_lateness: Annotated[
        timedelta | None,
        typer.Option(
            "--max-lateness",
            parser=duration,
            metavar="DURATION",
            help="How late it may be published, such as 1h.",
        ),
    ] = None,
    min_gap: Annotated[
        timedelta | None,
        typer.Option(
            "--min-gap",
            parser=duration,
            metavar="DURATION",
            help="Refuse it if another job is nearer in time: 10m.",
        ),
    ] = None,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Add a job, due now or --at a time."""
    from assistly.operations import jobs as operations

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        job, existed = operations.add(
            storage,
            platform,
            content,
            Person(by, note),
            at=at,
            key=key,
            metadata=metadata,
            max_retries=max_retries,
            max_lateness=max_lateness,
            min_gap=min_gap,
        )
    if json:
        out.document({"action": "add", "existed": existed, "job": jsonable(job)})
    elif existed:
        out.say(f"job {job.id} already has this key, and is {job.status}: nothing was added")
    else:
        out.say(f"job {job.id} is scheduled for {out.time(job.due_at)}")


jobs.command("import", short_help="Add all jobs of a file, or none.")(import_jobs)
for command, summary in (
    (job_commands.cancel, "Cancel jobs that are not being published yet."),
    (job_commands.move, "Move waiting jobs to another time."),
    (job_commands.remove, "Delete jobs permanently, and free their keys."),
    (job_commands.replay, "Schedule dead letters and cancelled jobs again."),
    (job_commands.resolve, "Record whether jobs with an unknown outcome were published."),
):
    jobs.command(short_help=summary)(command)
