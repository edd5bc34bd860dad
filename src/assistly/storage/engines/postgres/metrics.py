"""Metrics without a hot row, and without reading before writing."""

from __future__ import annotations

import threading
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

_LATENCY = "stored.payload -> 'latency'"
_OBSERVE = f"""
INSERT INTO {{t}}metrics AS stored (id, payload, updated_at)
VALUES (
    :id,
    jsonb_build_object('latency', jsonb_build_object(
        'count', 1, 'total_ns', :ns::numeric, 'max_ns', :ns::numeric
    )),
    clock_timestamp()
)
ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at, payload = stored.payload ||
    jsonb_build_object('latency', jsonb_build_object(
        'count', coalesce(({_LATENCY} ->> 'count')::numeric, 0) + 1,
        'total_ns', coalesce(({_LATENCY} ->> 'total_ns')::numeric, 0) + :ns::numeric,
        'max_ns', greatest(coalesce(({_LATENCY} ->> 'max_ns')::numeric, 0), :ns::numeric)
    ))
"""


class PostgresMetricStore(SqlMetricStore):
    """Each thread has its row, or nearly: writers on many connections do not queue up."""

    def increment(self, name: str, by: int) -> None:
        self._upsert(_INCREMENT, {"name": name, "by": by})

    def observe_latency(self, nanoseconds: int) -> None:
        self._upsert(_OBSERVE, {"ns": nanoseconds})

    def _upsert(self, template: str, values: dict[str, Any]) -> None:
        statement = self._render(template)
        params = {"id": _FIRST_ROW + threading.get_native_id() % _ROWS, **values}
        self._database.single(lambda connection: connection.execute(statement, params))
