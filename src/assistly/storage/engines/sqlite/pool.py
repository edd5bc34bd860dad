"""Connections that are lent for one call or one transaction, and are closed while the process forks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...errors import StorageClosed
from .connections import Connection
from .files import DatabaseFile

_MAX_IDLE = 16


class SqlitePool:
    """Idle connections; the one given back last is lent first. As many are lent as are asked for.

    `prepare` is called with each new connection; if it raises, the connection is closed.
    """

    def __init__(self, file: DatabaseFile, prepare: Callable[[Connection], None]) -> None:
        self.file = file
        self._prepare = prepare
        self.closed = False
        self._start()

    def _start(self) -> None:
        self._idle: list[Connection] = []
        self._lent: set[Connection] = set()
        self._uses = 0
        self._forks = 0
        # Reentrant: a signal handler may fork while its thread is in here.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def borrow(self) -> Connection:
        """A connection for the caller alone, until it is given back."""
        with self._lock:
            if self._forks:
                self._wait_for_forks()
            if self.closed:
                raise StorageClosed("the storage is closed")
            if self._idle:
                connection = self._idle.pop()
                self._lent.add(connection)
                return connection
        connection = self.borrow_new()
        try:
            self._prepare(connection)
        except BaseException:
            self.discard(connection)
            raise
        return connection

    def borrow_new(self) -> Connection:
        """A connection that has just been opened, and is not prepared."""
        with self.use():
            if self.closed:
                raise StorageClosed("the storage is closed")
            changed, connection = self._changed, self.file.connect()
            if changed is not self._changed:
                connection.leave_to_parent()
            self._lent.add(connection)
            return connection

    def give_back(self, connection: Connection) -> None:
        """Also from another thread than it was lent to."""
        with self._lock:
            if connection not in self._lent:
                return
            if self.closed or len(self._idle) >= _MAX_IDLE or connection.raw.in_transaction:
                self.discard(connection)
            else:
                self._lent.remove(connection)
                self._idle.append(connection)
                if self._forks:
                    self._changed.notify_all()

    def discard(self, connection: Connection) -> None:
        """Give it back, and let nobody else have it."""
        with self._lock:
            connection.close()
            self._lent.discard(connection)
            self._changed.notify_all()

    @contextmanager
    def use(self) -> Iterator[None]:
        """The file is used inside the block: a fork waits for its end, and the block for that of a fork."""
        changed = self._changed
        with changed:
            self._wait_for_forks()
            self._uses += 1
        try:
            yield
        finally:
            # In a child that was forked inside the block there is nothing to end.
            if changed is self._changed:
                with changed:
                    self._uses -= 1
                    changed.notify_all()

    def close(self) -> None:
        """Connections that are lent are closed when they are given back."""
        with self._changed:
            self.closed = True
            self._close_idle()

    def before_fork(self, patience: float) -> None:
        """Lend none until `after_fork_in_parent`, and close all that come back within `patience` seconds."""
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: not self._lent and not self._uses, patience)
            self._close_idle()

    def after_fork_in_parent(self) -> None:
        """Lend connections again."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def after_fork_in_child(self) -> None:
        """Start without connections; those that could not be closed stay the parent's."""
        for connection in (*self._idle, *self._lent):
            connection.leave_to_parent()
        self._start()
        self.file.after_fork_in_child()

    def _wait_for_forks(self) -> None:
        self._changed.wait_for(lambda: not self._forks)

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()
