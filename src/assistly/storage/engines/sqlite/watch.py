"""Noticing what other connections commit, in this process or another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ...errors import StorageError
from .connections import Connection

_INTERVAL = 0.02


class Watch:
    """Asks SQLite for its change counter, over one connection for all threads that wait."""

    def __init__(self, opener: Callable[[], Connection]) -> None:
        self._opener = opener
        self._connection: Connection | None = None
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._seen = threading.local()
        self._version: int | None = None
        self._changes = 0

    def wait(self, timeout: float) -> None:
        """Return when something changed since this thread's last `wait` did; at once the first time."""
        until = time.monotonic() + timeout
        while True:
            changes = self._count()
            if self._closed or changes != getattr(self._seen, "changes", None):
                self._seen.changes = changes
                return
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _INTERVAL))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._drop()

    def after_fork(self) -> list[Connection]:
        inherited = [] if self._connection is None else [self._connection]
        self._connection = None
        self._reset()
        return inherited

    def _count(self) -> int:
        with self._lock:
            if not self._closed:
                self._look()
            return self._changes

    def _look(self) -> None:
        if self._connection is None:
            self._connection = self._opener()
            self._version = None
        try:
            ((version,),) = self._connection.rows("PRAGMA data_version")
        except StorageError:
            self._drop()
            raise
        if version != self._version:
            self._version = version
            self._changes += 1

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
