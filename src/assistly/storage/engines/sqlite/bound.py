"""Connections that the caller owns and has bound."""

from __future__ import annotations

import os
import sqlite3 as stdlib_sqlite3
from contextlib import suppress
from typing import Any

from ...errors import InvalidValue, StorageError
from ..sql.binding import cannot_be_bound
from ..sql.database import Params, Row
from .connections import Connection, Values
from .driver import sqlite3
from .errors import DRIVER_ERRORS
from .files import DatabaseFile

_NO_PARAMS: Params = {}
_LEGACY = -1
_REFUSALS: tuple[type[Exception], ...] = (StorageError, *DRIVER_ERRORS)


class BoundConnection(Connection):
    """A caller's connection. Rows are tuples and text is str, whatever factories the caller has set."""

    def __init__(self, raw: Any, name: str) -> None:
        super().__init__(raw, name)
        self._cursor.row_factory = None

    def begin_if_implicit(self) -> None:
        """Begin the transaction that the driver would begin before a write by the caller, who commits it."""
        legacy = getattr(self.raw, "autocommit", _LEGACY) == _LEGACY
        level = self.raw.isolation_level
        if legacy and level is not None and not self.in_transaction:
            self.execute(f"BEGIN {level}")

    def rows(self, statement: str, params: Values = _NO_PARAMS) -> list[Row]:
        factory, self.raw.text_factory = self.raw.text_factory, str
        try:
            return super().rows(statement, params)
        finally:
            self.raw.text_factory = factory


def bound(raw: Any, name: str) -> BoundConnection:
    """Return the bound connection.

    Raises InvalidValue unless `raw` is an open connection of the copy of SQLite that this engine uses.
    """
    if not isinstance(raw, sqlite3.Connection):
        if isinstance(raw, stdlib_sqlite3.Connection):
            raise InvalidValue(
                f"connection is one of sqlite3, and this engine uses {sqlite3.__name__}: two copies of "
                "SQLite in one process drop each other's locks on a file. Open it with the module "
                "`sqlite_utils.utils.sqlite3`"
            )
        raise cannot_be_bound(raw, sqlite3.Connection)
    try:
        connection = BoundConnection(raw, name)
        connection.row("SELECT 1")
    except _REFUSALS as error:
        raise InvalidValue(
            f"connection must be open, and usable in this thread (check_same_thread=False): {error}"
        ) from error
    return connection


def check_file(connection: BoundConnection, file: DatabaseFile) -> None:
    """Raise InvalidValue if the connection is to another file."""
    path = next((path for _, name, path in connection.rows("PRAGMA database_list") if name == "main"), "")
    with suppress(OSError):
        if path and file.identity.is_of(os.stat(path)):  # noqa: PTH116 - a text, as SQLite gives it
            return
    raise InvalidValue(
        f"connection is to {path or ':memory:'!r}, and this storage is in {file.name!r}: "
        "bind a connection to the same file"
    )
