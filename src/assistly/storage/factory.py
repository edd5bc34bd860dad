"""From the name of an engine to an open storage."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Unpack

from .errors import ConfigurationError
from .settings import SettingsKeywords, StorageSettings, load_settings, shown_setting
from .storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.metadata import EntryPoint

    from .engine.protocol import StorageBackend
    from .clock import Clock

ENTRY_POINTS = "assistly.storage_engines"
"""An entry point of this group is an engine: its name is what STORAGE_ENGINE takes, its object is
called with the StorageSettings and returns a StorageBackend."""


def open_storage(
    *, clock: Clock | None = None, auto_prune: bool = True, **settings: Unpack[SettingsKeywords]
) -> Storage:
    """Open what the environment, `.env` and these keywords describe; keywords beat the environment.

    The engine is reached, and its schema made ready, before this returns.
    """
    storage = build_storage(load_settings(settings), clock=clock, auto_prune=auto_prune)
    try:
        storage.ping()
    except BaseException:
        storage.close()
        raise
    return storage


def build_storage(
    settings: StorageSettings, *, clock: Clock | None = None, auto_prune: bool = True
) -> Storage:
    """A storage that reaches its engine only when it is used."""
    backend = _engine(settings.engine)(settings)
    try:
        return Storage(
            backend,
            clock=clock,
            retry=settings.retry_policy(),
            retention=settings.retention_policy(),
            lock_ttl=settings.lock_ttl(),
            auto_prune=auto_prune,
        )
    except BaseException:
        backend.close()
        raise


def _memory(settings: StorageSettings) -> StorageBackend:  # noqa: ARG001 - one signature for all engines
    from .engines.memory import MemoryBackend

    return MemoryBackend()


def _sqlite(settings: StorageSettings) -> StorageBackend:
    with _driver("sqlite-utils"):
        from .engines.sqlite import SqliteBackend
    return SqliteBackend(settings.sqlite_path, auto_migrate=settings.auto_migrate)


def _postgres(settings: StorageSettings) -> StorageBackend:
    url = settings.database_url
    if url is None or not url.get_secret_value().strip():
        raise ConfigurationError(
            "DATABASE_URL is not set: the engine postgres takes it from there, "
            "such as postgresql://user:password@host/database"
        )
    with _driver("psycopg[binary,pool]"):
        from .engines.postgres import PostgresBackend
    return PostgresBackend(
        url.get_secret_value(),
        pool_size=settings.pool_size,
        schema=settings.schema_name,
        auto_migrate=settings.auto_migrate,
    )


_BUILT_IN: dict[str, Callable[[StorageSettings], StorageBackend]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "postgres": _postgres,
}


@contextmanager
def _driver(distribution: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        if (error.name or "").startswith("assistly"):
            raise
        raise ConfigurationError(
            f"a driver is missing or broken ({error}): python -m pip install '{distribution}'"
        ) from error


def _engine(name: str) -> Callable[[StorageSettings], StorageBackend]:
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    plug_ins = entry_points(group=ENTRY_POINTS)
    if name in plug_ins.names:
        return _plug_in(plug_ins[name])
    known = ", ".join([*_BUILT_IN, *sorted(plug_ins.names - _BUILT_IN.keys())])
    got = shown_setting("STORAGE_ENGINE", name)
    raise ConfigurationError(f"STORAGE_ENGINE must be one of {known}; got {got}")


def _plug_in(entry: EntryPoint) -> Callable[[StorageSettings], StorageBackend]:
    try:
        make: Callable[[StorageSettings], StorageBackend] = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"STORAGE_ENGINE: the plug-in {entry.name!r} ({entry.value}) cannot be loaded: {error}"
        ) from error
    return make
