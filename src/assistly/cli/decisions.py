"""`assistly resolve` and `assistly cancel`."""

from __future__ import annotations

from typing import Annotated

import typer

from .opening import open_environment
from .tables import shown_time


def resolve(
    id: Annotated[int, typer.Argument(min=1, help="The dead letter with the unknown outcome.")],
    posted: Annotated[
        bool, typer.Option("--posted/--not-posted", help="Whether it is on the platform: look there first.")
    ],
    remote_id: Annotated[str | None, typer.Option(help="With --posted: its id on the platform.")] = None,
) -> None:
    """Answer whether a job with an unknown outcome was published.

    With --posted it counts as posted, and its idempotency key stays taken. With --not-posted it is scheduled
    anew, to be published now.
    """
    if remote_id is not None and not posted:
        raise typer.BadParameter("--remote-id goes with --posted")
    with open_environment() as storage:
        job = storage.queue.resolve(id, posted=posted, remote_id=remote_id)
    if posted:
        typer.echo(f"job {job.id} is posted")
    else:
        typer.echo(f"job {job.id} is scheduled for {shown_time(job.scheduled_at)}")


def cancel(
    id: Annotated[int, typer.Argument(min=1, help="The job that is not to be published any more.")],
) -> None:
    """Cancel a job that is not being published yet. It stays stored, and its idempotency key stays taken."""
    with open_environment() as storage:
        job = storage.queue.cancel(id)
    typer.echo(f"job {job.id} is cancelled")
