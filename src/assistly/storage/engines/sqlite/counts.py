"""Counting the jobs of intervals on SQLite: a statement for each interval."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from math import gcd

from ...engine.counting import DEAD_LETTERS, FIRST_OF_GROUP
from ...records import JobStatus, TimelineCount
from ..sql.conditions import WAITING
from ..sql.counts import SqlCounts
from ..sql.store import to_microseconds
from .connections import Connection
from .database import SqliteDatabase
from .transactions import PinnedConnection

_TABLE = "assistly_queue_jobs"
_NEWEST_DEAD_LETTERS = f"FROM {_TABLE} WHERE status = 'dead_letter' ORDER BY id DESC"
_DEAD_LETTERS = f"""
    SELECT (dead_letter_at - :start) / :step, platform, count(*)
    FROM (SELECT dead_letter_at, platform {_NEWEST_DEAD_LETTERS} LIMIT {DEAD_LETTERS})
    WHERE dead_letter_at >= :start AND dead_letter_at < :end
    GROUP BY 1, 2
    UNION ALL
    SELECT 0, NULL, 0 FROM (SELECT 1 {_NEWEST_DEAD_LETTERS} LIMIT 1 OFFSET {DEAD_LETTERS})
"""


def _interval(limit: int) -> str:
    """Rows of platform, status and count; without a platform, if there are more than `limit`."""
    waiting = f"""
        FROM {_TABLE} WHERE {WAITING} AND due_at >= :start AND due_at < :end ORDER BY due_at, id
    """
    posted = f"""
        FROM {_TABLE} WHERE status = 'posted' AND posted_at >= :start AND posted_at < :end ORDER BY posted_at
    """
    return f"""
        SELECT platform, status, count(*) FROM (SELECT platform, status {waiting} LIMIT {limit:d})
        GROUP BY platform, status
        UNION ALL SELECT NULL, 'scheduled', 0 FROM (SELECT 1 {waiting} LIMIT 1 OFFSET {limit:d})
        UNION ALL SELECT platform, 'posted', count(*) FROM (SELECT platform {posted} LIMIT {limit:d})
        GROUP BY platform
        UNION ALL SELECT NULL, 'posted', 0 FROM (SELECT 1 {posted} LIMIT 1 OFFSET {limit:d})
    """


class SqliteCounts(SqlCounts):
    """The part of a `JobStore` that counts jobs up to a limit."""

    _database: SqliteDatabase | PinnedConnection

    def timeline(self, edges: Sequence[datetime], *, limit: int) -> Sequence[TimelineCount]:
        return self._database.read(lambda connection: _timeline(connection, edges, limit))


def _timeline(connection: Connection, edges: Sequence[datetime], limit: int) -> list[TimelineCount]:
    found: list[TimelineCount] = []
    statement = _interval(limit)
    times = [to_microseconds(edge) for edge in edges]
    for edge, (start, end) in zip(edges, pairwise(times), strict=False):
        rows = connection.rows(statement, {"start": start, "end": end})
        cut = {name for platform, name, _ in rows if platform is None}
        for platform, name, count in rows:
            if platform is not None:
                status = JobStatus(name)
                found.append(TimelineCount(edge, platform, status, count, FIRST_OF_GROUP[status] not in cut))
    return found + _dead_letters(connection, edges, times)


def _dead_letters(
    connection: Connection, edges: Sequence[datetime], times: Sequence[int]
) -> list[TimelineCount]:
    """Counted in steps, which are as long as they can be so that each is within one interval."""
    first, *others = times
    step = gcd(*(time - first for time in others))
    params = {"start": first, "end": times[-1], "step": step}
    counts: Counter[tuple[int, str]] = Counter()
    is_all = True
    for steps, platform, count in connection.rows(_DEAD_LETTERS, params):
        if platform is None:
            is_all = False
        else:
            counts[bisect_right(times, first + steps * step) - 1, platform] += count
    return [
        TimelineCount(edges[place], platform, JobStatus.DEAD_LETTER, count, is_all)
        for (place, platform), count in counts.items()
    ]
