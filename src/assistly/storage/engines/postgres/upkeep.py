"""Vacuuming the table of jobs once many went through it: docs/decisions/0018."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import psycopg

from .connections import is_direct
from .conninfo import Target
from .dialect import quote

APPLICATION_NAME = "assistly upkeep"

_CLAIMS = 10_000
"""Claims after which this process looks, and dead rows from which on it vacuums."""
_SHARE = 0.02
"""Of a large table so many rows have to be dead: each vacuum reads all of its indexes."""
_RAREST = 64
_GOODBYE = 1.0

_DEAD = """
SELECT n_dead_tup, greatest(reltuples, 0)
FROM pg_stat_all_tables JOIN pg_class ON pg_class.oid = relid
WHERE relid = to_regclass(%s)
"""
# The index is what matters, and by default it is left as it is while few pages of the table have changed.
_VACUUM = "VACUUM (SKIP_LOCKED, INDEX_CLEANUP ON, TRUNCATE OFF, PARALLEL 0) {table}"
# As gentle as autovacuum.
_GENTLY = "SET vacuum_cost_delay = '2ms'"


class Upkeep:
    """A claim begins at the front of its index, and walks past the entries of all claimed before.

    So after every so many claims of this process a thread of its own looks whether a vacuum is due, and
    does it. Other processes find it done. Where the role may not, the server skips it with a warning.
    """

    def __init__(self, target: Target, schema: str, *, prepare_threshold: int | None) -> None:
        self._target = target
        self._table = f"{quote(schema)}.assistly_queue_jobs"
        self._prepare_threshold = prepare_threshold
        self._every = _CLAIMS
        self._claims = 0
        self._thread: threading.Thread | None = None
        self._connection: psycopg.Connection[Any] | None = None
        self._closed = False

    def claimed(self, jobs: int) -> None:
        """Threads that count at once may lose some, or both begin: it does not matter."""
        self._claims += jobs
        if self._claims >= self._every and not self._closed and not self._is_running():
            self._claims = 0
            self._thread = threading.Thread(target=self._try, name="assistly-upkeep", daemon=True)
            self._thread.start()

    def run(self) -> None:
        """Vacuum, if it is worth it. Where that was in vain, wait for twice as many claims."""
        with psycopg.connect(
            self._target.text,
            autocommit=True,
            prepare_threshold=self._prepare_threshold,
            application_name=APPLICATION_NAME,
        ) as connection:
            self._connection = connection
            try:
                if not self._is_worth_it(connection) or self._closed:
                    return
                if is_direct(connection):
                    connection.execute(_GENTLY)
                connection.execute(_VACUUM.format(table=self._table).encode())
                vain = self._is_worth_it(connection)
                self._every = min(2 * self._every, _RAREST * _CLAIMS) if vain else _CLAIMS
            finally:
                self._connection = None

    def close(self) -> None:
        self._closed = True
        thread = self._thread
        # In a forked child the thread is not there, and the connection is the parent's.
        if thread is None or not self._is_running():
            return
        connection = self._connection
        if connection is not None:
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=_GOODBYE)
        if thread is not threading.current_thread():
            thread.join(_GOODBYE)

    def _try(self) -> None:
        # What fails here is left to autovacuum.
        with suppress(psycopg.Error):
            self.run()

    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _is_worth_it(self, connection: psycopg.Connection[Any]) -> bool:
        row = connection.execute(_DEAD, [self._table]).fetchone()
        return row is not None and row[0] >= max(_CLAIMS, _SHARE * row[1])
