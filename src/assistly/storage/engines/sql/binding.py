"""Words the refusal of what cannot be bound: which class it is, and which of its attributes can be bound."""

from __future__ import annotations

import sys
from contextlib import suppress
from operator import attrgetter
from typing import Any

from ...errors import InvalidValue
from ...validation import shown

# Where the wrappers of other libraries keep the driver's connection.
_WRAPPED = ("connection.driver_connection", "driver_connection", "dbapi_connection", "connection", "conn")
# Where that is, if this object has no connection yet or a call is needed: by library and class.
_HINTS = {
    ("sqlalchemy", "Session"): ".connection().connection.driver_connection",
    ("sqlalchemy", "Engine"): ".raw_connection().driver_connection",
    ("sqlalchemy", "Connection"): ".connection.driver_connection",
    ("django", "ConnectionProxy"): ".connection, after ensure_connection()",
    ("django", "DatabaseWrapper"): ".connection, after ensure_connection()",
}


def cannot_be_bound(connection: object, expected: type[Any]) -> InvalidValue:
    """Return the error for a connection that is not one of the class `expected`."""
    found = connection if isinstance(connection, type) else type(connection)
    got = shown(connection) if found.__module__ == "builtins" else full_name(found)
    text = f"connection must be a {full_name(expected)}, got {got}"
    attribute = _attribute(connection, expected)
    if attribute:
        text += f": pass its {attribute}"
    elif found.__name__.startswith("Async") or found.__module__.startswith(("aiosqlite", "asyncpg")):
        text += ": pass a synchronous connection"
    elif "Pool" in found.__name__:
        text += ": pass a connection that it lent"
    else:
        text += f": open one with {full_name(expected).rpartition('.')[0]}.connect"
    return InvalidValue(text)


def _attribute(connection: object, expected: type[Any]) -> str:
    for path in _WRAPPED:
        with suppress(Exception):
            if isinstance(attrgetter(path)(connection), expected):
                return f".{path}"
    kind = type(connection)
    return _HINTS.get((kind.__module__.partition(".")[0], kind.__name__), "")


def full_name(kind: type[Any]) -> str:
    """The name of a class with its module; with the package that exports it, if there is one."""
    package = kind.__module__.rpartition(".")[0]
    if package and getattr(sys.modules.get(package), kind.__name__, None) is kind:
        return f"{package}.{kind.__name__}"
    return f"{kind.__module__}.{kind.__name__}"
