"""Statements on one connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from ..sql.database import Params, Row
from .adapters import UtcLoader, adapt

_NO_PARAMS: Params = MappingProxyType({})


class PostgresExecutor:
    """Results come in binary, so that neither time zone nor date style of the session matters."""

    __slots__ = ("_cursor", "connection")

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self._cursor = self._new_cursor()

    def rows(self, statement: str, params: Params = _NO_PARAMS) -> list[Row]:
        cursor = self._cursor
        cursor.execute(statement, params, binary=True)
        found = cursor.fetchall()
        if len(found) > 1:
            # A cursor holds its last result until the next one.
            self._cursor = self._new_cursor()
        return found

    def row(self, statement: str, params: Params = _NO_PARAMS) -> Row | None:
        self._cursor.execute(statement, params, binary=True)
        return self._cursor.fetchone()

    def execute(self, statement: str, params: Params = _NO_PARAMS) -> int:
        self._cursor.execute(statement, params)
        return self._cursor.rowcount

    @contextmanager
    def copying(self, statement: str) -> Iterator[Callable[[str], None]]:
        """Yields what takes text for a COPY … FROM STDIN."""
        with self._cursor.copy(statement) as copy:
            yield copy.write

    def command(self, text: str) -> str | None:
        """One that takes no parameters and is not worth preparing; the server's word for it."""
        self._cursor.execute(text, prepare=False)
        return self._cursor.statusmessage

    def _new_cursor(self) -> psycopg.Cursor[tuple[Any, ...]]:
        return psycopg.Cursor(self.connection, row_factory=tuple_row)


class ForeignExecutor(PostgresExecutor):
    """On a caller's connection, whatever its row factory, cursor class, types and time zone."""

    def _new_cursor(self) -> psycopg.Cursor[tuple[Any, ...]]:
        cursor = super()._new_cursor()
        adapt(cursor)
        cursor.adapters.register_loader("timestamptz", UtcLoader)
        return cursor
