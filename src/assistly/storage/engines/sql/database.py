"""The seam between the SQL stores and a driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = tuple[Any, ...]
Params = Mapping[str, Any]


class Executor(Protocol):
    """Statements on one connection, which is this caller's alone for the time of the call.

    Statements come from `Dialect.render`. Times and JSON are passed through the codec.
    """

    def rows(self, statement: str, params: Params = ...) -> list[Row]: ...

    def row(self, statement: str, params: Params = ...) -> Row | None: ...

    def execute(self, statement: str, params: Params = ...) -> int:
        """The number of rows that it changed."""


class Codec(Protocol):
    """How this engine stores times and JSON."""

    def bind_time(self, value: datetime | None) -> Any: ...

    def bind_list(self, values: Sequence[Any]) -> Any:
        """For the fragment `any_platform`."""

    def time(self, value: Any) -> datetime | None: ...

    def json(self, value: Any) -> Any:
        """Decode; SQL NULL is None."""


class Dialect(Protocol):
    """One statement text serves both engines, but for these few fragments."""

    @property
    def codec(self) -> Codec: ...

    def render(self, template: str, limit: int | None = None) -> str:
        """Fill in `{t}` (the prefix of every table: schema and `assistly_`), the dialect's fragments
        and `{limit}` (a literal), and turn `:name` into the driver's form of a parameter. The
        result is kept, so that stores may call this for every statement."""


class Database(Protocol):
    """Borrows a connection for a piece of work, and turns driver exceptions into ours.

    Inside a transaction (this one's own, or one that the calling thread has open on it) the work
    runs on that transaction's connection. Otherwise it may be run a second time from the start
    when nothing can have been written: after a deadlock, or when the connection turned out dead.
    """

    @property
    def dialect(self) -> Dialect: ...

    def read(self, work: Callable[[Executor], T]) -> T:
        """Statements that write nothing."""

    def autocommit(self, work: Callable[[Executor], T]) -> T:
        """Exactly one statement that writes: atomic by itself, so no BEGIN is spent on it."""

    def execute(self, statement: str, params: Params) -> int:
        """`single` for one statement; how many rows it changed. For the shortest calls: no closure."""

    def in_transaction(self, work: Callable[[Executor], T]) -> T:
        """A transaction; a savepoint within one. An exception from the work undoes it."""

    def now(self) -> datetime: ...

    def now_ms(self) -> int: ...

    def migrate(self) -> list[str]:
        """Apply the pending migrations; the names of those applied now."""

    def writers(self) -> int:
        """How many threads can write at once; 0 on the connection of a transaction, or of a caller's."""

    def transaction(self) -> AbstractContextManager[Database]: ...

    def bind(self, connection: Any) -> Database: ...

    def wait(self, timeout: float) -> datetime | None:
        """As `JobStore.wait`."""

    def close(self) -> None: ...
