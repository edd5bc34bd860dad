from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ..sql.database import Executor
from ..sql.metrics import FIRST_ROW, SqlMetricStore

_LOAD = "SELECT payload FROM assistly_metrics WHERE id = :id"
_SAVE = """
    INSERT INTO assistly_metrics (id, payload, updated_at) VALUES (:id, :payload, :now)
    ON CONFLICT (id) DO UPDATE SET payload = excluded.payload, updated_at = excluded.updated_at
"""


class SqliteMetricStore(SqlMetricStore):
    """A `MetricStore`. Python adds the numbers up, since sums may exceed the integers of SQLite."""

    def increment_many(self, by_name: Mapping[str, int]) -> None:
        def change(payload: dict[str, Any]) -> None:
            counters = payload.setdefault("counters", {})
            for name, by in by_name.items():
                counters[name] = counters.get(name, 0) + by

        self._update(change)

    def observe_latencies(self, count: int, total: int, longest: int) -> None:
        def change(payload: dict[str, Any]) -> None:
            latency = payload.setdefault("latency", {"count": 0, "total_ns": 0, "max_ns": 0})
            latency["count"] += count
            latency["total_ns"] += total
            latency["max_ns"] = max(latency["max_ns"], longest)

        self._update(change)

    def _update(self, change: Callable[[dict[str, Any]], None]) -> None:
        now = self._bind(self._backend.now())

        def work(connection: Executor) -> None:
            row = connection.row(_LOAD, {"id": FIRST_ROW})
            payload = self._json(row[0]) if row else {}
            change(payload)
            connection.execute(_SAVE, {"id": FIRST_ROW, "payload": json.dumps(payload), "now": now})

        self._database.in_transaction(work)
