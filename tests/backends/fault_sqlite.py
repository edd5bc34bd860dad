"""SQLite connections whose statements fail."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assistly.storage import SqliteBackend
from assistly.storage.engines.sqlite import access
from assistly.storage.engines.sqlite.driver import sqlite3
from backends.fault_operations import open_on
from backends.fault_plan import DriverFault, FaultyEngine, Plan

BUSY, NOMEM, INTERRUPT, IOERR, FULL = 5, 7, 9, 10, 13
_OPCODES = 50
_KEPT = {"assistly_migrations", "assistly_queue_newest"}


def _raising(code: int, *, undo: bool = False) -> Callable[[Any], None]:
    """`undo`: SQLite rolls the transaction back before it reports some errors."""

    def act(connection: Any) -> None:
        if undo and connection.in_transaction:
            connection.undo()
        error = sqlite3.OperationalError("injected")
        error.sqlite_errorcode = code
        raise error

    return act


def _after_a_step(code: int, *, undo: bool = False) -> Callable[[Any], None]:
    """After a commit SQLite reports no error, so there is a fault only inside a transaction."""
    raise_it = _raising(code, undo=undo)
    return lambda connection: raise_it(connection) if connection.in_transaction else None


def _nothing(_: object) -> None:
    """The driver raises by itself."""


SQLITE_FAULTS = [
    DriverFault("busy", _raising(BUSY)),
    DriverFault("I/O error", _raising(IOERR), lasting=True),
    DriverFault("disk full", _raising(FULL, undo=True)),
    DriverFault("out of memory", _after_a_step(NOMEM, undo=True), "after"),
    DriverFault("I/O error", _after_a_step(IOERR), "after", lasting=True),
    DriverFault("interrupt", _nothing, counts="opcodes"),
]


def connection_class(plan: Plan) -> type[Any]:
    class FaultyCursor(sqlite3.Cursor):
        def execute(self, sql: str, *params: Any) -> Any:
            return plan.step(self.connection, partial(super().execute, sql, *params))

        def executemany(self, sql: str, batch: Any) -> Any:
            return plan.step(self.connection, partial(super().executemany, sql, batch))

    class FaultyConnection(sqlite3.Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.set_progress_handler(self._interrupt, _OPCODES)

        def _interrupt(self) -> None:
            # A true result would interrupt, too, even after the statement has been committed.
            if plan.hit("opcodes"):
                self.interrupt()

        def cursor(self, factory: Any = FaultyCursor) -> Any:
            return super().cursor(factory)

        def undo(self) -> None:
            super().cursor(sqlite3.Cursor).execute("ROLLBACK")

    return FaultyConnection


def follow(plan: Plan, patches: pytest.MonkeyPatch) -> None:
    """Make the engine open connections that follow the plan."""
    connect = partial(sqlite3.connect, factory=connection_class(plan))
    patches.setattr(access, "sqlite3", SimpleNamespace(**{**vars(sqlite3), "connect": connect}))


class FaultySqliteEngine(FaultyEngine):
    """One file for all runs."""

    def __init__(self, path: Path, patches: pytest.MonkeyPatch) -> None:
        self.plan = Plan()
        follow(self.plan, patches)
        self._backend, self._observing = SqliteBackend(path), SqliteBackend(path)
        self.storage, self.observer = open_on(self._backend), open_on(self._observing)
        self.storage.ping()
        self._admin = sqlite3.connect(path, timeout=0, isolation_level=None)
        found = self._admin.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        self._tables = [name for (name,) in found if name.startswith("assistly") and name not in _KEPT]

    def empty(self) -> None:
        self._admin.execute("BEGIN IMMEDIATE")
        for table in self._tables:
            self._admin.execute(f"DELETE FROM {table}")
        self._admin.execute("COMMIT")

    def check_idle(self) -> None:
        self._admin.execute("BEGIN IMMEDIATE")
        self._admin.execute("ROLLBACK")
        pool = self._backend._file._pool
        assert not pool._lent, "a connection was not given back"

    def disconnect(self) -> None:
        self._backend._file._pool._close_idle()

    def close(self) -> None:
        for each in (self._backend, self._observing, self._admin):
            each.close()
