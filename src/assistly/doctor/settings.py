"""Checks for variables that nothing reads. Wrong values are already refused when settings are loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from assistly.storage.settings import StorageSettings
from assistly.storage.variables import by_variable, load_worker_settings

from .findings import Outcome, ok, warning

NAME = "settings"

_ALIKE = 0.8


def check(settings: StorageSettings) -> Iterable[Outcome]:
    """Whether a variable of the environment or of `.env` looks like a misspelt setting."""
    known = {*by_variable(type(settings)), *by_variable(type(load_worker_settings()))}
    found = [
        warning(f"{name} is not a setting; {close[0]} is", f"rename {name} to {close[0]}")
        for name in sorted(_variables(_prefixes(known)) - known)
        if (close := get_close_matches(name, sorted(known), 1, _ALIKE))
    ]
    return found or [ok(f"all {len(known)} settings are valid")]


def _prefixes(known: Iterable[str]) -> tuple[str, ...]:
    return tuple({f"{name.partition('_')[0]}_" for name in known})


def _variables(prefixes: tuple[str, ...]) -> set[str]:
    from dotenv import dotenv_values

    file = dotenv_values(".env", encoding="utf-8") if Path(".env").is_file() else {}
    return {name for name in (*os.environ, *file) if name.startswith(prefixes)}
