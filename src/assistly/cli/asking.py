"""Asks for confirmation before a command does what cannot be undone."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from .output import is_terminal

if TYPE_CHECKING:
    from .output import Output


def ask(out: Output, question: str, *, instead: str = "--yes") -> None:
    """Ask on stderr, and exit with code 1 unless the answer is yes.

    Without a terminal, raises BadParameter. `instead` names the options that skip the question.
    """
    if not is_terminal(sys.stdin):
        raise typer.BadParameter(
            f"there is no terminal to ask on, so nothing was done: {question} Add {instead}"
        )
    if not typer.confirm(question, err=True):
        out.say("nothing was done")
        raise typer.Exit(1)
