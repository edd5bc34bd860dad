"""The SQL dialect of Postgres, and the names and lock keys used in statements."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ..sql.dialect import Dialect


class PostgresDialect(Dialect):
    """The dialect. Values need no conversion: the driver returns times in UTC, and jsonb decoded."""

    f = "pg_catalog."
    text = "::text"
    bigint = "::bigint"
    jsonb = "::jsonb"
    timestamp = "::timestamptz"
    microseconds = " * interval '1 microsecond'"
    for_update = "FOR UPDATE"
    by_code_point = ' COLLATE "C"'
    skip_locked = "FOR UPDATE SKIP LOCKED"
    # Seconds and the rest: an interval is multiplied by a float, which would round microseconds.
    pause_end = """(
        timestamptz 'epoch' + (data ->> 'until')::bigint / 1000000 * interval '1 second'
        + pg_catalog.mod((data ->> 'until')::bigint, 1000000) * interval '1 microsecond'
    )"""
    active = "status IN ('scheduled', 'retrying', 'processing')"

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.quoted_schema = quote(schema)
        # In a statement with parameters, a percent sign is doubled.
        doubled = self.quoted_schema.replace("%", "%%")
        super().__init__(f"{doubled}.assistly_", "%({})s")

    def among(self, select: str) -> str:
        return f"= ANY(ARRAY({select}))"

    def matches_none(self, column: str, key: str, rows: str) -> str:
        return f"{column} <> ALL (ARRAY(SELECT {key} {rows}))"

    def among_list(self, name: str) -> str:
        return f"= ANY({getattr(self.p, name)}::text[])"

    def bind_time(self, value: datetime | None) -> datetime | None:
        return value

    def bind_list(self, values: Sequence[Any]) -> list[Any]:
        return list(values)

    def time(self, value: datetime | None) -> datetime | None:
        return value

    def stored(self, column: str, type: str) -> str:
        if type == "time":
            return f"(EXTRACT(EPOCH FROM {column}) * 1000000)::bigint"
        return f"{column}::text" if type == "json" else column

    def from_microseconds(self, value: str) -> str:
        # Seconds and the rest: an interval is multiplied by a float, which would round microseconds.
        return f"""(
            timestamptz 'epoch' + {value}::bigint / 1000000 * interval '1 second'
            + {value}::bigint %% 1000000 * interval '1 microsecond'
        )"""

    def json(self, value: Any) -> Any:
        return value


def quote(name: str) -> str:
    """Quote a name as an SQL identifier."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def lock_key(*parts: str) -> int:
    """The key of an advisory lock: a hash of its purpose, the schema and so on."""
    text = "\0".join(("assistly", *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
