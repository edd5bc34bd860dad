from __future__ import annotations

from abc import ABC
from collections import Counter
from typing import Any, NamedTuple

from ...engine.base import BackendBase, MetricStoreBase
from ...records import Latency, Metrics
from .database import Database, Row
from .dialect import Dialect
from .store import SqlStore

LEGACY_ROW = 1
FIRST_ROW = 2
_NS_PER_MS = 1_000_000


class MetricStatements:
    def __init__(self, d: Dialect) -> None:
        self.read = f"SELECT id, payload FROM {d.t}metrics"


class SqlMetricStore(SqlStore, MetricStoreBase[BackendBase], ABC):
    """Rows with the payload {"counters": {name: int}, "latency": {"count", "total_ns", "max_ns"}}.

    Row 1 belongs to the system that this schema comes from; it is read, and never written.
    """

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend, database)
        self._sql = self._dialect.statements(MetricStatements)

    def read(self) -> Metrics:
        return _total(self._select(self._sql.read, {}, self._payload))

    def _payload(self, row: Row) -> dict[str, Any]:
        id, payload = row
        return payload_of(id, self._json(payload))


class Totals(NamedTuple):
    """The sums of all rows. `latency` is the count, the sum and the longest, in nanoseconds."""

    counters: dict[str, int]
    latency: tuple[int, int, int]


def payload_of(id: int, payload: Any) -> dict[str, Any]:
    """The payload of a row, in the form of rows other than row 1."""
    found: dict[str, Any] = _from_legacy(payload) if id == LEGACY_ROW else payload
    return found


def _total(payloads: list[dict[str, Any]]) -> Metrics:
    counters, (count, total_ns, max_ns) = totals_of(payloads)
    return Metrics(counters, Latency(count, total_ns / _NS_PER_MS, max_ns / _NS_PER_MS))


def totals_of(payloads: list[dict[str, Any]]) -> Totals:
    """The sums of rows."""
    counters: Counter[str] = Counter()
    count = total_ns = max_ns = 0
    for payload in payloads:
        counters.update(payload.get("counters", {}))
        latency = payload.get("latency")
        if latency:
            count += latency["count"]
            total_ns += latency["total_ns"]
            max_ns = max(max_ns, latency["max_ns"])
    return Totals(dict(counters), (count, total_ns, max_ns))


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
