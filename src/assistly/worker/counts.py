"""Counts the jobs of a worker by platform and outcome, and measures its publishers."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from datetime import timedelta
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING, Literal, get_args

from assistly.storage.records import record

if TYPE_CHECKING:
    from collections.abc import Iterable

Ending = Literal["posted", "failed", "dead", "unknown", "snoozed", "put back", "lost", "not stored"]

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""The upper bounds, in seconds, of the buckets for the durations of publishers."""


@record
class PublishDurations:
    """How long publishers took: for `count` jobs, `seconds` in total.

    `buckets` holds pairs of an upper bound in seconds and the number of durations up to it; the last bound is
    infinite.
    """

    count: int
    seconds: float
    buckets: list[tuple[float, int]]


@record
class JobsEnded:
    """How many jobs of a platform had one outcome. `durations` is None if its publisher was never called."""

    platform: str
    outcome: str
    count: int
    durations: PublishDurations | None


@record
class WorkerNumbers:
    """The metrics of a worker, over all its runs.

    `ended` has every outcome for each of its platforms, including those with 0 jobs. The outcomes are the
    keys of `Worker.counts`. `in_progress` counts the jobs that are claimed and not settled. `last_claim_age`
    is how long ago a claim last succeeded, or the storage last reported that nothing is due (None: not in
    this run).
    """

    worker_id: str
    concurrency: int
    in_progress: int
    ended: list[JobsEnded]
    last_claim_age: timedelta | None

    @property
    def claims_lost(self) -> int:
        """The number of jobs whose claim was lost before their outcome was stored."""
        return sum(one.count for one in self.ended if one.outcome == "lost")


class _Tally:
    """The jobs of one platform and one outcome."""

    __slots__ = ("buckets", "count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BOUNDS) + 1)

    def durations(self) -> PublishDurations | None:
        counted = [*accumulate(self.buckets)]
        if not counted[-1]:
            return None
        return PublishDurations(counted[-1], self.seconds, [*zip((*BOUNDS, inf), counted, strict=True)])


class JobCounts:
    """Thread-safe counters of jobs by platform and outcome."""

    def __init__(self, platforms: Iterable[str] = ()) -> None:
        self._tallies = {(name, ending): _Tally() for name in platforms for ending in get_args(Ending)}
        self._mutex = threading.Lock()

    def add(self, ending: Ending, platform: str, seconds: float | None = None) -> None:
        """Count one job, and the seconds that its publisher took; None if it was not called."""
        with self._mutex:
            tally = self._tallies.get((platform, ending))
            if tally is None:
                tally = self._tallies[platform, ending] = _Tally()
            tally.count += 1
            if seconds is not None:
                tally.seconds += seconds
                tally.buckets[bisect_left(BOUNDS, seconds)] += 1

    def read(self) -> dict[str, int]:
        """The number of jobs by outcome. Outcomes that did not occur are missing."""
        counter: Counter[str] = Counter()
        with self._mutex:
            for (_, ending), tally in self._tallies.items():
                counter[ending] += tally.count
        return {ending: count for ending, count in counter.items() if count}

    def ended(self) -> list[JobsEnded]:
        """A copy of the numbers, by platform and outcome."""
        with self._mutex:
            return [
                JobsEnded(platform, ending, tally.count, tally.durations())
                for (platform, ending), tally in self._tallies.items()
            ]
