"""Where a copy comes from and goes to: URLs, paths and names of plug-ins."""

from __future__ import annotations

from typing import Any

from assistly.storage.addresses import HIDDEN, may_hold_password, scheme_of
from assistly.storage.errors import ConfigurationError
from assistly.storage.plugins import BUILT_IN, engine_names
from assistly.storage.settings import StorageSettings, load_settings

_FORMS = "give postgresql://user@host/database, sqlite:///path/to/file.db or the path of an SQLite file"


def settings_of(place: str, *, schema: str | None = None, create: bool = False) -> StorageSettings:
    """The settings of the storage that `place` names.

    `schema`, or what follows a # at the end of a Postgres URL, is the schema (default: public). The other
    settings, such as STORAGE_TIMEOUT_SECONDS, come from the environment, and so do all settings of a plug-in,
    which is given by its name. `create`: apply migrations. Raises ConfigurationError for anything else.
    """
    scheme = scheme_of(place)
    keywords: dict[str, Any] = {"auto_migrate": create}
    if scheme in ("postgres", "postgresql"):
        url, _, fragment = place.partition("#")
        keywords |= {"engine": "postgres", "database_url": url, "schema": schema or fragment or "public"}
    elif schema is not None:
        raise ConfigurationError(f"only a Postgres URL has a schema ({schema!r}): {_FORMS}")
    elif scheme == "sqlite":
        keywords |= {"engine": "sqlite", "sqlite_path": _path_of(place)}
    elif scheme:
        raise ConfigurationError(f"no engine supports {scheme}:// URLs: {_FORMS}")
    elif place == "memory":
        raise ConfigurationError(f"the memory engine lives in one process, so it cannot be copied: {_FORMS}")
    elif place in engine_names() and place not in BUILT_IN:
        keywords |= {"engine": place}
    else:
        keywords |= {"engine": "sqlite", "sqlite_path": place}
    return load_settings(keywords)


def _path_of(url: str) -> str:
    rest = url.partition("://")[2]
    path = rest.partition("?")[0].removeprefix("/")
    if not rest.startswith("/") or not path:
        shown = HIDDEN if may_hold_password(rest) else repr(url)
        raise ConfigurationError(f"{shown} is not the URL of an SQLite file: {_FORMS}")
    return path
