"""Prints the results of a command, as text for people or as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from datetime import UTC, datetime, timedelta, tzinfo
from enum import Enum
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

T = TypeVar("T")

_WIDE = 100_000
_SHORT = 25
"""The width of a time. In a terminal, columns up to this width are not wrapped while others have room."""
_NARROW = 10
"""How much room that is for each of the others."""


class Output:
    """The output of one command. With `json`, prints only JSON documents to stdout."""

    def __init__(self, *, json: bool = False, utc: bool = False) -> None:
        self.json = json
        self._utc = utc

    def document(self, value: object) -> None:
        """Print a value as one indented JSON document."""
        typer.echo(json.dumps(jsonable(value), indent=2, ensure_ascii=False))

    def lines(self, values: Iterable[object]) -> None:
        """Print each value as one line of JSON."""
        for value in values:
            typer.echo(json.dumps(jsonable(value), ensure_ascii=False))

    def say(self, text: str, *, indent: int = 0) -> None:
        """Print a sentence for people. With `json` it goes to stderr.

        In a terminal, continuation lines are indented by `indent` columns.
        """
        _echo(text, err=self.json, indent=indent)

    def command(self, text: str, *, indent: int = 0) -> None:
        """Print text to copy, on one line however long it is."""
        typer.echo(" " * indent + printable(text), err=self.json)

    def remark(self, text: str) -> None:
        """Print a remark to stderr."""
        _echo(text, err=True)

    def table(
        self, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, cut: str | None = None
    ) -> None:
        """Print rows for people, below a header if there are `columns`.

        In a terminal, cells of the column `cut` are shortened to one line, and other long cells wrap.
        Otherwise each row is one line, and nothing is shortened.
        """
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(highlight=False)
        is_terminal = console.is_terminal
        if not is_terminal:
            console.width = _WIDE
        cells = [tuple(printable(cell) for cell in row) for row in rows]
        widths = [
            max(map(len, column)) for column in zip(*([columns] if columns else []), *cells, strict=True)
        ]
        long = [width for width in widths if width > _SHORT]
        room = console.width - 2 * len(widths) - sum(width for width in widths if width <= _SHORT)
        share = max(_NARROW, room // max(1, len(long)))
        table = Table(box=None, show_header=bool(columns), pad_edge=False)
        for number, width in enumerate(widths):
            keeps_width = width <= _SHORT and share * len(long) <= room
            table.add_column(columns[number] if columns else "", no_wrap=keeps_width)
        for row in cells:
            table.add_row(
                *(
                    Text(shortened(cell, share) if name == cut and is_terminal else cell, overflow="fold")
                    for name, cell in zip(columns or row, row, strict=True)
                )
            )
        with console.capture() as capture:
            console.print(table)
        for line in capture.get().splitlines():
            typer.echo(line.rstrip())

    def page(
        self,
        kind: str,
        found: Sequence[T],
        columns: tuple[str, ...],
        row: Callable[[T], tuple[str, ...]],
        *,
        option: str,
        following: str | int | None,
        cut: str | None = None,
    ) -> None:
        """Print the records of a list command: a document, or a row for each.

        `kind` is the key of the document. `option` with the value `following` shows the next page; None if
        there is none. `cut`: see `table`.
        """
        if self.json:
            self.document({kind: found, "next": following})
            return
        if found:
            self.table(columns, [row(record) for record in found], cut=cut)
        else:
            self.say(f"no {kind}")
        if following is not None:
            self.remark(f"there may be more: {option} {following}")

    def record(self, record: object, fields: Sequence[tuple[str, str]]) -> None:
        """Print one record: a document, or a line for each of its fields."""
        if self.json:
            self.document(record)
        else:
            self.table((), fields)

    def result(self, document: object, sentence: str) -> None:
        """Print what a command has done: a document, or a sentence."""
        if self.json:
            self.document(document)
        else:
            self.say(sentence)

    def time(self, time: datetime | None, zone: tzinfo | None = None) -> str:
        """A time with seconds and its offset, in `zone` (None: the local one) or in UTC; "-" for none."""
        if time is None:
            return "-"
        if self._utc:
            return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        return time.astimezone(zone).isoformat(sep=" ", timespec="seconds")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether it is a terminal. None stands for a standard stream that is closed."""
    return stream is not None and stream.isatty()


def _echo(text: str, *, err: bool, indent: int = 0) -> None:
    """Print a text. In a terminal, wrap its lines between words, and indent the continuation lines."""
    stream = sys.stderr if err else sys.stdout
    lines = printable(text).split("\n")
    if is_terminal(stream):
        import shutil
        import textwrap

        width = shutil.get_terminal_size().columns
        wrapped = [
            textwrap.wrap(
                line,
                width,
                break_long_words=False,
                break_on_hyphens=False,
                subsequent_indent=" " * indent,
            )
            or [""]
            for line in lines
        ]
        lines = [line for part in wrapped for line in part]
    typer.echo("\n".join(lines), err=err)


def jsonable(value: object) -> Any:
    """Convert a record for `json.dumps`. Times become ISO 8601 in UTC, durations become seconds."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


def printable(text: str) -> str:
    """The text without terminal control characters."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def shortened(text: str, width: int) -> str:
    """The text on one line, cut to `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def one_line(text: str) -> str:
    """The whole text on one line."""
    return " ".join(text.split())


def compact(value: object) -> str:
    """A value as JSON on one line, not shortened."""
    return json.dumps(value, ensure_ascii=False)


def plural(count: int, noun: str) -> str:
    """A number with its noun: 1 job, 2 jobs."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def count_text(count: int, *, exact: bool) -> str:
    """A number with commas, and a + if counting stopped there."""
    return f"{count:,}" if exact else f"{count:,}+"
