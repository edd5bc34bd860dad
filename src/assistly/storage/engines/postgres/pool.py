"""Lending connections: docs/decisions/0021."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from psycopg.pq import TransactionStatus

from ... import forks
from ...errors import StorageClosed, StorageError, StorageUnavailable
from .connections import PooledConnection

PATIENCE = 4.5
"""Seconds that a caller waits for a connection."""

# To look this up in its class takes longer than to ask libpq.
_IDLE = TransactionStatus.IDLE

_Place = queue.SimpleQueue[PooledConnection | None]


class Pool(forks.ForkAware):
    """At most `size` connections, opened when they are needed, each lent to one caller at a time.

    The one given back last is lent first. Callers who find none wait in a line. There are no threads but
    one for each attempt to connect, which has no time limit of its own while a host name is looked up.
    """

    def __init__(self, connect: Callable[[], PooledConnection], size: int, label: str) -> None:
        self._connect = connect
        self._size = size
        self._label = label
        self.is_closed = False
        self._reset()
        forks.register(self)

    def _reset(self) -> None:
        self._generation = forks.generation()
        # Reentrant: the collector may close a forgotten pool while this thread is inside.
        self._lock = threading.RLock()
        self._idle: list[PooledConnection] = []
        self._waiting: deque[_Place] = deque()
        self._places = self._size
        self._age = 0

    def take(self, patience: float = PATIENCE) -> PooledConnection:
        """A live connection, within `patience` seconds. Raises StorageUnavailable and StorageClosed."""
        deadline = 0.0
        while True:
            connection = place = None
            with self._lock:
                if self.is_closed:
                    raise StorageClosed("the storage is closed")
                if self._idle:
                    connection = self._idle.pop()
                elif self._places:
                    self._places -= 1
                else:
                    place = _Place()
                    self._waiting.append(place)
            if connection is None:
                deadline = deadline or monotonic() + patience
                if place is not None:
                    connection = self._wait(place, deadline)
                if connection is None:
                    return self._open(deadline)
            # Nothing to read, as nearly always: then it is alive.
            if not connection.readable(0) or connection.is_alive:
                return connection
            self.close_idle()
            self._free(connection)

    def give_back(self, connection: PooledConnection) -> None:
        """Lend it to the next caller; close it if it is in a transaction, broken, or not to be trusted."""
        if connection.generation != self._generation:
            connection.close()
            return
        if connection.age == self._age and connection.link.transaction_status == _IDLE:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().put(connection)
                    return
                if not self.is_closed:
                    self._idle.append(connection)
                    return
        self._free(connection)

    def close_idle(self) -> None:
        """A connection broke: close those that are idle, and those in use once they come back."""
        with self._lock:
            self._age += 1
            idle, self._idle = self._idle, []
            self._places += len(idle)
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close the idle connections, and those in use once they come back."""
        with self._lock:
            self.is_closed = True
            waiting, self._waiting = self._waiting, deque()
        for place in waiting:
            place.put(None)
        self.close_idle()

    def after_fork_in_child(self) -> None:
        """The sockets are the parent's: they are neither used nor closed here."""
        forks.keep_for_ever(self._idle)
        self._reset()

    @property
    def waiting(self) -> int:
        """How many callers wait for a connection."""
        return len(self._waiting)

    def _wait(self, place: _Place, deadline: float) -> PooledConnection | None:
        """None if the caller may open one."""
        try:
            return place.get(timeout=max(0.0, deadline - monotonic()))
        except BaseException as error:
            with self._lock:
                is_in_line = place in self._waiting
                if is_in_line:
                    self._waiting.remove(place)
            is_late = isinstance(error, queue.Empty)
            if is_late and is_in_line:
                raise StorageUnavailable(
                    f"all {self._size} connections are in use, and none came back within {PATIENCE} s: "
                    "raise STORAGE_POOL_SIZE, or keep transactions short"
                ) from None
            handed = None if is_in_line else place.get()
            if is_late:
                return handed
            if handed is not None:
                self.give_back(handed)
            elif not is_in_line:
                self._free(None)
            raise

    def _open(self, deadline: float) -> PooledConnection:
        if self.is_closed:
            raise StorageClosed("the storage is closed")
        attempt = _Attempt(self._connected, self._free, self.give_back)
        try:
            outcome = attempt.outcome(max(0.0, deadline - monotonic()))
        except queue.Empty:
            raise StorageUnavailable(f"no connection to {self._label} within {PATIENCE} s") from None
        if isinstance(outcome, PooledConnection):
            return outcome
        if isinstance(outcome, StorageError):
            raise outcome
        raise StorageUnavailable(f"cannot connect to {self._label}") from outcome

    def _connected(self) -> PooledConnection:
        connection = self._connect()
        connection.age = self._age
        return connection

    def _free(self, connection: PooledConnection | None) -> None:
        """Close the connection, and let the next caller open one in its place."""
        if connection is not None:
            connection.close()
        with self._lock:
            if self._waiting:
                self._waiting.popleft().put(None)
            else:
                self._places += 1


class _Attempt:
    """An attempt to connect, in a thread of its own. One that succeeds too late is kept for others."""

    def __init__(
        self,
        connect: Callable[[], PooledConnection],
        failed: Callable[[None], None],
        succeeded_late: Callable[[PooledConnection], None],
    ) -> None:
        self._connect = connect
        self._failed = failed
        self._succeeded_late = succeeded_late
        self._lock = threading.Lock()
        self._is_awaited = True
        self._has_begun = False
        self._outcomes: queue.SimpleQueue[PooledConnection | Exception] = queue.SimpleQueue()

    def outcome(self, timeout: float) -> PooledConnection | Exception:
        """Raises queue.Empty after `timeout` seconds."""
        try:
            self._start()
            return self._outcomes.get(timeout=timeout)
        except BaseException:
            with self._lock:
                self._is_awaited = False
            if not self._has_begun:
                self._failed(None)
            elif not self._outcomes.empty():
                self._keep(self._outcomes.get())
            raise

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="assistly-connect", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # There are no more threads to be had, or the interpreter is ending.
            self._run()

    def _run(self) -> None:
        with self._lock:
            if not self._is_awaited:
                return
            self._has_begun = True
        try:
            outcome: PooledConnection | Exception = self._connect()
        except BaseException as error:
            self._failed(None)
            if not isinstance(error, Exception):
                raise
            outcome = error
        with self._lock:
            if self._is_awaited:
                self._outcomes.put(outcome)
                return
        self._keep(outcome)

    def _keep(self, outcome: PooledConnection | Exception) -> None:
        if isinstance(outcome, PooledConnection):
            self._succeeded_late(outcome)
