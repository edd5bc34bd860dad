"""The numbers of a storage in the text format of Prometheus. It needs the extra `prometheus`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

from .metrics import STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from .metrics import StorageMetrics

_SECOND_MS = 1000


def exposition(metrics: StorageMetrics) -> str:
    """Return the numbers in the text format."""
    registry = CollectorRegistry()
    registry.register(_Collected(metrics))
    return generate_latest(registry).decode()


class _Collected:
    """A collector of numbers that were read before."""

    def __init__(self, metrics: StorageMetrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[Metric]:
        """Nothing: the registry shall not collect to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        yield from self._queue()
        yield from self._application()

    def _queue(self) -> Iterator[Metric]:
        found = self._metrics
        jobs = GaugeMetricFamily(
            "assistly_jobs",
            "Jobs that are not posted or cancelled. Counting ends at 10,000 of a status.",
            labels=("status", "platform"),
        )
        cut = dict.fromkeys(STATUSES, False)
        for depth in found.jobs:
            jobs.add_metric((depth.status, depth.platform), depth.count.count)
            cut[depth.status] |= not depth.count.exact
        yield jobs
        truncated = GaugeMetricFamily(
            "assistly_jobs_truncated",
            "1 if there are more jobs of this status than assistly_jobs counts.",
            labels=("status",),
        )
        for status, is_cut in cut.items():
            truncated.add_metric((status,), is_cut)
        yield truncated
        due = GaugeMetricFamily(
            "assistly_jobs_due", "Jobs whose time has come, also of paused platforms.", labels=("platform",)
        )
        for waiting in found.due:
            due.add_metric((waiting.platform,), waiting.count.count)
        yield due
        age = found.oldest_due_age
        yield GaugeMetricFamily(
            "assistly_oldest_due_age_seconds",
            "For how long the first due job has waited, without paused platforms; 0 if none is due.",
            value=0 if age is None else age.total_seconds(),
        )
        yield GaugeMetricFamily(
            "assistly_unknown_outcomes",
            "Dead letters that may have been published or not, of the first 10,000: a person has to look.",
            value=found.unknown_outcomes.count,
        )

    def _application(self) -> Iterator[Metric]:
        found = self._metrics
        counters = CounterMetricFamily(
            "assistly_counter", "The counters of the application, by name.", labels=("name",)
        )
        for name, value in found.counters.items():
            counters.add_metric((name,), value)
        yield counters
        latency = found.latency
        yield SummaryMetricFamily(
            "assistly_request_duration_seconds",
            "How long the observed requests took.",
            count_value=latency.count,
            sum_value=latency.total_ms / _SECOND_MS,
        )
        yield GaugeMetricFamily(
            "assistly_request_duration_max_seconds",
            "How long the longest of them took.",
            value=latency.max_ms / _SECOND_MS,
        )
