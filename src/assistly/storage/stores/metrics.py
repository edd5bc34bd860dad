"""Counters and the latency of requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from .. import validation as check
from ..records import Metrics
from .context import Context
from ..batching import BatchedCall

_MOST_AT_ONCE = 2**53 - 1
_MOST_MILLISECONDS = 1e12
_NANOSECONDS = 1_000_000

Increment = tuple[str, int]


class MetricsStore:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._incrementing = BatchedCall(context, _increment_one, _increment_all)
        self._observing = BatchedCall(context, _observe_one, _observe_all)

    def increment(self, name: str, by: int = 1) -> None:
        self._incrementing.call(increment(name, by))

    def observe_latency(self, milliseconds: float) -> None:
        """Count one request that took this long. Sums are kept in whole nanoseconds, so they are exact."""
        self._observing.call(nanoseconds(milliseconds))

    def read(self) -> Metrics:
        return self._context.backend.metrics.read()


def increment(name: str, by: int) -> Increment:
    return check.name("name", name), check.whole("by", by, least=-_MOST_AT_ONCE, most=_MOST_AT_ONCE)


def _increment_one(context: Context, request: Increment) -> None:
    context.backend.metrics.increment(*request)


def _increment_all(context: Context, requests: Sequence[Increment], _: datetime) -> Sequence[None]:
    sums: Counter[str] = Counter()
    for name, by in requests:
        sums[name] += by
    context.backend.metrics.increment_many(sums)
    return [None] * len(requests)


def _observe_one(context: Context, request: int) -> None:
    context.backend.metrics.observe_latency(request)


def _observe_all(context: Context, requests: Sequence[int], _: datetime) -> Sequence[None]:
    context.backend.metrics.observe_latencies(len(requests), sum(requests), max(requests))
    return [None] * len(requests)


def nanoseconds(milliseconds: float) -> int:
    return round(check.number("milliseconds", milliseconds, most=_MOST_MILLISECONDS) * _NANOSECONDS)
