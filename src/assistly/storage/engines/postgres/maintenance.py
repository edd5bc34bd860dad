"""Vacuums the table of jobs when dead rows slow claims down: docs/decisions/0022."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg

from ... import forks
from ...errors import StorageClosed
from .connections import raw_connection
from .conninfo import Target
from .errors import translate
from .limits import CANCEL_SECONDS, LONG_SECONDS, Limit, Limits

APPLICATION_NAME = "assistly maintenance"

# A claim walks past each index entry that died since the last vacuum, at 14 ns. A vacuum takes 10 ms of
# processor time, and 70 ms more for each million rows, whose indexes it reads.
_DEAD_ROWS = 2_000
_DEAD_SHARE = 0.01

_STATISTICS = """
SELECT n_dead_tup, greatest(reltuples, 0)
FROM pg_catalog.pg_stat_all_tables JOIN pg_catalog.pg_class ON pg_class.oid OPERATOR(pg_catalog.=) relid
WHERE relid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s)
"""
# Throttle the vacuum as autovacuum is. Nothing is set in a session that a pooler shares.
_THROTTLE = (
    "SELECT pg_catalog.set_config('vacuum_cost_delay', '2ms', FALSE) "
    "WHERE pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) %s"
)
# Does not wait for locks, does not truncate (which would block readers), uses no parallel workers.
_VACUUM = "VACUUM (SKIP_LOCKED, TRUNCATE OFF, PARALLEL 0) {table}"


def dead_rows_worth_a_vacuum(rows: float) -> float:
    """How many dead rows of a table of so many rows cost more than a vacuum."""
    return _DEAD_ROWS + _DEAD_SHARE * rows


class Maintenance:
    """Vacuums the table if it has at least 2,000 dead rows, plus 1 % of all rows.

    A claim starts at the front of its index, and walks past the dead entries of all jobs claimed before.
    The numbers are those of the server's statistics, since other processes claim, too. Each run opens a
    connection of its own.
    """

    def __init__(self, target: Target, table: str, limits: Limits) -> None:
        self._target = target
        self._table = table
        self._limits = limits
        self._unremovable = 0
        self._generation = 0
        self._limit: Limit | None = None
        self._is_closed = False

    def run(self) -> None:
        """Vacuum if enough rows are dead. If the role lacks the privilege, the server only warns."""
        if self._is_closed:
            raise StorageClosed("the storage is closed")
        connection = raw_connection(self._target, prepare_threshold=None, application_name=APPLICATION_NAME)
        self._generation = forks.generation()
        limit = self._limit = self._limits.of(connection)
        try:
            with closing(connection):
                limit.apply()
                limit.begin()
                if self._is_worth_it(connection):
                    self._vacuum(connection, limit)
        except psycopg.Error as error:
            if not self._is_closed:
                raise translate(error) from error
        finally:
            self._limit = None

    def close(self) -> None:
        """Cancel a vacuum in progress, unless it is one of the parent process."""
        self._is_closed = True
        limit = self._limit
        if limit is not None and self._generation == forks.generation():
            limit.cancel()
            limit.shorten(CANCEL_SECONDS)

    def _is_worth_it(self, connection: psycopg.Connection[Any]) -> bool:
        dead, rows = self._statistics(connection)
        # Rows that the last vacuum could not remove, because of an old transaction, do not count.
        self._unremovable = min(self._unremovable, dead)
        return dead - self._unremovable >= dead_rows_worth_a_vacuum(rows)

    def _vacuum(self, connection: psycopg.Connection[Any], limit: Limit) -> None:
        connection.execute(_THROTTLE, [connection.info.backend_pid])
        limit.begin(LONG_SECONDS)
        connection.execute(_VACUUM.format(table=self._table).encode())
        self._unremovable, _ = self._statistics(connection)

    def _statistics(self, connection: psycopg.Connection[Any]) -> tuple[int, float]:
        row = connection.execute(_STATISTICS, [self._table]).fetchone()
        return (0, 0.0) if row is None else (row[0], row[1])
