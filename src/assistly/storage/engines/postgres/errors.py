"""Converts the errors of Postgres and of the driver to those of this package."""

from __future__ import annotations

import re

import psycopg

from ...errors import (
    ConfigurationError,
    InvalidValue,
    MigrationError,
    OutcomeUnknown,
    StorageCorrupt,
    StorageError,
    StorageUnavailable,
    TransactionAborted,
)
from .limits import LimitExceeded

_BY_STATE: dict[str, tuple[type[StorageError], str]] = {
    "22003": (InvalidValue, "a number is out of range"),
    "22021": (InvalidValue, "text that Postgres cannot store"),
    "22P05": (InvalidValue, "text that Postgres cannot store"),
    "25006": (StorageUnavailable, "the server takes no writes now"),
    "25P02": (
        StorageUnavailable,
        "an earlier call of this transaction failed: nothing will be written",
    ),
    "26000": (
        ConfigurationError,
        "a pooler in between loses prepared statements: pass prepare_threshold=None",
    ),
    "3D000": (ConfigurationError, "the database does not exist"),
    "3F000": (MigrationError, "the schema is missing: run `assistly migrate`"),
    "40003": (OutcomeUnknown, "it may have been written"),
    "40001": (TransactionAborted, "other transactions were in the way"),
    "40P01": (TransactionAborted, "other transactions were in the way"),
    "42501": (ConfigurationError, "the role lacks a privilege"),
    "42703": (MigrationError, "a column is missing: run `assistly migrate`"),
    "42804": (MigrationError, "a column has another type than the migrations give it"),
    "42883": (MigrationError, "a column has another type than the migrations give it"),
    "42P01": (MigrationError, "a table is missing: run `assistly migrate`"),
    "53100": (StorageUnavailable, "the server's disk is full"),
    "53300": (StorageUnavailable, "the server has no connection left"),
    "55P03": (StorageUnavailable, "a lock was not free in time"),
    "57014": (StorageUnavailable, "the server cancelled the statement"),
}
_BY_CLASS: dict[str, tuple[type[StorageError], str]] = {
    "08": (StorageUnavailable, "the connection to the server failed"),
    "22": (StorageCorrupt, "a stored value has a wrong form"),
    "23": (StorageCorrupt, "a constraint that this package does not know was violated"),
    "25": (StorageUnavailable, "the transaction ended early"),
    "28": (ConfigurationError, "the server refused the user or the password"),
    "40": (StorageUnavailable, "the server undid the transaction"),
    "53": (StorageUnavailable, "the server is short of resources"),
    "54": (StorageError, "a limit of the server was reached"),
    "55": (StorageUnavailable, "the server is not in the state for it"),
    "57": (StorageUnavailable, "the server is shutting down or starting"),
    "58": (StorageUnavailable, "the server's system failed"),
    "XX001": (StorageCorrupt, "the server found corrupt data"),
    "XX002": (StorageCorrupt, "the server found a corrupt index"),
}

# The server never ends a session with one of these in the middle of a commit.
_ENDED_BEFORE_COMMIT = frozenset({"57P01", "57P05", "25P03", "25P04"})

_SETTING_PROBLEM = re.compile(
    r"authentication failed|no password supplied|pg_hba|certificate|bad value for|"
    r"(database|role|user) \".*\" (does not exist|is not permitted)|"
    r"invalid (\S+ value|integer value|port number|connection option)|unrecognized configuration parameter",
    re.DOTALL,
)


def translate(error: psycopg.Error) -> StorageError:
    """Return the error to raise for a failed statement."""
    if isinstance(error, LimitExceeded):
        return StorageUnavailable(str(error))
    state = error.sqlstate or ""
    kind, text = (
        _BY_STATE.get(state) or _BY_CLASS.get(state) or _BY_CLASS.get(state[:2]) or _without_state(error)
    )
    return kind(f"{text}: {_first_line(error)}")


def unknown_outcome(error: psycopg.Error) -> OutcomeUnknown:
    """Return the error to raise if the connection broke during a commit."""
    return OutcomeUnknown(
        f"the connection broke during a write, which may have been stored (read before you repeat it): "
        f"{_first_line(error)}"
    )


def connect_problem(text: str) -> StorageError:
    """Return the error to raise if connecting failed. The text decides, since libpq reports no sqlstate."""
    if _SETTING_PROBLEM.search(text):
        return ConfigurationError(f"DATABASE_URL does not work: {text}")
    return StorageUnavailable(f"cannot connect to Postgres: {text}")


def is_conflict(error: psycopg.Error) -> bool:
    """Whether it is a deadlock or a serialization failure, after which a retry may succeed at once."""
    return error.sqlstate in {"40P01", "40001"}


def is_read_only(error: psycopg.Error) -> bool:
    """Whether the server accepts no writes now, because it has become a standby for example."""
    return error.sqlstate == "25006"


def nothing_committed(error: psycopg.Error) -> bool:
    """Whether the last statement on a connection that broke was certainly not committed."""
    return error.sqlstate in _ENDED_BEFORE_COMMIT


def _without_state(error: psycopg.Error) -> tuple[type[StorageError], str]:
    if error.sqlstate:
        return StorageError, "Postgres refused a statement"
    # A DatabaseError of no subclass is an error of libpq's own.
    of_libpq = type(error) is psycopg.DatabaseError
    if of_libpq or isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return StorageUnavailable, "the connection to the server failed"
    if isinstance(error, psycopg.DataError):
        return StorageCorrupt, "a stored value cannot be read"
    return StorageError, "the driver refused a statement"


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
