from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from ...errors import ConfigurationError
from ..sql.migrations import Migration, MigrationEffects, as_script
from ..sql.store import from_microseconds, to_microseconds
from .connections import Connection
from .driver import sqlite3
from .transactions import atomic

_EXISTS = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'assistly_migrations'"
_APPLIED = "SELECT name, checksum FROM assistly_migrations"
_TIMES = "SELECT name, applied_at FROM assistly_migrations"
_NOW = "CAST(strftime('%s', 'now') AS INTEGER) * 1000000"
_CREATE = """
CREATE TABLE IF NOT EXISTS assistly_migrations (
    name TEXT NOT NULL PRIMARY KEY,
    checksum TEXT NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT
"""
_RECORD = """
INSERT INTO assistly_migrations (name, checksum, applied_at) VALUES (:name, :checksum, :applied_at)
"""


class SqliteMigrations:
    """A `MigrationTarget`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def applied(self) -> Mapping[str, str]:
        if self._connection.row(_EXISTS) is None:
            return {}
        return dict(self._connection.rows(_APPLIED))

    def apply(self, migration: Migration) -> bool:
        with atomic(self._connection):
            if migration.name in self.applied():
                return False
            self._run(migration)
        return True

    def record(self, migration: Migration) -> str:
        return (
            "INSERT INTO assistly_migrations (name, checksum, applied_at) "
            f"VALUES ('{migration.name}', '{migration.checksum}', {_NOW})"
        )

    def times(self) -> Mapping[str, datetime]:
        if self._connection.row(_EXISTS) is None:
            return {}
        return {name: from_microseconds(value) for name, value in self._connection.rows(_TIMES)}

    def script(self, missing: Sequence[Migration]) -> str:
        """For `sqlite3 -bail`: without that, the shell goes on after an error, and commits the rest."""
        commands = ["-- sqlite3 -bail FILE < SCRIPT\nBEGIN IMMEDIATE", _CREATE.strip()]
        return as_script(commands, missing, self.record)

    def effects(self, migration: Migration) -> MigrationEffects | None:  # noqa: ARG002
        return None

    def grants(self, role: str) -> Sequence[str]:  # noqa: ARG002
        raise ConfigurationError("SQLite has no roles: access depends on the permissions of the file")

    def _run(self, migration: Migration) -> None:
        self._connection.execute(_CREATE)
        for statement in statements(migration.sql):
            self._connection.execute(statement)
        record = {
            "name": migration.name,
            "checksum": migration.checksum,
            "applied_at": to_microseconds(datetime.now(UTC)),
        }
        self._connection.execute(_RECORD, record)


def statements(script: str) -> Iterator[str]:
    """Split a script into statements, since `executescript` would commit the open transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
