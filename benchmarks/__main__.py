"""Assistly beside the raw drivers, and beside its peers."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .environment import describe
from .markdown import write_markdown
from .model import Environment, Row, Size
from .report import print_environment, print_left_out, print_results, print_verdicts, write_json
from .rows import ROWS, chosen
from .running import Result, run_row
from .server import temporary_server

_ROWS_HELP = f"Only these rows, or all that begin so: {', '.join(row.key for row in ROWS)}."


def main(
    only: Annotated[list[str] | None, typer.Argument(metavar="ROW", help=_ROWS_HELP)] = None,
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
    database_url: Annotated[
        str | None,
        typer.Option(help="A Postgres; default: DATABASE_URL, else a temporary server of its own."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where databases are made; default: the folder for temporary files.")
    ] = None,
) -> None:
    """Measure Assistly beside the raw drivers, in turns, and say which rows hold their thresholds."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    if folder is not None:
        tempfile.tempdir = str(folder)
    size: Size = "tiny" if tiny else "quick" if quick else "full"
    rows = _rows(only or [])
    results: list[Result] = []
    with ExitStack() as stack:
        url = database_url or os.environ.get("DATABASE_URL") or None
        if url is None and any(row.needs_postgres for row in rows):
            url = stack.enter_context(temporary_server())
        databases = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environment = Environment(url, databases, size, pool_size)
        description = describe(environment, network=any(row.network for row in rows))
        print_environment(console, description)
        for row in rows:
            with console.status("") as status:
                outcome = run_row(row, environment, rounds=rounds, peers=peers, progress=status.update)
            results += outcome.results
            console.print()
            print_results(console, outcome.results)
            print_left_out(console, outcome.left_out)
    console.print()
    print_verdicts(console, results)
    if json is not None:
        write_json(json, description, results)
    if markdown is not None:
        write_markdown(markdown, description, results)


def _rows(names: list[str]) -> list[Row]:
    try:
        return chosen(names)
    except ValueError as error:
        raise typer.BadParameter(f"{error}. {_ROWS_HELP}") from None


if __name__ == "__main__":
    typer.run(main)
