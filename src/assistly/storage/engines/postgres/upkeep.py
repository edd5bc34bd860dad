"""Vacuuming the table of jobs once many went through it: docs/decisions/0018."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg

from .connections import is_direct
from .conninfo import Target
from .dialect import quote

APPLICATION_NAME = "assistly upkeep"

# Entries that claims may walk past for what a vacuum costs. One takes 14 ns. A vacuum takes 10 ms of
# processor time and 70 ms more for each million rows, whose indexes it reads; nobody waits for it, so
# that of these every second one counts.
_WALK = 1_000_000
_WALK_PER_ROW = 3
_MOST_PATIENCE = 64
_GOODBYE = 1.0

_LOOK = """
SELECT n_dead_tup, vacuum_count + autovacuum_count, greatest(reltuples, 0)::bigint
FROM pg_stat_all_tables JOIN pg_class ON pg_class.oid = relid
WHERE relid = to_regclass(%s)
"""
_VACUUM = "VACUUM (SKIP_LOCKED, TRUNCATE OFF, PARALLEL 0) {table}"
# As gentle as autovacuum.
_GENTLY = "SET vacuum_cost_delay = '2ms'"


class _Look(NamedTuple):
    dead: int
    vacuums: int
    rows: int


class Upkeep:
    """A claim begins at the front of its index, and walks past the entries of all claimed before.

    Once the claims of this process have walked as far as a vacuum costs, a thread of its own looks
    whether somebody else has vacuumed meanwhile, and else does it. Where the role may not, the server
    skips it with a warning.
    """

    def __init__(self, target: Target, schema: str, *, prepare_threshold: int | None) -> None:
        self._target = target
        self._table = f"{quote(schema)}.assistly_queue_jobs"
        self._prepare_threshold = prepare_threshold
        self._claims = self._walked = 0
        self._rows = 0
        self._vacuums: int | None = None
        self._patience = 1
        self._thread: threading.Thread | None = None
        self._connection: psycopg.Connection[Any] | None = None
        self._closed = False

    @property
    def affordable(self) -> int:
        """How many entries may be walked past."""
        return self._patience * (_WALK + _WALK_PER_ROW * self._rows)

    def note_claimed(self, jobs: int) -> None:
        """Threads that count at once may lose some, or both begin: it does not matter."""
        self._walked += self._claims
        self._claims += jobs
        if self._walked >= self.affordable and not self._closed and not self._is_running():
            self._claims = self._walked = 0
            thread = threading.Thread(target=self._try, name="assistly-upkeep", daemon=True)
            # No more threads are to be had, or the interpreter is ending: the caller wants his jobs.
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def run(self) -> None:
        """Vacuum, unless others did. Where that was in vain, wait twice as long for the next time."""
        with psycopg.connect(
            self._target.text,
            autocommit=True,
            prepare_threshold=self._prepare_threshold,
            application_name=APPLICATION_NAME,
        ) as connection:
            self._connection = connection
            try:
                self._run(connection)
            finally:
                self._connection = None

    def _run(self, connection: psycopg.Connection[Any]) -> None:
        known = self._vacuums
        before = self._look(connection)
        if self._closed or known not in (None, before.vacuums):
            return
        if is_direct(connection):
            connection.execute(_GENTLY)
        connection.execute(_VACUUM.format(table=self._table).encode())
        after = self._look(connection)
        is_vain = after.dead >= before.dead > 0
        self._patience = min(2 * self._patience, _MOST_PATIENCE) if is_vain else 1

    def _look(self, connection: psycopg.Connection[Any]) -> _Look:
        row = connection.execute(_LOOK, [self._table]).fetchone()
        look = _Look(0, 0, 0) if row is None else _Look(*row)
        self._rows, self._vacuums = look.rows, look.vacuums
        return look

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
