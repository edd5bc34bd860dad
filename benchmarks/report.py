"""Prints results, and keeps them as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .running import Absence, Result

_VERDICTS = {True: "met", False: "missed", None: ""}


def print_environment(console: Console, environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        console.print(f"{name:10} {value}", highlight=False, markup=False, soft_wrap=True)


def print_results(console: Console, results: Sequence[Result]) -> None:
    """The results of one row."""
    table = Table(title=f"{results[0].row}: {results[0].title}", title_justify="left", box=None)
    for column in ("", "median", "", "ratio", "quartiles", "goal", ""):
        table.add_column(column, justify="left" if column == "" else "right")
    for result in results:
        table.add_row(*_cells(result))
    console.print(table)
    for name, settings in {result.contender: result.settings for result in results}.items():
        if settings:
            console.print(f" {name}: {settings}", highlight=False, markup=False, soft_wrap=True)


def print_absent(console: Console, absent: Sequence[Absence]) -> None:
    for absence in absent:
        console.print(
            f"left out of {absence.row}: {absence.contender} ({absence.reason})",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def write_json(path: Path, environment: Mapping[str, str], results: Sequence[Result]) -> None:
    document = {"environment": environment, "results": [as_dict(result) for result in results]}
    path.write_text(json.dumps(document, indent=1) + "\n")


def as_dict(result: Result) -> dict[str, Any]:
    return {**asdict(result), "value": asdict(result.value), "ratio": asdict(result.ratio)}


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def goal_of(result: Result) -> str:
    if result.goal is None:
        return ""
    sign = "≥" if result.more_is_better else "≤"
    return f"{sign} {result.goal:g}{' ' + result.unit.partition(',')[0] if result.absolute else ''}"


def _cells(result: Result) -> tuple[str, ...]:
    ratio = result.ratio
    return (
        result.contender,
        shown(result.value.median),
        result.unit,
        f"{ratio.median:.2f}",
        f"{ratio.low:.2f}-{ratio.high:.2f}",
        goal_of(result),
        _VERDICTS[result.met],
    )
