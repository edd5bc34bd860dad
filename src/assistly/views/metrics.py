"""Metrics for machines: the jobs of the queue by status and platform, and the counters and latency."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from assistly.storage.records import JobStatus

from .status import JobCount, read_depths

if TYPE_CHECKING:
    from assistly.storage import Latency, Storage

STATUSES = ("scheduled", "retrying", "processing", "dead_letter")
"""The statuses of unfinished jobs: those that wait, are held by workers, or need a person."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How many jobs of a platform have a status. If `count` is not exact, there are at least that many."""

    platform: str
    status: str
    count: JobCount


@dataclass(frozen=True, slots=True)
class DueJobs:
    """How many jobs of a platform are due, whether it is paused or not."""

    platform: str
    count: JobCount


@dataclass(frozen=True, slots=True)
class StorageMetrics:
    """The metrics of a storage at `at`.

    `jobs` has each status of STATUSES for each platform that has such jobs. Posted and cancelled jobs are not
    counted, because they accumulate. If `waiting_truncated`, there are more waiting jobs than the 10,000 that
    were counted (scheduled and retrying together): platforms may be missing. `oldest_due_age` is how long the
    first due job on a platform that is not paused has waited (None: none is due). `counters` and `latency`
    are those of `storage.metrics`.
    """

    at: datetime
    jobs: list[Depth]
    waiting_truncated: bool
    due: list[DueJobs]
    oldest_due_age: timedelta | None
    unknown_outcomes: JobCount
    counters: dict[str, int]
    latency: Latency


def collect(storage: Storage, *, now: datetime | None = None) -> StorageMetrics:
    """Read the metrics of a storage. `now` is the current time (default: that of this machine)."""
    at = now or datetime.now(UTC)
    depths = read_depths(storage, at)
    names = sorted({row.platform for row in depths.rows if row.status in STATUSES})
    paused = {platform.name for platform in storage.platforms.list(now=at) if platform.paused}
    found = storage.metrics.read()
    return StorageMetrics(
        at=at,
        jobs=[
            Depth(name, status, depths.count(name, JobStatus(status)))
            for name in names
            for status in STATUSES
        ],
        waiting_truncated=depths.waiting_truncated,
        due=[DueJobs(name, depths.due(name)) for name in names],
        oldest_due_age=depths.oldest_due_age(paused),
        unknown_outcomes=depths.unknown_count(),
        counters=dict(sorted(found.counters.items())),
        latency=found.latency,
    )
