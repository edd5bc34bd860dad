"""Asks before something is done that cannot be undone."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from .output import is_terminal

if TYPE_CHECKING:
    from .output import Output


def ask(out: Output, question: str, *, instead: str = "--yes") -> None:
    """Ask on stderr, and exit with code 1 unless the answer is yes.

    Without a terminal it is wrong usage; `instead` says which options make the question unnecessary.
    """
    if not is_terminal(sys.stdin):
        raise typer.BadParameter(
            f"nothing was done, since there is no terminal to ask: {question} Add {instead}"
        )
    if not typer.confirm(question, err=True):
        out.say("nothing was done")
        raise typer.Exit(1)
