"""What the demo shows: progress while it runs, a table when it is done."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from .database import Place
from .summary import Summary


class LiveProgress:
    """Bars on a terminal; nothing at all where standard error is none."""

    def __init__(self, *, quiet: bool) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=console, disable=quiet or not console.is_terminal)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stage(self, name: str, total: int) -> None:
        self._task = self._bars.add_task(name, total=total)

    def reach(self, done: int) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=done)

    def tell(self, moment: datetime, text: str) -> None:
        if not self._bars.disable:
            self._bars.console.print(f"{moment:%d %b %H:%M}  {text}", highlight=False, markup=False)


def print_summary(summary: Summary, place: Place) -> None:
    console = Console(highlight=False)
    console.print(_table(summary, place))
    if place.afterwards:
        console.print(f"database: {place.afterwards}", markup=False, soft_wrap=True)
    for check in summary.checks:
        for problem in check.problems:
            console.print(f"failed: {check.name}: {problem}", markup=False)
    console.print(_verdict(summary), markup=False, soft_wrap=True)


def _verdict(summary: Summary) -> str:
    commands = len(summary.outside.commands)
    published = len(summary.outside.publications)
    if summary.ok:
        names = ", ".join(check.name for check in summary.checks)
        return f"checked: {commands} commands against {published} publications: {names}"
    bad = ", ".join(check.name for check in summary.checks if not check.ok)
    return f"checked: {commands} commands against {published} publications: NOT SO: {bad}"


def _table(summary: Summary, place: Place) -> Table:
    data = summary.as_json()
    calendar = data["calendar"]
    table = Table(
        "", "figure", "", title=f"assistly demo on {place.name}", title_justify="left", show_header=False
    )
    table.columns[2].justify = "right"
    _section(table, "calendar", [("lines", calendar["lines"]), ("commands", calendar["commands"])])
    _section(table, "jobs", data["jobs"].items())
    _section(table, "dead letters", data["dead_letters"].items())
    _section(table, "approvals", data["approvals"].items())
    _section(table, "sessions", [("users", data["sessions"])])
    _section(table, "events", data["events"].items())
    _section(table, "metrics", data["metrics"].items())
    _section(
        table, "retention", [(f"{kind} deleted", count) for kind, count in data["pruned"].items() if count]
    )
    _section(table, "platforms", [("publications", data["publications"])])
    return table


def _section(table: Table, name: str, rows: Iterable[tuple[str, object]]) -> None:
    for number, (label, value) in enumerate(rows):
        table.add_row(name if number == 0 else "", label, str(value))
    table.add_section()
