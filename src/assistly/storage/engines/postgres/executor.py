"""Statements on one connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from ..sql.database import Params, Row
from .adapters import UtcLoader, adapt

NO_PARAMS: Params = MappingProxyType({})


class PostgresExecutor(ABC):
    """Results come in binary, so that neither time zone nor date style of the session matters."""

    __slots__ = ("connection",)

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    @abstractmethod
    def rows(self, statement: str, params: Params = NO_PARAMS) -> list[Row]:
        """The rows that the statement returns."""

    @abstractmethod
    def row(self, statement: str, params: Params = NO_PARAMS) -> Row | None:
        """The first row that the statement returns."""

    @abstractmethod
    def execute(self, statement: str, params: Params = NO_PARAMS) -> int:
        """How many rows the statement changes."""

    @abstractmethod
    def command(self, text: str) -> str:
        """Run `text` unprepared, without parameters; the command tag."""

    @contextmanager
    def copying(self, statement: str) -> Iterator[Callable[[bytes], None]]:
        """Yields what takes the bytes of a COPY … FROM STDIN."""
        with self.cursor() as cursor, cursor.copy(statement) as copy:
            yield copy.write

    def cursor(self) -> psycopg.Cursor[Row]:
        """A cursor of the connection, whose rows are tuples."""
        return self.connection.cursor(row_factory=tuple_row)


class CursorExecutor(PostgresExecutor):
    """Through the driver's cursor, as any program does it."""

    __slots__ = ("_cursor",)

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(connection)
        self._cursor = self.cursor()

    def rows(self, statement: str, params: Params = NO_PARAMS) -> list[Row]:
        cursor = self._cursor
        cursor.execute(statement, params, binary=True)
        found = cursor.fetchall()
        if len(found) > 1:
            # A cursor holds its last result until the next one.
            self._cursor = self.cursor()
        return found

    def row(self, statement: str, params: Params = NO_PARAMS) -> Row | None:
        self._cursor.execute(statement, params, binary=True)
        return self._cursor.fetchone()

    def execute(self, statement: str, params: Params = NO_PARAMS) -> int:
        self._cursor.execute(statement, params)
        return self._cursor.rowcount

    def command(self, text: str) -> str:
        self._cursor.execute(text.encode(), prepare=False)
        return self._cursor.statusmessage or ""


class BoundExecutor(CursorExecutor):
    """On a caller's connection, whatever its row factory, cursor class, types and time zone."""

    __slots__ = ()

    def cursor(self) -> psycopg.Cursor[Row]:
        cursor = psycopg.Cursor(self.connection, row_factory=tuple_row)
        adapt(cursor)
        cursor.adapters.register_loader("timestamptz", UtcLoader)
        return cursor
