"""The output of the demo: progress while it runs, then a table."""

from __future__ import annotations

import json

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .outcome import DemoOutcome


def live_progress(*, quiet: bool) -> Progress:
    """Progress bars on stderr, if that is a terminal."""
    console = Console(stderr=True, highlight=False, markup=False)
    console.quiet = quiet or not console.is_terminal
    columns = TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console, disable=console.quiet)


def print_outcome(outcome: DemoOutcome, place: str, afterwards: str, *, as_json: bool) -> None:
    """Print the figures, the problems, and the verdict on the last line; or all of it as JSON."""
    if as_json:
        print(json.dumps(outcome.as_json(), indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(_table(outcome, place), soft_wrap=False)
    if afterwards:
        console.print(f"database: {afterwards}")
    for name, problems in outcome.checks.items():
        for problem in problems:
            console.print(f"failed: {name}: {problem}")
    names = ", ".join(name for name, problems in outcome.checks.items() if outcome.ok or problems)
    verdict = names if outcome.ok else f"FAILED: {names}"
    compared = f"{len(outcome.commands)} commands against {len(outcome.publications)} publications"
    console.print(f"checked: {compared}: {verdict}")


def _table(outcome: DemoOutcome, place: str) -> Table:
    title = f"assistly demo on {place}"
    table = Table("", "", "", title=title, title_justify="left", show_header=False)
    table.columns[2].justify = "right"
    for section, figures in outcome.as_json().items():
        rows = figures.items() if isinstance(figures, dict) else [("", figures)]
        shown = [(label, str(value)) for label, value in rows if type(value) in (int, float)]
        for number, row in enumerate(shown):
            table.add_row("" if number else section.replace("_", " "), *row)
        table.add_section()
    return table
