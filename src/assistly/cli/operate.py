"""Commands on the storage of the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from assistly.storage import Job, Storage


def _open() -> Storage:
    from assistly.storage.factory import open_storage

    return open_storage(auto_prune=False)


def status() -> None:
    """Show how many jobs there are in each state, what is next, the lock and the metrics."""
    with _open() as storage:
        seconds = storage.ping()
        lock = storage.lock.current()
        metrics = storage.metrics.read()
        due = storage.queue.next_due_at()
        rows = [(str(state), str(count)) for state, count in storage.queue.counts().items()]
    rows.append(("next due", _time(due) if due else "nothing"))
    holder = f"{lock.owner_id}, fence {lock.fence}, until {_time(lock.expires_at)}" if lock else "free"
    rows.append(("worker lock", holder))
    rows += [(name, str(value)) for name, value in sorted(metrics.counters.items())]
    latency = metrics.latency
    if latency.count:
        mean = latency.total_ms / latency.count
        rows.append(
            ("latency", f"{latency.count} requests, mean {mean:.1f} ms, most {latency.max_ms:.1f} ms")
        )
    rows.append(("ping", f"{seconds * 1000:.1f} ms"))
    _table((), rows)


def migrate() -> None:
    """Apply the pending migrations, also where STORAGE_AUTO_MIGRATE is false."""
    from assistly.storage.factory import build_storage
    from assistly.storage.settings import load_settings

    with build_storage(load_settings(), auto_prune=False) as storage:
        applied = storage.migrate()
    for name in applied:
        typer.echo(f"applied {name}")
    if not applied:
        typer.echo("the schema is up to date")


def prune(
    force: Annotated[bool, typer.Option("--force", help="Also within a minute of the last prune.")] = False,
) -> None:
    """Delete what the RETENTION_ settings no longer keep."""
    from dataclasses import asdict

    with _open() as storage:
        report = storage.prune(force=force)
    if not report.ran:
        typer.echo("nothing done: the last prune was less than a minute ago (--force does it anyway)")
        return
    _table((), [(kind, f"{count} deleted") for kind, count in asdict(report).items() if kind != "ran"])


def dead_letters(
    platform: Annotated[str | None, typer.Option(help="Only those of this platform.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only those with a higher id.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 100,
) -> None:
    """List the jobs that wait for a person."""
    with _open() as storage:
        jobs = storage.queue.dead_letters(platform=platform, after=after, limit=limit)
    if not jobs:
        typer.echo("no dead letters")
        return
    _table(
        ("id", "platform", "since", "retries", "reason", "content"),
        [
            (
                str(job.id),
                job.platform,
                _time(job.dead_letter_at or job.updated_at),
                str(job.retries),
                _shortened(job.dead_letter_reason or "", 80),
                _shortened(job.content, 60),
            )
            for job in jobs
        ],
    )
    if len(jobs) == limit:
        typer.echo(f"there may be more: --after {jobs[-1].id}")


def replay(
    id: Annotated[int | None, typer.Argument(min=1, help="The dead letter to schedule anew.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter of a known outcome.")] = False,
    platform: Annotated[str | None, typer.Option(help="With --all: only those of this platform.")] = None,
) -> None:
    """Schedule dead letters anew, to be published now.

    --all leaves out those with "outcome unknown": they may have been published already. Look, then
    replay them by id, or leave them.
    """
    if everything == (id is not None):
        raise typer.BadParameter("give the id of a dead letter, or --all")
    if platform is not None and not everything:
        raise typer.BadParameter("--platform goes with --all")
    with _open() as storage:
        if id is not None:
            _replay_one(storage, id)
        else:
            _replay_known(storage, platform)


def _replay_one(storage: Storage, id: int) -> None:
    from assistly.storage import NotFound

    job = storage.queue.replay(id)
    if job is None:
        raise NotFound(f"there is no dead letter {id}")
    typer.echo(f"job {job.id} is scheduled for {_time(job.scheduled_at)}")


def _replay_known(storage: Storage, platform: str | None) -> None:
    replayed = unknown = 0
    for job in _all_dead_letters(storage, platform):
        if (job.dead_letter_reason or "").startswith("outcome unknown: "):
            unknown += 1
        elif storage.queue.replay(job.id):
            replayed += 1
    typer.echo(f"{replayed} replayed")
    if unknown:
        typer.echo(f"{unknown} left out, since their outcome is unknown: see assistly dead-letters")


def _all_dead_letters(storage: Storage, platform: str | None) -> Iterator[Job]:
    page = storage.queue.dead_letters(platform=platform, limit=1000)
    while page:
        yield from page
        page = storage.queue.dead_letters(platform=platform, after=page[-1], limit=1000)


def _time(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds")


def _shortened(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Stored text is shown as it is, but for control characters, which could drive the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, show_header=bool(columns), pad_edge=False)
    for row in rows:
        table.add_row(*(Text("".join(c if c.isprintable() else "\ufffd" for c in cell)) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 240)
    console.print(table)
