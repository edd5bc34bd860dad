"""Reads a database URL, and keeps its password out of messages."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ...errors import ConfigurationError

_NAME_LIMIT = 63


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """Where to connect to. `text` holds the password; `label` and `repr` do not.

    Neither do the errors of connecting: they repeat the host, the user and the database, so a part of the
    password that would be taken for one of these is refused.
    """

    text: str
    label: str

    @classmethod
    def parse(cls, database_url: str) -> Target:
        """Read a URL or connection string, and add defaults. Raises ConfigurationError, without the URL."""
        given = _parse(database_url)
        defaults = {
            "connect_timeout": os.environ.get("PGCONNECT_TIMEOUT", "3"),
            "application_name": os.environ.get("PGAPPNAME", "assistly"),
            "keepalives_idle": "30",
            "keepalives_interval": "10",
            "keepalives_count": "3",
            "tcp_user_timeout": "10000",
        }
        return cls(make_conninfo("", **defaults | given | {"client_encoding": "UTF8"}), _label(given))

    def __repr__(self) -> str:
        return f"Target({self.label})"


def _parse(database_url: str) -> dict[str, str]:
    if not isinstance(database_url, str) or not database_url.strip() or "\0" in database_url:
        raise ConfigurationError(
            "DATABASE_URL must be a Postgres URL such as postgresql://user@host/database"
        )
    if _has_stray_at(database_url):
        raise ConfigurationError(
            "DATABASE_URL has an @ besides the one before the host, or a / before that: in a password, a "
            "user or a database, write @ as %40, / as %2F, : as %3A, # as %23, ? as %3F and % as %25"
        )
    problem = None
    try:
        given = conninfo_to_dict(database_url)
    except (psycopg.Error, ValueError):
        # The driver's text repeats parts of the URL, the password among them.
        problem = ConfigurationError(
            "DATABASE_URL is not a Postgres URL: it takes postgresql://user:password@host:port/database, "
            "with special characters in the password percent-encoded, or a libpq connection string"
        )
    if problem is not None:
        raise problem
    for port in str(given.get("port") or "").split(","):
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigurationError(
                "DATABASE_URL has an invalid port: it must be a number from 1 to 65535. If it is part of "
                "the password, percent-encode its special characters (/ is %2F, : is %3A, @ is %40)"
            )
    for host in str(given.get("host") or "").split(","):
        # An @ in front is that of an abstract Unix socket.
        if "@" in host[1:]:
            raise ConfigurationError(
                "DATABASE_URL has an @ in the host: in a password, a user or a database, write it as %40"
            )
    return {name: str(value) for name, value in given.items() if value is not None}


def _has_stray_at(database_url: str) -> bool:
    """Whether a URL has an @ that libpq would take for a part of the host or the database."""
    scheme, is_url, rest = database_url.partition("://")
    if not is_url or scheme.strip() not in ("postgres", "postgresql"):
        return False
    before, found, after = rest.partition("@")
    return bool(found) and ("/" in before or "@" in after.partition("?")[0])


def _label(given: dict[str, str]) -> str:
    user = f"{given['user']}@" if given.get("user") else ""
    port = f":{given['port']}" if given.get("port") else ""
    return f"postgresql://{user}{given.get('host', '')}{port}/{given.get('dbname', '')}"


def check_schema(schema: str) -> str:
    """Return `schema` if it can be the name of one. Raises ConfigurationError otherwise."""
    if not isinstance(schema, str) or not schema or "\0" in schema:
        problem = "it takes a name, without NUL characters"
    elif len(schema.encode(errors="surrogatepass")) > _NAME_LIMIT:
        problem = f"a name has {_NAME_LIMIT} bytes at most"
    elif schema.startswith("pg_"):
        problem = "names that begin with pg_ are the server's own"
    else:
        return schema
    raise ConfigurationError(f"STORAGE_SCHEMA is {schema!r}: {problem}")
