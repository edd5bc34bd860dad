"""How statements, times and JSON look to Postgres."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from ..sql.dialect import Fragments, TemplateDialect

# Put in last: what a name looks like must not be taken for a parameter or a fragment.
_SCHEMA = '"\0"'


def _microseconds(column: str) -> str:
    return f"(extract(epoch FROM {column}) * 1000000)::bigint"


_PAST = f"""jsonb_build_array(
    claim, retries, attempts, {_microseconds("next_retry_at")}, remote_id, {_microseconds("posted_at")},
    last_error, {_microseconds("dead_letter_at")}, dead_letter_reason, {_microseconds("replayed_at")},
    {_microseconds("publish_started_at")}, max_lateness
)"""


class PostgresCodec:
    """The driver does the work: times arrive in UTC, and jsonb decoded."""

    def bind_time(self, value: datetime | None) -> datetime | None:
        return value

    def bind_list(self, values: Sequence[Any]) -> list[Any]:
        return list(values)

    def time(self, value: datetime | None) -> datetime | None:
        return value

    def json(self, value: Any) -> Any:
        return value


class PostgresDialect(TemplateDialect):
    def __init__(self, schema: str) -> None:
        self.schema = schema
        fragments = Fragments(
            t=f"{_SCHEMA}.assistly_",
            for_update="FOR UPDATE",
            skip_locked="FOR UPDATE SKIP LOCKED",
            text="::text",
            bigint="::bigint",
            jsonb="::jsonb",
            timestamp="::timestamptz",
            microseconds="* interval '1 microsecond'",
            any_platform="= ANY(:platforms::text[])",
            picked="= ANY(ARRAY(",
            end_picked="))",
            append_attempt=APPEND_ATTEMPT,
            active="status IN ('scheduled', 'retrying', 'processing')",
            past=_PAST,
        )
        super().__init__(PostgresCodec(), fragments, parameter="%({})s", percent="%%")
        self._quoted = quote(schema).replace("%", "%%")

    def _render(self, template: str, limit: int | None) -> str:
        return super()._render(template, limit).replace(_SCHEMA, self._quoted)


def quote(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def int_array(values: Iterable[int]) -> str:
    """As text: the driver looks at each element of a list by itself, which takes 20 times as long."""
    return "{" + ",".join(map(str, values)) + "}"


def text_array(values: Iterable[str | None]) -> str:
    """As text, like `int_array`."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: str | None) -> str:
    if value is None:
        return "NULL"
    escaped = value.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'


APPEND_ATTEMPT = (
    "(CASE WHEN jsonb_array_length(attempts) >= 20 THEN attempts - 0 ELSE attempts END || jsonb_build_object("
    "'number', retries + 1, 'at', :now_us::bigint, 'worker_id', worker_id, 'error', :attempt_error::text))"
)


def lock_key(*parts: str) -> int:
    """The key of an advisory lock; those of other schemas and purposes differ."""
    text = "\0".join(("assistly", *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
