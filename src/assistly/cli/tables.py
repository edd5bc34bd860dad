"""Prints plain tables and times, without control characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows, below a header if there are `columns`. Control characters are replaced, since stored text
    could control the terminal with them."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, show_header=bool(columns), pad_edge=False)
    for row in rows:
        table.add_row(*(Text("".join(c if c.isprintable() else "\ufffd" for c in cell)) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 240)
    console.print(table)


def shown_time(time: datetime) -> str:
    """The time with seconds and its offset from UTC."""
    return time.isoformat(sep=" ", timespec="seconds")


def shortened(text: str, width: int) -> str:
    """The text on one line, cut to `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
