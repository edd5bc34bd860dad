"""The `Database` of SQLite: a file, and what runs inside one transaction on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from ...errors import StorageClosed
from ..sql.database import Database
from ..sql.migrations import discover, migrate, require_current
from .connections import Connection, Opener, Pool, Values, bound
from .dialect import DIALECT
from .forks import forget_in_children
from .migrations import SqliteMigrations
from .sessions import BoundSession, Session
from .transactions import atomic
from .watch import Watch

T = TypeVar("T")


class _Ambient(threading.local):
    """The transaction that a thread has open."""

    session: Session | None = None


class SqliteDatabase:
    dialect = DIALECT

    def __init__(self, path: Path, *, auto_migrate: bool, busy_timeout: timedelta) -> None:
        self._name = str(path)
        self._auto_migrate = auto_migrate
        opener = Opener(path, busy_timeout)
        self._pool = Pool(opener)
        self._watch = Watch(opener)
        self._ready = False
        self._make_locks()
        forget_in_children(self)

    def _make_locks(self) -> None:
        self._ready_lock = threading.Lock()
        self._ambient = _Ambient()

    def after_fork(self) -> list[Connection]:
        self._make_locks()
        return self._pool.after_fork() + self._watch.after_fork()

    def read(self, work: Callable[[Connection], T]) -> T:
        session = self._ambient.session
        return self._alone(work) if session is None else session.read(work)

    def autocommit(self, work: Callable[[Connection], T]) -> T:
        session = self._ambient.session
        return self._alone(work) if session is None else session.autocommit(work)

    def execute(self, statement: str, values: Values) -> int:
        session = self._ambient.session
        if session is not None:
            return session.autocommit(lambda connection: connection.execute(statement, values))
        pool = self._pool
        connection = pool.borrow() if self._ready else self._borrow()
        try:
            return connection.execute(statement, values)
        finally:
            pool.give_back(connection)

    def in_transaction(self, work: Callable[[Connection], T]) -> T:
        def whole(connection: Connection) -> T:
            with atomic(connection):
                return work(connection)

        session = self._ambient.session
        return self._alone(whole) if session is None else session.in_transaction(work)

    def writers(self) -> int:
        return 1 if self._ambient.session is None else 0

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        session = self._ambient.session
        if session is not None:
            with session.transaction(), SessionDatabase(session, self) as pinned:
                yield pinned
            return
        connection = self._borrow()
        try:
            with atomic(connection), self._joined(connection) as pinned:
                yield pinned
        finally:
            self._pool.give_back(connection)

    def bind(self, connection: Any) -> Database:
        session = BoundSession(bound(connection, self._name))
        self._pool.give_back(self._borrow())
        return SessionDatabase(session, self)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def migrate(self) -> list[str]:
        connection = self._pool.borrow()
        try:
            applied = migrate(SqliteMigrations(connection), discover("sqlite"))
        finally:
            self._pool.give_back(connection)
        self._ready = True
        return applied

    def wait(self, timeout: float) -> None:
        self._watch.wait(timeout)

    def close(self) -> None:
        self._watch.close()
        self._pool.close()

    def _alone(self, work: Callable[[Connection], T]) -> T:
        pool = self._pool
        connection = pool.borrow() if self._ready else self._borrow()
        try:
            return work(connection)
        finally:
            pool.give_back(connection)

    @contextmanager
    def _joined(self, connection: Connection) -> Iterator[Database]:
        """Until the end of the block, this thread's calls run on this connection."""
        ambient = self._ambient
        ambient.session = session = Session(connection)
        try:
            with SessionDatabase(session, self) as pinned:
                yield pinned
        finally:
            ambient.session = None

    def _borrow(self) -> Connection:
        connection = self._pool.borrow()
        if not self._ready:
            try:
                self._make_ready(connection)
            except BaseException:
                self._pool.give_back(connection)
                raise
        return connection

    def _make_ready(self, connection: Connection) -> None:
        with self._ready_lock:
            if self._ready:
                return
            target = SqliteMigrations(connection)
            if self._auto_migrate:
                migrate(target, discover("sqlite"))
            else:
                require_current(target, discover("sqlite"))
            self._ready = True


class SessionDatabase:
    """A session as a `Database`, until it is closed."""

    dialect = DIALECT

    def __init__(self, session: Session, root: SqliteDatabase) -> None:
        self._session = session
        self._root = root
        self._closed = False

    def __enter__(self) -> SessionDatabase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, work: Callable[[Connection], T]) -> T:
        with self._session.lock:
            return self._open_session().read(work)

    def autocommit(self, work: Callable[[Connection], T]) -> T:
        with self._session.lock:
            return self._open_session().autocommit(work)

    def execute(self, statement: str, values: Values) -> int:
        return self.autocommit(lambda connection: connection.execute(statement, values))

    def in_transaction(self, work: Callable[[Connection], T]) -> T:
        with self._session.lock:
            return self._open_session().in_transaction(work)

    def writers(self) -> int:
        return 0

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        session = self._open_session()
        with session.transaction(), SessionDatabase(session, self._root) as nested:
            yield nested

    def bind(self, connection: Any) -> Database:
        return self._root.bind(connection)

    def now(self) -> datetime:
        return self._root.now()

    def now_ms(self) -> int:
        return self._root.now_ms()

    def migrate(self) -> list[str]:
        """The schema was made ready before the session began."""
        return []

    def wait(self, timeout: float) -> None:
        self._root.wait(timeout)

    def close(self) -> None:
        """After what another thread is just doing."""
        with self._session.lock:
            self._closed = True

    def _open_session(self) -> Session:
        if self._closed:
            raise StorageClosed("the transaction, or the bound storage, has ended")
        return self._session
