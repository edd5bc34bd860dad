"""Counters and the latency of requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from .. import validation as check
from ..records import Metrics
from .context import Context
from .grouping import Shared

_MOST_AT_ONCE = 2**53 - 1
_MOST_MILLISECONDS = 1e12
_NANOSECONDS = 1_000_000

Increment = tuple[str, int]


class MetricsStore:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._incrementing = Shared(context, self._increment_one, self._increment_all)
        self._observing = Shared(context, self._observe_one, self._observe_all)

    def increment(self, name: str, by: int = 1) -> None:
        self._incrementing(increment(name, by))

    def observe_latency(self, milliseconds: float) -> None:
        """Count one request that took this long. Sums are kept in whole nanoseconds, so they are exact."""
        self._observing(nanoseconds(milliseconds))

    def read(self) -> Metrics:
        return self._context.backend.metrics.read()

    def _increment_one(self, request: Increment) -> None:
        self._context.backend.metrics.increment(*request)

    def _increment_all(self, requests: Sequence[Increment], now: datetime) -> Sequence[None]:  # noqa: ARG002 - counters have no time
        sums: Counter[str] = Counter()
        for name, by in requests:
            sums[name] += by
        self._context.backend.metrics.increment_many(sums)
        return [None] * len(requests)

    def _observe_one(self, request: int) -> None:
        self._context.backend.metrics.observe_latency(request)

    def _observe_all(self, requests: Sequence[int], now: datetime) -> Sequence[None]:  # noqa: ARG002 - sums have no time
        self._context.backend.metrics.observe_latencies(len(requests), sum(requests), max(requests))
        return [None] * len(requests)


def increment(name: str, by: int) -> Increment:
    return check.name("name", name), check.whole("by", by, least=-_MOST_AT_ONCE, most=_MOST_AT_ONCE)


def nanoseconds(milliseconds: float) -> int:
    return round(check.number("milliseconds", milliseconds, most=_MOST_MILLISECONDS) * _NANOSECONDS)
