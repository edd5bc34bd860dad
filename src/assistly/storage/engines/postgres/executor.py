"""Runs statements on one connection."""

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
from .limits import Limit

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
NO_PARAMS: Params = MappingProxyType({})


class PostgresExecutor(ABC):
    """An `Executor`. Results are binary, so that time zone and date style of the session do not matter.

    `limit` says how long it waits for the server (default: without a limit).
    """

    __slots__ = ("begin", "connection", "limit")

    def __init__(self, connection: psycopg.Connection[Any], limit: Limit | None = None) -> None:
        self.connection = connection
        self.limit = limit or Limit(connection)
        self.begin = BEGIN
        """The command that begins a transaction."""

    @abstractmethod
    def rows(self, statement: str, params: Params = NO_PARAMS) -> list[Row]:
        """Run a statement; return its rows."""

    @abstractmethod
    def row(self, statement: str, params: Params = NO_PARAMS) -> Row | None:
        """Run a statement; return its first row, or None."""

    @abstractmethod
    def execute(self, statement: str, params: Params = NO_PARAMS) -> int:
        """Run a statement; return the number of rows that it changed."""

    def batch(self, records: int, statement: str, params: Params) -> list[Row]:
        """Run a statement for so many records, which may take longer if they are many; return its rows."""
        self.limit.allow(records)
        return self.rows(statement, params)

    @abstractmethod
    def command(self, text: str) -> str:
        """Run `text` unprepared and without parameters; return the command tag."""

    @contextmanager
    def copying(self, statement: str) -> Iterator[Callable[[bytes], None]]:
        """Run a COPY … FROM STDIN, and yield the function that sends its data."""
        with self.cursor() as cursor, cursor.copy(statement) as copy:
            yield copy.write

    def cursor(self) -> psycopg.Cursor[Row]:
        """A new cursor, whose rows are tuples."""
        return self.connection.cursor(row_factory=tuple_row)


class CursorExecutor(PostgresExecutor):
    """Runs statements with a cursor of the driver.

    It prepares none: the driver's names for statements are numbers, and where a pooler lends a session to
    several clients, a number may stand for another client's statement.
    """

    __slots__ = ("_cursor",)

    def __init__(self, connection: psycopg.Connection[Any], limit: Limit | None = None) -> None:
        super().__init__(connection, limit)
        self._cursor = self.cursor()

    def rows(self, statement: str, params: Params = NO_PARAMS) -> list[Row]:
        cursor = self._cursor
        cursor.execute(statement, params, prepare=False, binary=True)
        found = cursor.fetchall()
        if len(found) > 1:
            # A cursor keeps its last result in memory, so after a large one it is replaced.
            self._cursor = self.cursor()
        return found

    def row(self, statement: str, params: Params = NO_PARAMS) -> Row | None:
        self._cursor.execute(statement, params, prepare=False, binary=True)
        return self._cursor.fetchone()

    def execute(self, statement: str, params: Params = NO_PARAMS) -> int:
        self._cursor.execute(statement, params, prepare=False)
        return self._cursor.rowcount

    def command(self, text: str) -> str:
        self._cursor.execute(text.encode(), prepare=False)
        return self._cursor.statusmessage or ""


class BoundExecutor(CursorExecutor):
    """Runs statements on a caller's connection, whatever row factory, cursor class and types it has."""

    __slots__ = ()

    def cursor(self) -> psycopg.Cursor[Row]:
        cursor = psycopg.Cursor(self.connection, row_factory=tuple_row)
        adapt(cursor)
        cursor.adapters.register_loader("timestamptz", UtcLoader)
        return cursor
