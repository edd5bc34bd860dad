"""Counters and the latency of requests."""

from __future__ import annotations

from .. import validation as check
from ..records import Metrics
from .context import Context

_MOST_AT_ONCE = 2**53 - 1
_MOST_MILLISECONDS = 1e12
_NANOSECONDS = 1_000_000


class MetricsStore:
    def __init__(self, context: Context) -> None:
        self._context = context

    def increment(self, name: str, by: int = 1) -> None:
        check.name("name", name)
        check.whole("by", by, least=-_MOST_AT_ONCE, most=_MOST_AT_ONCE)
        self._context.backend.metrics.increment(name, by)

    def observe_latency(self, milliseconds: float) -> None:
        """Count one request that took this long. Sums are kept in whole nanoseconds, so they are exact."""
        check.number("milliseconds", milliseconds, most=_MOST_MILLISECONDS)
        self._context.backend.metrics.observe_latency(round(milliseconds * _NANOSECONDS))

    def read(self) -> Metrics:
        return self._context.backend.metrics.read()
