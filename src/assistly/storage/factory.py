"""Opens a storage from its settings."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

from .addresses import place_of
from .errors import ConfigurationError
from .plain_settings import PlainSettings, plain_settings
from .plugins import ENGINES, engine_names, load_plug_in
from .storage import Storage
from .unfinished import require_finished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .clock import Clock
    from .engine.protocol import StorageBackend
    from .keywords import SettingsKeywords
    from .settings import StorageSettings

Settings: TypeAlias = "StorageSettings | PlainSettings"


def open_storage(
    *, clock: Clock | None = None, auto_prune: bool = True, **settings: Unpack[SettingsKeywords]
) -> Storage:
    """Open the storage configured by keywords, the environment and `.env`, in this order of precedence.

    A keyword is the name of a variable in lower case, without `STORAGE_`: `engine`, `database_url`,
    `sqlite_path`, `retention_posted_days` and so on. The settings of a plug-in are keywords too: type
    checkers accept them from a `dict[str, Any]`, as `**options`. `clock` gives the time of calls without
    `now` (default: the engine's clock). With `auto_prune` (default: True), the storage prunes once a minute
    while it is in use.

    It connects to the engine and applies pending migrations before it returns. Raises ConfigurationError for
    wrong settings and for the target of an unfinished copy, StorageUnavailable if the engine does not answer,
    and MigrationError if the schema does not match this version, or if migrations are pending and
    STORAGE_AUTO_MIGRATE is false.
    """
    storage = build_storage(find_settings(settings), clock=clock, auto_prune=auto_prune)
    try:
        storage.ping()
        require_finished(storage)
    except BaseException:
        storage.close()
        raise
    return storage


def find_settings(keywords: Mapping[str, Any]) -> Settings:
    """Read the settings as `load_settings` does, without pydantic if nothing has to be converted."""
    plain = plain_settings(keywords)
    if plain is not None:
        return plain
    from .settings import load_settings

    return load_settings(keywords)


def build_storage(settings: Settings, *, clock: Clock | None = None, auto_prune: bool = True) -> Storage:
    """Return a storage that connects on its first use. Raises ConfigurationError for wrong settings."""
    backend = open_backend(settings)
    try:
        return Storage(
            backend,
            clock=clock,
            retry=settings.retry_policy(),
            retention=settings.retention_policy(),
            lock_ttl=settings.lock_ttl(),
            auto_prune=auto_prune,
            worker_maintains=settings.vacuum == "worker",
        )
    except BaseException:
        backend.close()
        raise


def open_backend(settings: Settings) -> StorageBackend:
    """Return the engine without a `Storage`. It connects on its first use; the caller closes it."""
    if isinstance(settings, PlainSettings):
        return _PLAIN[settings.engine](settings)
    return _engine(settings.engine)(settings)


def open_existing(settings: StorageSettings, *, only_look: bool = False) -> StorageBackend:
    """Like `open_backend`, but applies no migration, and does not create an SQLite file or switch it to WAL
    mode.

    With `only_look`, neither an SQLite file nor its log is changed in any other way, and writes fail.
    """
    settings = settings.model_copy(update={"auto_migrate": False})
    if settings.engine != "sqlite":
        return open_backend(settings)
    with _driver("sqlite-utils"):
        from .engines.sqlite import SqliteBackend
        from .engines.sqlite.access import Access
    access = Access.LOOK if only_look else Access.KEEP
    return SqliteBackend(settings.sqlite_path, auto_migrate=False, access=access)


def _memory(settings: Settings) -> StorageBackend:  # noqa: ARG001 - one signature for all engines
    from .engines.memory import MemoryBackend

    return MemoryBackend()


def _sqlite(settings: Settings) -> StorageBackend:
    with _driver("sqlite-utils"):
        from .engines.sqlite import SqliteBackend
    return SqliteBackend(settings.sqlite_path, auto_migrate=settings.auto_migrate)


def _postgres(settings: StorageSettings) -> StorageBackend:
    url = settings.database_url
    if url is None or not url.get_secret_value().strip():
        raise ConfigurationError(
            "DATABASE_URL is not set: the engine postgres needs it, "
            "such as postgresql://user:password@host/database"
        )
    with _driver("psycopg[binary]"):
        from .engines.postgres import PostgresBackend
    return PostgresBackend(
        url.get_secret_value(),
        pool_size=settings.pool_size,
        schema=settings.schema_name,
        auto_migrate=settings.auto_migrate,
        timeout=settings.timeout(),
    )


_PLAIN: dict[str, Callable[[Settings], StorageBackend]] = {"memory": _memory, "sqlite": _sqlite}
_BUILT_IN: dict[str, Callable[[StorageSettings], StorageBackend]] = _PLAIN | {"postgres": _postgres}


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
    engine: Callable[[StorageSettings], StorageBackend] | None = load_plug_in(ENGINES, name)
    if engine is None:
        from .variables import shown_setting

        got = shown_setting("STORAGE_ENGINE", name)
        raise ConfigurationError(f"STORAGE_ENGINE must be one of {', '.join(engine_names())}; got {got}")
    return engine


def storage_place(settings: StorageSettings) -> str:
    """Return the engine of the settings and where its data is, without a password."""
    if settings.engine in ("sqlite", "postgres"):
        with closing(open_backend(settings)) as backend:
            return place_of(backend)
    if settings.engine == "memory":
        return "memory (empty: it lives in this process)"
    return settings.engine
