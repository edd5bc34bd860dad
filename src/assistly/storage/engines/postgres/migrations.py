"""Applies migrations to a schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import psycopg

from ...errors import ConfigurationError, StorageUnavailable
from ..sql.migrations import Migration, MigrationEffects, as_script, discover
from .dialect import PostgresDialect, lock_key, quote
from .errors import translate
from .executor import BEGIN, PostgresExecutor
from .grants import grant_statements
from .limits import LONG_SECONDS
from .migration_effects import effects_of
from .name_conflicts import existing_tables, find_migrations_table, refuse_conflicts

_NO_TIME_LIMITS = ("SET LOCAL statement_timeout = 0", "SET LOCAL lock_timeout = 0")
_NAMESPACE = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s"


def table_of_migrations(quoted_schema: str) -> str:
    """The command that makes the table of applied migrations."""
    return (
        f"CREATE TABLE {quoted_schema}.assistly_migrations (name text PRIMARY KEY, checksum text "
        "NOT NULL, applied_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp())"
    )


class SchemaTarget:
    """A `MigrationTarget`. It reads first: a role without the CREATE privilege can use a current schema."""

    def __init__(self, executor: PostgresExecutor, dialect: PostgresDialect) -> None:
        self._executor = executor
        self._connection = executor.connection
        self._schema = dialect.schema
        self._quoted = dialect.quoted_schema
        self._select = f"SELECT name, checksum FROM {dialect.t}migrations"
        self._select_times = f"SELECT name, applied_at FROM {dialect.t}migrations"
        self._lock_command = (
            f"SELECT pg_catalog.pg_advisory_xact_lock({lock_key('migrations', dialect.schema)})"
        )
        self._insert = f"INSERT INTO {dialect.t}migrations (name, checksum) VALUES (%(name)s, %(checksum)s)"

    def applied(self) -> Mapping[str, str]:
        if not self._has_table():
            return {}
        return dict(self._executor.rows(self._select))

    def record(self, migration: Migration) -> str:
        return (
            f"INSERT INTO {self._quoted}.assistly_migrations (name, checksum) "
            f"VALUES ('{migration.name}', '{migration.checksum}')"
        )

    def times(self) -> Mapping[str, datetime]:
        if not self._has_table():
            return {}
        return dict(self._executor.rows(self._select_times))

    def apply(self, migration: Migration) -> bool:
        self._executor.limit.begin(LONG_SECONDS)
        with self._connection.transaction():
            self._lock()
            applied = self.applied()
            if migration.name in applied:
                return False
            missing = [each for each in discover("postgres") if each.name not in applied]
            refuse_conflicts(self._executor, self._schema, missing)
            for command in self._preparation():
                self._executor.command(command)
            self._run(migration)
            self._executor.execute(self._insert, {"name": migration.name, "checksum": migration.checksum})
        return True

    def script(self, missing: Sequence[Migration]) -> str:
        refuse_conflicts(self._executor, self._schema, missing)
        commands = [BEGIN, *_NO_TIME_LIMITS, self._lock_command, *self._preparation()]
        return as_script(commands, missing, self.record)

    def effects(self, migration: Migration) -> MigrationEffects:
        return effects_of(migration, existing_tables(self._executor, self._schema))

    def grants(self, role: str) -> Sequence[str]:
        return grant_statements(self._executor, self._schema, quote(role))

    def _run(self, migration: Migration) -> None:
        """Run all statements of the file with one simple query, which allows several.

        Errors that the file does not cause stay those of the driver, so that the call can be retried.
        """
        try:
            self._connection.execute(migration.sql.encode())
        except psycopg.Error as error:
            problem = translate(error)
            if isinstance(problem, StorageUnavailable | ConfigurationError):
                raise
            raise problem from error

    def _lock(self) -> None:
        """Wait for the lock on migrations, without the time limits that the role or database may set."""
        command = self._executor.command
        for text in _NO_TIME_LIMITS:
            command(text)
        command("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        self._executor.row(self._lock_command)

    def _preparation(self) -> list[str]:
        """The commands that make the schema and the table of migrations, if they are missing."""
        commands = []
        if self._executor.row(_NAMESPACE, {"schema": self._schema}) is None:
            commands.append(f"CREATE SCHEMA {self._quoted}")
        commands.append(f"SET LOCAL search_path = {self._quoted}, pg_temp")
        if not self._has_table():
            commands.append(table_of_migrations(self._quoted))
        return commands

    def _has_table(self) -> bool:
        return find_migrations_table(self._executor, self._schema)
