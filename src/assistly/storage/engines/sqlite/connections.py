"""Opening the file, and keeping connections for the next caller."""

from __future__ import annotations

import errno
import os
import sqlite3 as stdlib_sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlite_utils

from ...errors import (
    ConfigurationError,
    InvalidValue,
    StorageClosed,
    StorageError,
    StorageUnavailable,
)
from ..sql.database import Params, Row
from . import forks
from .driver import sqlite3
from .errors import DRIVER_ERRORS, translate

_OLDEST = (3, 37, 0)
_MAX_IDLE = 16
_CACHED_STATEMENTS = 256
_LEGACY = -1
_NO_PARAMS: Params = {}
Values = Params | Sequence[Any]
_REFUSALS: tuple[type[Exception], ...] = (StorageError, *DRIVER_ERRORS)
_SHORTAGES = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO}


class Connection:
    """An `Executor`. Every statement is read to its end, which is when it takes effect."""

    def __init__(self, raw: Any, name: str) -> None:
        self.name = name
        self._raw = raw
        self._cursor = raw.cursor()
        self._generation = forks.generation

    @property
    def in_transaction(self) -> bool:
        in_transaction: bool = self._raw.in_transaction
        return in_transaction

    @property
    def is_reusable(self) -> bool:
        return not self._raw.in_transaction and self._generation == forks.generation

    @property
    def is_inherited(self) -> bool:
        """By a child, through a fork."""
        return self._generation != forks.generation

    def rows(self, statement: str, params: Values = _NO_PARAMS) -> list[Row]:
        try:
            rows: list[Row] = self._own_cursor().execute(statement, params).fetchall()
        except DRIVER_ERRORS as error:
            raise translate(error, self.name) from error
        return rows

    def row(self, statement: str, params: Values = _NO_PARAMS) -> Row | None:
        rows = self.rows(statement, params)
        return rows[0] if rows else None

    def execute(self, statement: str, params: Values = _NO_PARAMS) -> int:
        try:
            changed: int = self._own_cursor().execute(statement, params).rowcount
        except DRIVER_ERRORS as error:
            raise translate(error, self.name) from error
        return changed

    def insert(self, statement: str, values: Values) -> int:
        """The id of the new row; 0 if there is none."""
        try:
            cursor = self._own_cursor().execute(statement, values)
        except DRIVER_ERRORS as error:
            raise translate(error, self.name) from error
        id: int = cursor.lastrowid
        return id if cursor.rowcount > 0 else 0

    def execute_many(self, statement: str, batch: Iterable[Values]) -> None:
        try:
            self._own_cursor().executemany(statement, batch)
        except DRIVER_ERRORS as error:
            raise translate(error, self.name) from error

    def close(self) -> None:
        if self.is_inherited:
            forks.keep_alive(self._raw)
        else:
            self._cursor.close()
            self._raw.close()

    def _own_cursor(self) -> Any:
        if self._generation != forks.generation:
            raise StorageClosed("this transaction is the parent process's: it cannot be used in a child")
        return self._cursor


class BoundConnection(Connection):
    """The caller's: however he has set it up, rows are tuples of str here."""

    def begin_if_implicit(self) -> None:
        """Begin the transaction that the driver would begin by itself: to commit it is the caller's."""
        legacy = getattr(self._raw, "autocommit", _LEGACY) == _LEGACY
        level = self._raw.isolation_level
        if legacy and level is not None and not self.in_transaction:
            self.execute(f"BEGIN {level}")

    def rows(self, statement: str, params: Values = _NO_PARAMS) -> list[Row]:
        factory, self._raw.text_factory = self._raw.text_factory, str
        try:
            return super().rows(statement, params)
        finally:
            self._raw.text_factory = factory

    def _own_cursor(self) -> Any:
        cursor = self._raw.cursor()
        cursor.row_factory = None
        return cursor


def bound(raw: Any, name: str) -> BoundConnection:
    if not isinstance(raw, (sqlite3.Connection, stdlib_sqlite3.Connection)):
        raise InvalidValue(f"connection must be an open sqlite3 connection, not {type(raw).__name__}")
    try:
        connection = BoundConnection(raw, name)
        connection.row("SELECT 1")
    except _REFUSALS as error:
        raise InvalidValue(f"connection must be open, and usable in this thread: {error}") from error
    return connection


class Opener:
    """Opens connections to one file, which the first one creates."""

    def __init__(self, path: Path, busy_timeout: timedelta) -> None:
        self.path = path
        self.busy_seconds = busy_timeout.total_seconds()

    def __call__(self) -> Connection:
        self._make_file()
        try:
            raw = sqlite3.connect(
                str(self.path),
                timeout=self.busy_seconds,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=_CACHED_STATEMENTS,
            )
            self._configure(raw)
        except DRIVER_ERRORS as error:
            raise translate(error, str(self.path)) from error
        return Connection(raw, str(self.path))

    def _make_file(self) -> None:
        if self.path.is_dir():
            raise ConfigurationError(f"SQLITE_PATH: {str(self.path)!r} is a folder; give the path of a file")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                with suppress(FileExistsError):
                    os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            raise self._no_file(error) from error

    def _no_file(self, error: OSError) -> StorageError:
        reason = error.strerror or str(error)
        if error.errno in _SHORTAGES:
            return StorageUnavailable(f"the SQLite file {str(self.path)!r} cannot be created: {reason}")
        return ConfigurationError(
            f"SQLITE_PATH: the file {str(self.path)!r} cannot be created: {reason}. "
            "Give a path in a folder that this user may write to"
        )

    def _configure(self, raw: sqlite3.Connection) -> None:
        try:
            database = sqlite_utils.Database(raw, execute_plugins=False)
            self._switch_to_wal(database)
            database.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            raw.close()
            raise

    def _switch_to_wal(self, database: sqlite_utils.Database) -> None:
        """The switch needs the file alone, and SQLite does not wait for that by itself."""
        deadline = time.monotonic() + self.busy_seconds
        while True:
            try:
                database.enable_wal()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                break
        if database.journal_mode != "wal":
            raise ConfigurationError(
                f"SQLITE_PATH: {str(self.path)!r} is on a file system that SQLite cannot share between "
                "processes (no WAL mode there). Give a path on a local disk"
            )


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Refuse what SQLite would take for something else than a file that is shared and kept."""
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigurationError(f"SQLITE_PATH: {path!r} is not the path of a file")
    if text == ":memory:":
        raise ConfigurationError(
            "SQLITE_PATH: ':memory:' is not shared between connections; for a storage that is gone "
            "at the end use STORAGE_ENGINE=memory"
        )
    return Path(text)


def require_sqlite() -> None:
    if sqlite3.sqlite_version_info < _OLDEST:
        raise ConfigurationError(
            f"SQLite {'.'.join(map(str, _OLDEST[:2]))} or newer is needed, and this Python has "
            f"{sqlite3.sqlite_version}: pip install 'assistly[sqlite]'"
        )


class Pool:
    """Idle connections; the one given back last is lent first. As many are lent as are asked for.

    To append to a list and to pop from it are atomic each, so nobody waits here for another thread.
    """

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._idle: list[Connection] = []
        self._closed = False

    def borrow(self) -> Connection:
        if self._closed:
            raise StorageClosed("the storage is closed")
        try:
            return self._idle.pop()
        except IndexError:
            return self._opener()

    def give_back(self, connection: Connection) -> None:
        if len(self._idle) >= _MAX_IDLE or not connection.is_reusable:
            connection.close()
            return
        self._idle.append(connection)
        if self._closed:
            self._close_idle()

    def close(self) -> None:
        self._closed = True
        self._close_idle()

    def after_fork(self) -> list[Connection]:
        """Start anew in a child; the connections that must not be used, nor closed, there."""
        inherited, self._idle = self._idle, []
        return inherited

    def _close_idle(self) -> None:
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()
