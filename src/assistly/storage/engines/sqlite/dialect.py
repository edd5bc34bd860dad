"""Times as microseconds, JSON and lists as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from ..sql.dialect import Fragments, TemplateDialect
from ..sql.store import from_microseconds, to_microseconds

_FRAGMENTS = Fragments(
    t="assistly_",
    any_platform="IN (SELECT value FROM json_each(:platforms))",
    picked="IN (",
    end_picked=")",
    # For a list of three SQLite builds a table at each row.
    active="status NOT IN ('posted', 'dead_letter')",
    past="""json_array(
        claim, retries, json(attempts), next_retry_at, remote_id, posted_at, last_error, dead_letter_at,
        dead_letter_reason, replayed_at, publish_started_at, max_lateness
    )""",
    append_attempt="""json_insert(
        CASE WHEN json_array_length(attempts) < 20 THEN attempts ELSE json_remove(attempts, '$[0]') END,
        '$[#]',
        json_object(
            'number', retries + 1, 'at', :now_us, 'worker_id', worker_id, 'error', :attempt_error
        )
    )""",
)

# The rows of a batch have most of their times in common, and making one costs ten times as much.
moment = lru_cache(maxsize=4096)(from_microseconds)


class SqliteCodec:
    def bind_time(self, value: datetime | None) -> int | None:
        return None if value is None else to_microseconds(value)

    def bind_list(self, values: Sequence[Any]) -> str:
        return json.dumps(list(values), ensure_ascii=False)

    def time(self, value: int | None) -> datetime | None:
        return None if value is None else moment(value)

    def json(self, value: str | None) -> Any:
        return None if value is None else json.loads(value)


DIALECT = TemplateDialect(SqliteCodec(), _FRAGMENTS, parameter=":{}")
