"""Converts SQLite's result codes to the errors of `assistly.storage.errors`."""

from __future__ import annotations

import sqlite3 as stdlib_sqlite3

from ...errors import (
    InvalidValue,
    MigrationError,
    StorageClosed,
    StorageCorrupt,
    StorageError,
    StorageUnavailable,
    TransactionAborted,
)
from .driver import sqlite3

# sqlite-utils prefers pysqlite3, which has exception classes of its own; a bound connection may be of either.
DRIVER_ERRORS: tuple[type[Exception], ...] = (sqlite3.Error, stdlib_sqlite3.Error, OverflowError)

_LOCKED = (
    "another connection holds the write lock: try again; if it is your own transaction, "
    "call the storage that `bind` returned"
)
_BY_CODE: dict[int, tuple[type[StorageError], str]] = {
    stdlib_sqlite3.SQLITE_PERM: (StorageUnavailable, "the file may not be opened: look at its permissions"),
    stdlib_sqlite3.SQLITE_BUSY: (StorageUnavailable, _LOCKED),
    stdlib_sqlite3.SQLITE_LOCKED: (StorageUnavailable, "a table is locked: try again"),
    stdlib_sqlite3.SQLITE_NOMEM: (StorageUnavailable, "there is not enough memory"),
    stdlib_sqlite3.SQLITE_READONLY: (StorageUnavailable, "the file or its folder is read-only"),
    stdlib_sqlite3.SQLITE_INTERRUPT: (StorageUnavailable, "the statement was interrupted"),
    stdlib_sqlite3.SQLITE_IOERR: (StorageUnavailable, "the disk reported an error"),
    stdlib_sqlite3.SQLITE_CORRUPT: (StorageCorrupt, "the file is damaged: restore it from a backup"),
    stdlib_sqlite3.SQLITE_FULL: (StorageUnavailable, "the disk is full"),
    stdlib_sqlite3.SQLITE_CANTOPEN: (StorageUnavailable, "the file cannot be opened"),
    stdlib_sqlite3.SQLITE_PROTOCOL: (StorageUnavailable, "too many connections want the file: try again"),
    stdlib_sqlite3.SQLITE_TOOBIG: (InvalidValue, "a value is too big for SQLite"),
    stdlib_sqlite3.SQLITE_CONSTRAINT: (StorageCorrupt, "the rows do not fit the schema of this version"),
    stdlib_sqlite3.SQLITE_MISMATCH: (StorageCorrupt, "the rows do not fit the schema of this version"),
    stdlib_sqlite3.SQLITE_NOLFS: (StorageUnavailable, "the file system does not take files this big"),
    stdlib_sqlite3.SQLITE_AUTH: (StorageUnavailable, "the connection does not allow this statement"),
    stdlib_sqlite3.SQLITE_NOTADB: (StorageCorrupt, "the file is no SQLite database, or an encrypted one"),
}
_SNAPSHOT = (
    "another connection has written since this transaction read: roll back, and run it again; "
    "BEGIN IMMEDIATE avoids this"
)
_BUSY_IN_TRANSACTION = (
    "another connection holds the write lock: roll back, and run the transaction again; "
    "BEGIN IMMEDIATE waits for the lock"
)
_BY_EXTENDED_CODE: dict[int, tuple[type[StorageError], str]] = {
    stdlib_sqlite3.SQLITE_BUSY_SNAPSHOT: (TransactionAborted, _SNAPSHOT),
    stdlib_sqlite3.SQLITE_IOERR_SHORT_READ: (StorageCorrupt, "the file or its log was truncated"),
}
_SCHEMA = "its tables are not those of this version: run `assistly migrate`"


def is_busy(error: StorageError) -> bool:
    """Whether the call failed because another connection uses the file or a table."""
    code = getattr(error.__cause__, "sqlite_errorcode", 0)
    return code & 0xFF in (stdlib_sqlite3.SQLITE_BUSY, stdlib_sqlite3.SQLITE_LOCKED)


def translate_in_transaction(error: Exception, name: str) -> StorageError:
    """Return the error to raise in a transaction that may have read without the write lock.

    SQLite does not let one that has read wait for the lock: its snapshot is lost once the other one commits.
    """
    if getattr(error, "sqlite_errorcode", None) == stdlib_sqlite3.SQLITE_BUSY:
        return TransactionAborted(f"SQLite database {name}: {_BUSY_IN_TRANSACTION} ({error})")
    return translate(error, name)


def translate(error: Exception, name: str) -> StorageError:
    """Return the error to raise. `name` is the database in messages."""
    if isinstance(error, OverflowError):
        return InvalidValue("a number does not fit into 64 bits")
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return _translate_misuse(error, name)
    kind, message = _BY_EXTENDED_CODE.get(code) or _BY_CODE.get(code & 0xFF, (StorageError, ""))
    if code == stdlib_sqlite3.SQLITE_ERROR and str(error).startswith("no such "):
        kind, message = MigrationError, _SCHEMA
    if not message:
        return kind(f"SQLite database {name}: {error}")
    return kind(f"SQLite database {name}: {message} ({error})")


def _translate_misuse(error: Exception, name: str) -> StorageError:
    if "closed" in str(error):
        return StorageClosed(f"SQLite database {name}: the connection is closed")
    return StorageError(f"SQLite database {name}: {error}")
