"""Notices commits of other connections, in this process or another."""

from __future__ import annotations

import threading
import time

from ...errors import StorageError
from .connections import Connection
from .pool import SqlitePool

_POLL_SECONDS = 0.02


class ChangeWatch:
    """Polls SQLite's change counter (PRAGMA data_version) on one connection, for all waiting threads."""

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
        """Return when the file has changed since the last `wait` of this thread, or after `timeout` seconds.

        The first call of a thread returns at once.
        """
        until = time.monotonic() + timeout
        while True:
            changes = self._count()
            if self._pool.closed or changes != getattr(self._seen, "changes", None):
                self._seen.changes = changes
                return
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _POLL_SECONDS))

    def close(self) -> None:
        """Close the connection. Call it after the pool's `close`."""
        with self._pool.use(), self._lock:
            self._disconnect()

    def before_fork(self) -> None:
        """Close the connection. Call it after the pool's `before_fork`."""
        if self._lock.acquire(blocking=False):
            self._disconnect()
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Start without a connection. Call it after the pool's `after_fork_in_child`."""
        if self._connection is not None:
            self._connection.leave_to_parent()
            self._connection = None
        self._start()

    def _count(self) -> int:
        with self._pool.use(), self._lock:
            if not self._pool.closed:
                self._poll()
            return self._changes

    def _poll(self) -> None:
        self._pool.check(sometimes=True)
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
