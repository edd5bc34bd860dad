"""The command line of the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    file: Annotated[
        Path | None,
        typer.Argument(help="A calendar, one post as JSON on each line; default: the one shipped."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary SQLite database.")] = False,
) -> None:
    """Run a content calendar through the storage under a simulated clock, and check the outcome.

    It runs on the engine of the environment, in a database of its own: a temporary SQLite file unless
    SQLITE_PATH is set, on Postgres the schema assistly_demo unless STORAGE_SCHEMA is set. Nothing is
    published anywhere.
    """
    from .calendar import read_calendar, shipped_calendar
    from .database import demo_storage
    from .report import LiveProgress, print_summary
    from .run import Demo, start_of
    from .world import SimulatedClock

    posts = read_calendar(file or shipped_calendar())
    clock = SimulatedClock(start_of(posts))
    with demo_storage(clock, keep=keep) as (storage, place), LiveProgress(quiet=as_json) as progress:
        summary = Demo(storage, clock, posts, progress).run()
    if as_json:
        import json

        typer.echo(json.dumps(summary.as_json(), indent=2, ensure_ascii=False))
    else:
        print_summary(summary, place)
    if not summary.ok:
        raise typer.Exit(1)
