"""Connections that the caller owns and has bound."""

from __future__ import annotations

import os
import sqlite3 as stdlib_sqlite3
from collections.abc import Iterable
from contextlib import suppress

from ...errors import InvalidValue, StorageClosed, StorageError
from ...frameworks import CallersConnection
from ..sql.binding import cannot_be_bound, commits_itself
from ..sql.database import Params, Row
from .connections import Connection, Values
from .driver import sqlite3
from .errors import DRIVER_ERRORS, translate, translate_in_transaction
from .files import DatabaseFile

_NO_PARAMS: Params = {}
_LEGACY = -1
_REFUSALS: tuple[type[Exception], ...] = (StorageError, *DRIVER_ERRORS)


class BoundConnection(Connection):
    """A caller's connection. Rows are tuples and text is str, whatever factories the caller has set."""

    def __init__(self, callers: CallersConnection, name: str) -> None:
        super().__init__(callers.driver, name)
        self._cursor.row_factory = None
        self._check_callers = callers.check
        self._needs_transaction = callers.needs_transaction

    @property
    def in_transaction(self) -> bool:
        """False, too, after the end of the transaction in which it was bound: there is nothing to undo."""
        try:
            return self._is_current() and super().in_transaction
        except DRIVER_ERRORS:  # a closed connection
            return False

    @property
    def commits_itself(self) -> bool:
        """Whether a statement would be committed by itself."""
        autocommit = getattr(self.raw, "autocommit", _LEGACY)
        never_begins = self.raw.isolation_level is None if autocommit == _LEGACY else bool(autocommit)
        return never_begins and not self.raw.in_transaction

    def begin_if_implicit(self) -> None:
        """Begin the transaction that the driver would begin before a write by the caller, who commits it."""
        self._check()
        try:
            level = self._level_to_begin()
        except DRIVER_ERRORS as error:
            raise translate(error, self.name) from error
        if level is not None:
            self.execute(f"BEGIN {level}")

    def _level_to_begin(self) -> str | None:
        legacy = getattr(self.raw, "autocommit", _LEGACY) == _LEGACY
        level: str | None = self.raw.isolation_level
        if not legacy or level is None or self.in_transaction:
            return None
        # A write follows. A deferred transaction that reads first could fail at that write.
        return level if level == "EXCLUSIVE" else "IMMEDIATE"

    def rows(self, statement: str, params: Values = _NO_PARAMS) -> list[Row]:
        self._check()
        factory, self.raw.text_factory = self.raw.text_factory, str
        try:
            return super().rows(statement, params)
        finally:
            self.raw.text_factory = factory

    def execute(self, statement: str, params: Values = _NO_PARAMS) -> int:
        self._check()
        return super().execute(statement, params)

    def insert(self, statement: str, values: Values) -> int:
        self._check()
        return super().insert(statement, values)

    def execute_many(self, statement: str, batch: Iterable[Values]) -> None:
        self._check()
        super().execute_many(statement, batch)

    def _translated(self, error: Exception) -> StorageError:
        if self.in_transaction:
            return translate_in_transaction(error, self.name)
        return translate(error, self.name)

    def _check(self) -> None:
        self._check_callers()
        if self._needs_transaction and self._has_ended():
            raise StorageClosed(f"SQLite database {self.name}: the transaction of the connection has ended")

    def _has_ended(self) -> bool:
        try:
            return self.commits_itself
        except DRIVER_ERRORS as error:
            raise translate(error, self.name) from error

    def _is_current(self) -> bool:
        try:
            self._check_callers()
        except StorageError:
            return False
        return True


def bound(callers: CallersConnection, name: str) -> BoundConnection:
    """Return the bound connection.

    Raises InvalidValue unless it is an open connection of the copy of SQLite that this engine uses.
    """
    raw = callers.driver
    if not isinstance(raw, sqlite3.Connection):
        if isinstance(raw, stdlib_sqlite3.Connection):
            raise InvalidValue(
                f"connection is from sqlite3, but this engine uses {sqlite3.__name__}: two copies of SQLite "
                "in one process drop each other's locks on a file. Open it with the module "
                "`sqlite_utils.utils.sqlite3`"
            )
        raise cannot_be_bound(callers, sqlite3.Connection)
    try:
        connection = BoundConnection(callers, name)
        if callers.needs_transaction and connection.commits_itself:
            raise commits_itself(callers)
        connection.row("SELECT 1")
    except InvalidValue:
        raise
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
        f"connection is to {path or ':memory:'!r}, but this storage is in {file.name!r}: "
        "bind a connection to the same file"
    )
