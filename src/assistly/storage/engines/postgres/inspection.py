"""Looks at a server, whatever the schema is like, and at what the migrations make there."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from ..sql.database import Params, Row
from ..sql.migrations import Migration
from .adapters import UtcLoader
from .connections import raw_connection
from .conninfo import Target
from .dialect import PostgresDialect, quote
from .errors import translate
from .executor import NO_PARAMS, CursorExecutor
from .limits import ROLLBACK_SECONDS, Limits
from .migrations import SchemaTarget, table_of_migrations

APPLICATION_NAME = "assistly doctor"
_LOCK_TIMEOUT = "1s"

_MAY_MAKE_SCHEMAS = "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')"
_MADE_IN = """
SELECT relnamespace::bigint FROM pg_catalog.pg_class
WHERE oid = pg_catalog.to_regclass('assistly_migrations')
"""


class Inspection:
    """A connection of its own, in autocommit, with the time limits of the storage.

    It sets no parameter of the session and prepares nothing, so that a pooler may share the session. Raises
    StorageUnavailable or ConfigurationError if it cannot connect.
    """

    def __init__(self, target: Target, dialect: PostgresDialect, limits: Limits) -> None:
        self.dialect = dialect
        self._connection = raw_connection(target, prepare_threshold=None, application_name=APPLICATION_NAME)
        self._connection.adapters.register_loader("timestamptz", UtcLoader)
        limit = limits.of(self._connection)
        limit.apply()
        self._executor = CursorExecutor(self._connection, limit)

    @property
    def reported_pid(self) -> int:
        """The number of the server process that the connection was told when it was opened."""
        return self._connection.info.backend_pid

    def rows(self, statement: str, params: Params = NO_PARAMS) -> list[Row]:
        """Run a statement that only reads; return its rows. Raises a StorageError."""
        with self._limited():
            return self._executor.rows(statement, params)

    def table_rows(self, statement: str) -> list[Row]:
        """As `rows`, for a statement that reads tables: it waits for a lock for a second at most."""
        with self._limited():
            command = self._executor.command
            command(f"BEGIN; SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            try:
                return self._executor.rows(statement)
            finally:
                self._end()

    def recover(self) -> bool:
        """End a transaction that a failed look has left open. Returns whether the connection works."""
        if self._connection.info.transaction_status != TransactionStatus.IDLE:
            self._end()
        return self._connection.info.transaction_status == TransactionStatus.IDLE

    def value(self, statement: str, params: Params = NO_PARAMS) -> Any:
        """Run a statement that reads one value; return it."""
        return self.rows(statement, params)[0][0]

    def record(self, migration: Migration) -> str:
        """The statement that records a migration as applied now."""
        return SchemaTarget(self._executor, self.dialect).record(migration)

    def applied(self) -> Mapping[str, str]:
        """The checksums of the applied migrations by name.

        Raises ConfigurationError if the table that holds them is somebody else's.
        """
        with self._limited():
            return SchemaTarget(self._executor, self.dialect).applied()

    @contextmanager
    def reference(self, migrations: Iterable[Migration]) -> Iterator[int]:
        """Inside the block, what these migrations make exists in a schema of its own, whose oid is yielded.

        It is undone at the end: nobody else ever sees it, or waits for it. If the role may not make a schema,
        the objects are temporary ones; there a trigger does not find its function. Raises ConfigurationError
        if the role may not make these either, and StorageUnavailable if the server takes no writes.
        """
        with self._limited():
            command = self._executor.command
            command("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
            try:
                schema = "pg_temp"
                if self.value(_MAY_MAKE_SCHEMAS):
                    schema = f"assistly_doctor_{secrets.token_hex(8)}"
                    command(f"CREATE SCHEMA {schema}")
                command(f"SET LOCAL search_path = {schema}, pg_temp")
                command(table_of_migrations(schema))
                for migration in migrations:
                    self._connection.execute(migration.sql.encode())
                yield self.value(_MADE_IN)
            finally:
                self._end()

    def _end(self) -> None:
        """Undo the transaction, also if its last statement was cancelled, whose limit is used up."""
        self._executor.limit.begin(ROLLBACK_SECONDS)
        with suppress(psycopg.Error):
            self._executor.command("ROLLBACK")

    def takes_transactions(self) -> bool:
        """Whether a transaction can be begun. A pooler in statement mode refuses that, and hangs up."""
        with suppress(psycopg.Error):
            self._executor.limit.begin()
            self._executor.command("BEGIN")
            self._executor.command("ROLLBACK")
            return True
        return False

    def listen(self, channel: str) -> None:
        """Listen to the channel from now on. Not behind a pooler that shares sessions."""
        with self._limited():
            self._executor.command(f"LISTEN {quote(channel)}")

    def notify(self, channel: str) -> None:
        """Send a notification."""
        self.rows("SELECT pg_catalog.pg_notify(%(channel)s, '')", {"channel": channel})

    def is_notified(self, seconds: float) -> bool:
        """Whether a notification has come, or comes within so many seconds."""
        with self._limited():
            return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def _limited(self) -> Iterator[None]:
        self._executor.limit.begin()
        try:
            yield
        except psycopg.Error as error:
            raise translate(error) from error
