"""`assistly dead-letters` and `assistly replay`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .opening import open_environment
from .tables import print_table, shortened, shown_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assistly.storage import Job, Storage


def dead_letters(
    platform: Annotated[str | None, typer.Option(help="Only those of this platform.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only those with a higher id.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 100,
) -> None:
    """List the jobs that failed for good, were too late, or have an unknown outcome."""
    with open_environment() as storage:
        jobs = storage.queue.dead_letters(platform=platform, after=after, limit=limit)
    if not jobs:
        typer.echo("no dead letters")
        return
    print_table(
        ("id", "platform", "since", "retries", "reason", "content"),
        [
            (
                str(job.id),
                job.platform,
                shown_time(job.dead_letter_at or job.updated_at),
                str(job.retries),
                shortened(job.dead_letter_reason or "", 80),
                shortened(job.content, 60),
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

    --all leaves out those with an unknown outcome: they may have been published already. Look at the
    platform, then replay them by id, or leave them.
    """
    if everything == (id is not None):
        raise typer.BadParameter("give the id of a dead letter, or --all")
    if platform is not None and not everything:
        raise typer.BadParameter("--platform goes with --all")
    with open_environment() as storage:
        if id is not None:
            _replay_one(storage, id)
        else:
            _replay_known(storage, platform)


def _replay_one(storage: Storage, id: int) -> None:
    from assistly.storage import NotFound

    job = storage.queue.replay(id)
    if job is None:
        raise NotFound(f"there is no dead letter {id}")
    typer.echo(f"job {job.id} is scheduled for {shown_time(job.scheduled_at)}")


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
