"""Times as microseconds, JSON and lists as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from ..sql.dialect import Dialect
from ..sql.store import from_microseconds, to_microseconds


class SqliteDialect(Dialect):
    """Statements that SQLite alone runs are constants: the prefix is always the same."""

    # Written so, since SQLite builds a table of a list of three for each row.
    active = "status NOT IN ('posted', 'dead_letter')"

    def __init__(self) -> None:
        super().__init__("assistly_", ":{}")

    def among(self, select: str) -> str:
        return f"IN ({select})"

    def among_list(self, name: str) -> str:
        return f"IN (SELECT value FROM json_each(:{name}))"

    def bind_time(self, value: datetime | None) -> int | None:
        return None if value is None else to_microseconds(value)

    def bind_list(self, values: Sequence[Any]) -> str:
        return json.dumps(list(values), ensure_ascii=False)

    # The rows of a batch have most of their times in common.
    time = staticmethod(lru_cache(maxsize=4096)(from_microseconds))

    def json(self, value: str | None) -> Any:
        # Most metadata is empty, and most jobs have not failed.
        if value == "{}":
            return {}
        if value == "[]":
            return []
        return None if value is None else json.loads(value)


DIALECT = SqliteDialect()
