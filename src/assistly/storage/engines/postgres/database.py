"""The `Database` of Postgres: whose connection runs a piece of work, and how often it may be tried."""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, TypeVar

import psycopg

from ...errors import ConfigurationError, InvalidValue, StorageClosed
from ..sql.database import Params
from ..sql.migrations import discover, migrate, require_current
from .clock import ServerClock
from .connections import Connections, PooledConnection, is_broken
from .conninfo import Target, check_schema
from .courier import Announcement
from .dialect import PostgresDialect
from .errors import is_conflict, nothing_committed, translate, unknown_outcome
from .executor import ForeignExecutor, PostgresExecutor
from .migrations import SchemaTarget
from .session import BEGIN, PinnedDatabase, Session, ask_time, commit
from .upkeep import Upkeep
from .wakeups import Wakeups

T = TypeVar("T")

_CONFLICT_RETRIES = 8


class _Ambient(threading.local):
    """The transaction that a thread has open."""

    pinned: PinnedDatabase | None = None


class PostgresDatabase:
    """Statements run in autocommit on a borrowed connection, unless the thread has a transaction open."""

    def __init__(
        self,
        database_url: str,
        pool_size: int,
        *,
        schema: str,
        auto_migrate: bool,
        prepare_threshold: int | None,
    ) -> None:
        if not isinstance(pool_size, int) or isinstance(pool_size, bool) or pool_size < 1:
            raise ConfigurationError(f"STORAGE_POOL_SIZE is {pool_size!r}: it takes a whole number from 1")
        self.target = Target.parse(database_url)
        self.dialect = PostgresDialect(check_schema(schema))
        self.clock = ServerClock()
        self._connections = Connections(self.target, pool_size, prepare_threshold=prepare_threshold)
        self._wakeups = Wakeups(self.target, self.dialect, prepare_threshold=prepare_threshold)
        self.upkeep = Upkeep(self.target, schema, prepare_threshold=prepare_threshold)
        self._farewell = weakref.finalize(self, self._wakeups.close)
        self._pool_size = pool_size
        self._auto_migrate = auto_migrate
        self._ready = False
        self._ambient = _Ambient()

    def read(self, work: Callable[[PostgresExecutor], T]) -> T:
        pinned = self._joined()
        if pinned is not None:
            return pinned.read(work)
        self._make_ready()
        return self._run(work)

    def autocommit(self, work: Callable[[PostgresExecutor], T]) -> T:
        pinned = self._ambient.pinned
        if pinned is not None and not pinned.ended:
            return pinned.autocommit(work)
        if not self._ready:
            self._make_ready()
        return self._run(work, commits=True)

    def execute(self, statement: str, params: Params) -> int:
        pinned = self._ambient.pinned
        if pinned is not None and not pinned.ended:
            return pinned.execute(statement, params)
        if not self._ready:
            self._make_ready()
        attempt = 0
        while True:
            connection = self._connections.take()
            try:
                return connection.executor.execute(statement, params)
            except psycopg.Error as error:
                pause = self._pause_after(error, connection, attempt, commits=True)
            finally:
                self._connections.give_back(connection)
            time.sleep(pause)
            attempt += 1

    def in_transaction(self, work: Callable[[PostgresExecutor], T]) -> T:
        pinned = self._joined()
        if pinned is not None:
            return pinned.in_transaction(work)
        self._make_ready()
        return self._run(lambda executor: _in_transaction(executor, work))

    def rolled_back(self, work: Callable[[PostgresExecutor], T]) -> T:
        pinned = self._joined()
        if pinned is not None:
            return pinned.rolled_back(work)
        self._make_ready()
        return self._run(lambda executor: _in_transaction(executor, work, keep=False))

    def sees_later_commits(self) -> bool:
        return True

    def writers(self) -> int:
        pinned = self._ambient.pinned
        return self._pool_size if pinned is None or pinned.ended else 0

    @contextmanager
    def transaction(self) -> Iterator[PinnedDatabase]:
        joined = self._joined()
        if joined is not None:
            with joined.transaction() as nested:
                yield nested
            return
        self._make_ready()
        connection = self._begin()
        session = Session(connection, connection.executor)
        pinned = PinnedDatabase(self, session)
        self._ambient.pinned = pinned
        try:
            yield pinned
        except BaseException:
            pinned.end()
            _roll_back(session)
            raise
        else:
            pinned.end()
            try:
                _commit(session)
            finally:
                if session.announcement is not None:
                    self._wakeups.announce(session.announcement)
        finally:
            self._ambient.pinned = None
            self._connections.give_back(connection)

    def bind(self, connection: Any) -> PinnedDatabase:
        if not isinstance(connection, psycopg.Connection):
            raise InvalidValue(f"connection must be a psycopg.Connection, not {type(connection).__name__}")
        if connection.closed:
            raise InvalidValue("connection is closed")
        if (encoding := connection.info.encoding) != "utf-8":
            raise InvalidValue(f"connection has the client encoding {encoding}: it must have UTF8")
        self._make_ready()
        return PinnedDatabase(self, Session(connection, ForeignExecutor(connection), foreign=True))

    def now(self) -> datetime:
        pinned = self._joined()
        if pinned is not None:
            return pinned.now()
        return self.clock.now(self._ask_time)

    def now_ms(self) -> int:
        pinned = self._joined()
        return self.clock.now_ms(self._ask_time) if pinned is None else pinned.now_ms()

    def migrate(self) -> list[str]:
        pinned = self._joined()
        if pinned is not None:
            return pinned.migrate()
        applied = self._run(lambda executor: migrate(self._schema(executor), discover("postgres")))
        self._ready = True
        return applied

    def announce(self, announcement: Announcement) -> None:
        pinned = self._joined()
        if pinned is not None:
            pinned.announce(announcement)
        else:
            self._wakeups.announce(announcement)

    def may_tell(self) -> bool:
        return self._wakeups.is_quiet() and self._joined() is None

    def told(self) -> None:
        self._wakeups.told()

    def look(self) -> None:
        self._wakeups.look()

    def wait(self, timeout: float) -> datetime | None:
        return self._wakeups.wait(timeout)

    def close(self) -> None:
        self._farewell()
        self.upkeep.close()
        self._connections.close()

    def _ask_time(self) -> tuple[float, datetime]:
        return self._run(ask_time)

    def _joined(self) -> PinnedDatabase | None:
        pinned = self._ambient.pinned
        return None if pinned is None or pinned.ended else pinned

    def _make_ready(self) -> None:
        """A first use that failed leaves no trace: the next one tries again."""
        if not self._ready:
            self._run(self._check_schema)

    def _check_schema(self, executor: PostgresExecutor) -> None:
        with self._connections.lock:
            if self._ready:
                return
            apply = migrate if self._auto_migrate else require_current
            apply(self._schema(executor), discover("postgres"))
            self._ready = True

    def _schema(self, executor: PostgresExecutor) -> SchemaTarget:
        return SchemaTarget(executor, self.dialect.schema)

    def _begin(self, *, again: bool = True) -> PooledConnection:
        connection = self._connections.take()
        try:
            connection.executor.command(BEGIN)
        except BaseException as error:
            self._connections.give_back(connection)
            if not isinstance(error, psycopg.Error):
                raise
            if not again:
                raise translate(error) from error
        else:
            return connection
        self._connections.drain()
        return self._begin(again=False)

    def _run(self, work: Callable[[PostgresExecutor], T], *, commits: bool = False) -> T:
        """`commits`: the work's one statement commits itself, so that it must not be repeated blindly."""
        attempt = 0
        while True:
            connection = self._connections.take()
            try:
                return work(connection.executor)
            except psycopg.Error as error:
                pause = self._pause_after(error, connection, attempt, commits=commits)
            finally:
                self._connections.give_back(connection)
            time.sleep(pause)
            attempt += 1

    def _pause_after(
        self, error: psycopg.Error, connection: PooledConnection, attempt: int, *, commits: bool
    ) -> float:
        """Seconds until it may be tried again; else it raises the error."""
        broken = is_broken(connection)
        in_doubt = broken and commits and not nothing_committed(error)
        if broken:
            self._connections.drain()
        if in_doubt:
            raise unknown_outcome(error) from error
        if attempt >= _retries(error, broken=broken):
            raise translate(error) from error
        return random.uniform(0, 0.002 * 2**attempt) if attempt and not broken else 0.0


def _retries(error: psycopg.Error, *, broken: bool) -> int:
    if broken:
        return 1
    return _CONFLICT_RETRIES if is_conflict(error) else 0


def _in_transaction(
    executor: PostgresExecutor, work: Callable[[PostgresExecutor], T], *, keep: bool = True
) -> T:
    executor.command(BEGIN)
    try:
        result = work(executor)
    except BaseException:
        with suppress(psycopg.Error):
            executor.command("ROLLBACK")
        raise
    if keep:
        commit(executor)
    else:
        executor.command("ROLLBACK")
    return result


def _commit(session: Session) -> None:
    if not session.is_ours:
        raise StorageClosed("the transaction belongs to the process that began it")
    try:
        commit(session.executor)
    except psycopg.Error as error:
        raise translate(error) from error


def _roll_back(session: Session) -> None:
    if session.is_ours:
        with suppress(psycopg.Error):
            session.executor.command("ROLLBACK")
