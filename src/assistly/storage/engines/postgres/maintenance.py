"""Vacuuming the table of jobs once that is worth it: docs/decisions/0022."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Any

import psycopg

from ... import forks
from ...errors import StorageClosed
from .connections import raw_connection
from .conninfo import Target
from .errors import translate

APPLICATION_NAME = "assistly maintenance"

# A claim walks past each entry that is dead since the last vacuum, at 14 ns. A vacuum takes 10 ms of
# processor time, and 70 ms more for each million rows, whose indexes it reads.
_DEAD = 2_000
_DEAD_PER_ROW = 0.01
_CANCEL_SECONDS = 1.0

_STATISTICS = """
SELECT n_dead_tup, greatest(reltuples, 0)
FROM pg_catalog.pg_stat_all_tables JOIN pg_catalog.pg_class ON pg_class.oid = relid
WHERE relid = pg_catalog.to_regclass(%s)
"""
# As gentle as autovacuum; not in a session that a pooler lends to others.
_GENTLY = (
    "SELECT pg_catalog.set_config('vacuum_cost_delay', '2ms', FALSE) WHERE pg_catalog.pg_backend_pid() = %s"
)
# Waits for nobody; does not truncate, which would lock readers out; without parallel workers.
_VACUUM = "VACUUM (SKIP_LOCKED, TRUNCATE OFF, PARALLEL 0) {table}"


class Maintenance:
    """Claims begin at the front of their index, and walk past the entries of all jobs claimed before.

    Whether a vacuum is worth it is decided by what the server counts: the processes that claim and the
    one that maintains may not be the same. It has a connection of its own, for as long as it takes.
    """

    def __init__(self, target: Target, table: str) -> None:
        self._target = target
        self._table = table
        self._kept = 0
        self._generation = 0
        self._connection: psycopg.Connection[Any] | None = None
        self._is_closed = False

    def run(self) -> None:
        """Vacuum if enough rows are dead. Where the role may not, the server skips it with a warning."""
        if self._is_closed:
            raise StorageClosed("the storage is closed")
        connection = raw_connection(self._target, prepare_threshold=None, application_name=APPLICATION_NAME)
        self._generation = forks.generation()
        try:
            with closing(connection) as self._connection:
                if self._is_worth_it(self._connection):
                    self._vacuum(self._connection)
        except psycopg.Error as error:
            if not self._is_closed:
                raise translate(error) from error
        finally:
            self._connection = None

    def close(self) -> None:
        """Cancel a vacuum under way, but for one of a parent's process."""
        self._is_closed = True
        connection = self._connection
        if connection is not None and self._generation == forks.generation():
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=_CANCEL_SECONDS)

    def _is_worth_it(self, connection: psycopg.Connection[Any]) -> bool:
        dead, rows = self._statistics(connection)
        # What an old transaction has kept from being vacuumed last time is no reason to try again.
        self._kept = min(self._kept, dead)
        return dead - self._kept >= _DEAD + _DEAD_PER_ROW * rows

    def _vacuum(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(_GENTLY, [connection.info.backend_pid])
        connection.execute(_VACUUM.format(table=self._table).encode())
        self._kept, _ = self._statistics(connection)

    def _statistics(self, connection: psycopg.Connection[Any]) -> tuple[int, float]:
        row = connection.execute(_STATISTICS, [self._table]).fetchone()
        return (0, 0.0) if row is None else (row[0], row[1])
