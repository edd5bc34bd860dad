"""How transactions begin and end, and the `Database` on the connection of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from typing import TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from ... import forks
from ...errors import StorageClosed, StorageError, StorageUnavailable
from ...frameworks import CallersConnection
from ..sql.database import Params, Row
from .bound import check_bound, commits_itself, driver_connection
from .clock import ticks
from .connections import is_broken
from .dialect import PostgresDialect
from .errors import ends_session, lost_statement, nothing_committed, translate, unknown_outcome
from .executor import BoundExecutor, PostgresExecutor
from .identity import Identity, ask
from .limits import ROLLBACK_SECONDS
from .server import Server
from .wakeups import NOTIFY

T = TypeVar("T")

# One name is enough: blocks end in the reverse of the order in which they began.
_SAVEPOINT = "assistly"


def begin(executor: PostgresExecutor) -> bool:
    """Begin a transaction and return True; if one is open, begin a savepoint and return False."""
    is_outermost = commits_itself(executor.connection)
    executor.command(executor.begin if is_outermost else f"SAVEPOINT {_SAVEPOINT}")
    return is_outermost


def commit(executor: PostgresExecutor, is_outermost: bool) -> None:
    """Commit the transaction, or release the savepoint, that `begin` began.

    Raises OutcomeUnknown if the connection breaks during the commit.
    """
    if not is_outermost:
        try:
            executor.command(f"RELEASE SAVEPOINT {_SAVEPOINT}")
        except psycopg.Error:
            roll_back(executor, is_outermost)
            raise
        return
    try:
        answer = executor.command("COMMIT")
    except psycopg.Error as error:
        if is_broken(executor.connection) and not nothing_committed(error):
            raise unknown_outcome(error) from error
        raise
    if answer != "COMMIT":
        raise StorageUnavailable("an earlier call in this transaction failed: nothing was written")


def roll_back(executor: PostgresExecutor, is_outermost: bool, seconds: float | None = None) -> None:
    """Roll back to `begin`. Its own errors are suppressed, since the caller raises the original one.

    A server that does not roll back within a second does so when it finds the connection closed. `seconds`
    is the limit for a savepoint (default: that of any call).
    """
    with suppress(psycopg.Error):
        if is_outermost:
            executor.limit.begin(ROLLBACK_SECONDS, cancels=False)
            executor.command("ROLLBACK")
        else:
            executor.limit.begin(seconds)
            executor.command(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            executor.command(f"RELEASE SAVEPOINT {_SAVEPOINT}")


def run(executor: PostgresExecutor, work: Callable[[PostgresExecutor], T], *, keep: bool = True) -> T:
    """Call `work` in a transaction or a savepoint. Roll back after an exception, or if `keep` is False."""
    is_outermost = begin(executor)
    try:
        result = work(executor)
    except BaseException:
        roll_back(executor, is_outermost)
        raise
    if keep:
        commit(executor, is_outermost)
    else:
        roll_back(executor, is_outermost)
    return result


def ask_time(executor: PostgresExecutor) -> tuple[float, datetime]:
    """Ask the server for its time; see `clock.Ask`."""
    before = ticks()
    answer: datetime
    (answer,) = executor.rows("SELECT pg_catalog.clock_timestamp()")[0]
    return before, answer


class PostgresTransaction:
    """A `Database` on one connection: that of a transaction, or one that a caller has bound.

    `Storage` serializes the calls on it, and makes none after its end.
    """

    writers = 0

    def __init__(
        self,
        server: Server,
        executor: PostgresExecutor,
        callers: CallersConnection | None = None,
        ask_own: Callable[[], Identity | None] | None = None,
    ) -> None:
        self.server = server
        self._executor = executor
        self._callers = callers
        self._ask_own = ask_own
        self._is_bound = callers is not None
        self._is_checked = not self._is_bound
        self._generation = forks.generation()
        self.has_due_jobs = False

    @property
    def dialect(self) -> PostgresDialect:
        return self.server.dialect

    def select(self, statement: str, params: Params) -> list[Row]:
        with self.entered() as executor:
            return executor.rows(statement, params)

    def returning(self, statement: str, params: Params) -> list[Row]:
        return self.autocommit(lambda executor: executor.rows(statement, params))

    def execute(self, statement: str, params: Params) -> int:
        return self.autocommit(lambda executor: executor.execute(statement, params))

    def read(self, work: Callable[[PostgresExecutor], T]) -> T:
        with self.entered() as executor:
            return work(executor)

    def autocommit(self, work: Callable[[PostgresExecutor], T]) -> T:
        with self.entered(commits=commits_itself(self._executor.connection)) as executor:
            return work(executor)

    def in_transaction(self, work: Callable[[PostgresExecutor], T]) -> T:
        with self.entered() as executor:
            return run(executor, work)

    def rolled_back(self, work: Callable[[PostgresExecutor], T]) -> T:
        with self.entered() as executor:
            return run(executor, work, keep=False)

    @contextmanager
    def transaction(self) -> Iterator[PostgresTransaction]:
        """Begin a savepoint; on a bound connection in autocommit, a transaction."""
        with self.entered() as executor:
            is_outermost = begin(executor)
        try:
            yield self
        except BaseException as error:
            if self.is_usable:
                with suppress(StorageError), self.entered():
                    # A storage that is being closed does not wait long for a silent server.
                    is_closing = isinstance(error, StorageClosed) and not self._is_bound
                    roll_back(executor, is_outermost, ROLLBACK_SECONDS if is_closing else None)
            raise
        with self.entered():
            commit(executor, is_outermost)

    @contextmanager
    def snapshot(self, *, hold_writers: bool) -> Iterator[PostgresTransaction]:  # noqa: ARG002
        raise StorageError("a transaction cannot be exported: call `snapshot` of the engine")
        yield self

    def bind(self, callers: CallersConnection) -> PostgresTransaction:
        transaction = bound(self.server, callers, self.own_identity)
        transaction.check_when_bound()
        return transaction

    def own_identity(self) -> Identity | None:
        """The identity of the storage's database, asked for on a connection of the storage's own."""
        return self.read(ask) if self._ask_own is None else self._ask_own()

    def now(self) -> datetime:
        return self.server.clock.now(lambda: self.read(ask_time))

    def migrate(self) -> list[str]:
        """Nothing is pending: the schema was prepared before the transaction began."""
        self._check()
        return []

    def wait(self, timeout: float) -> None:
        self.server.wakeups.wait(timeout)

    def close(self) -> None:
        """Nothing to close: the transaction ends with its block, or with the caller's connection."""

    def notify_of_jobs(self) -> None:
        if not self._is_bound:
            self.has_due_jobs = True
        elif commits_itself(self._executor.connection):
            self.server.wakeups.notify()
        else:
            # The server delivers it when the caller commits, and only once, however often it is sent.
            self.read(lambda executor: executor.rows(NOTIFY, {"channel": self.server.wakeups.channel}))

    def may_notify_at_once(self) -> bool:
        return False

    def sees_later_commits(self) -> bool:
        if not self._is_bound:
            return True
        rows = self.select("SELECT pg_catalog.current_setting('transaction_isolation')", {})
        return rows == [("read committed",)]

    @property
    def is_usable(self) -> bool:
        """False in a forked child, which shares the socket with its parent, and after `close`."""
        return self._generation == forks.generation() and not self.server.pool.is_closed

    def _check(self) -> None:
        if self._generation != forks.generation():
            raise StorageClosed("the transaction belongs to the process that began it")
        if self.server.pool.is_closed:
            raise StorageClosed("the storage is closed")
        if self._callers is not None:
            check_bound(self._callers, self._executor.connection)

    def check_when_bound(self) -> None:
        """Raise InvalidValue if the caller's connection is not to the database of the storage.

        In a failed transaction, and in the middle of a statement, that is left to the next call.
        """
        if self._executor.connection.pgconn.transaction_status != TransactionStatus.ACTIVE:
            self._check_database()

    def _check_database(self) -> None:
        connection, identities = self._executor.connection, self.server.identities
        self._is_checked = identities.knows(connection)
        if not self._is_checked:
            with self._limited() as executor:
                theirs = ask(executor)
            if theirs is not None:
                self._is_checked = identities.check(connection, theirs, self.own_identity)

    def entered(self, *, commits: bool = False) -> AbstractContextManager[PostgresExecutor]:
        self._check()
        if not self._is_checked:
            self._check_database()
        return self._limited(commits=commits)

    @contextmanager
    def _limited(self, *, commits: bool = False) -> Iterator[PostgresExecutor]:
        executor = self._executor
        executor.limit.begin()
        if self._is_bound:
            executor.limit.apply()
        try:
            yield executor
        except psycopg.Error as error:
            broken = is_broken(executor.connection)
            if (broken or ends_session(error)) and not self._is_bound:
                self.server.drop_connections()
            if commits and broken and not nothing_committed(error):
                raise unknown_outcome(error) from error
            # The connection prepares nothing from now on, so running the transaction again helps.
            again = None if self._is_bound else lost_statement(error)
            raise again or translate(error) from error
        finally:
            if self._is_bound:
                _leave_to_caller(executor)


def _leave_to_caller(executor: PostgresExecutor) -> None:
    executor.limit.withdraw()
    link = executor.connection.pgconn
    if link.transaction_status == TransactionStatus.ACTIVE:
        # Nobody can use a connection that was left in the middle of a statement.
        link.finish()


def bound(
    server: Server, callers: CallersConnection, ask_own: Callable[[], Identity | None]
) -> PostgresTransaction:
    """Return the database on a caller's connection. Raises InvalidValue for one that cannot be used.

    `ask_own` asks for the identity of the storage's database, on a connection of its own.
    """
    connection = driver_connection(callers)
    executor = BoundExecutor(connection, server.limits.of(connection))
    return PostgresTransaction(server, executor, callers, ask_own)
