"""What runs on one connection: transactions, savepoints and bound connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from ...errors import StorageClosed, StorageError, StorageUnavailable
from ..sql.database import Database, Row
from .bound import BoundConnection
from .connections import Connection, Values
from .dialect import DIALECT
from .pool import SqlitePool

T = TypeVar("T")


@contextmanager
def atomic(connection: Connection) -> Iterator[None]:
    """A transaction around the block, or a savepoint where the connection is in one."""
    with _savepoint(connection) if connection.in_transaction else _transaction(connection):
        yield


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    # A deferred one that reads first and writes later fails at once when another connection wrote
    # meanwhile, however long the busy timeout is.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(StorageError):
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _savepoint(connection: Connection) -> Iterator[None]:
    connection.execute("SAVEPOINT assistly_savepoint")
    try:
        yield
        connection.execute("RELEASE assistly_savepoint")
    except BaseException:
        # Without a transaction SQLite has undone all of it by itself: the disk is full, for one.
        with suppress(StorageError):
            if connection.in_transaction:
                connection.execute("ROLLBACK TO assistly_savepoint")
                connection.execute("RELEASE assistly_savepoint")
        raise


class PinnedConnection:
    """A `Database` on one connection, which is in a transaction. One call is made at a time."""

    dialect = DIALECT
    writers = 0

    def __init__(self, connection: Connection, pool: SqlitePool) -> None:
        self._connection = connection
        self._pool = pool

    def check(self) -> None:
        """Raise if the transaction is not open any more."""
        if self._pool.closed:
            raise StorageClosed("the storage was closed: the transaction was undone")
        if not self._connection.in_transaction:
            raise StorageUnavailable("SQLite undid the transaction after an error: begin it again")

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

    def bind(self, connection: Any) -> Database:  # noqa: ARG002
        raise StorageError("a transaction has no connections to bind: call `bind` of the storage")

    def now(self) -> datetime:
        return datetime.now(UTC)

    def migrate(self) -> list[str]:
        """The schema was made ready before the transaction began."""
        return []

    def wait(self, timeout: float) -> None:
        """Never called: nobody waits for jobs inside a transaction."""

    def close(self) -> None:
        """The block ends the transaction."""

    def _before_write(self) -> None:
        self.check()


class BoundDatabase(PinnedConnection):
    """On the caller's connection. A transaction that the caller has begun is the caller's to commit."""

    def __init__(self, connection: BoundConnection, pool: SqlitePool) -> None:
        super().__init__(connection, pool)
        self._begin_if_implicit = connection.begin_if_implicit

    def check(self) -> None:
        """Outside a transaction each statement is one of its own."""

    def _before_write(self) -> None:
        self._begin_if_implicit()
