"""The tables and indexes that a migration makes or changes, read from its text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

_TABLE = re.compile(r"^CREATE TABLE (IF NOT EXISTS )?(\w+) \((.*?)\)[\w ]*;", re.MULTILINE | re.DOTALL)
_COLUMN = re.compile(r"\s*(\w+) (\w+)")
_INDEX = re.compile(
    r"^(?:CREATE (?:UNIQUE )?|ALTER |DROP )INDEX (IF (?:NOT )?EXISTS )?(\w+)(?: ON (\w+))?", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class MadeTable:
    """A table that is made, with the types of its columns; the first one is its key.

    `may_exist`: one that is there already is used.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    may_exist: bool


@dataclass(frozen=True, slots=True)
class NamedIndex:
    """An index that is made, changed or dropped. `table` is None where the text does not name it."""

    name: str
    table: str | None


@cache
def tables_of(script: str) -> tuple[MadeTable, ...]:
    """The tables that a script makes."""
    return tuple(
        MadeTable(name, tuple(_columns(body)), bool(may_exist))
        for may_exist, name, body in _TABLE.findall(script)
    )


@cache
def indexes_of(script: str) -> tuple[NamedIndex, ...]:
    """The indexes that a script makes, changes or drops."""
    return tuple(NamedIndex(name, table or None) for _, name, table in _INDEX.findall(script))


def _columns(body: str) -> list[tuple[str, str]]:
    found = map(_COLUMN.match, re.split(r",(?=\s)", body))
    return [(match[1], match[2]) for match in found if match is not None]
