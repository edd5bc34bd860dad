"""Reads a database URL, and keeps its password out of messages."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ...errors import ConfigurationError

_SECRET = ("password", "sslpassword", "oauth_client_secret")
_NAME_LIMIT = 63


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """Where to connect to. `text` holds the password; `label` and `repr` do not."""

    text: str
    label: str
    secrets: tuple[str, ...]

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
        secrets = tuple(str(given[name]) for name in _SECRET if given.get(name))
        return cls(
            make_conninfo("", **defaults | given | {"client_encoding": "UTF8"}), _label(given), secrets
        )

    def reveals(self, text: str) -> bool:
        """Whether `text` contains a secret."""
        return any(secret in text for secret in self.secrets)

    def redact(self, text: str) -> str:
        """Replace the secrets in `text` with asterisks."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def __repr__(self) -> str:
        return f"Target({self.label})"


def _parse(database_url: str) -> dict[str, str]:
    if not isinstance(database_url, str) or not database_url.strip() or "\0" in database_url:
        raise ConfigurationError(
            "DATABASE_URL must be a Postgres URL such as postgresql://user@host/database"
        )
    problem = None
    try:
        given = conninfo_to_dict(database_url)
    except (psycopg.Error, ValueError):
        # The driver's text repeats parts of the URL, the password among them.
        problem = ConfigurationError(
            "DATABASE_URL is no Postgres URL: it takes postgresql://user:password@host:port/database, "
            "with special characters in the password percent-encoded, or a libpq connection string"
        )
    if problem is not None:
        raise problem
    for port in str(given.get("port") or "").split(","):
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigurationError("DATABASE_URL has a bad port: it takes a number from 1 to 65535")
    return {name: str(value) for name, value in given.items() if value is not None}


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
