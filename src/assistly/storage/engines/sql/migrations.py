"""Finds the migrations, and applies those that a database lacks."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from ...errors import (
    ConfigurationError,
    MigrationError,
    OutcomeUnknown,
    StorageClosed,
    StorageError,
    StorageUnavailable,
)

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

T = TypeVar("T")

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


@dataclass(frozen=True, slots=True)
class MigrationState:
    """What a database knows about a migration.

    `checksum_ok`: whether the file is the one that was applied; None if that is not known, because it is
    pending or no file of this version (`is_known` False).
    """

    name: str
    is_known: bool
    checksum_ok: bool | None
    applied_at: datetime | None


@dataclass(frozen=True, slots=True)
class MigrationEffects:
    """What a migration does to tables that exist.

    It locks `locked_tables` for as long as reading all of one takes, and builds `built_indexes` on them.
    """

    locked_tables: tuple[str, ...]
    built_indexes: tuple[str, ...]


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

    def record(self, migration: Migration) -> str:
        """The statement that records a migration as applied now, for people and scripts."""

    def times(self) -> Mapping[str, datetime]:
        """When each migration was applied; empty if the table is missing. Only reads."""

    def script(self, missing: Sequence[Migration]) -> str:
        """The SQL that applies and records these in one transaction. Only reads."""

    def effects(self, migration: Migration) -> MigrationEffects | None:
        """What it costs others while it is applied; None where every writer waits anyway. Only reads."""

    def grants(self, role: str) -> Sequence[str]:
        """The statements that let a role use all tables, and change none of them. Only reads.

        Raises ConfigurationError where there are no roles.
        """


@runtime_checkable
class MigratedBackend(Protocol):
    """An engine whose schema is made by files of SQL."""

    def on_schema(self, work: Callable[[MigrationTarget, Sequence[Migration]], T]) -> T:
        """Call `work` with the schema as it is, and the migrations of the engine.

        Nothing is applied or created, not even an SQLite file; `work` must only read.
        """


@functools.cache
def discover(engine: str) -> tuple[Migration, ...]:
    """Return the migrations of `engine`, in the order in which they are applied."""
    found = []
    for entry in _files():
        match = _FILE.fullmatch(entry.name)
        if match and match["engine"] == engine:
            sql = entry.read_text(encoding="utf-8").replace("\r\n", "\n")
            found.append(Migration(entry.name, sql, hashlib.sha256(sql.encode()).hexdigest()))
    if not found:
        raise MigrationError(f"the installed package has no migrations for {engine}: reinstall it")
    return tuple(sorted(found, key=lambda migration: migration.name))


def _files() -> Iterable[Path | Traversable]:
    """The files of the package, which is a folder as a rule: then `importlib.resources` is not imported."""
    (folder, *others) = import_module(PACKAGE).__path__
    if not others and Path(folder).is_dir():
        return Path(folder).iterdir()
    from importlib import resources

    return resources.files(PACKAGE).iterdir()


class NewerDatabase(MigrationError):
    """The database has a migration that this version does not know."""


def pending(migrations: Sequence[Migration], applied: Mapping[str, str]) -> list[Migration]:
    """Return the migrations that are not applied yet.

    Raises NewerDatabase if the database has an unknown migration, and MigrationError if it has one with
    another checksum.
    """
    known = {migration.name: migration for migration in migrations}
    for name in sorted(applied):
        if name not in known:
            raise NewerDatabase(
                f"the database is newer than this version of assistly: it has the migration {name}, "
                "which this version does not know. Upgrade assistly"
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


class PendingMigrations(MigrationError):
    """The database lacks the migrations `names`. If it `is_new`, it has none, and so no tables."""

    def __init__(self, names: Sequence[str], *, is_new: bool) -> None:
        super().__init__(
            f"the database lacks the migrations {', '.join(names)}, and they are not applied by themselves "
            "(STORAGE_AUTO_MIGRATE is false): run `assistly migrate`"
        )
        self.names = tuple(names)
        self.is_new = is_new


def require_current(target: MigrationTarget, migrations: Sequence[Migration]) -> None:
    """Raise PendingMigrations if a migration is pending."""
    applied = target.applied()
    missing = pending(migrations, applied)
    if missing:
        raise PendingMigrations([migration.name for migration in missing], is_new=not applied)


def states(target: MigrationTarget, migrations: Sequence[Migration]) -> list[MigrationState]:
    """The state of each migration, in the order in which they are applied; those unknown here come last."""
    applied, times = target.applied(), target.times()
    known = {migration.name: migration for migration in migrations}

    def state(name: str) -> MigrationState:
        is_known, checksum = name in known, applied.get(name)
        checksum_ok = checksum == known[name].checksum if is_known and checksum is not None else None
        return MigrationState(name, is_known, checksum_ok, times.get(name))

    return [state(name) for name in (*known, *sorted(set(applied) - set(known)))]


def plan(
    target: MigrationTarget, migrations: Sequence[Migration]
) -> list[tuple[str, MigrationEffects | None]]:
    """The name of each pending migration, and what it costs others while it is applied."""
    return [
        (migration.name, target.effects(migration)) for migration in pending(migrations, target.applied())
    ]


def script(target: MigrationTarget, migrations: Sequence[Migration]) -> str:
    """The SQL that applies and records the pending migrations; empty if there are none."""
    lacking = pending(migrations, target.applied())
    return target.script(lacking) if lacking else ""


def as_script(
    commands: Sequence[str], lacking: Sequence[Migration], record: Callable[[Migration], str]
) -> str:
    """The text of one transaction: the commands, of which the first begins it, and the migrations.

    The record of each comes before its statements: if another process was faster, it fails before anything
    is changed.
    """
    parts = [f"{command};" for command in commands]
    for migration in lacking:
        parts += [f"{record(migration)};", migration.sql.strip()]
    return "\n\n".join([*parts, "COMMIT;"]) + "\n"


def grants(target: MigrationTarget, migrations: Sequence[Migration], role: str) -> list[str]:
    """The statements that let a role run the application on a current schema, and no more.

    Raises MigrationError if a migration is pending, and ConfigurationError where there are no roles.
    """
    statements = target.grants(role)
    require_current(target, migrations)
    return [*statements]
