"""Counting the jobs of intervals on Postgres: one statement, in which an index serves each interval."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ...engine.counting import DEAD_LETTERS, FIRST_OF_GROUP
from ...records import JobStatus, TimelineCount
from ..sql.conditions import WAITING
from ..sql.counts import SqlCounts
from .dialect import PostgresDialect


class TimelineStatements:
    """The statement that counts the jobs of intervals."""

    def __init__(self, d: PostgresDialect) -> None:
        self._table = f"{d.t}queue_jobs"

    def timeline(self, limit: int) -> str:
        """Rows of time, platform, status and count; without a platform, if there are more than `limit`.

        For dead letters beyond DEAD_LETTERS, the row has neither a time nor a platform.
        """
        waiting = f"FROM {self._table} WHERE {WAITING} AND {self._within('due_at')} ORDER BY due_at, id"
        posted = f"""
            FROM {self._table} WHERE status = 'posted' AND {self._within("posted_at")} ORDER BY posted_at
        """
        newest = f"FROM {self._table} WHERE status = 'dead_letter' ORDER BY id DESC"
        spans = """
            FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[])
                AS span (start, finish)
            CROSS JOIN LATERAL
        """
        return f"""
            SELECT span.start, platform, status, pg_catalog.count(*)
            {spans} (SELECT platform, status {waiting} LIMIT {limit:d}) AS counted
            GROUP BY span.start, platform, status
            UNION ALL
            SELECT span.start, NULL, 'scheduled', 0
            {spans} (SELECT 1 {waiting} LIMIT 1 OFFSET {limit:d}) AS beyond
            UNION ALL
            SELECT span.start, platform, 'posted', pg_catalog.count(*)
            {spans} (SELECT platform {posted} LIMIT {limit:d}) AS counted
            GROUP BY span.start, platform
            UNION ALL
            SELECT span.start, NULL, 'posted', 0
            {spans} (SELECT 1 {posted} LIMIT 1 OFFSET {limit:d}) AS beyond
            UNION ALL
            SELECT (%(starts)s::timestamptz[])[place], platform, 'dead_letter', pg_catalog.count(*)
            FROM (
                SELECT platform, pg_catalog.width_bucket(dead_letter_at, %(edges)s::timestamptz[]) AS place
                {newest} LIMIT {DEAD_LETTERS}
            ) AS counted
            WHERE place BETWEEN 1 AND pg_catalog.cardinality(%(starts)s::timestamptz[])
            GROUP BY place, platform
            UNION ALL
            SELECT NULL, NULL, 'dead_letter', 0
            FROM (SELECT 1 {newest} LIMIT 1 OFFSET {DEAD_LETTERS}) AS beyond
        """

    @staticmethod
    def _within(column: str) -> str:
        return f"{column} >= span.start AND {column} < span.finish"


class PostgresCounts(SqlCounts):
    """The part of a `JobStore` that counts jobs up to a limit."""

    def timeline(self, edges: Sequence[datetime], *, limit: int) -> Sequence[TimelineCount]:
        statement = self._dialect.statements(TimelineStatements).timeline(limit)
        params = {"starts": [*edges[:-1]], "ends": [*edges[1:]], "edges": [*edges]}
        rows = self._database.select(statement, params)
        cut = {(start, status) for start, platform, status, _ in rows if platform is None}
        found: list[TimelineCount] = []
        for start, platform, name, count in rows:
            if platform is not None:
                status = JobStatus(name)
                is_cut = (start, FIRST_OF_GROUP[status]) in cut or (None, status) in cut
                found.append(TimelineCount(start, platform, status, count, not is_cut))
        return found
