"""The SQL dialect of SQLite: times are microseconds, JSON and lists are text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from ..sql.dialect import Dialect
from ..sql.store import from_microseconds, to_microseconds


class SqliteDialect(Dialect):
    """The dialect. The prefix of tables is constant, so statements for SQLite alone can be constants."""

    pause_end = "json_extract(data, '$.until')"

    # Not `status IN` the three others: SQLite would build a temporary table for that list for each row.
    active = "status NOT IN ('posted', 'dead_letter', 'cancelled')"

    def __init__(self) -> None:
        super().__init__("assistly_", ":{}")

    def among(self, select: str) -> str:
        return f"IN ({select})"

    def matches_none(self, column: str, key: str, rows: str) -> str:
        # For NOT IN, SQLite builds a temporary table, which costs a twentieth of a claim: not for no rows.
        return f"(NOT EXISTS (SELECT 1 {rows}) OR {column} NOT IN (SELECT {key} {rows}))"

    def among_list(self, name: str) -> str:
        return f"IN (SELECT value FROM json_each(:{name}))"

    def bind_time(self, value: datetime | None) -> int | None:
        return None if value is None else to_microseconds(value)

    def bind_list(self, values: Sequence[Any]) -> str:
        return json.dumps(list(values), ensure_ascii=False)

    # Cached, since most times in the rows of a batch are equal.
    time = staticmethod(lru_cache(maxsize=4096)(from_microseconds))

    def stored(self, column: str, type: str) -> str:  # noqa: ARG002 - it stores what rows hold
        return column

    def from_microseconds(self, value: str) -> str:
        return value

    def json(self, value: str | None) -> Any:
        # Most metadata is empty, and most jobs have not failed.
        if value == "{}":
            return {}
        if value == "[]":
            return []
        return None if value is None else json.loads(value)


DIALECT = SqliteDialect()
