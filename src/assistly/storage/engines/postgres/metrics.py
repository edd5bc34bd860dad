"""Metrics without a hot row, and without reading before writing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from ..sql.metrics import SqlMetricStore

_FIRST_ROW = 2
_ROWS = 32

# In numeric and not in bigint, which a sum may outgrow.
_INCREMENT = """
INSERT INTO {t}metrics AS stored (id, payload, updated_at)
VALUES (
    :id, jsonb_build_object('counters', jsonb_build_object(:name::text, :by::numeric)), clock_timestamp()
)
ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at, payload = stored.payload ||
    jsonb_build_object('counters', coalesce(stored.payload -> 'counters', '{}') || jsonb_build_object(
        :name::text, coalesce((stored.payload -> 'counters' ->> :name::text)::numeric, 0) + :by::numeric
    ))
"""

_INCREMENT_MANY = """
INSERT INTO {t}metrics AS stored (id, payload, updated_at)
SELECT :id, jsonb_build_object('counters', jsonb_object_agg(name, by)), clock_timestamp()
FROM unnest(:names::text[], :bys::numeric[]) AS given (name, by)
ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at, payload = stored.payload ||
    jsonb_build_object('counters', coalesce(stored.payload -> 'counters', '{}') || (
        SELECT jsonb_object_agg(
            key, coalesce((stored.payload -> 'counters' ->> key)::numeric, 0) + value::numeric
        ) FROM jsonb_each_text(excluded.payload -> 'counters')
    ))
"""

_LATENCY = "stored.payload -> 'latency'"
_OBSERVE = f"""
INSERT INTO {{t}}metrics AS stored (id, payload, updated_at)
VALUES (
    :id,
    jsonb_build_object('latency', jsonb_build_object(
        'count', :count::numeric, 'total_ns', :total::numeric, 'max_ns', :longest::numeric
    )),
    clock_timestamp()
)
ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at, payload = stored.payload ||
    jsonb_build_object('latency', jsonb_build_object(
        'count', coalesce(({_LATENCY} ->> 'count')::numeric, 0) + :count::numeric,
        'total_ns', coalesce(({_LATENCY} ->> 'total_ns')::numeric, 0) + :total::numeric,
        'max_ns', greatest(coalesce(({_LATENCY} ->> 'max_ns')::numeric, 0), :longest::numeric)
    ))
"""


class PostgresMetricStore(SqlMetricStore):
    """Each thread has its row, or nearly: writers on many connections do not queue up."""

    def increment(self, name: str, by: int) -> None:
        self._upsert(_INCREMENT, {"name": name, "by": by})

    def increment_many(self, by_name: Mapping[str, int]) -> None:
        if by_name:
            self._upsert(_INCREMENT_MANY, {"names": [*by_name], "bys": [*by_name.values()]})

    def observe_latencies(self, count: int, total: int, longest: int) -> None:
        self._upsert(_OBSERVE, {"count": count, "total": total, "longest": longest})

    def _upsert(self, template: str, values: dict[str, Any]) -> None:
        statement = self._render(template)
        params = {"id": _FIRST_ROW + threading.get_native_id() % _ROWS, **values}
        self._database.autocommit(lambda connection: connection.execute(statement, params))
