"""Opens the storage for a command, and says which one it is."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assistly.storage import Storage
    from assistly.storage.engine.protocol import StorageBackend
    from assistly.storage.engines.sql.migrations import PendingMigrations
    from assistly.storage.settings import StorageSettings

    from .output import Output


@contextmanager
def opened(out: Output, *, create: bool = False) -> Iterator[Storage]:
    """Open the storage that the environment configures, and print its location to stderr.

    Creates the database and applies migrations only with `create`. Imports are here, so that `--help` is
    fast. Raises ConfigurationError if there is no database or a copy into it is not finished, and
    MigrationError if migrations are pending.
    """
    from assistly.storage.engines.sql.migrations import PendingMigrations
    from assistly.storage.errors import MigrationError
    from assistly.storage.factory import build_storage
    from assistly.storage.settings import load_settings
    from assistly.storage.unfinished import require_finished

    settings = load_settings()
    place = storage_place(settings)
    if not create:
        require_database(settings, place)
        settings = settings.model_copy(update={"auto_migrate": False})
    out.remark(f"storage: {place}")
    with build_storage(settings, auto_prune=False) as storage:
        try:
            storage.ping()
        except PendingMigrations as error:
            raise MigrationError(_advice(error, settings, place)) from None
        require_finished(storage)
        yield storage


def _advice(error: PendingMigrations, settings: StorageSettings, place: str) -> str:
    """What to do about pending migrations."""
    if not error.is_new:
        names = ", ".join(error.names)
        return f"the database lacks the migrations {names}: `assistly migrate` applies them ({place})"
    return (
        f"there are no tables of Assistly yet: {place}. If this is the right place "
        f"({place_variables(settings)}), `assistly migrate` creates them"
    )


def place_variables(settings: StorageSettings) -> str:
    """The variables that say where the data is stored."""
    return "SQLITE_PATH" if settings.engine == "sqlite" else "DATABASE_URL, STORAGE_SCHEMA"


def storage_place(settings: StorageSettings) -> str:
    """The engine and the location of its data, without a password."""
    from assistly.storage import factory

    return factory.storage_place(settings)


def require_database(
    settings: StorageSettings, place: str, *, created_by: str | None = "`assistly migrate`"
) -> None:
    """Raise ConfigurationError if the SQLite file does not exist, or cannot be examined.

    `created_by`: the command that creates the database of the environment; None for any other database.
    """
    from assistly.storage.errors import ConfigurationError
    from assistly.storage.factory import open_backend

    if settings.engine != "sqlite":
        return
    with closing(open_backend(settings)) as backend:
        if is_there(backend):
            return
    advice = f". If this is the right one (SQLITE_PATH), {created_by} creates it" if created_by else ""
    raise ConfigurationError(f"there is no database yet: {place}{advice}")


def is_there(backend: StorageBackend) -> bool:
    """Whether the SQLite file exists; True for other engines.

    Raises ConfigurationError if this cannot be determined.
    """
    from assistly.storage.engines.sqlite import SqliteBackend

    return not isinstance(backend, SqliteBackend) or backend.exists()
