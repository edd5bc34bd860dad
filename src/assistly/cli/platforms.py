"""`assistly platforms`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from .opening import opened
from .options import By, Duration, Json, Note, Utc
from .output import Output, jsonable, one_line
from .values import time_from_now

if TYPE_CHECKING:
    from assistly.storage import Platform

platforms = typer.Typer(
    name="platforms",
    help="Pauses and limits of platforms, which all workers share.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="PLATFORM", help="The name of the platform.")]


@platforms.command("list")
def list_platforms(json: Json = False, utc: Utc = False) -> None:
    """List the platforms that were ever paused or limited."""
    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        found = storage.platforms.list()
    if json:
        out.document({"platforms": found})
    elif found:
        rows = [
            (
                platform.name,
                _state(out, platform),
                _limit(platform),
                platform.by or "-",
                one_line(platform.reason or "-"),
            )
            for platform in found
        ]
        out.table(("platform", "state", "limit", "by", "reason"), rows)
    else:
        out.say("no platform was ever paused or limited")


@platforms.command()
def pause(
    platform: Name,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="When it ends, with an offset, or as +2h. Default: with `platforms resume`."
        ),
    ] = None,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Pause a platform: no worker takes its jobs. Those that workers hold already are still published."""
    from . import audit

    out = Output(json=json, utc=utc)
    end = None if until is None else time_from_now(until)
    with opened(out) as storage, storage.transaction() as tx:
        paused = tx.platforms.pause(platform, until=_end(end), reason=note, by=by)
        audit.record(
            tx, "platforms.pause", by=by, note=note, platform=platform, until=jsonable(paused.paused_until)
        )
    _print(out, paused)


@platforms.command()
def resume(platform: Name, by: By = None, note: Note = None, json: Json = False, utc: Utc = False) -> None:
    """End the pause of a platform. Exit code 1 if it was not paused."""
    from assistly.storage import NotFound

    from . import audit

    out = Output(json=json, utc=utc)
    with opened(out) as storage, storage.transaction() as tx:
        if not tx.platforms.resume(platform):
            raise NotFound(f"platform {platform!r} is not paused")
        audit.record(tx, "platforms.resume", by=by, note=note, platform=platform)
        resumed = tx.platforms.get(platform)
    if resumed is not None:
        _print(out, resumed)


@platforms.command(short_help="Limit how many jobs are taken within a time.")
def limit(
    platform: Name,
    count: Annotated[
        int | None, typer.Argument(min=1, help="How many jobs. Leave it out with --none.")
    ] = None,
    per: Duration = None,
    none: Annotated[bool, typer.Option("--none", help="End the limit.")] = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Let all workers together take at most COUNT jobs of a platform within --per, as 1h."""
    from . import audit

    if none == (count is not None) or (count is None) != (per is None):
        raise typer.BadParameter("give COUNT and --per DURATION, or --none to end the limit")
    out = Output(json=json, utc=utc)
    with opened(out) as storage, storage.transaction() as tx:
        limited = tx.platforms.limit(platform, count, per)
        audit.record(
            tx, "platforms.limit", by=by, note=note, platform=platform, count=count, per=jsonable(per)
        )
    _print(out, limited)


def _end(end: datetime | timedelta | None) -> datetime | None:
    from datetime import UTC

    return datetime.now(UTC) + end if isinstance(end, timedelta) else end


def _print(out: Output, platform: Platform) -> None:
    out.result(platform, f"{platform.name}: {_state(out, platform)}, {_limit(platform)}")


def _state(out: Output, platform: Platform) -> str:
    if not platform.paused:
        return "not paused"
    if platform.paused_until is None:
        return "paused until somebody resumes it"
    return f"paused until {out.time(platform.paused_until)}"


def _limit(platform: Platform) -> str:
    return "no limit" if platform.limit is None else f"{platform.limit[0]} per {platform.limit[1]}"
