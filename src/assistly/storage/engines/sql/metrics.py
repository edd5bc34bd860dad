from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ...records import Latency, Metrics
from .database import Executor, Row
from .store import SqlStore

LEGACY_ROW = 1
_FIRST_ROW = 2
_NS_PER_MS = 1_000_000

_LOAD = "SELECT payload FROM {t}metrics WHERE id = :id {for_update}"
_CREATE = """
INSERT INTO {t}metrics (id, payload, updated_at) VALUES (:id, :payload{jsonb}, :now)
ON CONFLICT (id) DO NOTHING
"""
_SAVE = "UPDATE {t}metrics SET payload = :payload{jsonb}, updated_at = :now WHERE id = :id"
_READ = "SELECT id, payload FROM {t}metrics"


class SqlMetricStore(SqlStore):
    """Rows with the payload {"counters": {name: int}, "latency": {"count", "total_ns", "max_ns"}}.

    Row 1 belongs to the system that this schema comes from; it is read, and never written.
    """

    def increment(self, name: str, by: int) -> None:
        self.increment_many({name: by})

    def increment_many(self, by_name: Mapping[str, int]) -> None:
        def change(payload: dict[str, Any]) -> None:
            counters = payload.setdefault("counters", {})
            for name, by in by_name.items():
                counters[name] = counters.get(name, 0) + by

        self._update(change)

    def observe_latency(self, nanoseconds: int) -> None:
        self.observe_latencies(1, nanoseconds, nanoseconds)

    def observe_latencies(self, count: int, total: int, longest: int) -> None:
        def change(payload: dict[str, Any]) -> None:
            latency = payload.setdefault("latency", {"count": 0, "total_ns": 0, "max_ns": 0})
            latency["count"] += count
            latency["total_ns"] += total
            latency["max_ns"] = max(latency["max_ns"], longest)

        self._update(change)

    def read(self) -> Metrics:
        return _total(self._read_all(_READ, {}, self._payload))

    def _update(self, change: Callable[[dict[str, Any]], None]) -> None:
        load, create, save = self._render(_LOAD), self._render(_CREATE), self._render(_SAVE)
        row_id = {"id": _FIRST_ROW}
        now = self._bind(self._database.now())

        def work(connection: Executor) -> None:
            row = connection.row(load, row_id)
            if row is None:
                connection.execute(create, {**row_id, "payload": "{}", "now": now})
                (row,) = connection.rows(load, row_id)
            payload = self._json(row[0])
            change(payload)
            connection.execute(save, {**row_id, "payload": json.dumps(payload), "now": now})

        self._database.in_transaction(work)

    def _payload(self, row: Row) -> dict[str, Any]:
        id, payload = row
        decoded: Any = self._json(payload)
        return _from_legacy(decoded) if id == LEGACY_ROW else decoded


def _total(payloads: list[dict[str, Any]]) -> Metrics:
    counters: Counter[str] = Counter()
    count = total_ns = max_ns = 0
    for payload in payloads:
        counters.update(payload.get("counters", {}))
        latency = payload.get("latency")
        if latency:
            count += latency["count"]
            total_ns += latency["total_ns"]
            max_ns = max(max_ns, latency["max_ns"])
    return Metrics(dict(counters), Latency(count, total_ns / _NS_PER_MS, max_ns / _NS_PER_MS))


def _from_legacy(payload: Any) -> dict[str, Any]:
    if not isinstance(payload, dict):
        return {}
    latency = payload.get("latencyMs")
    latency = latency if isinstance(latency, dict) else {}
    return {
        "counters": {name: int(value) for name, value in payload.items() if _is_number(value)},
        "latency": {
            "count": int(_number(latency.get("count"))),
            "total_ns": round(_number(latency.get("total")) * _NS_PER_MS),
            "max_ns": round(_number(latency.get("max")) * _NS_PER_MS),
        },
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Any) -> int | float:
    return value if _is_number(value) else 0
