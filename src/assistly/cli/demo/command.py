"""`assistly demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A calendar: a post as JSON on each line. Default: the sample."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary SQLite database.")] = False,
) -> None:
    """Run a content calendar through the storage under a simulated clock, and check the outcome.

    It runs on the engine of the environment, which must be a built-in one, in a database of its own: a
    temporary SQLite file unless SQLITE_PATH is set, on Postgres the schema assistly_demo unless
    STORAGE_SCHEMA is set. Nothing is published anywhere.
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
