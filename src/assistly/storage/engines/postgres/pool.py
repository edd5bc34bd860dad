"""A pool of connections: docs/decisions/0021."""

from __future__ import annotations

import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic

from psycopg.pq import TransactionStatus

from ... import forks
from ...errors import StorageClosed, StorageError, StorageUnavailable
from ...records import PoolConnections
from .connections import PooledConnection, ServerIsFull
from .places import Place, Places

TAKE_SECONDS = 4.5
"""Seconds that a caller waits for a connection, unless connecting to all hosts may take longer."""

# A global, since looking up a member of the enumeration takes longer than the call of libpq.
_IDLE = TransactionStatus.IDLE

# Seconds before another attempt to connect to a server that has no connection left.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0

# Seconds for another thread to put something into the mailbox that it has taken out of the line.
_HANDOVER_SECONDS = 1.0


_Free = PooledConnection | Place

# The mailbox of a waiting caller. None: the pool is closed.
_Waiter = queue.SimpleQueue[_Free | None]


class Pool(forks.ForkAware):
    """At most `size` connections, opened when they are needed, each lent to one caller at a time.

    The connection that was given back last is lent first. When none is free, callers are served in the order
    in which they came. Each attempt to connect runs in a thread of its own, since libpq's look-up of a host
    name has no time limit; there are no other threads. If the server has no connection left, callers wait for
    those of others in the pool, and one tries again to connect now and then.

    There is no lock: signal handlers and the garbage collector may call any method at any time. Lists and
    deques change in single steps, and whoever adds something looks for takers afterwards.
    """

    def __init__(
        self,
        connect: Callable[[], PooledConnection],
        size: int,
        label: str,
        seconds: float = TAKE_SECONDS,
        measure: Callable[[], float] | None = None,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        """`measure` looks up how long an attempt to connect may take, which may itself take long.

        `make_room` is called if the server is full and the pool has no connection that may come back.
        """
        self._connect = connect
        self._size = size
        self._label = label
        self._seconds = max(seconds, TAKE_SECONDS)
        self._measure = measure
        self._make_room = make_room
        self.is_closed = False
        self._lost = partial(_serve, weakref.ref(self))
        self._reset()
        forks.register(self)

    def _reset(self) -> None:
        self.generation = forks.generation()
        self._idle: list[PooledConnection] = []
        self._places = Places(self._size, self._lost)
        self._waiting: deque[_Waiter] = deque()
        self._attempts: list[weakref.ref[_Attempt]] = []
        """The attempts to connect. Those that failed are there as long as somebody keeps the error."""
        self._full: str | None = None
        """What the server has said, if it had no connection left when one was last opened."""
        self._pause = self._connects_at = 0.0
        self._age = 0
        """How often `close_idle` was called. Older connections are closed when they are given back."""

    def take(self, timeout: float | None = None) -> PooledConnection:
        """Lend a live connection, within `timeout` seconds. Raises StorageUnavailable or StorageClosed.

        A connection that is not given back is closed when it is collected.
        """
        deadline = 0.0
        while True:
            if self.is_closed:
                raise StorageClosed("the storage is closed")
            free = None if self._waiting else self._next()
            if type(free) is not PooledConnection:
                seconds = self._seconds if timeout is None else timeout
                deadline = deadline or monotonic() + seconds
                free = free or self._wait(deadline, seconds)
                if isinstance(free, Place):
                    opened = self._open(free, deadline, seconds, is_fixed=timeout is not None)
                    if opened is not None:
                        return opened
                    if monotonic() > deadline:
                        raise self._no_connection(seconds)
                    continue
            if free.age == self._age:
                # Usually there is nothing to read: then the connection is alive.
                if not free.readable(0) or free.is_alive:
                    return free
                self.close_idle()
            self._free(free)

    def give_back(self, connection: PooledConnection) -> None:
        """Take a connection back. It is closed if in a transaction, broken, or older than `close_idle`."""
        if connection.generation != self.generation:
            connection.close()
        elif connection.age == self._age and connection.link.transaction_status == _IDLE:
            self._idle.append(connection)
            if self._waiting:
                self.serve()
            if self.is_closed:
                self.close_idle()
        else:
            self._free(connection)

    def close_idle(self) -> None:
        """After a connection broke, close the idle ones, and those in use when they are given back."""
        self._age += 1
        with suppress(IndexError):
            while True:
                self._free(self._idle.pop())

    def close(self) -> None:
        """Close the idle connections, and those in use when they are given back."""
        self.is_closed = True
        self.serve()
        for reference in list(self._attempts):
            attempt = reference()
            if attempt is not None:
                attempt.abandon(StorageClosed("the storage is closed"))
        self.close_idle()

    def after_fork_in_child(self) -> None:
        """Start without connections: the sockets are the parent's, and neither used nor closed here."""
        forks.keep_for_ever(self._idle)
        self._reset()

    @property
    def waiting(self) -> int:
        """How many callers wait for a connection."""
        return len(self._waiting)

    @property
    def connections(self) -> PoolConnections:
        """Those that are open or being opened. It waits for no lock."""
        taken, idle = self._places.in_use, len(self._idle)
        return PoolConnections(max(0, taken - idle), taken, self._size)

    @property
    def _connecting(self) -> int:
        """How many attempts are under way, whether callers still wait for them or not."""
        attempts = [reference() for reference in list(self._attempts)]
        return sum(attempt is not None and not attempt.is_over for attempt in attempts)

    def add(self, place: Place) -> None:
        """Let the next caller open a connection."""
        self._places.give_back(place)
        if self._waiting:
            self.serve()

    def _free(self, connection: PooledConnection) -> None:
        """Close the connection, and let the next caller open one in its place."""
        connection.close()
        place, connection.place = connection.place, None
        if place is not None:
            self.add(place)

    def _next(self) -> _Free | None:
        try:
            return self._idle.pop()
        except IndexError:
            if self._full is not None and monotonic() < self._connects_at:
                return None
            return self._places.take()

    def serve(self) -> None:
        """Give what is free to those who wait."""
        while self._waiting:
            free = self._next()
            if free is None and not self.is_closed:
                return
            try:
                waiter = self._waiting.popleft()
            except IndexError:
                # Another thread was faster.
                if isinstance(free, Place):
                    self._places.give_back(free)
                elif free is not None:
                    self._idle.append(free)
            else:
                waiter.put(free)

    def _wait(self, deadline: float, seconds: float) -> _Free:
        waiter = _Waiter()
        self._waiting.append(waiter)
        self.serve()
        try:
            free = self._receive(waiter, deadline)
        except BaseException as error:
            patience = 0.0
            try:
                self._waiting.remove(waiter)
            except ValueError:
                patience = _HANDOVER_SECONDS
            if not isinstance(error, queue.Empty):
                raise
            try:
                free = self._next() or waiter.get(timeout=patience)
            except queue.Empty:
                raise self._no_connection(seconds) from None
        if free is None:
            raise StorageClosed("the storage is closed")
        return free

    def _receive(self, waiter: _Waiter, deadline: float) -> _Free | None:
        """Wait until the waiter is served. While the server is full, let the first in line try to connect."""
        while True:
            now = monotonic()
            until = deadline
            if self._full is not None:
                next_try = self._connects_at if self._connects_at > now else now + _LONGEST_PAUSE
                until = min(deadline, next_try)
            try:
                return waiter.get(timeout=max(0.0, until - now))
            except queue.Empty:
                if until == deadline:
                    raise
                self.serve()

    def _no_connection(self, seconds: float) -> StorageUnavailable:
        """The error for a caller that has waited for so many seconds in vain."""
        if self._full is not None:
            return StorageUnavailable(
                f"no connection became free within {round(seconds, 2):g} s: {self._full}"
            )
        if self._connecting:
            return self._no_answer(seconds)
        return StorageUnavailable(
            f"all {self._size} connections are in use, and none was returned within {round(seconds, 2):g} s: "
            "raise STORAGE_POOL_SIZE, or keep transactions short"
        )

    def _no_answer(self, seconds: float) -> StorageUnavailable:
        return StorageUnavailable(f"no connection to {self._label} within {round(seconds, 2):g} s")

    def _open(
        self, place: Place, deadline: float, seconds: float, *, is_fixed: bool
    ) -> PooledConnection | None:
        """Open a connection. None: the server has none left now."""

        def patience() -> float:
            """The seconds of the limit, which grows if a host turns out to have several addresses."""
            return seconds if is_fixed else max(seconds, self._seconds)

        began = deadline - seconds
        attempt = _Attempt(partial(self._connected, place), partial(self.add, place), self.give_back)
        self._attempts.append(weakref.ref(attempt, self._attempts.remove))
        try:
            outcome = attempt.outcome(lambda: began + patience() - monotonic())
        except queue.Empty:
            raise self._no_answer(patience()) from None
        if isinstance(outcome, PooledConnection):
            return outcome
        if isinstance(outcome, ServerIsFull):
            return None
        if isinstance(outcome, StorageError):
            raise outcome
        raise StorageUnavailable(f"cannot connect to {self._label}") from outcome

    def _connected(self, place: Place) -> PooledConnection:
        if self._measure is not None:
            self._seconds = max(self._measure(), TAKE_SECONDS)
        try:
            connection = self._connect()
        except ServerIsFull as error:
            self._note_full(str(error))
            if self._places.in_use <= self._connecting:
                self._make_room()
            raise
        except BaseException:
            self._full = None
            raise
        self._full, self._pause = None, 0.0
        connection.age = self._age
        connection.place = place
        return connection

    def _note_full(self, text: str) -> None:
        now = monotonic()
        if now >= self._connects_at:
            self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
            self._connects_at = now + self._pause
        self._full = text


def _serve(reference: weakref.ref[Pool], _: object) -> None:
    pool = reference()
    if pool is not None:
        pool.serve()


class _Attempt:
    """An attempt to connect, in a thread of its own. If it succeeds late, the pool gets the connection."""

    def __init__(
        self,
        connect: Callable[[], PooledConnection],
        failed: Callable[[], None],
        succeeded_late: Callable[[PooledConnection], None],
    ) -> None:
        self._connect = connect
        self._failed = failed
        self._succeeded_late = succeeded_late
        self._lock = threading.Lock()
        self._is_awaited = True
        self.is_over = False
        self._outcomes: queue.SimpleQueue[PooledConnection | Exception] = queue.SimpleQueue()

    def outcome(self, left: Callable[[], float]) -> PooledConnection | Exception:
        """Return the connection or the error. Raises queue.Empty when no seconds are left."""
        try:
            self._start()
            while True:
                try:
                    return self._outcomes.get(timeout=max(0.0, left()))
                except queue.Empty:
                    if left() <= 0:
                        raise
        except BaseException:
            with self._lock:
                self._is_awaited = False
            if not self._outcomes.empty():
                self._keep(self._outcomes.get())
            raise

    def abandon(self, error: Exception) -> None:
        """Let `outcome` return this error now."""
        # If the lock is not free, the outcome is just being passed on.
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._is_awaited:
                self._is_awaited = False
                self._outcomes.put(error)
        finally:
            self._lock.release()

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
        try:
            outcome: PooledConnection | BaseException = self._connect()
        except BaseException as error:  # noqa: BLE001 - raised again, here or in the caller's thread
            outcome = error
        self.is_over = True
        if isinstance(outcome, BaseException):
            self._failed()
            if not isinstance(outcome, Exception):
                raise outcome
        with self._lock:
            if self._is_awaited:
                self._outcomes.put(outcome)
                return
        self._keep(outcome)

    def _keep(self, outcome: PooledConnection | Exception) -> None:
        if isinstance(outcome, PooledConnection):
            self._succeeded_late(outcome)
