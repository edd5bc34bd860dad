"""What the checks examine: the settings, the engine and a storage on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from assistly.storage import Storage
from assistly.storage.errors import ConfigurationError, MigrationError, StorageError
from assistly.storage.factory import open_existing

from .findings import NotChecked

if TYPE_CHECKING:
    from assistly.storage import StorageBackend
    from assistly.storage.engines.postgres.inspection import Inspection
    from assistly.storage.engines.sql.migrations import Migration
    from assistly.storage.engines.sqlite.connections import Connection
    from assistly.storage.settings import StorageSettings
    from assistly.views.status import StorageStatus

    from .table_locks import TableLock


class NoDatabase(ConfigurationError):
    """There is no SQLite file at the path."""


class CheckContext:
    """Opens what the checks need on first use, and closes everything at the end of the block.

    It creates no database, and applies no migration. A check that needs what could not be opened raises
    NotChecked. `owns_process`: only this package runs in the process.
    """

    def __init__(self, settings: StorageSettings, *, owns_process: bool) -> None:
        self.settings = settings
        self.owns_process = owns_process
        self.engine = settings.engine
        self.level: int | None = None
        """How many migrations the tables show, if the records do not say. None: not determined yet."""
        self._closed_because: str | None = None
        self._stack = ExitStack()
        self._failure: StorageError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def connect(self) -> None:
        """Connect to the engine. Raises a StorageError that says why it cannot be reached."""
        try:
            if self.engine == "sqlite":
                self.file_connection()
            elif self.engine == "postgres":
                self.server()
            else:
                self.storage()
        except StorageError as error:
            self._failure = error
            raise

    @cached_property
    def backend(self) -> StorageBackend:
        """The engine. It applies no migration, and changes neither an SQLite file nor its log."""
        return self._stack.enter_context(closing(open_existing(self.settings, only_look=True)))

    @property
    def path(self) -> Path:
        """The path of the SQLite file."""
        return self.settings.sqlite_path.expanduser().absolute()

    @cached_property
    def pages_missing_in_file(self) -> int:
        """How many pages of the SQLite log are missing in the file. First read by `connect`."""
        from assistly.storage.engines.sqlite.logs import pages_missing_in_file

        return pages_missing_in_file(self.path)

    def file_connection(self) -> Connection:
        """A connection to the SQLite file, for reading."""
        self._require_reached()
        return self._opened_file

    def server(self) -> Inspection:
        """A connection to the Postgres server."""
        self._require_reached()
        return self._opened_server

    def second_server_connection(self) -> Inspection:
        """A second connection to the Postgres server. The caller closes it."""
        self._require_reached()
        return self._inspect_server()

    @cached_property
    def table_locks(self) -> Sequence[TableLock]:
        """The locks on whole tables of a Postgres schema; without a server, none."""
        if self.engine != "postgres":
            return ()
        from .table_locks import table_locks

        return table_locks(self.server())

    def require_unlocked(self) -> None:
        """Raise NotChecked if reading the tables would wait for a lock."""
        tables = ", ".join(dict.fromkeys(lock.table for lock in self.table_locks))
        if tables:
            raise NotChecked(f"a lock blocks {tables}: see the check locks")

    def opened_backend(self) -> StorageBackend:
        """The engine, once it may be called."""
        self._require_reached()
        if self._closed_because is not None:
            raise NotChecked(self._closed_because)
        self.require_unlocked()
        return self.backend

    def recover(self) -> None:
        """After a failed check: give the next ones a working connection."""
        server: Inspection | None = self.__dict__.get("_opened_server")
        if server is not None and not server.recover():
            del self.__dict__["_opened_server"]

    def storage(self) -> Storage:
        """A storage with the schema of this version."""
        self.opened_backend()
        try:
            return self._storage
        except MigrationError:
            self._closed_because = "the database does not have the migrations of this version"
            raise NotChecked(self._closed_because) from None
        except StorageError:
            self._closed_because = "the storage cannot be opened"
            raise

    @cached_property
    def status(self) -> StorageStatus:
        """The state of the storage, as `assistly status` shows it, at the engine's time."""
        from assistly.views.status import status

        return status(self.storage(), now=self.now)

    @cached_property
    def now(self) -> datetime:
        """The time of the server's clock; without a server, that of this machine."""
        if self.engine != "postgres":
            return datetime.now(UTC)
        now: datetime = self.server().value("SELECT pg_catalog.clock_timestamp()")
        return now

    def applied(self) -> Mapping[str, str]:
        """The checksums of the migrations that the database has, by name."""
        if self.engine == "postgres":
            if any(lock.table == "assistly_migrations" for lock in self.table_locks):
                self.require_unlocked()
            return self.server().applied()
        from assistly.storage.engines.sqlite.migrations import SqliteMigrations

        return SqliteMigrations(self.file_connection()).applied()

    def record(self, migration: Migration) -> str:
        """The statement that records a migration as applied now."""
        if self.engine == "postgres":
            return self.server().record(migration)
        from assistly.storage.engines.sqlite.migrations import SqliteMigrations

        return SqliteMigrations(self.file_connection()).record(migration)

    @cached_property
    def _storage(self) -> Storage:
        self.backend.ping()
        return Storage(self.backend, auto_prune=False)

    def _require_reached(self) -> None:
        if self._failure is not None:
            raise NotChecked("there is no connection")

    @cached_property
    def _opened_file(self) -> Connection:
        from assistly.storage.engines.sqlite import SqliteBackend
        from assistly.storage.engines.sqlite.files import require_file

        backend = cast("SqliteBackend", self.backend)
        if not backend.exists():
            raise NoDatabase(f"there is no database yet: sqlite {self.path}")
        if self.pages_missing_in_file:
            self._closed_because = f"{self.path.name}-wal may belong to another file: see the check old-wal"
        require_file(self.path)
        connection = backend.inspect()
        self._stack.enter_context(closing(connection))
        connection.rows("SELECT count(*) FROM sqlite_master")
        return connection

    @cached_property
    def _opened_server(self) -> Inspection:
        return self._stack.enter_context(closing(self._inspect_server()))

    def _inspect_server(self) -> Inspection:
        from assistly.storage.engines.postgres import PostgresBackend

        return cast("PostgresBackend", self.backend).inspect()
