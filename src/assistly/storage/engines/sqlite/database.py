"""The `Database` of SQLite: each call borrows a connection to the file."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from typing import TypeVar

from ...clock import machine_clock
from ...frameworks import CallersConnection
from ...records import PoolConnections
from ..sql.database import Database, Row
from ..sql.migrations import Migration, MigrationTarget, discover, migrate, require_current
from .bound import BoundConnection, bound, check_file
from .connections import Connection, Values
from .dialect import DIALECT
from .files import DatabaseFile, no_database
from .migrations import SqliteMigrations
from .pool import SqlitePool
from .transactions import BoundDatabase, PinnedConnection, atomic, reading
from .watch import ChangeWatch

T = TypeVar("T")


class SqliteDatabase:
    """A `Database` on a file: its pool of connections, its schema, and its behaviour at forks."""

    dialect = DIALECT
    writers = 1

    def __init__(self, file: DatabaseFile, *, auto_migrate: bool) -> None:
        self._schema = _Schema(auto_migrate=auto_migrate)
        self._name = file.name
        self._pool = SqlitePool(file, self._schema.make_ready)
        self._watch = ChangeWatch(self._pool)
        self._bound: weakref.WeakSet[BoundConnection] = weakref.WeakSet()
        # Of a storage that nobody closes, when it is collected or the interpreter ends.
        self._close = weakref.finalize(self, _close, self._pool, self._watch)

    def select(self, statement: str, params: Values) -> list[Row]:
        connection = self._pool.borrow()
        try:
            return connection.rows(statement, params)
        finally:
            self._pool.give_back(connection)

    # Outside a transaction, SQLite commits each statement by itself. Before a write is acknowledged, the
    # file is checked: SQLite does not notice that it was replaced.
    def returning(self, statement: str, params: Values) -> list[Row]:
        rows = self.select(statement, params)
        self._pool.check()
        return rows

    def execute(self, statement: str, params: Values) -> int:
        connection = self._pool.borrow()
        try:
            changed = connection.execute(statement, params)
        finally:
            self._pool.give_back(connection)
        self._pool.check()
        return changed

    def insert(self, statement: str, values: Values) -> int:
        """Run an INSERT of one row; return its id, or 0 if no row was inserted."""
        connection = self._pool.borrow()
        try:
            id = connection.insert(statement, values)
        finally:
            self._pool.give_back(connection)
        self._pool.check()
        return id

    def read(self, work: Callable[[Connection], T]) -> T:
        connection = self._pool.borrow()
        try:
            return work(connection)
        finally:
            self._pool.give_back(connection)

    def autocommit(self, work: Callable[[Connection], T]) -> T:
        result = self.read(work)
        self._pool.check()
        return result

    def in_transaction(self, work: Callable[[Connection], T]) -> T:
        connection = self._pool.borrow()
        try:
            with atomic(connection):
                result = work(connection)
        finally:
            self._pool.give_back(connection)
        self._pool.check()
        return result

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        connection = self._pool.borrow()
        try:
            with atomic(connection):
                pinned = PinnedConnection(connection, self._pool)
                yield pinned
                pinned.check()
        finally:
            self._pool.give_back(connection)
        self._pool.check()

    @contextmanager
    def snapshot(self, *, hold_writers: bool) -> Iterator[Database]:
        if hold_writers:
            with self.transaction() as pinned:
                yield pinned
            return
        connection = self._pool.borrow()
        try:
            with reading(connection):
                yield PinnedConnection(connection, self._pool)
        finally:
            self._pool.give_back(connection)

    def bind(self, callers: CallersConnection) -> Database:
        connection = bound(callers, self._name)
        self._pool.give_back(self._pool.borrow())
        check_file(connection, self._pool.file)
        self._bound.add(connection)
        return BoundDatabase(connection, self._pool)

    def now(self) -> datetime:
        return machine_clock.now()

    @property
    def connections(self) -> PoolConnections:
        return self._pool.connections

    def migrate(self) -> list[str]:
        connection = self._pool.borrow_new()
        try:
            applied = migrate(SqliteMigrations(connection), discover("sqlite"))
        finally:
            self._pool.give_back(connection)
        self._pool.check()
        self._schema.is_ready = True
        return applied

    def exists(self) -> bool:
        """Whether the file is there. Raises ConfigurationError if that cannot be told."""
        return self._pool.file.exists()

    def on_schema(self, work: Callable[[MigrationTarget, Sequence[Migration]], T]) -> T:
        """See `MigratedBackend.on_schema`."""
        migrations = discover("sqlite")
        if not self.exists():
            with closing(no_database()) as empty:
                return work(SqliteMigrations(empty), migrations)
        connection = self._pool.borrow_new(may_change=False)
        try:
            return work(SqliteMigrations(connection), migrations)
        finally:
            self._pool.discard(connection)

    def wait(self, timeout: float) -> None:
        self._watch.wait(timeout)

    def close(self) -> None:
        self._close()

    def before_fork(self, timeout: float) -> None:
        """Close every connection, waiting up to `timeout` seconds for those that are in use."""
        self._pool.before_fork(timeout)
        self._watch.before_fork()

    def after_fork_in_parent(self) -> None:
        """Open connections again when they are needed."""
        self._pool.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Open connections when they are needed, unless one of the parent's was open at the fork."""
        self._schema.after_fork_in_child()
        for connection in list(self._bound):
            connection.leave_to_parent()
        self._pool.after_fork_in_child()
        self._watch.after_fork_in_child()


class _Schema:
    """Prepares the schema on first use. If that fails, the next use tries again."""

    def __init__(self, *, auto_migrate: bool) -> None:
        self._auto_migrate = auto_migrate
        self._lock = threading.Lock()
        self.is_ready = False

    def make_ready(self, connection: Connection) -> None:
        with self._lock:
            if self.is_ready:
                return
            target = SqliteMigrations(connection)
            if self._auto_migrate:
                migrate(target, discover("sqlite"))
            else:
                require_current(target, discover("sqlite"))
            self.is_ready = True

    def after_fork_in_child(self) -> None:
        """Replace the lock, which another thread may have held."""
        self._lock = threading.Lock()


def _close(pool: SqlitePool, watch: ChangeWatch) -> None:
    pool.close()
    watch.close()
