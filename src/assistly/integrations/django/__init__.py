"""The storage of a Django project, in Django's database.

The app `assistly.integrations.django` in INSTALLED_APPS makes its tables when `manage.py migrate` runs. The
database is `default`, or the one whose alias is in the setting ASSISTLY_DATABASE.
"""

from __future__ import annotations

from typing import Any

from assistly.integrations.requirements import framework
from assistly.storage import ConfigurationError, Storage, open_storage

with framework("Django", "django"):
    from django.conf import settings
    from django.db import connections

__all__ = ["close_storages", "get_storage"]

_opened: dict[tuple[str, str], Storage] = {}
_NOT_LIBPQ = ("autocommit", "client_encoding", "context", "cursor_factory", "prepare_threshold")


def get_storage() -> Storage:
    """Return the storage in Django's database. The first call in a process opens it; later ones share it.

    A test gets the storage of the test database. Other settings are those of the environment and `.env`.
    Raises ConfigurationError if the database is neither SQLite nor Postgres, or is in memory, and the errors
    of `open_storage`.
    """
    place = _place(database())
    storage = _opened.get(place)
    if storage is None:
        opened = open_storage(**_keywords(*place))
        # Two threads may come here. A lock would stay locked in a process that is forked meanwhile.
        storage = _opened.setdefault(place, opened)
        if storage is not opened:
            opened.close()
    return storage


def close_storages() -> None:
    """Close what `get_storage` has opened in this process. It opens the storage again when it is called."""
    while _opened:
        _, storage = _opened.popitem()
        storage.close()


def make_tables() -> None:
    """Apply the migrations of the storage that are pending, and leave no connection open."""
    open_storage(**_keywords(*_place(database())), auto_migrate=True, auto_prune=False).close()


def database() -> str:
    """The alias of the database that holds the storage."""
    return str(getattr(settings, "ASSISTLY_DATABASE", "default"))


def _keywords(engine: str, place: str) -> dict[str, Any]:
    return {"engine": engine, "sqlite_path" if engine == "sqlite" else "database_url": place}


def _place(alias: str) -> tuple[str, str]:
    """The engine, and the path or the connection string."""
    connection = connections[alias]
    if connection.vendor == "postgresql":
        parameters = connection.get_connection_params()
        role = connection.settings_dict["OPTIONS"].get("assume_role")
        if role:  # Django sets it on each connection
            parameters["options"] = f"{parameters.get('options', '')} -c role={_option(role)}"
        return "postgres", " ".join(
            f"{name}='{_escaped(value)}'" for name, value in parameters.items() if name not in _NOT_LIBPQ
        )
    if connection.vendor != "sqlite":
        raise ConfigurationError(
            f"the storage needs SQLite or Postgres, and Django's database {alias!r} is {connection.vendor}: "
            "set ASSISTLY_DATABASE to the alias of another one"
        )
    path = str(connection.settings_dict["NAME"])
    if connection.creation.is_in_memory_db(path):
        raise ConfigurationError(
            f"Django's database {alias!r} is in memory, where the storage cannot open it: name a file. "
            f'For tests: DATABASES[{alias!r}]["TEST"] = {{"NAME": "test.db"}}'
        )
    return "sqlite", path


def _option(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _escaped(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "\\'")
