"""Noticing what other connections commit, in this process or another."""

from __future__ import annotations

import threading
import time

from ...errors import StorageError
from .connections import Connection
from .pool import SqlitePool

_INTERVAL = 0.02


class ChangeWatch:
    """Asks SQLite for its change counter, over one connection for all threads that wait."""

    def __init__(self, pool: SqlitePool) -> None:
        self._pool = pool
        self._connection: Connection | None = None
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._seen = threading.local()
        self._version: int | None = None
        self._changes = 0

    def wait(self, timeout: float) -> None:
        """Return when something changed since this thread's last `wait` did; at once the first time."""
        until = time.monotonic() + timeout
        while True:
            changes = self._count()
            if self._pool.closed or changes != getattr(self._seen, "changes", None):
                self._seen.changes = changes
                return
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _INTERVAL))

    def close(self) -> None:
        """To be called when the pool is closed."""
        with self._pool.use(), self._lock:
            self._disconnect()

    def before_fork(self) -> None:
        """To be called after the pool's."""
        if self._lock.acquire(blocking=False):
            self._disconnect()
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """To be called after the pool's."""
        if self._connection is not None:
            self._connection.leave_to_parent()
            self._connection = None
        self._start()

    def _count(self) -> int:
        with self._pool.use(), self._lock:
            if not self._pool.closed:
                self._look()
            return self._changes

    def _look(self) -> None:
        if self._connection is None:
            self._connection = self._pool.file.connect()
            self._version = None
        try:
            ((version,),) = self._connection.rows("PRAGMA data_version")
        except StorageError:
            self._disconnect()
            raise
        if version != self._version:
            self._version = version
            self._changes += 1

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
