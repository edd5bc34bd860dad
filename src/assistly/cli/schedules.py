"""`assistly schedules`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .opening import open_environment
from .tables import print_table, shortened, shown_time
from .values import duration, json_object, time

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
    after: Annotated[str | None, typer.Option(help="Only those with a later id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 100,
) -> None:
    """List the schedules, with the next time of each."""
    with open_environment() as storage:
        found = storage.schedules.list(after=after, limit=limit)
        rows = [_row(storage, schedule) for schedule in found]
    if not rows:
        typer.echo("no schedules")
        return
    print_table(("id", "platform", "times", "next", "content"), rows)
    if len(found) == limit:
        typer.echo(f"there may be more: --after {found[-1].id}")


@schedules.command()
def show(id: Id) -> None:
    """Show all that is stored of a schedule."""
    with open_environment() as storage:
        _show(storage, _existing(storage, id))


@schedules.command(short_help="Store a schedule, in place of the one of this name.")
def put(
    id: Id,
    platform: Annotated[str, typer.Argument(help="Where it is published.")],
    content: Annotated[str, typer.Argument(help="What is published.")],
    cron: Annotated[
        str | None,
        typer.Option(help="Five fields: minute, hour, day of month, month, day of week, as '0 9 * * MON'."),
    ] = None,
    every: Annotated[
        timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="As 90s, 30m, 6h, 1d or 2w."),
    ] = None,
    zone: Annotated[str, typer.Option(help="The time zone of --cron, as Europe/Berlin.")] = "UTC",
    starts_at: Annotated[
        datetime | None,
        typer.Option("--from", parser=time, metavar="TIME", help="The first possible time. Default: now."),
    ] = None,
    ends_at: Annotated[
        datetime | None,
        typer.Option("--until", parser=time, metavar="TIME", help="The last one. Default: without end."),
    ] = None,
    metadata: Annotated[
        dict[str, Any] | None, typer.Option(parser=json_object, metavar="JSON", help="An object.")
    ] = None,
    max_lateness: Annotated[
        timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="How late it may be published."),
    ] = None,
    max_retries: Annotated[int | None, typer.Option(min=1, help="The most attempts of a job.")] = None,
    catch_up: Annotated[
        str, typer.Option(metavar="none|last|all", help="Which missed ones are made up for.")
    ] = "none",
    disabled: Annotated[bool, typer.Option("--disabled", help="Store it without making jobs.")] = False,
) -> None:
    """Store a schedule, in place of the one of this name, and change its waiting jobs."""
    with open_environment() as storage:
        schedule = storage.schedules.put(
            id,
            platform,
            content,
            cron=cron,
            every=every,
            zone=zone,
            starts_at=starts_at,
            ends_at=ends_at,
            metadata=metadata,
            max_lateness=max_lateness,
            max_retries=max_retries,
            catch_up=catch_up,  # type: ignore[arg-type] # the storage says which there are
            enabled=not disabled,
        )
        _show(storage, schedule)


@schedules.command()
def remove(id: Id) -> None:
    """Delete a schedule and its waiting jobs."""
    from assistly.storage import NotFound

    with open_environment() as storage:
        if not storage.schedules.remove(id):
            raise NotFound(f"there is no schedule {id!r}")
    typer.echo("removed")


@schedules.command()
def enable(id: Id) -> None:
    """Enable a schedule: its times from now on become jobs."""
    with open_environment() as storage:
        _show(storage, storage.schedules.enable(id))


@schedules.command()
def disable(id: Id) -> None:
    """Disable a schedule, and remove its waiting jobs."""
    with open_environment() as storage:
        _show(storage, storage.schedules.disable(id))


@schedules.command()
def preview(id: Id, count: Annotated[int, typer.Argument(min=1, max=1000, help="How many.")] = 10) -> None:
    """Show the next times of a schedule, in its zone."""
    with open_environment() as storage:
        schedule = _existing(storage, id)
        times = storage.schedules.preview(id, count)
    for slot in times:
        typer.echo(_shown(schedule, slot))
    if not times:
        typer.echo("it has ended")


@schedules.command()
def run(
    ahead: Annotated[
        timedelta,
        typer.Option(parser=duration, metavar="DURATION", help="How far ahead jobs are made, as 30m or 2d."),
    ] = "1d",  # type: ignore[assignment] # typer parses it
) -> None:
    """Make the jobs of the next day. Workers do it by themselves; without one, call it from cron."""
    with open_environment() as storage:
        jobs = storage.schedules.run(ahead=ahead)
    typer.echo(f"{len(jobs)} made")


def _existing(storage: Storage, id: str) -> Schedule:
    from assistly.storage import NotFound

    schedule = storage.schedules.get(id)
    if schedule is None:
        raise NotFound(f"there is no schedule {id!r}")
    return schedule


def _row(storage: Storage, schedule: Schedule) -> tuple[str, ...]:
    return (
        schedule.id,
        schedule.platform,
        _times(schedule),
        _next(storage, schedule),
        shortened(schedule.content, 60),
    )


def _times(schedule: Schedule) -> str:
    return f"{schedule.cron} {schedule.zone}" if schedule.cron else f"every {schedule.every}"


def _next(storage: Storage, schedule: Schedule) -> str:
    from assistly.storage import InvalidValue

    if not schedule.enabled:
        return "disabled"
    try:
        times = storage.schedules.preview(schedule.id, 1)
    except InvalidValue as error:
        return str(error)
    return _shown(schedule, times[0]) if times else "ended"


def _shown(schedule: Schedule, time: datetime) -> str:
    from assistly.storage.recurrence import zone_of

    return shown_time(time.astimezone(zone_of(schedule.zone)))


def _show(storage: Storage, schedule: Schedule) -> None:
    import json

    print_table(
        (),
        [
            ("id", schedule.id),
            ("platform", schedule.platform),
            ("times", _times(schedule)),
            ("next", _next(storage, schedule)),
            ("from", shown_time(schedule.starts_at)),
            ("until", "without end" if schedule.ends_at is None else shown_time(schedule.ends_at)),
            ("catch up", schedule.catch_up),
            ("max lateness", "any" if schedule.max_lateness is None else str(schedule.max_lateness)),
            ("max retries", "the default" if schedule.max_retries is None else str(schedule.max_retries)),
            ("content", shortened(schedule.content, 400)),
            ("metadata", shortened(json.dumps(schedule.metadata, ensure_ascii=False), 400)),
            ("changed", shown_time(schedule.updated_at)),
        ],
    )
