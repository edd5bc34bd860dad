"""`assistly schedules`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistly.operations.audit import Person

from .opening import opened
from .options import By, Json, Limit, Note, Utc
from .output import Output, compact, jsonable, one_line, plural
from .values import duration, json_object, positive_duration, time_from_now

if TYPE_CHECKING:
    from assistly.storage import Schedule, Storage

schedules = typer.Typer(
    name="schedules",
    help="Recurring posts: list them, change them, make their jobs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The name of the schedule.")]


@schedules.command("list")
def list_schedules(
    after: Annotated[str | None, typer.Option(metavar="ID", help="Only those with a later id.")] = None,
    limit: Limit = 100,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """List the schedules by id, with the next time of each in its zone."""
    from assistly.views.schedules import next_time

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        found = storage.schedules.list(after=after, limit=limit)
        entries = [(schedule, next_time(storage, schedule)) for schedule in found]
    following = found[-1].id if len(found) == limit else None
    if json:
        out.document({"schedules": [_document(*entry) for entry in entries], "next": following})
        return
    out.page(
        "schedules",
        entries,
        ("id", "platform", "times", "next", "content"),
        lambda entry: _row(out, *entry),
        option="--after",
        following=following,
        cut="content",
    )


@schedules.command()
def show(id: Id, json: Json = False, utc: Utc = False) -> None:
    """Show a schedule, with its next time in its zone."""
    from assistly.views.schedules import existing

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        _print(out, storage, existing(storage, id))


@schedules.command(short_help="Store or replace a schedule.")
def put(
    id: Id,
    platform: Annotated[str, typer.Argument(metavar="PLATFORM", help="Where it is published.")],
    content: Annotated[str, typer.Argument(metavar="CONTENT", help="What is published.")],
    cron: Annotated[
        str | None,
        typer.Option(
            metavar="CRON",
            help="Five fields: minute, hour, day of month, month, day of week, such as '0 9 * * MON'.",
        ),
    ] = None,
    every: Annotated[
        timedelta | None,
        typer.Option(
            parser=positive_duration,
            metavar="DURATION",
            help="The time between two posts: 90s, 30m, 6h, 1d or 2w.",
        ),
    ] = None,
    zone: Annotated[
        str, typer.Option(metavar="ZONE", help="The time zone of --cron, such as Europe/Berlin.")
    ] = "UTC",
    starts_at: Annotated[
        Any,
        typer.Option(
            "--from",
            parser=time_from_now,
            metavar="TIME",
            help="The first possible time, with an offset, or +2h. Default: now.",
        ),
    ] = None,
    ends_at: Annotated[
        Any,
        typer.Option(
            "--until",
            parser=time_from_now,
            metavar="TIME",
            help="The last possible time, with an offset, or +2h. Default: no end.",
        ),
    ] = None,
    metadata: Annotated[
        dict[str, Any] | None,
        typer.Option(parser=json_object, metavar="JSON", help="A JSON object that each job gets."),
    ] = None,
    max_lateness: Annotated[
        timedelta | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="How late a job may be published, such as 2h. After that it becomes a dead letter.",
        ),
    ] = None,
    max_retries: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The maximum number of attempts of a job.")
    ] = None,
    catch_up: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help="Which missed times without a job become jobs: none, last, or all. --max-lateness decides "
            "about jobs that exist.",
        ),
    ] = "none",
    disabled: Annotated[bool, typer.Option("--disabled", help="Store it, but create no jobs.")] = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Store a schedule, or replace the one with this name and update its waiting jobs.

    Workers create the jobs a day ahead. After an outage, workers publish existing jobs however late they are,
    unless --max-lateness is given: always give it. --catch-up decides only about times that have no job yet.
    """
    from assistly.operations import schedules as operations

    if (cron is None) == (every is None):
        raise typer.BadParameter("give either --cron '0 9 * * MON' or --every 6h")
    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        schedule = operations.put(
            storage,
            id,
            platform,
            content,
            Person(by, note),
            cron=cron,
            every=every,
            zone=zone,
            starts_at=starts_at,
            ends_at=ends_at,
            metadata=metadata,
            max_lateness=max_lateness,
            max_retries=max_retries,
            catch_up=catch_up,
            enabled=not disabled,
        )
        _print(out, storage, schedule)


@schedules.command()
def remove(id: Id, by: By = None, note: Note = None, json: Json = False) -> None:
    """Delete a schedule and its waiting jobs."""
    from assistly.operations import schedules as operations

    out = Output(json=json)
    with opened(out) as storage:
        jobs = operations.remove(storage, id, Person(by, note))
    out.result(
        {"removed": id, "removed_jobs": jobs},
        f"removed the schedule {id!r} and {plural(jobs, 'waiting job')}",
    )


@schedules.command()
def enable(id: Id, by: By = None, note: Note = None, json: Json = False, utc: Utc = False) -> None:
    """Enable a schedule: its times become jobs from now on."""
    from assistly.operations import schedules as operations

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        schedule = operations.enable(storage, id, Person(by, note))
        _print(out, storage, schedule)


@schedules.command()
def disable(id: Id, by: By = None, note: Note = None, json: Json = False, utc: Utc = False) -> None:
    """Disable a schedule, and remove its waiting jobs."""
    from assistly.operations import schedules as operations

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        schedule, jobs = operations.disable(storage, id, Person(by, note))
        _print(out, storage, schedule)
    out.remark(f"removed {plural(jobs, 'waiting job')} of this schedule")


@schedules.command()
def preview(
    id: Id,
    count: Annotated[int, typer.Argument(min=1, max=1000, metavar="COUNT", help="How many times.")] = 10,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Show the next times of a schedule, in its zone."""
    from assistly.views.schedules import existing

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        schedule = existing(storage, id)
        times = storage.schedules.preview(id, count)
    if json:
        out.document({"id": id, "zone": schedule.zone, "times": times})
        return
    for slot in times:
        out.say(_shown(out, schedule, slot))
    if not times:
        out.say("the schedule has ended")


@schedules.command()
def run(
    ahead: Annotated[
        timedelta,
        typer.Option(
            parser=duration, metavar="DURATION", help="How far ahead to create jobs, such as 30m or 2d."
        ),
    ] = "1d",  # type: ignore[assignment] # typer parses it
    json: Json = False,
) -> None:
    """Create the jobs of the next day. Workers do this themselves; without a worker, run it from cron."""
    out = Output(json=json)
    with opened(out) as storage:
        jobs = storage.schedules.run(ahead=ahead)
    out.result({"made": len(jobs), "jobs": [job.id for job in jobs]}, f"{plural(len(jobs), 'job')} created")


def _shown(out: Output, schedule: Schedule, time: datetime | str) -> str:
    from assistly.storage.recurrence import zone_of

    return time if isinstance(time, str) else out.time(time, zone_of(schedule.zone))


def _row(out: Output, schedule: Schedule, next: datetime | str) -> tuple[str, ...]:
    from assistly.views.schedules import times

    return (
        schedule.id,
        schedule.platform,
        times(schedule),
        _shown(out, schedule, next),
        one_line(schedule.content),
    )


def _document(schedule: Schedule, next: datetime | str) -> dict[str, Any]:
    """A schedule as JSON. `next_at` is null if there is no next time; `no_next` says why."""
    is_time = isinstance(next, datetime)
    return {
        **jsonable(schedule),
        "next_at": jsonable(next) if is_time else None,
        "no_next": None if is_time else next,
    }


def _print(out: Output, storage: Storage, schedule: Schedule) -> None:
    from assistly.views.schedules import next_time, times
    from assistly.views.text import span

    next = next_time(storage, schedule)
    out.record(
        _document(schedule, next),
        [
            ("id", schedule.id),
            ("platform", schedule.platform),
            ("times", times(schedule)),
            ("next", _shown(out, schedule, next)),
            ("from", out.time(schedule.starts_at)),
            ("until", "no end" if schedule.ends_at is None else out.time(schedule.ends_at)),
            ("catch up", schedule.catch_up),
            ("max lateness", span(schedule.max_lateness, exact=True)),
            ("max retries", "the default" if schedule.max_retries is None else str(schedule.max_retries)),
            ("content", one_line(schedule.content)),
            ("metadata", compact(schedule.metadata)),
            ("changed", out.time(schedule.updated_at)),
        ],
    )
