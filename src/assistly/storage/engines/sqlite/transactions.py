"""Databases on one connection: in a transaction, or on a bound connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TypeVar

from ...clock import machine_clock
from ...errors import StorageClosed, StorageError, StorageUnavailable
from ...frameworks import CallersConnection
from ..sql.database import Database, Row
from .bound import BoundConnection
from .connections import Connection, Values
from .dialect import DIALECT
from .pool import SqlitePool

T = TypeVar("T")


@contextmanager
def atomic(connection: Connection) -> Iterator[None]:
    """Run the block in a transaction, or in a savepoint if the connection is in a transaction."""
    with _savepoint(connection) if connection.in_transaction else _transaction(connection):
        yield


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    # Not a deferred one: if it reads first, and another connection writes before it does, its write fails at
    # once, whatever the busy timeout.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(StorageError):
            connection.execute("ROLLBACK")
        raise


@contextmanager
def reading(connection: Connection) -> Iterator[None]:
    """Run the block in a transaction that sees the data of now, and writes nothing."""
    connection.execute("BEGIN")
    try:
        # A deferred transaction begins with its first read.
        connection.rows("SELECT count(*) FROM assistly_retention")
        yield
    finally:
        with suppress(StorageError):
            connection.execute("ROLLBACK")


@contextmanager
def _savepoint(connection: Connection) -> Iterator[None]:
    connection.execute("SAVEPOINT assistly_savepoint")
    try:
        yield
        connection.execute("RELEASE assistly_savepoint")
    except BaseException:
        # After some errors, such as a full disk, SQLite has rolled back the whole transaction by itself.
        if connection.in_transaction:
            _undo_savepoint(connection)
        raise


def _undo_savepoint(connection: Connection) -> None:
    """Roll back to the savepoint. If that fails, roll back everything, so that nothing of it is committed."""
    try:
        connection.execute("ROLLBACK TO assistly_savepoint")
        connection.execute("RELEASE assistly_savepoint")
    except StorageError as error:
        with suppress(StorageError):
            connection.execute("ROLLBACK")
        raise StorageUnavailable(
            "a nested transaction could not be rolled back alone, so the whole one was: run it again"
        ) from error


class PinnedConnection:
    """A `Database` on one connection, which is in a transaction. `Storage` serializes the calls."""

    dialect = DIALECT
    writers = 0

    def __init__(self, connection: Connection, pool: SqlitePool) -> None:
        self._connection = connection
        self._pool = pool

    def check(self) -> None:
        """Raise StorageClosed, StorageCorrupt or StorageUnavailable if the transaction cannot go on."""
        if self._pool.closed:
            raise StorageClosed("the storage was closed: the transaction was rolled back")
        if not self._connection.in_transaction:
            raise StorageUnavailable("SQLite rolled back the transaction after an error: begin it again")
        self._pool.file.identity.check_sometimes()

    def select(self, statement: str, params: Values) -> Sequence[Row]:
        self.check()
        return self._connection.rows(statement, params)

    def returning(self, statement: str, params: Values) -> list[Row]:
        self._before_write()
        return self._connection.rows(statement, params)

    def execute(self, statement: str, params: Values) -> int:
        self._before_write()
        return self._connection.execute(statement, params)

    def insert(self, statement: str, values: Values) -> int:
        self._before_write()
        return self._connection.insert(statement, values)

    def read(self, work: Callable[[Connection], T]) -> T:
        self.check()
        return work(self._connection)

    def autocommit(self, work: Callable[[Connection], T]) -> T:
        self._before_write()
        return work(self._connection)

    def in_transaction(self, work: Callable[[Connection], T]) -> T:
        self._before_write()
        with atomic(self._connection):
            return work(self._connection)

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        self._before_write()
        with atomic(self._connection):
            yield self
            self.check()

    @contextmanager
    def snapshot(self, *, hold_writers: bool) -> Iterator[Database]:  # noqa: ARG002
        raise StorageError("a transaction cannot be exported: call `snapshot` of the engine")
        yield self

    def bind(self, callers: CallersConnection) -> Database:  # noqa: ARG002
        raise StorageError("a transaction has no connections to bind: call `bind` of the storage")

    def now(self) -> datetime:
        return machine_clock.now()

    def migrate(self) -> list[str]:
        """Nothing is pending: the schema was prepared before the transaction began."""
        return []

    def wait(self, timeout: float) -> None:
        """Never called: inside a transaction, the stores poll."""

    def close(self) -> None:
        """The block ends the transaction."""

    def _before_write(self) -> None:
        self.check()


class BoundDatabase(PinnedConnection):
    """A `Database` on a bound connection. The caller commits or rolls back."""

    def __init__(self, connection: BoundConnection, pool: SqlitePool) -> None:
        super().__init__(connection, pool)
        self._begin_if_implicit = connection.begin_if_implicit

    def check(self) -> None:
        """Raise StorageCorrupt if the file was replaced. The connection need not be in a transaction."""
        self._pool.file.identity.check_sometimes()

    def _before_write(self) -> None:
        self.check()
        self._begin_if_implicit()
