"""The `Database` of Postgres: borrows connections for calls, and decides which calls are retried."""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import psycopg

from ... import forks
from ...errors import ConfigurationError, StorageClosed, StorageUnavailable
from ...frameworks import CallersConnection
from ...records import PoolConnections
from ..sql.database import Params, Row
from ..sql.migrations import Migration, MigrationTarget, discover, migrate, require_current
from .clock import ServerClock
from .connections import Hosts, PooledConnection, connect, is_broken, seconds_to_connect
from .conninfo import Target, check_schema
from .dialect import PostgresDialect
from .errors import ends_session, is_conflict, nothing_committed, translate, unknown_outcome
from .executor import PostgresExecutor
from .identity import Identities, ask
from .limits import LONG_SECONDS, PING_SECONDS, LimitExceeded, Limits
from .migrations import SchemaTarget
from .pool import Pool
from .server import Server
from .tables import lock_tables
from .transaction import PostgresTransaction, ask_time, begin, bound, commit, roll_back, run
from .wakeups import Wakeups

T = TypeVar("T")

_CONFLICT_RETRIES = 8


class PostgresDatabase(forks.ForkAware):
    """A `Database` that borrows a connection for each call. Outside transactions it is in autocommit."""

    def __init__(
        self,
        database_url: str,
        pool_size: int,
        *,
        schema: str,
        auto_migrate: bool,
        prepare_threshold: int | None,
        fast_path: bool | None,
        lock_timeout: timedelta,
        timeout: timedelta,
    ) -> None:
        if not isinstance(pool_size, int) or isinstance(pool_size, bool) or pool_size < 1:
            raise ConfigurationError(
                f"STORAGE_POOL_SIZE is {pool_size!r}: it must be a whole number, at least 1"
            )
        self.limits = Limits(timeout)
        self.target = Target.parse(database_url)
        open_one = partial(
            connect,
            self.target,
            prepare_threshold=prepare_threshold,
            fast_path=fast_path,
            lock_timeout=lock_timeout,
            limits=self.limits,
        )
        self.dialect = PostgresDialect(check_schema(schema))
        hosts = Hosts.of(self.target)
        measure = partial(seconds_to_connect, self.target)
        self._wakeups = Wakeups(self.target, schema)
        make_room = self._wakeups.step_aside
        self._pool = Pool(open_one, pool_size, hosts.text, hosts.seconds, measure, make_room)
        self.server = Server(
            self.dialect, ServerClock(), self._pool, self._wakeups, self.limits, Identities()
        )
        self.writers = pool_size
        self._auto_migrate = auto_migrate
        self._is_ready = False
        self._migrating = threading.Lock()
        self._unanswered_checks = 0
        # Also called when a storage that was never closed is collected, or the interpreter ends.
        self._close = weakref.finalize(self, _close, self.limits, self._wakeups, self._pool)
        forks.register(self)

    def select(self, statement: str, params: Params) -> list[Row]:
        return self._run(lambda executor: executor.rows(statement, params))

    def returning(self, statement: str, params: Params) -> list[Row]:
        return self._run(lambda executor: executor.rows(statement, params), commits=True)

    def execute(self, statement: str, params: Params) -> int:
        return self._run(lambda executor: executor.execute(statement, params), commits=True)

    def read(self, work: Callable[[PostgresExecutor], T]) -> T:
        return self._run(work)

    def autocommit(self, work: Callable[[PostgresExecutor], T]) -> T:
        return self._run(work, commits=True)

    def in_transaction(self, work: Callable[[PostgresExecutor], T]) -> T:
        return self._run(lambda executor: run(executor, work))

    def rolled_back(self, work: Callable[[PostgresExecutor], T]) -> T:
        return self._run(lambda executor: run(executor, work, keep=False))

    @contextmanager
    def transaction(self) -> Iterator[PostgresTransaction]:
        self._make_ready()
        connection = self._begin()
        executor = connection.executor
        transaction = PostgresTransaction(self.server, executor)
        try:
            yield transaction
        except StorageClosed:
            # The storage is being closed: closing the connection undoes the transaction without waiting.
            raise
        except BaseException:
            if transaction.is_usable:
                roll_back(executor, True)
            raise
        else:
            with transaction.entered():
                commit(executor, True)
        finally:
            self._pool.give_back(connection)
            if transaction.has_due_jobs:
                self._wakeups.notify()

    @contextmanager
    def snapshot(self, *, hold_writers: bool) -> Iterator[PostgresTransaction]:
        with self.transaction() as transaction:
            with transaction.entered() as executor:
                if hold_writers:
                    lock_tables(executor, self.dialect)
                else:
                    executor.command("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                    executor.rows(f"SELECT pg_catalog.count(*) FROM {self.dialect.t}retention")
            yield transaction

    def bind(self, callers: CallersConnection) -> PostgresTransaction:
        transaction = bound(self.server, callers, lambda: self._try(ask))
        self._make_ready()
        transaction.check_when_bound()
        return transaction

    def now(self) -> datetime:
        return self.server.clock.now(lambda: self._try(ask_time))

    def ping(self, statement: str) -> None:
        """Run a statement, within five seconds in all unless the schema has to be prepared first."""
        self._make_ready(PING_SECONDS)
        self._try(lambda executor: executor.rows(statement), within=PING_SECONDS)

    def migrate(self) -> list[str]:
        applied = self._try(lambda executor: migrate(self._schema(executor), discover("postgres")))
        self._is_ready = True
        return applied

    def on_schema(self, work: Callable[[MigrationTarget, Sequence[Migration]], T]) -> T:
        """See `MigratedBackend.on_schema`."""
        return self._try(lambda executor: work(self._schema(executor), discover("postgres")))

    @property
    def connections(self) -> PoolConnections:
        return self._pool.connections

    def wait(self, timeout: float) -> None:
        self._wakeups.wait(timeout)

    def close(self) -> None:
        self._close()

    def notify_of_jobs(self) -> None:
        self._wakeups.notify()

    def may_notify_at_once(self) -> bool:
        return self._wakeups.may_notify()

    def sees_later_commits(self) -> bool:
        return True

    def after_fork_in_child(self) -> None:
        """Replace the lock, which another thread may have held."""
        self._migrating = threading.Lock()

    def _make_ready(self, seconds: float | None = None) -> None:
        """Prepare the schema on first use. If that fails, the next use tries again."""
        if not self._is_ready:
            check = partial(self._check_schema, patience=seconds or LONG_SECONDS)
            self._try(check, seconds=seconds)

    def _check_schema(self, executor: PostgresExecutor, patience: float) -> None:
        """A check that the server does not answer also ends those that have waited for it."""
        unanswered = self._unanswered_checks
        if not self._migrating.acquire(timeout=patience):
            raise StorageUnavailable("another thread is still applying the migrations")
        try:
            if self._is_ready:
                return
            if self._unanswered_checks != unanswered:
                raise StorageUnavailable(
                    "the server did not answer another thread, which was reading the schema"
                )
            apply = migrate if self._auto_migrate else require_current
            apply(self._schema(executor), discover("postgres"))
            self._is_ready = True
        except LimitExceeded:
            self._unanswered_checks += 1
            raise
        finally:
            self._migrating.release()

    def _schema(self, executor: PostgresExecutor) -> SchemaTarget:
        return SchemaTarget(executor, self.dialect)

    def _begin(self, *, again: bool = True) -> PooledConnection:
        """Borrow a connection, and begin a transaction. If the connection is dead, try once with another."""
        connection = self._pool.take()
        try:
            connection.executor.limit.begin()
            begin(connection.executor)
        except BaseException as error:
            self._pool.give_back(connection)
            if not isinstance(error, psycopg.Error):
                raise
            self.server.drop_connections()
            if not again or isinstance(error, LimitExceeded):
                raise translate(error) from error
        else:
            return connection
        return self._begin(again=False)

    def _run(self, work: Callable[[PostgresExecutor], T], *, commits: bool = False) -> T:
        """Call `work` on a borrowed connection, and retry it if that is safe.

        `commits`: `work` is one statement in autocommit. If the connection breaks during it, the write may
        have been stored, so it is not retried: OutcomeUnknown is raised.
        """
        if not self._is_ready:
            self._make_ready()
        return self._try(work, commits=commits)

    def _try(
        self,
        work: Callable[[PostgresExecutor], T],
        *,
        commits: bool = False,
        seconds: float | None = None,
        within: float | None = None,
    ) -> T:
        """As `_run`, but without preparing the schema first.

        `seconds` limits the time after a connection was found, `within` the time in all (None: only the
        limits of the storage).
        """
        attempt = 0
        deadline = 0.0 if within is None else time.monotonic() + within
        while True:
            connection = self._pool.take(None if within is None else max(0.0, deadline - time.monotonic()))
            executor = connection.executor
            try:
                # No second is left to cancel within a limit of all.
                executor.limit.begin(seconds if within is None else within, cancels=within is None)
                if deadline:
                    executor.limit.deadline = deadline
                else:
                    deadline = executor.limit.deadline
                return work(executor)
            except psycopg.Error as error:
                pause = self._pause_after(error, connection, attempt, commits=commits)
            finally:
                self._pool.give_back(connection)
            time.sleep(pause)
            attempt += 1

    def _pause_after(
        self, error: psycopg.Error, connection: PooledConnection, attempt: int, *, commits: bool
    ) -> float:
        """Return the seconds to wait before a retry. If none is allowed, raise the error."""
        broken = is_broken(connection.connection)
        useless = broken or ends_session(error)
        if useless:
            self.server.drop_connections()
        if broken and commits and not nothing_committed(error):
            raise unknown_outcome(error) from error
        if attempt >= _retries(error, useless=useless):
            raise translate(error) from error
        return random.uniform(0, 0.002 * 2**attempt) if attempt and not useless else 0.0


def _retries(error: psycopg.Error, *, useless: bool) -> int:
    if isinstance(error, LimitExceeded):
        return 0
    if useless:
        return 1
    return _CONFLICT_RETRIES if is_conflict(error) else 0


def _close(limits: Limits, wakeups: Wakeups, pool: Pool) -> None:
    limits.close()
    wakeups.close()
    pool.close()
