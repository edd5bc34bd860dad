from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from ..sql.database import Database
from .connections import Connection

T = TypeVar("T")


class SqliteWork(Database, Protocol):
    """A `Database` whose work may use what a `Connection` has besides."""

    def single(self, work: Callable[[Connection], T]) -> T: ...

    def write(self, work: Callable[[Connection], T]) -> T: ...
