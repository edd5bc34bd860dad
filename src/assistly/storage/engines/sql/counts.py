"""Counting jobs up to a limit: one statement, which reads no contents."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ...engine.counting import FIRST_OF_GROUP
from ...records import JobStatus, QueueDepth
from .conditions import WAITING, is_missed
from .dialect import Dialect
from .store import SqlStore

MOST_INDEXED = 50_000
"""Of how many jobs that are held or may be late `depths` looks for those that are processing.

They are looked at by when the lease or the time to be late ends, so leases, which are short, come first.
"""

_NO_TIMES = "NULL, NULL"


class CountStatements:
    """The statements that count jobs."""

    def __init__(self, d: Dialect) -> None:
        self._d = d
        self._table = f"{d.t}queue_jobs"

    def depths(self, limit: int) -> str:
        """Rows of platform, status and numbers; without a platform, if the status has more than `limit`."""
        d = self._d
        now = d.p.now
        due = f"""
            {self._count(f"due_at <= {now}")},
            {d.f}min(due_at) FILTER (WHERE due_at <= {now}), {d.f}min(due_at) FILTER (WHERE due_at > {now}),
            0, 0, 0
        """
        expired = f"0, {_NO_TIMES}, {self._count(f'lease_until <= {now}')}, 0, 0"
        dead = f"""
            0, {_NO_TIMES}, 0, {self._count("publish_started_at IS NOT NULL")}, {self._count(is_missed(d))}
        """
        others = f"0, {_NO_TIMES}, 0, 0, 0"
        reasons = "publish_started_at, dead_letter_reason, last_error"
        # The first one has times in the columns that are NULL in the others, which so get this type.
        groups = " UNION ALL ".join(
            [
                self._group("scheduled", WAITING, "status, due_at", "due_at, id", due, limit),
                self._processing(expired, limit),
                self._group("dead_letter", "status = 'dead_letter'", reasons, "id", dead, limit),
                self._group("cancelled", "status = 'cancelled'", "id", "id", others, limit),
                self._group("posted", "status = 'posted'", "id", "posted_at DESC", others, limit),
            ]
        )
        return f"""
            WITH indexed AS MATERIALIZED (
                SELECT id, status FROM {self._table} WHERE attention_at IS NOT NULL
                ORDER BY attention_at LIMIT {MOST_INDEXED + 1}
            )
            {groups}
        """

    def _processing(self, numbers: str, limit: int) -> str:
        """Processing jobs share their index with the waiting jobs that may be late, which may be many."""
        d = self._d
        held = "FROM indexed WHERE status = 'processing' ORDER BY id"
        return f"""
            SELECT platform, 'processing', {d.f}count(*), {numbers}
            FROM {self._table} WHERE id {d.among(f"SELECT id {held} LIMIT {limit:d}")}
            GROUP BY platform
            UNION ALL
            SELECT NULL, 'processing', 0, 0, {_NO_TIMES}, 0, 0, 0
            FROM (SELECT 1 {held} LIMIT 1 OFFSET {limit:d}) AS beyond
            UNION ALL
            SELECT NULL, 'processing', 0, 0, {_NO_TIMES}, 0, 0, 0
            FROM (SELECT 1 FROM indexed LIMIT 1 OFFSET {MOST_INDEXED}) AS beyond
        """

    def _group(self, first: str, condition: str, columns: str, order: str, numbers: str, limit: int) -> str:
        """Jobs of one status, or of waiting ones, of which `first` is one."""
        d = self._d
        jobs = f"FROM {self._table} WHERE {condition} ORDER BY {order}"
        # On SQLite, grouping by a second column takes half as long again.
        status, key = ("status", "platform, status") if condition == WAITING else (f"'{first}'", "platform")
        return f"""
            SELECT platform, {status}, {d.f}count(*), {numbers}
            FROM (SELECT platform, {columns} {jobs} LIMIT {limit:d}) AS counted
            GROUP BY {key}
            UNION ALL
            SELECT NULL, '{first}', 0, 0, {_NO_TIMES}, 0, 0, 0
            FROM (SELECT 1 {jobs} LIMIT 1 OFFSET {limit:d}) AS beyond
        """

    def _count(self, condition: str) -> str:
        return f"{self._d.f}count(*) FILTER (WHERE {condition})"


class SqlCounts(SqlStore):
    """The part of a `JobStore` that counts jobs up to a limit."""

    def depths(self, *, limit: int, now: datetime) -> Sequence[QueueDepth]:
        statement = self._dialect.statements(CountStatements).depths(limit)
        rows = self._database.select(statement, {"now": self._bind(now)})
        cut = {row[1] for row in rows if row[0] is None}
        return [
            QueueDepth(
                platform,
                (known := JobStatus(status)),
                count,
                FIRST_OF_GROUP[known] not in cut,
                due,
                self._optional_time(oldest_due_at),
                self._optional_time(next_due_at),
                *numbers,
            )
            for platform, status, count, due, oldest_due_at, next_due_at, *numbers in rows
            if platform is not None
        ]
