"""A pool of connections: docs/decisions/0021."""

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

TAKE_SECONDS = 4.5
"""Seconds that a caller waits for a connection."""

# A global, since looking up a member of the enumeration takes longer than the call of libpq.
_IDLE = TransactionStatus.IDLE

# The mailbox of a waiting caller: it gets a connection, or None if it may open one.
_Waiter = queue.SimpleQueue[PooledConnection | None]


class Pool(forks.ForkAware):
    """At most `size` connections, opened when they are needed, each lent to one caller at a time.

    The connection that was given back last is lent first. When none is free, callers are served in the order
    in which they came. Each attempt to connect runs in a thread of its own, since libpq's look-up of a host
    name has no time limit; there are no other threads.
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
        # Reentrant: the collector may close the pool of a forgotten storage while this thread is inside.
        self._lock = threading.RLock()
        self._idle: list[PooledConnection] = []
        self._waiting: deque[_Waiter] = deque()
        self._may_open = self._size
        """How many further connections may be opened."""
        self._age = 0
        """How often `close_idle` was called. Older connections are closed when they are given back."""

    def take(self, timeout: float = TAKE_SECONDS) -> PooledConnection:
        """Lend a live connection, within `timeout` seconds. Raises StorageUnavailable or StorageClosed."""
        deadline = 0.0
        while True:
            connection = waiter = None
            with self._lock:
                if self.is_closed:
                    raise StorageClosed("the storage is closed")
                if self._idle:
                    connection = self._idle.pop()
                elif self._may_open:
                    self._may_open -= 1
                else:
                    waiter = _Waiter()
                    self._waiting.append(waiter)
            if connection is None:
                deadline = deadline or monotonic() + timeout
                if waiter is not None:
                    connection = self._wait(waiter, deadline)
                if connection is None:
                    return self._open(deadline)
            # Usually there is nothing to read: then the connection is alive.
            if not connection.readable(0) or connection.is_alive:
                return connection
            self.close_idle()
            self._free(connection)

    def give_back(self, connection: PooledConnection) -> None:
        """Take a connection back. It is closed if in a transaction, broken, or older than `close_idle`."""
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
        """After a connection broke, close the idle ones, and those in use when they are given back."""
        with self._lock:
            self._age += 1
            idle, self._idle = self._idle, []
            self._may_open += len(idle)
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close the idle connections, and those in use when they are given back."""
        with self._lock:
            self.is_closed = True
            waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            waiter.put(None)
        self.close_idle()

    def after_fork_in_child(self) -> None:
        """Start without connections: the sockets are the parent's, and neither used nor closed here."""
        forks.keep_for_ever(self._idle)
        self._reset()

    @property
    def waiting(self) -> int:
        """How many callers wait for a connection."""
        return len(self._waiting)

    def _wait(self, waiter: _Waiter, deadline: float) -> PooledConnection | None:
        """Wait for a connection; None if the caller may open one."""
        try:
            return waiter.get(timeout=max(0.0, deadline - monotonic()))
        except BaseException as error:
            with self._lock:
                still_waits = waiter in self._waiting
                if still_waits:
                    self._waiting.remove(waiter)
            has_timed_out = isinstance(error, queue.Empty)
            if has_timed_out and still_waits:
                raise StorageUnavailable(
                    f"all {self._size} connections are in use, and none came back within {TAKE_SECONDS} s: "
                    "raise STORAGE_POOL_SIZE, or keep transactions short"
                ) from None
            # Served between the exception and the lock.
            handed = None if still_waits else waiter.get()
            if has_timed_out:
                return handed
            if handed is not None:
                self.give_back(handed)
            elif not still_waits:
                self._free(None)
            raise

    def _open(self, deadline: float) -> PooledConnection:
        if self.is_closed:
            raise StorageClosed("the storage is closed")
        attempt = _Attempt(self._connected, self._free, self.give_back)
        try:
            outcome = attempt.outcome(max(0.0, deadline - monotonic()))
        except queue.Empty:
            raise StorageUnavailable(f"no connection to {self._label} within {TAKE_SECONDS} s") from None
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
                self._may_open += 1


class _Attempt:
    """An attempt to connect, in a thread of its own. If it succeeds late, the pool gets the connection."""

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
        """Return the connection or the error. Raises queue.Empty after `timeout` seconds."""
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
            # No thread can be started, because of a limit or the end of the interpreter.
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
