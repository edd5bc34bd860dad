"""Counters and the latency of requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from .. import validation as check
from ..batching import BatchedCall
from ..records import Metrics
from .context import Context

_MOST_AT_ONCE = 2**53 - 1
_MOST_MILLISECONDS = 1e12
_NANOSECONDS_PER_MILLISECOND = 1_000_000

Increment = tuple[str, int]
"""The name of a counter, and the number to add."""


class MetricsStore:
    """`storage.metrics`: counters, and the latency of requests. Exact under concurrency."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._incrementing = BatchedCall(context, _increment_single, _increment_batch)
        self._observing = BatchedCall(context, _observe_single, _observe_batch)

    def increment(self, name: str, by: int = 1) -> None:
        """Add `by` to a counter, which starts at 0. A negative number subtracts.

        `name` has 1 to 512 bytes of UTF-8; `by` is a whole number between -2**53 and 2**53. Raises
        InvalidValue for anything else.
        """
        self._incrementing.call(increment(name, by))

    def observe_latency(self, milliseconds: float) -> None:
        """Count one request that took this many milliseconds, a number from 0 to 1e12.

        Sums are kept in whole nanoseconds, so they do not depend on the order. Raises InvalidValue for any
        other value.
        """
        self._observing.call(nanoseconds(milliseconds))

    def read(self) -> Metrics:
        """Return all counters by name, and the latency of all observed requests."""
        return self._context.backend.metrics.read()


def increment(name: str, by: int) -> Increment:
    """Validate the arguments of `increment`."""
    return check.name("name", name), check.whole("by", by, least=-_MOST_AT_ONCE, most=_MOST_AT_ONCE)


def nanoseconds(milliseconds: float) -> int:
    """Validate the argument of `observe_latency`, and return it in nanoseconds."""
    checked = check.number("milliseconds", milliseconds, most=_MOST_MILLISECONDS)
    return round(checked * _NANOSECONDS_PER_MILLISECOND)


def _increment_single(context: Context, request: Increment) -> None:
    context.backend.metrics.increment(*request)


def _increment_batch(context: Context, requests: Sequence[Increment], _: datetime) -> Sequence[None]:
    sums: Counter[str] = Counter()
    for name, by in requests:
        sums[name] += by
    context.backend.metrics.increment_many(sums)
    return [None] * len(requests)


def _observe_single(context: Context, request: int) -> None:
    context.backend.metrics.observe_latency(request)


def _observe_batch(context: Context, requests: Sequence[int], _: datetime) -> Sequence[None]:
    context.backend.metrics.observe_latencies(len(requests), sum(requests), max(requests))
    return [None] * len(requests)
