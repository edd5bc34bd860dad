"""`assistly status`."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .opening import opened, storage_place
from .options import Utc
from .output import Output, count_text, is_terminal, jsonable, one_line

if TYPE_CHECKING:
    from assistly.storage import Storage
    from assistly.views.status import JobCount, PlatformState, StorageStatus

_CLEAR = "\x1b[H\x1b[2J"


def status(
    watch: Annotated[
        float | None,
        typer.Option(
            "--watch", min=0.1, metavar="SECONDS", help="Refresh after this many seconds, until Ctrl-C."
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document; with --watch, a line of JSON each time.")
    ] = False,
    utc: Utc = False,
) -> None:
    """Show what the storage holds, what is late, and what needs attention.

    "10,000+" means that counting stopped there. "No worker seen" means that a job of the platform has been
    due for a minute, no worker holds one, and none was posted or dead-lettered in the last 10 minutes.
    --watch needs a terminal; with --json it prints a line each time.
    """
    if watch is not None and not json and not is_terminal(sys.stdout):
        raise typer.BadParameter("--watch needs a terminal: omit it, or add --json to print a line each time")
    from assistly.views import status as view

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        if watch is None:
            _print(out, view.status(storage), _place())
        else:
            with suppress(KeyboardInterrupt):
                _watch(out, storage, watch)


def _watch(out: Output, storage: Storage, seconds: float) -> None:
    import time

    from assistly.views import status as view

    while True:
        found, place = view.status(storage), _place()
        if out.json:
            out.lines([place | jsonable(found)])
            sys.stdout.flush()
        else:
            typer.echo(_CLEAR, nl=False)
            _print(out, found, place)
        time.sleep(seconds)


def _place() -> dict[str, Any]:
    """What the settings say: the engine and its place, and the schema."""
    from assistly.storage.settings import load_settings

    settings = load_settings()
    return {
        "engine": settings.engine,
        "place": storage_place(settings).removeprefix(f"{settings.engine} "),
        "schema": _schema(settings.engine),
    }


def _schema(engine: str) -> str | None:
    """The last migration. A storage that opens without applying any has all migrations of this version."""
    if engine not in ("sqlite", "postgres"):
        return None
    from assistly.storage.engines.sql.migrations import discover

    return discover(engine)[-1].name.removesuffix(".sql")


def _print(out: Output, found: StorageStatus, place: dict[str, Any]) -> None:
    if out.json:
        out.document(place | jsonable(found))
        return
    out.table((), [*_general(out, found, place), *_counts(found), *_times(out, found)])
    if found.platforms:
        out.say("\nplatforms")
        columns = ("platform", "waiting", "due", "claimed", "dead", "state")
        out.table(columns, [_platform(out, platform) for platform in found.platforms])
    if found.waiting_truncated:
        from assistly.views.status import WAITING_TRUNCATED

        out.say(f"\n{WAITING_TRUNCATED}")
    if found.retrying:
        out.say("\nretrying (assistly jobs list --status retrying)")
        rows = [
            (
                str(job.id),
                job.platform,
                f"{job.retries} of {job.max_retries}",
                out.time(job.due_at),
                one_line(job.last_error or "-"),
            )
            for job in found.retrying
        ]
        out.table(("id", "platform", "failed", "next", "last error"), rows)
    if found.unknown:
        out.say(
            f"\n{_count(found.unknown_count)} with an unknown outcome (`assistly jobs list --kind unknown`): "
            "look at the platform, then `assistly jobs resolve ID --posted` or --not-posted"
        )
        unknown = [
            (str(job.id), job.platform, out.time(job.publish_started_at), one_line(job.content))
            for job in found.unknown
        ]
        out.table(("id", "platform", "publishing began", "content"), unknown, cut="content")
    if needs := _needs(found):
        out.say("\nneeds attention")
        for need in needs:
            out.say(f"  {need}", indent=4)
    if len(found.sizes) > 1:
        from assistly.views.text import file_size

        out.say("\nsizes")
        out.table(("of", "size"), [(name, file_size(size)) for name, size in found.sizes.items()])
    if found.without_worker:
        out.say(f"\nno worker was seen on: {', '.join(found.without_worker)} (assistly worker)")


def _general(out: Output, found: StorageStatus, place: dict[str, Any]) -> list[tuple[str, str]]:
    from assistly.views.text import file_size

    return [
        ("engine", place["engine"]),
        ("place", place["place"]),
        ("schema", place["schema"] or "-"),
        *([] if found.size_bytes is None else [("size", file_size(found.size_bytes))]),
        ("ping", f"{found.ping.total_seconds() * 1000:.1f} ms"),
        ("at", out.time(found.at)),
    ]


def _counts(found: StorageStatus) -> list[tuple[str, str]]:
    return [(name, _count(count)) for name, count in found.counts.items()]


def _times(out: Output, found: StorageStatus) -> list[tuple[str, str]]:
    from assistly.views.text import span

    waits = "nothing" if found.oldest_due_age is None else f"has waited {span(found.oldest_due_age)}"
    none = "nothing" if found.counts["scheduled"].exact else "unknown: too many jobs are due before it"
    soon = none if found.next_due_at is None else out.time(found.next_due_at)
    but = " (not counting paused platforms)" if any(platform.paused for platform in found.platforms) else ""
    rows = [("oldest due", waits + but), ("next due", soon + but)]
    held = {lock.name: lock for lock in found.locks}
    for lock in held.values():
        text = f"{lock.owner_id}, fence {lock.fence}, until {out.time(lock.expires_at)}"
        rows.append((f"lock {lock.name}", text))
    if "worker" not in held:
        rows.append(("lock worker", "free"))
    return rows


def _platform(out: Output, platform: PlatformState) -> tuple[str, ...]:
    counts = platform.counts
    waiting = [counts[name] for name in ("scheduled", "retrying") if name in counts]
    total = count_text(sum(count.count for count in waiting), exact=all(count.exact for count in waiting))
    state = "; ".join(_states(out, platform)) or "-"
    held, dead = (_count(counts[name]) if name in counts else "0" for name in ("processing", "dead_letter"))
    return (platform.name, total, _count(platform.due), held, dead, state)


def _states(out: Output, platform: PlatformState) -> list[str]:
    from .platforms import limit_text, paused_text

    states = []
    if platform.paused:
        reason = f": {platform.pause_reason}" if platform.pause_reason else ""
        states.append(f"{paused_text(out, platform.paused_until, platform.paused_by)}{reason}")
    if platform.limit is not None:
        states.append(f"limit {limit_text(platform.limit)}, {platform.available} free now")
    if platform.worker_seen is False:
        states.append("no worker seen")
    return states


def _needs(found: StorageStatus) -> list[str]:
    """What needs a person, except unknown outcomes, and the command for it."""
    has_others = bool(found.unknown_count.count or found.missed.count)
    needs = [
        (
            found.dead_letters,
            ("other dead letter", "other dead letters") if has_others else ("dead letter", "dead letters"),
            "`assistly jobs list --kind other` shows why; `assistly jobs replay ID` schedules a job again",
        ),
        (
            found.missed,
            ("missed job, which no worker claimed in time", "missed jobs, which no worker claimed in time"),
            "`assistly jobs list --kind missed`, then `assistly jobs replay ID`, if it still makes sense",
        ),
        (
            found.pending_approvals,
            ("approval is pending", "approvals are pending"),
            "`assistly approvals list --status pending`",
        ),
        (
            found.expired_leases,
            ("job is held under an expired lease", "jobs are held under expired leases"),
            "a worker reclaims such jobs: check that one runs (`assistly worker`)",
        ),
    ]
    return [
        f"{_count(count)} {one if count.count == 1 and count.exact else many}: {advice}"
        for count, (one, many), advice in needs
        if count.count
    ]


def _count(count: JobCount) -> str:
    return count_text(count.count, exact=count.exact)
