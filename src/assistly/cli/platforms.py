"""`assistly platforms`."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistly.operations.audit import Person

from .opening import opened
from .options import By, Json, Note, Utc
from .output import Output, jsonable, one_line, plural
from .values import positive_duration, time_from_now

if TYPE_CHECKING:
    from assistly.storage import Platform, Storage

platforms = typer.Typer(
    name="platforms",
    help="Pauses and limits of platforms, which all workers share.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="PLATFORM", help="The name of the platform.")]


@platforms.command("list")
def list_platforms(json: Json = False, utc: Utc = False) -> None:
    """List the platforms that have jobs, or were ever paused or limited.

    Examines 10,000 jobs of each status.
    """
    from assistly.views.status import WAITING_TRUNCATED, read_depths

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        found = storage.platforms.list()
        depths = read_depths(storage, datetime.now(UTC))
        names = depths.names - {platform.name for platform in found}
    if json:
        others = [_without_record(name) for name in names]
        listed = [*(jsonable(platform) for platform in found), *others]
        out.document({"platforms": sorted(listed, key=lambda platform: str(platform["name"]))})
    elif names or found:
        rows = [
            (
                platform.name,
                _state(out, platform),
                "-" if platform.limit is None else limit_text(platform.limit),
                platform.by or "-",
                one_line(platform.reason or "-"),
            )
            for platform in found
        ]
        rows += [(name, "not paused", "-", "-", "-") for name in names]
        out.table(("platform", "state", "limit", "by", "reason"), sorted(rows))
    else:
        out.say("there are no jobs, and no platform was ever paused or limited")
    if depths.waiting_truncated:
        out.remark(WAITING_TRUNCATED)


def _without_record(name: str) -> dict[str, Any]:
    """A platform that was never paused or limited, as JSON."""
    nothing = dict.fromkeys(("paused_until", "reason", "by", "limit", "updated_at"))
    return {"name": name, "paused": False, **nothing}


@platforms.command()
def pause(
    platform: Name,
    until: Annotated[
        Any,
        typer.Option(
            parser=time_from_now,
            metavar="TIME",
            help="A time with an offset, or +2h. Default: until `platforms resume`.",
        ),
    ] = None,
    by: By = None,
    note: Annotated[
        str | None,
        typer.Option(
            "--note", metavar="TEXT", help="Why: the reason in `platforms list` and in the event log."
        ),
    ] = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Pause a platform: workers claim none of its jobs. Jobs that they already hold are still published."""
    from assistly.operations import platforms as operations

    def shown(time: datetime) -> str:
        return f"--until {out.time(time)}"

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        before = storage.platforms.get(platform)
        paused = operations.pause(storage, platform, Person(by, note), until=until, shown=shown)
        _print(out, paused)
        if before is None:
            _note_unknown(out, storage, platform)


@platforms.command()
def resume(platform: Name, by: By = None, note: Note = None, json: Json = False, utc: Utc = False) -> None:
    """Resume a paused platform. Exit code 1 if it was not paused."""
    from assistly.operations import platforms as operations

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        resumed = operations.resume(storage, platform, Person(by, note))
    if resumed is not None:
        _print(out, resumed)


@platforms.command(short_help="Limit how many jobs are claimed per duration.")
def limit(
    platform: Name,
    count: Annotated[
        int | None, typer.Argument(min=1, metavar="COUNT", help="How many jobs. Omit it with --none.")
    ] = None,
    per: Annotated[
        timedelta | None,
        typer.Option(parser=positive_duration, metavar="DURATION", help="The duration: 90s, 30m, 1h."),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Remove the limit.")] = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Limit all workers together to COUNT jobs of a platform within --per, such as 1h."""
    from assistly.operations import platforms as operations

    if none == (count is not None) or (count is None) != (per is None):
        raise typer.BadParameter("give COUNT and --per DURATION, or --none to remove the limit")
    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        before = storage.platforms.get(platform)
        limited = operations.limit(storage, platform, Person(by, note), count=count, per=per)
        _print(out, limited)
        if before is None:
            _note_unknown(out, storage, platform)


def _note_unknown(out: Output, storage: Storage, platform: str) -> None:
    """Warn on stderr if nothing is known of this platform: its name may be misspelt."""
    from difflib import get_close_matches

    from assistly.storage import StorageUnavailable
    from assistly.views.status import platform_names, schedule_platforms

    with suppress(StorageUnavailable):  # the change itself is done
        if storage.queue.list(platform=platform, limit=1) or platform in schedule_platforms(storage):
            return
        names = platform_names(storage) - {platform}
        near = " or ".join(get_close_matches(platform, names))
        asked = f"; did you mean {near}?" if near else ""
        out.remark(f"note: {platform} has no jobs, and was never paused or limited{asked}")


def _print(out: Output, platform: Platform) -> None:
    limit = "no limit" if platform.limit is None else f"limit {limit_text(platform.limit)}"
    out.result(platform, f"{platform.name}: {_state(out, platform)}, {limit}")


def _state(out: Output, platform: Platform) -> str:
    return paused_text(out, platform.paused_until, None) if platform.paused else "not paused"


def paused_text(out: Output, until: datetime | None, by: str | None) -> str:
    """That a platform is paused, by whom, and until when."""
    end = "somebody resumes it" if until is None else out.time(until)
    return f"paused{'' if by is None else f' by {by}'} until {end}"


def limit_text(limit: tuple[int, timedelta]) -> str:
    """The limit of a platform: 3 jobs in 10 s."""
    from assistly.views.text import span

    count, per = limit
    return f"{plural(count, 'job')} in {span(per, exact=True)}"
