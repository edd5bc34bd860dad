"""The optional members of a `JobStore` that count jobs up to a limit, and what stands in for them.

`JobStoreBase` has both, derived from `waiting` and `list`, which read whole jobs. An engine overrides them
for speed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice, pairwise
from typing import Protocol, cast

from ..records import Job, JobStatus, QueueDepth, TimelineCount
from ..transitions import WAITING
from .protocol import JobStore

DEAD_LETTERS = 10_000
"""How many dead letters `timeline` looks at: the newest ones, by id."""

DEPTH_GROUPS: tuple[tuple[JobStatus, ...], ...] = (
    (JobStatus.SCHEDULED, JobStatus.RETRYING),
    *((status,) for status in (JobStatus.PROCESSING, JobStatus.POSTED)),
    *((status,) for status in (JobStatus.DEAD_LETTER, JobStatus.CANCELLED)),
)
"""The statuses that `depths` counts together: up to the limit each."""

FIRST_OF_GROUP = {status: group[0] for group in DEPTH_GROUPS for status in group}
"""The status that stands for those that are counted together."""

Key = tuple[str, JobStatus]
"""Platform and status."""

_PAGE = 500
_TICK = timedelta(microseconds=1)


class CountingJobs(Protocol):
    """The optional members of a `JobStore`. They only read."""

    def depths(self, *, limit: int, now: datetime) -> Sequence[QueueDepth]:
        """Count the first `limit` jobs of each of DEPTH_GROUPS, by platform and status; in any order.

        The first waiting jobs are those by (due_at, id), the first posted ones are for the engine to choose,
        and others are by id. If there are more than `limit`, no row of that group is `exact`.
        """

    def timeline(self, edges: Sequence[datetime], *, limit: int) -> Sequence[TimelineCount]:
        """Count the jobs in each interval edges[i] <= time < edges[i + 1], by platform and status.

        The rows are in any order. The time of waiting jobs is due_at, of posted ones posted_at, and of dead
        letters dead_letter_at. Of each interval the first `limit` waiting jobs by (due_at, id) are counted,
        and `limit` posted ones for the engine to choose; if there are more, the rows of that interval and
        kind are not `exact`. Of dead letters, the last DEAD_LETTERS by id are looked at; if there are more,
        none of their rows is `exact`.
        """


def counting(jobs: JobStore) -> CountingJobs:
    """Return the store, or if it lacks the optional members, what derives them from the others."""
    has_both = hasattr(jobs, "depths") and hasattr(jobs, "timeline")
    return cast("CountingJobs", jobs) if has_both else DerivedCounts(jobs)


class DepthCounter:
    """Counts jobs for `depths`, by platform and status."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._count: Counter[Key] = Counter()
        self._due: Counter[Key] = Counter()
        self._oldest: dict[Key, datetime] = {}
        self._next: dict[Key, datetime] = {}
        self._expired: Counter[Key] = Counter()
        self._unknown: Counter[Key] = Counter()
        self._missed: Counter[Key] = Counter()

    def add(self, job: Job) -> None:
        """Count a job. Waiting jobs come by `due_at`."""
        key = job.platform, job.status
        self._count[key] += 1
        if job.status in WAITING:
            self._add_due(key, job.due_at)
        elif job.status is JobStatus.PROCESSING:
            self._expired[key] += job.lease_until is not None and job.lease_until <= self._now
        elif job.status is JobStatus.DEAD_LETTER:
            self._unknown[key] += job.outcome_unknown
            self._missed[key] += job.missed

    def add_waiting(self, platform: str, status: JobStatus, due_at: datetime) -> None:
        """Count a waiting job. They come by `due_at`."""
        self._count[platform, status] += 1
        self._add_due((platform, status), due_at)

    def add_other(self, platform: str, status: JobStatus) -> None:
        """Count a posted or cancelled job."""
        self._count[platform, status] += 1

    def _add_due(self, key: Key, due_at: datetime) -> None:
        if due_at <= self._now:
            self._due[key] += 1
            self._oldest.setdefault(key, due_at)
        else:
            self._next.setdefault(key, due_at)

    def rows(self, *, exact: bool) -> list[QueueDepth]:
        """What was counted."""
        return [
            QueueDepth(
                *key,
                count,
                exact,
                self._due[key],
                self._oldest.get(key),
                self._next.get(key),
                self._expired[key],
                self._unknown[key],
                self._missed[key],
            )
            for key, count in self._count.items()
        ]


class TimelineCounter:
    """Counts jobs of one kind for `timeline`, up to `limit` in each interval (None: all)."""

    def __init__(self, edges: Sequence[datetime], limit: int | None = None) -> None:
        self._edges = edges
        self._limit = limit
        self._count: Counter[tuple[int, str, JobStatus]] = Counter()
        self._total: Counter[int] = Counter()

    def add(self, at: datetime | None, platform: str, status: JobStatus) -> None:
        """Count a job of this time, if it is within an interval."""
        if at is None or not self._edges[0] <= at < self._edges[-1]:
            return
        place = bisect_right(self._edges, at) - 1
        self._total[place] += 1
        if self._limit is None or self._total[place] <= self._limit:
            self._count[place, platform, status] += 1

    def rows(self, *, exact: bool = True) -> list[TimelineCount]:
        """What was counted. None is exact if `exact` is False."""
        return [
            TimelineCount(
                self._edges[place],
                platform,
                status,
                count,
                exact and (self._limit is None or self._total[place] <= self._limit),
            )
            for (place, platform, status), count in self._count.items()
        ]


class DerivedCounts:
    """Counts by reading whole jobs."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs

    def depths(self, *, limit: int, now: datetime) -> Sequence[QueueDepth]:
        """From `waiting` and `list`."""
        found: list[QueueDepth] = []
        for status, *others in DEPTH_GROUPS:
            jobs = self._waiting() if others else self._of_status(status)
            counter = DepthCounter(now)
            for job in islice(jobs, limit):
                counter.add(job)
            found += counter.rows(exact=next(jobs, None) is None)
        return found

    def timeline(self, edges: Sequence[datetime], *, limit: int) -> Sequence[TimelineCount]:
        """From `waiting` and `list`. All posted jobs are read, and all dead letters."""
        waiting, posted = TimelineCounter(edges, limit), TimelineCounter(edges, limit)
        for start, end in pairwise(edges):
            for job in islice(self._waiting(start, end - _TICK), limit + 1):
                waiting.add(job.due_at, job.platform, job.status)
        for job in self._of_status(JobStatus.POSTED):
            posted.add(job.posted_at, job.platform, job.status)
        newest = deque(self._of_status(JobStatus.DEAD_LETTER), DEAD_LETTERS + 1)
        dead = TimelineCounter(edges)
        for job in islice(newest, len(newest) > DEAD_LETTERS, None):
            dead.add(job.dead_letter_at, job.platform, job.status)
        return [*waiting.rows(), *posted.rows(), *dead.rows(exact=len(newest) <= DEAD_LETTERS)]

    def _waiting(self, start: datetime | None = None, until: datetime | None = None) -> Iterator[Job]:
        after = None if start is None else (start, 0)
        while page := self._jobs.waiting(until=until, platforms=None, after=after, limit=_PAGE):
            yield from page
            after = page[-1].due_at, page[-1].id

    def _of_status(self, status: JobStatus) -> Iterator[Job]:
        after = 0
        while page := self._jobs.list(status=status, platform=None, after=after, limit=_PAGE):
            yield from page
            after = page[-1].id
