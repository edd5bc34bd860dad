"""Settings that are valid as they are, so that most programs start without importing pydantic.

This accepts a part of what `StorageSettings` accepts, and rejects nothing: whatever else is set, and whatever
is not obviously right, is left to `load_settings`.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .addresses import path_problem
from .records import record
from .retention import RetentionPolicy
from .retry import RetryPolicy
from .sources import read_env_file, set_variables

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_ENGINE = "sqlite"
DEFAULT_PATH = "data/assistly.db"
DEFAULT_POOL_SIZE = 10
DEFAULT_LOCK_TTL = timedelta(seconds=45)

VARIABLES = (
    "STORAGE_ENGINE",
    "DATABASE_URL",
    "SQLITE_PATH",
    "STORAGE_POOL_SIZE",
    "STORAGE_SCHEMA",
    "STORAGE_AUTO_MIGRATE",
    "STORAGE_TIMEOUT_SECONDS",
    "STORAGE_VACUUM",
    "RETENTION_APPROVALS_DAYS",
    "RETENTION_MAX_APPROVALS",
    "RETENTION_IDEMPOTENCY_DAYS",
    "RETENTION_MAX_IDEMPOTENCY",
    "RETENTION_NONCES_DAYS",
    "RETENTION_POSTED_DAYS",
    "RETENTION_EVENTS_DAYS",
    "RETENTION_SESSIONS_DAYS",
    "SCHEDULE_MAX_RETRIES",
    "SCHEDULE_RETRY_MINUTES",
    "SCHEDULE_WORKER_LOCK_SECONDS",
)
"""The variables of `StorageSettings`."""

_PLAIN = {"STORAGE_ENGINE": "engine", "SQLITE_PATH": "sqlite_path"}
_PLAIN_ENGINES = ("sqlite", "memory")


@record
class PlainSettings:
    """The engine and the path; all other settings have their defaults. See `StorageSettings`."""

    engine: str
    sqlite_path: Path
    auto_migrate: bool = True
    vacuum: str = "worker"
    pool_size: int = DEFAULT_POOL_SIZE

    def retry_policy(self) -> RetryPolicy:
        """The default policy."""
        return RetryPolicy()

    def retention_policy(self) -> RetentionPolicy:
        """The default policy."""
        return RetentionPolicy()

    def lock_ttl(self) -> timedelta:
        """The default duration of a lock."""
        return DEFAULT_LOCK_TTL


def plain_settings(keywords: Mapping[str, Any]) -> PlainSettings | None:
    """Read the settings if nothing but a built-in engine and the path of its file is set; otherwise None.

    Raises ConfigurationError if `.env` cannot be read.
    """
    if not keywords.keys() <= {*_PLAIN.values()}:
        return None
    file = read_env_file()
    found = set_variables(file)
    if file.unreadable or any(name in found for name in VARIABLES if name not in _PLAIN):
        return None
    given = {keyword: found[name] for name, keyword in _PLAIN.items() if name in found} | dict(keywords)
    engine = given.get("engine", DEFAULT_ENGINE)
    path = given.get("sqlite_path", DEFAULT_PATH)
    text = str(path) if isinstance(path, Path) else path
    if type(engine) is not str or engine not in _PLAIN_ENGINES or type(text) is not str:
        return None
    is_file = text.isprintable() and path_problem(text) is None and Path(text).name
    return PlainSettings(engine, Path(text)) if is_file else None
