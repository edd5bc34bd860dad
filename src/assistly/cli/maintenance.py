"""`assistly migrate`, `assistly prune` and `assistly maintain`."""

from __future__ import annotations

from typing import Annotated

import typer

from .opening import open_environment
from .tables import print_table


def migrate() -> None:
    """Apply the pending migrations, even if STORAGE_AUTO_MIGRATE is false."""
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
    """Delete what the RETENTION_ settings no longer keep, then do what `assistly maintain` does.

    With STORAGE_VACUUM=off it deletes only.
    """
    from dataclasses import asdict

    with open_environment() as storage:
        report = storage.prune(force=force)
        if report.ran and storage.worker_maintains:
            storage.maintain()
    if not report.ran:
        typer.echo("nothing done: the last prune was less than a minute ago (--force prunes anyway)")
        return
    print_table((), [(kind, f"{count} deleted") for kind, count in asdict(report).items() if kind != "ran"])


def maintain() -> None:
    """Vacuum the table of jobs on Postgres, if it is due. Other engines need no maintenance.

    Workers do it once a minute. Run it from cron if no worker runs, or with STORAGE_VACUUM=off.
    """
    with open_environment() as storage:
        storage.maintain()
    typer.echo("maintenance is done")
