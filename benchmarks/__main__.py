"""Assistly beside the raw drivers, and beside its peers."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .environment import described
from .markdown import write_markdown
from .model import Row, Scale, Surroundings
from .report import print_absent, print_environment, print_results, write_json
from .rows import ROWS
from .running import Result, run_row
from .server import temporary_server

_ROWS_HELP = f"Only these rows, or all that begin so: {', '.join(row.key for row in ROWS)}."


def main(
    only: Annotated[list[str] | None, typer.Argument(metavar="ROW", help=_ROWS_HELP)] = None,
    only_option: Annotated[
        list[str] | None, typer.Option("--only", metavar="ROW", help="The same as an option.")
    ] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes and few rounds.")] = False,
    tiny: Annotated[bool, typer.Option("--tiny", hidden=True)] = False,
    peers: Annotated[bool, typer.Option("--peers", help="Also the peers that are installed.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="In place of each row's own number.")] = None,
    pool_size: Annotated[int, typer.Option(min=1)] = 10,
    json: Annotated[Path | None, typer.Option(help="Write the results to this file.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Put the tables into this page, in place of those it has.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the ratios into this PNG file.")] = None,
    database_url: Annotated[
        str | None,
        typer.Option(help="A Postgres; default: DATABASE_URL, else a temporary server of its own."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where databases are made; default: the folder for temporary files.")
    ] = None,
) -> None:
    """Measure Assistly beside the raw drivers, in turns, and print ratios."""
    if plot is not None and find_spec("matplotlib") is None:
        raise typer.BadParameter("--plot needs matplotlib, which the extra `bench` brings")
    console = Console(width=None if sys.stdout.isatty() else 120)
    if folder is not None:
        tempfile.tempdir = str(folder)
    scale: Scale = "tiny" if tiny else "quick" if quick else "full"
    rows = _chosen([*(only or []), *(only_option or [])])
    results: list[Result] = []
    with ExitStack() as stack:
        url = database_url or os.environ.get("DATABASE_URL") or None
        if url is None and any(row.key.startswith("pg-") for row in rows):
            url = stack.enter_context(temporary_server())
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        at = Surroundings(url, place, scale, pool_size)
        environment = described(at)
        print_environment(console, environment)
        for row in rows:
            with console.status("") as status:
                outcome = run_row(row, at, rounds=rounds, peers=peers, say=status.update)
            results += outcome.results
            console.print()
            print_results(console, outcome.results)
            print_absent(console, outcome.absent)
    if json is not None:
        write_json(json, environment, results)
    if markdown is not None:
        write_markdown(markdown, environment, results)
    if plot is not None:
        from .plot import write_plot

        write_plot(plot, results)


def _chosen(names: list[str]) -> list[Row]:
    unknown = [name for name in names if not any(row.key.startswith(name) for row in ROWS)]
    if unknown:
        raise typer.BadParameter(f"no row is called {', '.join(unknown)}. {_ROWS_HELP}")
    if not names:
        return list(ROWS)
    exact = {row.key for row in ROWS}.intersection(names)
    return [
        row
        for row in ROWS
        if row.key in exact or any(row.key.startswith(name) for name in names if name not in exact)
    ]


if __name__ == "__main__":
    typer.run(main)
