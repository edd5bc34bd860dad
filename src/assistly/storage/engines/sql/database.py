"""The seam between the SQL stores and a driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol, TypeVar

from .dialect import Dialect

T = TypeVar("T")
Row = tuple[Any, ...]
Params = Mapping[str, Any]


class Executor(Protocol):
    """Statements on one connection, which is the caller's alone for the time of the call."""

    def rows(self, statement: str, params: Params = ...) -> list[Row]:
        """Run it; the rows that it returned."""

    def row(self, statement: str, params: Params = ...) -> Row | None:
        """Run it; the first row that it returned."""

    def execute(self, statement: str, params: Params = ...) -> int:
        """Run it; the number of rows that it changed."""


class Database(Protocol):
    """Runs statements on a connection, and turns driver exceptions into ours.

    The database of an engine borrows a connection for each call; `transaction` and `bind` return one
    that stays on its connection. Outside a transaction a call may be run a second time from the start
    when nothing can have been written: after a deadlock, or when the connection turned out dead.
    """

    writers: int
    """As `StorageBackend.writers`; 0 inside a transaction and on a bound connection."""

    @property
    def dialect(self) -> Dialect: ...

    def select(self, statement: str, params: Params) -> Sequence[Row]:
        """One statement that writes nothing; its rows."""

    def returning(self, statement: str, params: Params) -> list[Row]:
        """One statement that writes, atomic by itself; the rows that it returned."""

    def execute(self, statement: str, params: Params) -> int:
        """One statement that writes, atomic by itself; how many rows it changed."""

    def read(self, work: Callable[[Executor], T]) -> T:
        """Several statements that write nothing."""

    def autocommit(self, work: Callable[[Executor], T]) -> T:
        """`work` runs exactly one statement that writes, which is atomic by itself: there is no BEGIN."""

    def in_transaction(self, work: Callable[[Executor], T]) -> T:
        """A transaction; a savepoint within one. An exception from `work` undoes it."""

    def transaction(self) -> AbstractContextManager[Database]:
        """As `StorageBackend.transaction`."""

    def bind(self, connection: Any) -> Database:
        """As `StorageBackend.bind`."""

    def now(self) -> datetime:
        """The engine's clock."""

    def migrate(self) -> list[str]:
        """Apply the pending migrations; the names of those applied now."""

    def wait(self, timeout: float) -> None:
        """As `JobStore.wait`."""

    def close(self) -> None:
        """As `StorageBackend.close`."""
