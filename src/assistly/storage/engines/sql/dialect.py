"""What differs between the statements of two engines, as fragments that the shared ones are composed of."""

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
    """The fragments of one engine, and how it stores times and JSON.

    Shared statements are f-strings over these attributes. The casts stand behind a placeholder whose
    type Postgres cannot see from its surroundings.
    """

    text = ""
    """A cast to text."""

    bigint = ""
    """A cast to a whole number."""

    jsonb = ""
    """A cast to JSON."""

    timestamp = ""
    """A cast to a time."""

    microseconds = ""
    """Makes a number of microseconds what can be added to a time."""

    for_update = ""
    """At the end of a SELECT: lock its rows."""

    skip_locked = ""
    """At the end of a SELECT: lock its rows, leaving out those that others have locked."""

    active: str
    """The condition that a job is active, as the index idx_queue_conflict has it."""

    def __init__(self, prefix: str, placeholder: str) -> None:
        """`prefix` stands before the names of tables; `placeholder` is like ``:{}``."""
        self.t = prefix
        self.p = Parameters(placeholder)
        self._statements: dict[type[Any], Any] = {}

    @abstractmethod
    def among(self, select: str) -> str:
        """After a column: its value is one of those that `select` returns, which is run once."""

    @abstractmethod
    def among_list(self, name: str) -> str:
        """After a column: its value is in the list that the parameter `name` holds."""

    @abstractmethod
    def bind_time(self, value: datetime | None) -> Any:
        """A time as the driver takes it."""

    @abstractmethod
    def bind_list(self, values: Sequence[Any]) -> Any:
        """A list as `among_list` takes it."""

    @abstractmethod
    def time(self, value: Any) -> Any:
        """A stored time, which is not NULL, as a datetime."""

    @abstractmethod
    def json(self, value: Any) -> Any:
        """Stored JSON, decoded; None for NULL."""

    def statements(self, kind: type[S]) -> S:
        """`kind(self)`, made once: the statements of a store, written for this dialect."""
        found = self._statements.get(kind)
        if found is None:
            make = cast("Any", kind)
            found = self._statements[kind] = make(self)
        return cast("S", found)
