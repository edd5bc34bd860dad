"""Words the refusal of what cannot be bound: which class it is, and what to bind in its place."""

from __future__ import annotations

from contextlib import suppress
from operator import attrgetter
from typing import Any

from ...errors import InvalidValue
from ...frameworks import CallersConnection, full_name, is_async_driver
from ...validation import shown

# Where the wrappers of other libraries keep the driver's connection.
_WRAPPED = ("connection.driver_connection", "driver_connection", "dbapi_connection", "connection", "conn")
# What to bind in place of what opens connections: by library and class.
_HINTS = {
    ("sqlalchemy", "Engine"): "bind a Connection: `with engine.begin() as connection:`",
    ("sqlalchemy", "AsyncEngine"): "bind an AsyncConnection: `async with engine.begin() as connection:`",
    ("sqlalchemy", "sessionmaker"): "bind a Session that it makes",
    ("sqlalchemy", "async_sessionmaker"): "bind an AsyncSession that it makes",
    ("django", "ConnectionHandler"): "bind one of them, such as `connections['default']`",
}
# What to write instead in the settings of a library: by the module of the driver that the engine takes.
_REMEDIES = {
    ("SQLAlchemy", "psycopg"): "create the engine with a URL that begins with postgresql+psycopg://",
    (
        "SQLAlchemy",
        "sqlite3",
    ): "create the engine with a URL that begins with sqlite:// or sqlite+aiosqlite://",
    ("Django", "psycopg"): "use the ENGINE django.db.backends.postgresql, with psycopg 3 installed",
    ("Django", "sqlite3"): "use the ENGINE django.db.backends.sqlite3",
}


def cannot_be_bound(callers: CallersConnection, expected: type[Any]) -> InvalidValue:
    """Return the error for a connection that is not one of the class `expected`."""
    if callers.library:
        return _wrong_driver(callers, expected)
    connection = callers.driver
    found = connection if isinstance(connection, type) else type(connection)
    got = shown(connection) if found.__module__ == "builtins" else full_name(found)
    text = f"connection must be a {full_name(expected)}, got {got}"
    hint = _HINTS.get((found.__module__.partition(".")[0], found.__name__))
    attribute = _attribute(connection, expected)
    if hint:
        text += f": {hint}"
    elif attribute:
        text += f": pass its .{attribute}"
    elif "Pool" in found.__name__:
        text += ": pass a connection that it lent"
    else:
        text += f": open one with {full_name(expected).rpartition('.')[0]}.connect"
    return InvalidValue(text)


def commits_itself(callers: CallersConnection) -> InvalidValue:
    """Return the error for a connection whose library does not keep a transaction open on it."""
    return InvalidValue(
        f"the {callers.owner} commits each statement by itself (isolation level AUTOCOMMIT): "
        "bind one that is in a transaction"
    )


def _wrong_driver(callers: CallersConnection, expected: type[Any]) -> InvalidValue:
    if callers.needs_transaction and is_async_driver(callers.driver) and not callers.in_thread:
        return InvalidValue(
            f"the {callers.owner} belongs to an AsyncSession or AsyncConnection (run_sync): "
            "bind that to an AsyncStorage, outside of the function"
        )
    driver = type(callers.driver).__module__.partition(".")[0]
    takes = expected.__module__.partition(".")[0]
    text = f"the {callers.owner} uses the driver {driver}, and the engine of this storage {takes}"
    if not callers.needs_transaction:
        return InvalidValue(f"{text}: bind a connection to the storage's database")
    remedy = _REMEDIES.get((callers.library or "", takes.removeprefix("py")), "bind one that uses the same")
    return InvalidValue(f"{text}: {remedy}")


def _attribute(connection: object, expected: type[Any]) -> str:
    for path in _WRAPPED:
        with suppress(Exception):
            if isinstance(attrgetter(path)(connection), expected):
                return path
    return ""
