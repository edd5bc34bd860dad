"""The interface between the SQL stores and a driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol, TypeVar

from ...frameworks import CallersConnection
from .dialect import Dialect

T = TypeVar("T")
Row = tuple[Any, ...]
Params = Mapping[str, Any]


class Executor(Protocol):
    """Runs statements on one connection, which no other caller uses during the call."""

    def rows(self, statement: str, params: Params = ...) -> list[Row]:
        """Run a statement; return its rows."""

    def row(self, statement: str, params: Params = ...) -> Row | None:
        """Run a statement; return its first row, or None."""

    def execute(self, statement: str, params: Params = ...) -> int:
        """Run a statement; return the number of rows that it changed."""


class Database(Protocol):
    """Runs statements on a connection, and converts the driver's exceptions to this package's errors.

    The database of an engine borrows a connection for each call; those that `transaction` and `bind` return
    stay on one connection. Outside a transaction, a call may be retried when nothing can have been written:
    after a deadlock, or when the connection was dead.
    """

    writers: int
    """As `StorageBackend.writers`; 0 inside a transaction and on a bound connection."""

    @property
    def dialect(self) -> Dialect: ...

    def select(self, statement: str, params: Params) -> Sequence[Row]:
        """Run one statement that only reads; return its rows."""

    def returning(self, statement: str, params: Params) -> list[Row]:
        """Run one statement that writes, without BEGIN; return its rows."""

    def execute(self, statement: str, params: Params) -> int:
        """Run one statement that writes, without BEGIN; return how many rows it changed."""

    def read(self, work: Callable[[Executor], T]) -> T:
        """Call `work`, which runs statements that only read."""

    def autocommit(self, work: Callable[[Executor], T]) -> T:
        """Call `work`, which runs exactly one statement that writes, without BEGIN."""

    def in_transaction(self, work: Callable[[Executor], T]) -> T:
        """Call `work` in a transaction, or in a savepoint inside one. An exception undoes it."""

    def transaction(self) -> AbstractContextManager[Database]:
        """As `StorageBackend.transaction`."""

    def snapshot(self, *, hold_writers: bool) -> AbstractContextManager[Database]:
        """As `StorageBackend.snapshot`."""

    def bind(self, callers: CallersConnection) -> Database:
        """As `StorageBackend.bind`."""

    def now(self) -> datetime:
        """The time of the engine's clock."""

    def migrate(self) -> list[str]:
        """Apply the pending migrations; return the names of those applied."""

    def wait(self, timeout: float) -> None:
        """As `JobStore.wait`."""

    def close(self) -> None:
        """As `StorageBackend.close`."""
