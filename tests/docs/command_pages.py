"""Writes the options of every command into docs/reference/commands.md, as `--help` shows them.

`python -m tests.docs.command_pages` writes them into the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Any

import typer.main

from assistly.cli import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "commands.md"
BEGIN = "<!-- The options are written by: python -m tests.docs.command_pages -->\n"
END = "<!-- end of the options -->\n"


def commands() -> Iterator[tuple[str, Any]]:
    """The full name of each visible command that is no group, and the command."""
    yield from _below("assistly", typer.main.get_command(app))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    for child in getattr(command, "commands", {}).values():
        if not child.hidden:
            yield from _below(f"{name} {child.name}", child)
    if not hasattr(command, "commands"):
        yield name, command


def options() -> str:
    """All commands in Markdown: the call, what it does, its arguments and options."""
    return "\n".join(_described(name, command) for name, command in commands())


def _described(name: str, command: Any) -> str:
    context = command.context_class(command, info_name=name)
    pieces = " ".join(command.collect_usage_pieces(context))
    lines = [f"### {name}", "", "```console", f"$ {name} {pieces}".rstrip(), "```", ""]
    lines += [*_paragraphs(command.help or ""), ""]
    rows = [
        (_without_type(record[0]) if parameter.param_type_name == "argument" else record[0], record[1])
        for parameter in command.params
        if (record := parameter.get_help_record(context)) is not None
    ]
    if rows:
        lines += ["| | |", "|---|---|"]
        lines += [f"| `{_cell(usage)}` | {_cell(_text(help))} |" for usage, help in rows]
        lines.append("")
    return "\n".join(lines)


def _without_type(usage: str) -> str:
    """`ID` of `ID <int range>`."""
    return re.sub(r" <[^>]*>$", "", usage)


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ""
        yield fill(_text(" ".join(paragraph.split())), 118, break_on_hyphens=False, break_long_words=False)


def _text(text: str) -> str:
    """With options and variables as code, and without characters that Markdown would read as its own."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _plain(part) for part in parts)


def _plain(text: str) -> str:
    text = re.sub(r"(?<![\w-])(--[a-z][a-z-]*|[A-Z]+(?:_[A-Z]+)+(?:=[a-z]+)?)", r"`\1`", text)
    return re.sub(r"([*<\[])", r"\\\1", text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def written(text: str) -> str:
    """The text of the page with the options as they should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{options()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
