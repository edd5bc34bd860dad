"""The metrics of a storage and of a process in the formats of Prometheus. Needs the extra `prometheus`."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder

from .metrics import STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from prometheus_client import Metric

    from assistly.storage import PoolConnections
    from assistly.worker import PublishDurations, WorkerNumbers

    from .metrics import StorageMetrics
    from .process import ProcessMetrics

_SECOND_MS = 1000


def exposition(metrics: StorageMetrics) -> str:
    """Return the metrics of a storage in the text format."""
    registry = CollectorRegistry()
    registry.register(_OfStorage(metrics))
    return generate_latest(registry).decode()


def scrape(
    process: ProcessMetrics, metrics: StorageMetrics | None, *, now: datetime, accept: str
) -> tuple[bytes, str]:
    """Return the metrics in the format that the Accept header requests, and its media type.

    `metrics` is None if the storage did not answer. `now` is the time of this machine.
    """
    registry = CollectorRegistry()
    registry.register(_OfProcess(process, now, is_up=metrics is not None))
    if metrics is not None:
        registry.register(_OfStorage(metrics))
    ProcessCollector(registry=registry)
    try:
        encode, media_type = choose_encoder(accept)
    except (TypeError, ValueError):  # prometheus_client fails on a version that is not a number
        encode, media_type = choose_encoder("")
    return encode(registry), media_type


class _Collected:
    """A collector of metrics that are already read."""

    def describe(self) -> list[Metric]:
        """Return nothing, so that the registry does not collect to learn the names."""
        return []


class _OfProcess(_Collected):
    def __init__(self, metrics: ProcessMetrics, now: datetime, *, is_up: bool) -> None:
        self._metrics = metrics
        self._now = now
        self._is_up = is_up

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        found = self._metrics
        yield InfoMetricFamily(
            "assistly_build",
            "The version of this package, and the engine of the storage.",
            value={"version": found.version, "engine": found.engine},
        )
        yield GaugeMetricFamily(
            "assistly_up",
            "1 if the storage answered in time; if 0, only the metrics of the process are present.",
            self._is_up,
        )
        if found.connections is not None:
            yield from self._pool(found.connections)
        if found.worker is not None:
            yield from self._worker(found.worker)

    @staticmethod
    def _pool(found: PoolConnections) -> Iterator[Metric]:
        pool = GaugeMetricFamily(
            "assistly_pool_connections", "The open connections of the pool, by state.", labels=("state",)
        )
        pool.add_metric(("in_use",), found.in_use)
        pool.add_metric(("idle",), found.open - found.in_use)
        yield pool
        if found.most is not None:
            yield GaugeMetricFamily(
                "assistly_pool_connections_max", "The maximum number of connections of the pool.", found.most
            )

    def _worker(self, found: WorkerNumbers) -> Iterator[Metric]:
        jobs = CounterMetricFamily(
            "assistly_worker_jobs",
            "Jobs that this worker has finished, by outcome.",
            labels=("platform", "outcome"),
        )
        durations = HistogramMetricFamily(
            "assistly_publish_duration_seconds",
            "The duration of publishing, by the outcome of the job.",
            labels=("platform", "outcome"),
        )
        for one in found.ended:
            labels = (one.platform, one.outcome.replace(" ", "_"))
            jobs.add_metric(labels, one.count)
            if one.durations is not None:
                durations.add_metric(labels, _buckets(one.durations), one.durations.seconds)
        yield jobs
        yield durations
        yield CounterMetricFamily(
            "assistly_worker_claims_lost",
            "Jobs of this worker whose claim was lost before their outcome was stored.",
            found.claims_lost,
        )
        yield GaugeMetricFamily(
            "assistly_worker_jobs_in_progress",
            "Jobs that are claimed and not settled yet.",
            found.in_progress,
        )
        yield GaugeMetricFamily(
            "assistly_worker_concurrency",
            "The maximum number of jobs that the worker publishes at once.",
            found.concurrency,
        )
        if found.last_claim_age is not None:
            yield GaugeMetricFamily(
                "assistly_worker_last_claim_timestamp_seconds",
                "When a claim last succeeded, or the storage last reported that nothing is due.",
                (self._now - found.last_claim_age).timestamp(),
            )


def _buckets(durations: PublishDurations) -> list[tuple[str, int]]:
    return [("+Inf" if bound == inf else str(bound), count) for bound, count in durations.buckets]


class _OfStorage(_Collected):
    def __init__(self, metrics: StorageMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        yield from self._queue()
        yield from self._application()

    def _queue(self) -> Iterator[Metric]:
        found = self._metrics
        jobs = GaugeMetricFamily(
            "assistly_jobs",
            "Jobs that are not posted or cancelled. Counting stops at 10,000 waiting jobs (scheduled and "
            "retrying together), and at 10,000 of each other status.",
            labels=("status", "platform"),
        )
        cut = dict.fromkeys(STATUSES, False)
        for depth in found.jobs:
            jobs.add_metric((depth.status, depth.platform), depth.count.count)
            cut[depth.status] |= not depth.count.exact
        yield jobs
        truncated = GaugeMetricFamily(
            "assistly_jobs_truncated",
            "1 if there are more jobs of this status than assistly_jobs counts: platforms may be missing; "
            "scheduled and retrying jobs are counted together.",
            labels=("status",),
        )
        for status, is_cut in cut.items():
            truncated.add_metric((status,), is_cut)
        yield truncated
        due = GaugeMetricFamily(
            "assistly_jobs_due",
            "Jobs that are due, including those of paused platforms.",
            labels=("platform",),
        )
        for waiting in found.due:
            due.add_metric((waiting.platform,), waiting.count.count)
        yield due
        age = found.oldest_due_age
        yield GaugeMetricFamily(
            "assistly_oldest_due_age_seconds",
            "How long the first due job has waited, not counting paused platforms; 0 if none is due.",
            value=0 if age is None else age.total_seconds(),
        )
        yield GaugeMetricFamily(
            "assistly_unknown_outcomes",
            "Dead letters with an unknown outcome, among the first 10,000: a person has to resolve them.",
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
            "The duration of the observed requests.",
            count_value=latency.count,
            sum_value=latency.total_ms / _SECOND_MS,
        )
        yield GaugeMetricFamily(
            "assistly_request_duration_max_seconds",
            "The longest duration of an observed request.",
            value=latency.max_ms / _SECOND_MS,
        )
