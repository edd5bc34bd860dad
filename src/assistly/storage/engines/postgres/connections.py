"""Lending connections: opened on first use, found dead before use, not carried through a fork."""

from __future__ import annotations

import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Self

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from ...errors import ConfigurationError, StorageClosed, StorageError, StorageUnavailable
from .adapters import adapt
from .conninfo import Target
from .errors import connect_problem
from .wire import Wire

PATIENCE = 4.5
_SLICE = 0.2
_LEND = 30.0
# To look these up in their classes takes longer than to ask libpq.
_OK = ConnStatus.OK
_IDLE = TransactionStatus.IDLE

# Each statement has its index, whatever the statistics say of a table that is empty at noon and full at
# one: docs/decisions/0016.
_PLAN_BY_INDEX = """
SELECT set_config(name, value, FALSE)
FROM (VALUES ('enable_bitmapscan', 'off'), ('enable_seqscan', 'off'), ('enable_sort', 'off'), ('jit', 'off'),
    ('plan_cache_mode', 'force_generic_plan')) AS setting (name, value)
"""

OnFailure = Callable[[psycopg.Error], None]


class PooledConnection(psycopg.Connection[Any]):
    """Reports failures to connect, which the pool only logs, and knows the pool it belongs to."""

    pool: ConnectionPool[PooledConnection] | None = None
    lent_until = 0.0
    executor: Wire

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        on_failure: OnFailure | None = kwargs.pop("on_failure", None)
        try:
            return super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            if on_failure is not None:
                on_failure(error)
            raise


class Connections:
    """At most `size` connections to one database, each lent to one borrower at a time.

    The one given back last is kept at hand for the next borrower, since a trip through the pool and
    its locks costs a fifth of a statement. Nobody waits for it: who finds none at hand says so
    before looking a second time, and who leaves one there looks for waiters after that.

    `lock` is for short things that a process does once; a forked child has a new one.
    """

    def __init__(self, target: Target, size: int, *, prepare_threshold: int | None) -> None:
        self._target = target
        self._size = size
        self._prepare_threshold = prepare_threshold
        self._closed = False
        self.lock: threading.Lock
        self._reset()
        _everyone.add(self)

    def _reset(self) -> None:
        self.lock = threading.Lock()
        self._pool: ConnectionPool[PooledConnection] | None = None
        self._finalizer: Any = None
        self._failure: tuple[float, psycopg.Error] | None = None
        self._at_hand: list[PooledConnection] = []
        self._waiters: list[None] = []

    def take(self) -> PooledConnection:
        """A live connection. One whose server has gone is replaced, and so are its idle siblings."""
        connection = self._pick_up()
        if connection is None:
            self._waiters.append(None)
            try:
                connection = self._pick_up() or self._borrow()
            finally:
                self._waiters.pop()
        return connection

    def give_back(self, connection: PooledConnection) -> None:
        pool = connection.pool
        if pool is None or (_inherited and any(pool is other for other in _inherited)):
            _inherited.append(connection)
        elif (
            self._at_hand
            or connection.pgconn.transaction_status != _IDLE
            or monotonic() >= connection.lent_until
        ):
            pool.putconn(connection)
        else:
            self._at_hand.append(connection)
            if self._waiters or self._closed:
                self._put_away()

    def drain(self) -> None:
        """A connection broke: idle ones of the same age are not to be trusted either."""
        self._put_away()
        pool = self._pool
        if pool is not None and not pool.closed:
            pool.drain()

    def close(self) -> None:
        with self.lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            self._finalizer.detach()
            _close(pool, self._at_hand)

    def leave_to_parent(self) -> None:
        """In a forked child: the sockets are the parent's, so they are neither used nor closed here."""
        if self._pool is not None:
            _inherited.extend((self._pool, self._at_hand))
            self._finalizer.detach()
        self._reset()

    def _pick_up(self) -> PooledConnection | None:
        try:
            connection = self._at_hand.pop()
        except IndexError:
            return None
        # Nothing to read, as nearly always: then it is.
        if not connection.executor.readable(0) or is_alive(connection):
            return connection
        self._discard(connection)
        return None

    def _put_away(self) -> None:
        _put_away(self._at_hand)

    def _borrow(self) -> PooledConnection:
        deadline = monotonic() + PATIENCE
        pool = self._pool or self._open()
        while True:
            connection = self._next(pool, deadline)
            connection.pool = pool
            if is_alive(connection):
                connection.lent_until = monotonic() + _LEND
                return connection
            self._discard(connection)

    def _discard(self, connection: PooledConnection) -> None:
        connection.close()
        if connection.pool is not None:
            connection.pool.putconn(connection)
            connection.pool.drain()

    def _next(self, pool: ConnectionPool[PooledConnection], deadline: float) -> PooledConnection:
        began = monotonic()
        while True:
            remaining = deadline - monotonic()
            if remaining <= 0:
                raise StorageUnavailable(
                    f"all {self._size} connections are in use, and none came back within {PATIENCE} s: "
                    "raise STORAGE_POOL_SIZE, or keep transactions short"
                )
            try:
                return pool.getconn(timeout=min(_SLICE, remaining))
            except PoolClosed:
                raise StorageClosed("the storage is closed") from None
            except PoolTimeout:
                if self._failure is not None and self._failure[0] >= began:
                    raise self._connect_problem(self._failure[1]) from self._cause(self._failure[1])

    def _open(self) -> ConnectionPool[PooledConnection]:
        if not self._closed:
            self._probe()
        with self.lock:
            if self._closed:
                raise StorageClosed("the storage is closed")
            if self._pool is None:
                self._pool = self._new_pool()
                self._finalizer = weakref.finalize(self, _close, self._pool, self._at_hand)
            return self._pool

    def _new_pool(self) -> ConnectionPool[PooledConnection]:
        return ConnectionPool(
            self._target.text,
            connection_class=PooledConnection,
            kwargs={**self._options(), "on_failure": _Recorder(self)},
            configure=_configure,
            min_size=1,
            max_size=self._size,
            open=True,
            timeout=PATIENCE,
            # A failed attempt is reported to whoever waits; the next caller makes the next one.
            reconnect_timeout=0,
        )

    def _options(self) -> dict[str, Any]:
        return {"autocommit": True, "prepare_threshold": self._prepare_threshold}

    def _probe(self) -> None:
        """Connect once to learn what is wrong, if anything: the pool would retry in silence.

        In a thread of its own, since looking up a host name knows no time limit.
        """
        answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        threading.Thread(target=self._try, args=(answers,), name="assistly-connect", daemon=True).start()
        try:
            problem = answers.get(timeout=PATIENCE)
        except queue.Empty:
            raise StorageUnavailable(f"no connection to {self._target.label} within {PATIENCE} s") from None
        if isinstance(problem, StorageError):
            raise problem
        if isinstance(problem, psycopg.Error):
            raise self._connect_problem(problem) from self._cause(problem)
        if problem is not None:
            raise StorageUnavailable(f"cannot connect to {self._target.label}") from problem

    def _try(self, answers: queue.SimpleQueue[Exception | None]) -> None:
        try:
            with PooledConnection.connect(self._target.text, **self._options()) as connection:
                _configure(connection)
        except Exception as problem:  # noqa: BLE001 - carried over to the thread that waits
            answers.put(problem)
        else:
            answers.put(None)

    def _connect_problem(self, error: psycopg.Error) -> StorageError:
        return connect_problem(self._target.redact(" ".join(str(error).split())))

    def _cause(self, error: psycopg.Error) -> psycopg.Error | None:
        return None if self._target.reveals(str(error)) else error

    def note_failure(self, error: psycopg.Error) -> None:
        self._failure = (monotonic(), error)


class _Recorder:
    """Held by the pool's threads, and so without a strong reference to the owner of the pool."""

    def __init__(self, owner: Connections) -> None:
        self._owner = weakref.ref(owner)

    def __call__(self, error: psycopg.Error) -> None:
        owner = self._owner()
        if owner is not None:
            owner.note_failure(error)


def is_alive(connection: PooledConnection) -> bool:
    """Without a round trip: a server that went away has left an end of file in the socket.

    What else may wait there are notices; they are read, and then nothing more may follow.
    """
    link = connection.pgconn
    for _ in range(4):
        if link.status != _OK:
            return False
        if not connection.executor.readable(0):
            return True
        try:
            link.consume_input()
        except psycopg.Error:
            return False
    return False


def is_broken(connection: psycopg.Connection[Any]) -> bool:
    return connection.closed or connection.pgconn.status != _OK


def _put_away(at_hand: list[PooledConnection]) -> None:
    with suppress(IndexError):
        while True:
            connection = at_hand.pop()
            if connection.pool is not None:
                connection.pool.putconn(connection)


def _close(pool: ConnectionPool[PooledConnection], at_hand: list[PooledConnection]) -> None:
    _put_away(at_hand)
    pool.close(timeout=1.0)


def _configure(connection: PooledConnection) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise ConfigurationError(f"the database has the encoding {encoding}: it must have UTF8")
    adapt(connection)
    connection.executor = Wire(connection)
    if connection.info.parameter_status("TimeZone") != "UTC":
        connection.execute("SET TIME ZONE 'UTC'")
    if is_direct(connection):
        connection.execute(_PLAN_BY_INDEX)


def is_direct(connection: psycopg.Connection[Any]) -> bool:
    """Not where a pooler lends its sessions to others, who would find them with our settings."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row is not None and row[0] == connection.info.backend_pid


# What the pool warns of reaches callers as errors. Without this, in a program that configures no
# logging, it would go to standard error as well.
logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())

_everyone: weakref.WeakSet[Connections] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork_in_child() -> None:
    for connections in list(_everyone):
        connections.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
