"""Prints results, and keeps them as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .running import LeftOut, Result
from .verdicts import verdicts

_HOLDS = {True: "holds", False: "does not hold", None: ""}


def print_environment(console: Console, environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        console.print(f"{name:10} {value}", highlight=False, markup=False, soft_wrap=True)


def print_results(console: Console, results: Sequence[Result]) -> None:
    """The results of one row."""
    table = Table(title=f"{results[0].row}: {results[0].title}", title_justify="left", box=None)
    for column in ("", "median", "", "ratio", "quartiles"):
        table.add_column(column, justify="left" if column == "" else "right")
    for result in results:
        ratio = result.ratio
        table.add_row(
            result.contender,
            shown(result.value.median),
            result.unit,
            f"{ratio.median:.2f}",
            f"{ratio.low:.2f}-{ratio.high:.2f}",
        )
    console.print(table)
    for name, settings in {result.contender: result.settings for result in results}.items():
        if settings:
            console.print(f" {name}: {settings}", highlight=False, markup=False, soft_wrap=True)


def print_left_out(console: Console, left_out: Sequence[LeftOut]) -> None:
    for one in left_out:
        text = f"left out of {one.row}: {one.contender} ({one.reason})"
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_verdicts(console: Console, results: Sequence[Result]) -> None:
    """What each row should reach, what it reached, and which rows hold."""
    table = Table(title="thresholds", title_justify="left", box=None)
    for column in ("row", "", "asked", "reached", "best peer", ""):
        table.add_column(column, justify="right" if column == "reached" else "left")
    for verdict in verdicts(results):
        result = verdict.result
        table.add_row(
            result.row,
            result.unit,
            "\n".join(check.asked for check in verdict.checks),
            "\n".join(f"{check.reached:.2f}" for check in verdict.checks) or f"{result.ratio.median:.2f}",
            verdict.peer or "",
            _HOLDS[verdict.holds],
        )
    console.print(table)


def write_json(path: Path, environment: Mapping[str, str], results: Sequence[Result]) -> None:
    document = {"environment": environment, "results": [as_dict(result) for result in results]}
    path.write_text(json.dumps(document, indent=1) + "\n")


def as_dict(result: Result) -> dict[str, Any]:
    return {**asdict(result), "value": asdict(result.value), "ratio": asdict(result.ratio)}


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
