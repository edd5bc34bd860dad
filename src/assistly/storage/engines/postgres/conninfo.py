"""Reading a database URL without ever repeating its password."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ...errors import ConfigurationError

CONNECT_TIMEOUT = 3
_SECRET = ("password", "sslpassword", "oauth_client_secret")
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """Where to connect to. `text` holds the password; `label` and `repr` do not."""

    text: str
    label: str
    secrets: tuple[str, ...]

    @classmethod
    def parse(cls, database_url: str) -> Target:
        given = _parse(database_url)
        settings = {
            "connect_timeout": os.environ.get("PGCONNECT_TIMEOUT", CONNECT_TIMEOUT),
            "application_name": os.environ.get("PGAPPNAME", "assistly"),
            "keepalives_idle": 30,
            **given,
            "client_encoding": "UTF8",
        }
        secrets = tuple(str(given[name]) for name in _SECRET if given.get(name))
        return cls(make_conninfo(**settings), _label(given), secrets)

    def reveals(self, text: str) -> bool:
        return any(secret in text for secret in self.secrets)

    def redact(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def __repr__(self) -> str:
        return f"Target({self.label})"


def _parse(database_url: str) -> dict[str, object]:
    if not isinstance(database_url, str) or not database_url.strip():
        raise ConfigurationError("DATABASE_URL must be a Postgres URL such as postgresql://user@host/database")
    problem = None
    try:
        given: dict[str, object] = dict(conninfo_to_dict(database_url))
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
    return given


def _label(given: dict[str, object]) -> str:
    user = f"{given['user']}@" if given.get("user") else ""
    port = f":{given['port']}" if given.get("port") else ""
    return f"postgresql://{user}{given.get('host', '')}{port}/{given.get('dbname', '')}"


def check_schema(schema: str) -> str:
    if not isinstance(schema, str) or not _SCHEMA.fullmatch(schema):
        raise ConfigurationError(
            f"STORAGE_SCHEMA is {schema!r}: it takes a letter or _, then letters, digits, _ or $, "
            "63 characters at most"
        )
    return schema
