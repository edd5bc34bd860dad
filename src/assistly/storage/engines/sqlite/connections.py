"""Statements on one connection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ... import forks
from ...errors import StorageClosed, StorageError
from ..sql.database import Params, Row
from .errors import DRIVER_ERRORS, translate

_NO_PARAMS: Params = {}
Values = Params | Sequence[Any]


class Connection:
    """An `Executor`. All rows of a statement are fetched, since it takes effect only with the last one.

    Parameters may be a mapping, or a sequence for positional placeholders.
    """

    def __init__(self, raw: Any, name: str) -> None:
        self.name = name
        self.raw = raw
        """The driver's connection."""
        self._cursor = raw.cursor()

    @property
    def in_transaction(self) -> bool:
        in_transaction: bool = self.raw.in_transaction
        return in_transaction

    def rows(self, statement: str, params: Values = _NO_PARAMS) -> list[Row]:
        try:
            rows: list[Row] = self._cursor.execute(statement, params).fetchall()
        except DRIVER_ERRORS as error:
            raise self._translated(error) from error
        return rows

    def row(self, statement: str, params: Values = _NO_PARAMS) -> Row | None:
        rows = self.rows(statement, params)
        return rows[0] if rows else None

    def execute(self, statement: str, params: Values = _NO_PARAMS) -> int:
        try:
            changed: int = self._cursor.execute(statement, params).rowcount
        except DRIVER_ERRORS as error:
            raise self._translated(error) from error
        return changed

    def insert(self, statement: str, values: Values) -> int:
        """Run an INSERT of one row; return its id, or 0 if no row was inserted."""
        try:
            cursor = self._cursor.execute(statement, values)
        except DRIVER_ERRORS as error:
            raise self._translated(error) from error
        id: int = cursor.lastrowid
        return id if cursor.rowcount > 0 else 0

    def execute_many(self, statement: str, batch: Iterable[Values]) -> None:
        try:
            self._cursor.executemany(statement, batch)
        except DRIVER_ERRORS as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> StorageError:
        return translate(error, self.name)

    def close(self) -> None:
        self._cursor.close()
        self.raw.close()

    def leave_to_parent(self) -> None:
        """In a forked child: never use or close it again, since both would change the parent's file."""
        forks.keep_for_ever(self.raw)
        forks.keep_for_ever(self._cursor)
        self.raw = self._cursor = _InheritedConnection()


class _InheritedConnection:
    """Replaces a connection that a forked child has inherited."""

    def close(self) -> None:
        pass

    def __getattr__(self, name: str) -> NoReturn:
        raise StorageClosed("the connection belongs to the process that opened it")
