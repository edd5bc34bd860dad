"""The fragments in which the SQL of engines differs; shared statements are composed of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

S = TypeVar("S")


class Parameters:
    """`parameters.user_id` is the placeholder of the parameter `user_id`, in the form of the driver."""

    def __init__(self, form: str) -> None:
        self._form = form

    def __getattr__(self, name: str) -> str:
        return self._form.format(name)


class Dialect(ABC):
    """The SQL fragments of one engine, and how it stores times and JSON.

    Shared statements are f-strings over these attributes. A cast follows a placeholder where Postgres cannot
    infer the type.
    """

    f = ""
    """Stands before the names of functions, where another one of that name might be found."""

    text = ""
    """A cast to text."""

    bigint = ""
    """A cast to a whole number."""

    jsonb = ""
    """A cast to JSON."""

    timestamp = ""
    """A cast to a time."""

    microseconds = ""
    """Follows a number of microseconds, and converts it to a value that can be added to a time."""

    for_update = ""
    """At the end of a SELECT: lock its rows."""

    by_code_point = ""
    """Follows a column of text, where it is compared or sorted: by code point."""

    skip_locked = ""
    """At the end of a SELECT: lock its rows, leaving out those that others have locked."""

    pause_end: str
    """When a pause ends, from the column `data` of its document; NULL if somebody has to end it."""

    active: str
    """The condition that a job is active, written as in the partial index idx_queue_conflict."""

    def __init__(self, prefix: str, placeholder: str) -> None:
        """`prefix` stands before the names of tables; `placeholder` is like ``:{}``."""
        self.t = prefix
        self.p = Parameters(placeholder)
        self._statements: dict[type[Any], Any] = {}

    @abstractmethod
    def among(self, select: str) -> str:
        """The operator that tests a column against the rows of `select`, which runs once."""

    @abstractmethod
    def matches_none(self, column: str, key: str, rows: str) -> str:
        """The condition that no row of `rows`, a FROM and a WHERE, has the column's value as its key.

        There are few such rows, and mostly none: then it costs next to nothing.
        """

    @abstractmethod
    def among_list(self, name: str) -> str:
        """The operator that tests a column against the list in the parameter `name`."""

    @abstractmethod
    def bind_time(self, value: datetime | None) -> Any:
        """Convert a time to a parameter."""

    @abstractmethod
    def bind_list(self, values: Sequence[Any]) -> Any:
        """Convert a list to a parameter for `among_list`."""

    @abstractmethod
    def time(self, value: Any) -> Any:
        """Convert a stored time, which is not NULL, to a datetime."""

    @abstractmethod
    def stored(self, column: str, type: str) -> str:
        """The expression for a column as the value of a row that moves; see `engine.transfer.Type`."""

    @abstractmethod
    def from_microseconds(self, value: str) -> str:
        """The expression for a time to store, from microseconds since 1970."""

    @abstractmethod
    def json(self, value: Any) -> Any:
        """Decode stored JSON; None for NULL."""

    def statements(self, kind: type[S]) -> S:
        """Return `kind(self)`, the statements of a store in this dialect. They are composed once."""
        found = self._statements.get(kind)
        if found is None:
            make = cast("Any", kind)
            found = self._statements[kind] = make(self)
        return cast("S", found)
