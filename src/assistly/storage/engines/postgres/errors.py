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

_UNTRACKED_TEXT = (
    "a prepared statement is lost, or exists twice: a pooler in between lends its sessions to several "
    "clients and keeps no track of prepared statements. Pass PostgresBackend(prepare_threshold=None), or let "
    "the pooler track them (PgBouncer from 1.21: max_prepared_statements)"
)
_UNTRACKED = (ConfigurationError, _UNTRACKED_TEXT)
_TOO_OLD = (ConfigurationError, "the server cannot run a statement: PostgreSQL from version 15 is needed")
_IN_THE_WAY = (
    MigrationError,
    "an object of that name exists already: if it is not from assistly, set STORAGE_SCHEMA to another schema",
)
_BY_STATE: dict[str, tuple[type[StorageError], str]] = {
    "0A000": _TOO_OLD,
    "22003": (InvalidValue, "a number is out of range"),
    "22008": (InvalidValue, "a time is out of range"),
    "22021": (InvalidValue, "text that Postgres cannot store"),
    "22P05": (InvalidValue, "text that Postgres cannot store"),
    "25006": (StorageUnavailable, "the server takes no writes now"),
    "25P02": (
        StorageUnavailable,
        "roll back: an earlier call of the transaction failed, so nothing of it will be written",
    ),
    "26000": _UNTRACKED,
    "2BP01": (MigrationError, "an object of the database depends on what has to change"),
    "3D000": (ConfigurationError, "the database does not exist"),
    "3F000": (MigrationError, "the schema is missing: run `assistly migrate`"),
    "40003": (OutcomeUnknown, "it may have been written"),
    "40001": (TransactionAborted, "other transactions were in the way"),
    "40P01": (TransactionAborted, "other transactions were in the way"),
    "42501": (ConfigurationError, "the role lacks a privilege"),
    "42601": _TOO_OLD,
    "42701": _IN_THE_WAY,
    "42703": (MigrationError, "a column is missing: run `assistly migrate`"),
    "42704": (MigrationError, "an object that the migrations made is missing"),
    "42710": _IN_THE_WAY,
    "42804": (MigrationError, "a column has another type than the migrations give it"),
    "42883": (MigrationError, "a column has another type than the migrations give it"),
    "42809": (MigrationError, "an object has another kind than the migrations give it"),
    "42P01": (MigrationError, "a table is missing: run `assistly migrate`"),
    "42P05": _UNTRACKED,
    "42P07": _IN_THE_WAY,
    "42P10": (MigrationError, "a unique index that the migrations made is missing"),
    "53100": (StorageUnavailable, "the server's disk is full"),
    "53300": (StorageUnavailable, "the server has no connection left"),
    "55P03": (StorageUnavailable, "a lock was not free in time"),
    "57014": (StorageUnavailable, "the server cancelled the statement"),
    "57P04": (ConfigurationError, "the database was dropped"),
}
_BY_CLASS: dict[str, tuple[type[StorageError], str]] = {
    "08": (StorageUnavailable, "the connection to the server failed"),
    "22": (StorageCorrupt, "a stored value has a wrong form"),
    "23": (StorageCorrupt, "a constraint that this package does not know was violated"),
    "25": (StorageUnavailable, "the transaction ended early"),
    "28": (ConfigurationError, "the server refused the user or the password"),
    "3B": (StorageUnavailable, "the transaction ended early"),
    "40": (StorageUnavailable, "the server undid the transaction"),
    "53": (StorageUnavailable, "the server is short of resources"),
    "54": (InvalidValue, "a value is larger than Postgres can store"),
    "55": (StorageUnavailable, "the server is not in the state for it"),
    "57": (StorageUnavailable, "the server is shutting down or starting"),
    "58": (StorageUnavailable, "the server's system failed"),
    "72": (StorageUnavailable, "the transaction is too old"),
    "P0": (StorageError, "a trigger or function of the database refused it"),
    "XX000": (StorageUnavailable, "the server met an error of its own"),
    "XX001": (StorageCorrupt, "the server found corrupt data"),
    "XX002": (StorageCorrupt, "the server found a corrupt index"),
}

# The server never ends a session with one of these in the middle of a commit.
_ENDED_BEFORE_COMMIT = frozenset({"57P01", "57P05", "25P03", "25P04"})

# Libpq gives no code for an error of connecting, only its text. A pooler's own errors have the code of a
# violation of the protocol, whatever they mean.
_SETTING_PROBLEM = re.compile(
    r"authentication (method requirement .* )?failed|no password supplied|pg_hba|certificate|private key|"
    r"(database|role|user) \".*\" (does not exist|is not permitted|is disabled)|permission denied|"
    r"not currently accepting connections|bad value for|"
    r"invalid (\S+ value|value for|integer value|port number|connection option|server parameter)|"
    r"could not match .* (host|port)|definition of service .* not found|"
    r"parameter|SSL (is |connection is )?required|does not support SSL|TLS connection required|"
    # PgBouncer
    r"no such (database|user)|does not allow connections|bouncer config error|login rejected|"
    r"no authentication method|no username supplied|empty password|(username|password) too long|"
    r"wrong password type|invalid server signature|"
    # Odyssey, pgcat, PgDog, Supavisor, RDS Proxy, Neon
    r"route for .* is not found|incorrect user|user blocked|authentication rejected|"
    r"no pool configured|pool is not configured|is wrong, or the database does not exist|"
    r"(tenant|user|project|endpoint)[\w ]* not found|no credentials for|endpoint could not be found",
    re.DOTALL | re.IGNORECASE,
)
_CONTINUED = re.compile(r"\n\s+(?=Is the server running)")
_PARAMETER = re.compile(r"unsupported startup parameter(?: in options)?: (\S+)")
# A pooler has not found a connection to the server for the statement.
_NEVER_SENT = re.compile(
    r"^(query_wait_timeout|server login (failed|has been failing)|no more connections allowed|"
    r"could not get connection from the pool)|failed to get remote server connection"
)
_PREPARED = re.compile(r"prepared statement|bind message")


def translate(error: psycopg.Error) -> StorageError:
    """Return the error to raise for a failed statement."""
    if isinstance(error, LimitExceeded):
        return StorageUnavailable(str(error))
    kind, text = _meaning(error)
    return kind(f"{text}: {_first_line(error)}")


def unknown_outcome(error: psycopg.Error) -> OutcomeUnknown:
    """Return the error to raise if the connection broke during a commit."""
    return OutcomeUnknown(
        f"the connection broke during a write, which may have been stored (read before you repeat it): "
        f"{_first_line(error)}"
    )


def connect_problem(error: psycopg.Error) -> StorageError:
    """Return the error to raise if connecting failed, or the first statement on a new connection did.

    A pooler connects to the server at the first statement, and only then learns that it is refused.
    """
    text = " ".join(". ".join(_CONTINUED.split(str(error))).split())
    if refused := _PARAMETER.search(text):
        return ConfigurationError(
            f"DATABASE_URL does not work: the pooler refuses the startup parameter {refused[1]!r}. Remove it "
            f"from the URL (ALTER ROLE … SET sets it on the server), or add it to the pooler's "
            f"ignore_startup_parameters: {text}"
        )
    state = error.sqlstate or ""
    kind = _meaning(error)[0] if state and state != "08P01" else StorageUnavailable
    if kind is ConfigurationError or _SETTING_PROBLEM.search(text):
        return ConfigurationError(f"DATABASE_URL does not work: {text}")
    return StorageUnavailable(f"cannot connect to Postgres: {text}")


def is_conflict(error: psycopg.Error) -> bool:
    """Whether a retry may succeed at once: after a deadlock or a serialization failure, or where a pooler has
    lost a prepared statement, since the connection prepares none from then on."""
    return error.sqlstate in {"40P01", "40001", "26000", "42P05"}


def lost_statement(error: psycopg.Error) -> TransactionAborted | None:
    """The error to raise where a pooler has lost a prepared statement in the middle of a transaction."""
    if error.sqlstate not in {"26000", "42P05"}:
        return None
    return TransactionAborted(f"{_UNTRACKED[1]}: {_first_line(error)}")


def ends_session(error: psycopg.Error) -> bool:
    """Whether further calls need another session: this one's server accepts no writes now, because it has
    become a standby for example, or a statement was prepared for a table that was changed since then."""
    return error.sqlstate == "25006" or _has_old_plan(error)


def nothing_committed(error: psycopg.Error) -> bool:
    """Whether the last statement on a connection that broke was certainly not committed."""
    return error.sqlstate in _ENDED_BEFORE_COMMIT or bool(
        error.sqlstate and _NEVER_SENT.search(error.diag.message_primary or "")
    )


def _meaning(error: psycopg.Error) -> tuple[type[StorageError], str]:
    state = error.sqlstate or ""
    if state == "08P01":
        return _of_the_protocol(str(error))
    if _has_old_plan(error):
        return StorageUnavailable, "the tables were changed while they were in use"
    return _BY_STATE.get(state) or _BY_CLASS.get(state) or _BY_CLASS.get(state[:2]) or _without_state(error)


def _has_old_plan(error: psycopg.Error) -> bool:
    return error.sqlstate == "0A000" and "cached plan" in str(error)


def _of_the_protocol(text: str) -> tuple[type[StorageError], str]:
    if _PREPARED.search(text):
        return _UNTRACKED
    if _SETTING_PROBLEM.search(text):
        return ConfigurationError, "DATABASE_URL does not work"
    return StorageUnavailable, "the server, or a pooler in between, ended the connection"


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
