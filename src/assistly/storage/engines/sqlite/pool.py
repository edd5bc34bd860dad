"""A pool of connections, all of which are closed before the process forks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ...errors import StorageClosed, StorageCorrupt, StorageError
from ...records import PoolConnections
from .connections import Connection
from .files import DatabaseFile

_MAX_IDLE = 16


class SqlitePool:
    """A pool without a limit. The connection that was given back last is lent first; 16 idle ones are kept.

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
        """Lend a connection to the caller, until it is given back. Raises StorageClosed."""
        with self._lock:
            if self._forks:
                self._wait_for_forks()
            if self.closed:
                raise StorageClosed("the storage is closed")
            self.check(sometimes=True)
            if self._idle:
                connection = self._idle.pop()
                self._lent.add(connection)
                return connection
        connection = self.borrow_new()
        try:
            self._prepare(connection)
            self.file.note_schema(connection)
        except BaseException:
            self.discard(connection)
            raise
        return connection

    def borrow_new(self, *, may_change: bool = True) -> Connection:
        """Lend a new connection, without preparing it. Raises StorageClosed.

        With `may_change` False the file stays as it is; discard the connection instead of giving it back.
        """
        with self.use():
            if self.closed:
                raise StorageClosed("the storage is closed")
            changed, connection = self._changed, self.file.connect(may_change=may_change)
            if changed is not self._changed:
                connection.leave_to_parent()
            self._lent.add(connection)
            return connection

    def give_back(self, connection: Connection) -> None:
        """Take a connection back, from any thread. One that is in a transaction is closed."""
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
        """Take a connection back and close it."""
        with self._lock:
            self.file.identity.forget_log()
            connection.close()
            self._lent.discard(connection)
            self._changed.notify_all()

    @contextmanager
    def use(self) -> Iterator[None]:
        """Use the file inside the block: a fork waits for the block to end, and the block for a fork."""
        changed = self._changed
        with changed:
            self._wait_for_forks()
            self._uses += 1
        try:
            yield
        finally:
            # A child that was forked inside the block starts with no uses.
            if changed is self._changed:
                with changed:
                    self._uses -= 1
                    changed.notify_all()

    def check(self, *, sometimes: bool = False) -> None:
        """Raise StorageCorrupt if the file is no longer at its path; with `sometimes`, look now and then."""
        identity = self.file.identity
        try:
            identity.check_sometimes() if sometimes else identity.check()
        except StorageCorrupt:
            self._empty_log()
            raise
        if not sometimes and not identity.is_log_known:
            with self._lock:
                if self._idle or self._lent:
                    identity.note_log()

    def _empty_log(self) -> None:
        """Move what the log holds into the file that was opened, wherever that is now.

        SQLite leaves the log behind if the file has moved, and would apply it to the file that is at the path
        now. An empty log does no harm there. A damaged log stays as it is: half of it would damage the file,
        and without this index another process may have gone on with the log.
        """
        if self.file.identity.is_log_damaged:
            return
        with self._lock, suppress(StorageError):
            if self._idle:
                self._idle[-1].rows("PRAGMA busy_timeout = 0")
                self._idle[-1].rows("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def connections(self) -> PoolConnections:
        """Those that are lent and those that are kept. It waits for no lock."""
        in_use = len(self._lent)
        return PoolConnections(in_use, in_use + len(self._idle), None)

    def close(self) -> None:
        """Close the idle connections now, and lent ones when they are given back."""
        with self._changed, suppress(StorageCorrupt):
            self.closed = True
            self.check()
        with self._changed:
            self._close_idle()

    def before_fork(self, timeout: float) -> None:
        """Lend none until `after_fork_in_parent`; close those given back within `timeout` seconds."""
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: not self._lent and not self._uses, timeout)
            self._close_idle()

    def after_fork_in_parent(self) -> None:
        """Lend connections again."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def after_fork_in_child(self) -> None:
        """Start without connections; never use those that could not be closed, which are the parent's."""
        for connection in (*self._idle, *self._lent):
            connection.leave_to_parent()
        self._start()
        self.file.after_fork_in_child()

    def _wait_for_forks(self) -> None:
        self._changed.wait_for(lambda: not self._forks)

    def _close_idle(self) -> None:
        self.file.identity.forget_log()
        while self._idle:
            self._idle.pop().close()
