"""`assistly dead-letters` and `assistly replay`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .opening import open_environment
from .tables import print_table, shortened, shown_time

if TYPE_CHECKING:
    from assistly.storage import Storage


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
    id: Annotated[
        int | None, typer.Argument(min=1, help="The dead letter or cancelled job to schedule anew.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every dead letter that was neither missed nor of unknown outcome.")
    ] = False,
    platform: Annotated[str | None, typer.Option(help="With --all: only those of this platform.")] = None,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="With --all: those with an unknown outcome, too.")
    ] = False,
    missed: Annotated[
        bool, typer.Option("--missed", help="With --all: those that were not claimed in time, too.")
    ] = False,
) -> None:
    """Schedule dead letters anew, to be published now.

    --all leaves out those with an unknown outcome, which may have been published already: look at the
    platform, then use assistly resolve. It also leaves out those that were missed: they are late by now.
    """
    if everything == (id is not None):
        raise typer.BadParameter("give the id of a dead letter, or --all")
    given = {"--platform": platform is not None, "--unknown": unknown, "--missed": missed}
    for option, is_given in given.items():
        if is_given and not everything:
            raise typer.BadParameter(f"{option} goes with --all")
    with open_environment() as storage:
        if id is not None:
            _replay_one(storage, id)
            return
        replayed = storage.queue.replay_all(platform=platform, unknown=unknown, missed=missed)
        typer.echo(f"{replayed} replayed")
        _print_left_out(storage, platform)


def _replay_one(storage: Storage, id: int) -> None:
    from assistly.storage import NotFound

    job = storage.queue.replay(id)
    if job is None:
        raise NotFound(f"there is no dead letter and no cancelled job {id}")
    typer.echo(f"job {job.id} is scheduled for {shown_time(job.scheduled_at)}")


def _print_left_out(storage: Storage, platform: str | None) -> None:
    unknown = missed = after = 0
    while page := storage.queue.dead_letters(platform=platform, after=after, limit=1000):
        unknown += sum(job.outcome_unknown for job in page)
        missed += sum(job.missed for job in page)
        after = page[-1].id
    if unknown:
        typer.echo(f"{unknown} left out, since their outcome is unknown: see assistly resolve, or --unknown")
    if missed:
        typer.echo(f"{missed} left out, since they were missed: see --missed")
