"""Counting jobs: all of them, or up to a limit."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise

from .. import validation as check
from ..engine.counting import counting
from ..errors import InvalidValue
from ..records import JobStatus, QueueDepth, TimelineCount
from .context import Context

MOST_COUNTED = 10_000
MOST_EDGES = 400


class QueueCounts:
    """The part of `storage.queue` that counts jobs."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def counts(self, *, posted: bool = True) -> dict[JobStatus, int]:
        """Return how many jobs are in each status, including 0.

        The time grows with the number of jobs; `depths` stops at a limit. With `posted=False` (default:
        True), posted jobs are not counted, and are missing in the result.
        """
        check.flag("posted", posted)
        found = self._context.backend.jobs.counts(posted=posted)
        return {
            status: found.get(status, 0) for status in JobStatus if posted or status is not JobStatus.POSTED
        }

    def depths(self, *, limit: int = MOST_COUNTED, now: datetime | None = None) -> builtins.list[QueueDepth]:
        """Return how many jobs each platform has in each status, by platform and status, without zeros.

        Only the first `limit` jobs (1 to 10,000; default: 10,000) of each status are counted, over all
        platforms; if there are more, no row of that status is `exact`. Scheduled and retrying jobs share the
        limit, by (due_at, id). Processing jobs, dead letters and cancelled jobs are counted by id. The engine
        chooses which posted jobs: SQLite, Postgres and memory count the newest. `now` determines which jobs
        are due.
        """
        check.whole("limit", limit, least=1, most=MOST_COUNTED)
        backend = self._context.backend
        found = counting(backend.jobs).depths(limit=limit, now=self._context.now(now, backend))
        return sorted(found, key=lambda depth: (depth.platform, depth.status))

    def timeline(self, edges: Iterable[datetime], *, limit: int = 1000) -> builtins.list[TimelineCount]:
        """Return how many jobs there are in each interval, by platform and status, without zeros.

        `edges` are 2 to 400 increasing times; an interval starts at each except the last, and ends before the
        next one. It counts waiting jobs by `due_at`, posted ones by `posted_at`, and dead letters, among the
        newest 10,000 by id, by `dead_letter_at`. For each interval, up to `limit` (1 to 10,000) waiting and
        as many posted jobs are counted. Incomplete counts are not `exact`. The rows are ordered by start,
        platform and status.
        """
        times = _checked_edges(edges)
        check.whole("limit", limit, least=1, most=MOST_COUNTED)
        found = counting(self._context.backend.jobs).timeline(times, limit=limit)
        return sorted(found, key=lambda count: (count.start, count.platform, count.status))


def _checked_edges(edges: Iterable[datetime]) -> builtins.list[datetime]:
    times = [check.utc("edges", edge) for edge in check.items("edges", edges, "times")]
    if not 2 <= len(times) <= MOST_EDGES:
        raise InvalidValue(f"edges must be 2 to {MOST_EDGES} times, not {len(times)}")
    for one, other in pairwise(times):
        if one >= other:
            raise InvalidValue(f"edges must increase, but {other.isoformat()} follows {one.isoformat()}")
    return times
