"""Counters and latencies."""

from __future__ import annotations

from collections.abc import Mapping

from ...records import Latency, Metrics
from ..base import MetricStoreBase
from . import keys
from .scopes import MapScope, MapStore

_NANOSECONDS_PER_MILLISECOND = 1_000_000


class KeyValueMetrics(MapStore, MetricStoreBase[MapScope]):
    """A row for each counter, and one row for the latency: count, total and longest, in nanoseconds."""

    def increment_many(self, by_name: Mapping[str, int]) -> None:
        with self._write() as map:
            for name, by in by_name.items():
                key = keys.COUNTERS + name.encode()
                value = map.get(key)
                before = 0 if value is None else self._unpack(value)[0]
                map.put(key, self._pack((before + by,)))

    def observe_latencies(self, count: int, total: int, longest: int) -> None:
        with self._write() as map:
            value = map.get(keys.LATENCY)
            before = (0, 0, 0) if value is None else self._unpack(value)
            row = (before[0] + count, before[1] + total, max(before[2], longest))
            map.put(keys.LATENCY, self._pack(row))

    def read(self) -> Metrics:
        with self._read() as map:
            counters = [*map.scan(keys.COUNTERS, keys.after(keys.COUNTERS))]
            latency = map.get(keys.LATENCY)
        count, total, longest = (0, 0, 0) if latency is None else self._unpack(latency)
        return Metrics(
            {key[1:].decode(): self._unpack(value)[0] for key, value in counters},
            Latency(count, total / _NANOSECONDS_PER_MILLISECOND, longest / _NANOSECONDS_PER_MILLISECOND),
        )
