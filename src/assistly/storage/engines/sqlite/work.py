from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from ..sql.database import Database
from .connections import Connection, Values

T = TypeVar("T")


class SqliteWork(Database, Protocol):
    """A `Database` whose work may use what a `Connection` has besides."""

    def autocommit(self, work: Callable[[Connection], T]) -> T: ...

    def execute(self, statement: str, values: Values) -> int:
        """Values may be given by their places, too."""

    def in_transaction(self, work: Callable[[Connection], T]) -> T: ...
