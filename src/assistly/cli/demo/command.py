"""`assistly demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A calendar: one post per line, as JSON. Default: a sample."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary SQLite database.")] = False,
) -> None:
    """Run a content calendar through the storage under a simulated clock, and check the outcome.

    Nothing is really published. The demo uses the engine from the environment, which must be a built-in one,
    and a database of its own: on SQLite a temporary file unless SQLITE_PATH is set, on Postgres the schema
    assistly_demo unless STORAGE_SCHEMA is set.
    """
    from .calendar import read_calendar, shipped_calendar
    from .place import demo_storage
    from .report import live_progress, print_outcome
    from .scenario import Scenario, start_of
    from .simulation import SimulatedClock

    posts = read_calendar(file or shipped_calendar())
    clock = SimulatedClock(start_of(posts))
    with demo_storage(clock, keep=keep) as (storage, *where), live_progress(quiet=as_json) as progress:
        outcome = Scenario(storage, clock, posts, progress).run()
    print_outcome(outcome, *where, as_json=as_json)
    if not outcome.ok:
        raise typer.Exit(1)
