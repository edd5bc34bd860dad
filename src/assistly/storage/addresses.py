"""Tells the path of a file from a URL, and texts that may contain a password from others."""

from __future__ import annotations

import re
from ast import literal_eval
from contextlib import suppress
from urllib.parse import unquote

HIDDEN = "a value that may contain a password"
"""What messages show instead of such a value."""

_PASSWORD = re.compile(r"://|:[^\s/]*@|passw|pwd|secret|token", re.IGNORECASE)
_URL = re.compile(r"\s*(?P<scheme>[a-z][a-z0-9+.-]+):(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_CONNINFO = re.compile(
    r"\s*(?:(?:host|hostaddr|port|dbname|user|password|service|sslmode)\s*=|[^/\s:]+:[^/\s]*@)", re.IGNORECASE
)
# What looks like a part of a URL: ://, user:password@host, or the name of Postgres before two slashes.
_ADDRESS = re.compile(r"://|:[^\s/]*@|^\s*postgres(ql)?:*//", re.IGNORECASE)
_BACKEND = re.compile(r"(\w+?)Backend\((.*)\)", re.DOTALL)
_EXAMPLE = "give the path of a file, such as data/assistly.db"


def may_hold_password(text: str) -> bool:
    """Whether a text looks like one that contains a password: a URL or a connection string."""
    return _PASSWORD.search(text) is not None


def without_password(text: str) -> str:
    """The repr of a text; `HIDDEN` if it looks like one that contains a password."""
    return HIDDEN if may_hold_password(text) else repr(text)


def scheme_of(text: str) -> str:
    """The scheme of a URL such as postgresql://host, in lower case; empty for any other text."""
    found = _URL.match(text)
    return found["scheme"].lower() if found and found["rest"].startswith("//") else ""


def path_problem(text: str) -> str | None:
    """Why a text cannot be the path of an SQLite file, and what to write instead; None if it can be.

    The slashes of a URL may be single ones, as in a `Path` that was made of it.
    """
    if text == ":memory:":
        return (
            "':memory:' is not shared between connections; for a storage that ends with the process use "
            "STORAGE_ENGINE=memory"
        )
    found = _URL.match(text)
    scheme = found["scheme"].lower() if found else ""
    if found and scheme.partition("+")[0] in ("sqlite", "sqlite3", "file"):
        return _of_url(scheme, found["rest"])
    is_address = _ADDRESS.search(text) is not None
    if (
        (found and scheme.startswith("postgres"))
        or _CONNINFO.match(text)
        or (is_address and "postgres" in text)
    ):
        return (
            "an address of Postgres is not the path of a file: for Postgres set STORAGE_ENGINE=postgres and "
            f"DATABASE_URL, for SQLite {_EXAMPLE}"
        )
    if found and found["rest"].startswith("/"):
        return f"a URL ({scheme}:) is not the path of a file: {_EXAMPLE}"
    if is_address:
        return f"the address of a server is not the path of a file: {_EXAMPLE}"
    return None


def _of_url(scheme: str, rest: str) -> str:
    rest = rest.partition("?")[0]
    if scheme == "file":
        path = unquote(re.sub(r"^//[^/]*", "", rest))
    else:
        path = rest[3:] if rest.startswith("///") else rest.removeprefix("//")
    if not path or ":memory:" in path:
        return "a URL is not the path of a file: for a storage in memory use STORAGE_ENGINE=memory"
    if may_hold_password(path):
        return f"a URL ({scheme}:) is not the path of a file: write the path alone"
    return f"a URL ({scheme}:) is not the path of a file: write the path alone, {path!r}"


def place_of(backend: object) -> str:
    """An engine and where its data is, as people are told: `sqlite /path` for `SqliteBackend('/path')`."""
    found = _BACKEND.fullmatch(repr(backend))
    if found is None:
        return repr(backend)
    where = found[2]
    with suppress(ValueError, SyntaxError):
        where = str(literal_eval(where))
    return f"{found[1].lower()} {where}".rstrip()
