"""Finds the migrations, and applies those that a database lacks."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Protocol

from ...errors import (
    ConfigurationError,
    MigrationError,
    OutcomeUnknown,
    StorageClosed,
    StorageError,
    StorageUnavailable,
)

PACKAGE = "assistly.storage.migrations"
_FILE = re.compile(r"\d{3}_[a-z0-9_]+_(?P<engine>[a-z0-9]+)\.sql")

# Errors that are not caused by the statements of a migration.
_NOT_THE_FILE = (ConfigurationError, OutcomeUnknown, StorageClosed, StorageUnavailable)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of SQL. Its table names are unqualified: the engine chooses the schema."""

    name: str
    sql: str
    checksum: str


class MigrationTarget(Protocol):
    """A database that migrations are applied to.

    It keeps `assistly_migrations(name text primary key, checksum text, applied_at)`.
    """

    def applied(self) -> Mapping[str, str]:
        """The checksums of the applied migrations by name; empty if the table is missing. Only reads."""

    def apply(self, migration: Migration) -> bool:
        """Run and record a migration, in one transaction and under a lock against other processes.

        False, and nothing is done, if another process has applied it before the lock was free.
        """


@functools.cache
def discover(engine: str) -> tuple[Migration, ...]:
    """Return the migrations of `engine`, in the order in which they are applied."""
    found = []
    for entry in resources.files(PACKAGE).iterdir():
        match = _FILE.fullmatch(entry.name)
        if match and match["engine"] == engine:
            sql = entry.read_text(encoding="utf-8").replace("\r\n", "\n")
            found.append(Migration(entry.name, sql, hashlib.sha256(sql.encode()).hexdigest()))
    if not found:
        raise MigrationError(f"the installed package has no migrations for {engine}: reinstall it")
    return tuple(sorted(found, key=lambda migration: migration.name))


def pending(migrations: Sequence[Migration], applied: Mapping[str, str]) -> list[Migration]:
    """Return the migrations that are not applied yet.

    Raises MigrationError if the database has an unknown migration, or one with another checksum.
    """
    known = {migration.name: migration for migration in migrations}
    for name in sorted(applied):
        if name not in known:
            raise MigrationError(
                f"the database is newer than this version of assistly: it has the migration {name}, "
                "which is unknown here. Upgrade assistly"
            )
        if applied[name] != known[name].checksum:
            raise MigrationError(
                f"the migration {name} was changed after it was applied to this database: "
                "restore the file, and make the change in a new migration"
            )
    return [migration for migration in migrations if migration.name not in applied]


def migrate(target: MigrationTarget, migrations: Sequence[Migration]) -> list[str]:
    """Apply the pending migrations; return the names of those applied. If none is pending, it only reads."""
    return [
        migration.name for migration in pending(migrations, target.applied()) if _apply(target, migration)
    ]


def _apply(target: MigrationTarget, migration: Migration) -> bool:
    try:
        return target.apply(migration)
    except _NOT_THE_FILE:
        raise
    except StorageError as error:
        raise MigrationError(f"the migration {migration.name} failed: {error}") from error


def require_current(target: MigrationTarget, migrations: Sequence[Migration]) -> None:
    """Raise MigrationError if a migration is pending."""
    missing = pending(migrations, target.applied())
    if missing:
        names = ", ".join(migration.name for migration in missing)
        raise MigrationError(
            f"the database lacks the migrations {names}, and they are not applied by themselves "
            "(STORAGE_AUTO_MIGRATE is false): run `assistly migrate`"
        )
