"""Statements on one connection."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from ..sql.database import Params, Row
from .connections import UtcLoader, adapt

_NO_PARAMS: Params = MappingProxyType({})


class PostgresExecutor:
    """Results come in binary, so that neither time zone nor date style of the session matters."""

    __slots__ = ("_cursor",)

    def __init__(self, cursor: psycopg.Cursor[tuple[Any, ...]]) -> None:
        self._cursor = cursor

    @classmethod
    def on(cls, connection: psycopg.Connection[Any]) -> PostgresExecutor:
        """On a connection of the pool, which has our types already."""
        return cls(psycopg.Cursor(connection, row_factory=tuple_row))

    @classmethod
    def on_foreign(cls, connection: psycopg.Connection[Any]) -> PostgresExecutor:
        """On a caller's connection, whatever its row factory, cursor class, types and time zone."""
        cursor = psycopg.Cursor(connection, row_factory=tuple_row)
        adapt(cursor)
        cursor.adapters.register_loader("timestamptz", UtcLoader)
        return cls(cursor)

    def rows(self, statement: str, params: Params = _NO_PARAMS) -> list[Row]:
        self._cursor.execute(statement, params, binary=True)
        return self._cursor.fetchall()

    def row(self, statement: str, params: Params = _NO_PARAMS) -> Row | None:
        self._cursor.execute(statement, params, binary=True)
        return self._cursor.fetchone()

    def execute(self, statement: str, params: Params = _NO_PARAMS) -> int:
        self._cursor.execute(statement, params)
        return self._cursor.rowcount

    def command(self, text: str) -> str | None:
        """One that takes no parameters and is not worth preparing; the server's word for it."""
        self._cursor.execute(text, prepare=False)
        return self._cursor.statusmessage
