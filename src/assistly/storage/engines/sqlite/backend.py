from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta

from ... import forks
from ...clock import machine_clock
from ...errors import TransactionOpen
from ...records import PoolConnections
from ...transactions import check_outside
from ...validation import duration
from ..sql.backend import SqlBackend, SqlStores
from .access import Access
from .connections import Connection
from .database import SqliteDatabase
from .files import DatabaseFile, checked_path, require_sqlite
from .inherited import beside
from .jobs import SqliteJobStore
from .metrics import SqliteMetricStore
from .nonces import SqliteNonceStore
from .transfer import SqliteTransfer

_STORES = SqlStores(
    jobs=SqliteJobStore,
    metrics=SqliteMetricStore,
    nonces=SqliteNonceStore,
    transfer=SqliteTransfer,
    lease_time=machine_clock.lease_time,
)
_FORK_SECONDS = 1.0


class SqliteBackend(SqlBackend, forks.ForkAware):
    """Storage in the SQLite file `path`, which threads and processes share.

    `busy_timeout` is how long a write waits for other writes (default: 10 seconds). With `auto_migrate` the
    first use applies pending migrations. A fork closes all connections first, and waits up to a second for
    calls in other threads. If a connection is still open at the fork, because of a transaction for example,
    every call in the child raises StorageUnavailable. `access` is what may be done to the file.

    Raises ConfigurationError for a path that is not that of a file, and for SQLite before 3.37.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "data/assistly.db",
        *,
        auto_migrate: bool = True,
        busy_timeout: timedelta = timedelta(seconds=10),
        access: Access = Access.USE,
    ) -> None:
        require_sqlite()
        duration("busy_timeout", busy_timeout, zero=True)
        self.path = checked_path(path)
        self._file = SqliteDatabase(DatabaseFile(self.path, busy_timeout, access), auto_migrate=auto_migrate)
        super().__init__(self._file, _STORES)
        self.on_schema = self._file.on_schema
        self.call_limit = max(self.call_limit, busy_timeout.total_seconds())
        forks.register(self)

    def sizes(self) -> dict[str, int]:
        """The bytes of the file and of its write-ahead log, if that is there."""
        self.ping()
        found: dict[str, int] = {}
        for path in (self.path, beside(self.path, "-wal")):
            with suppress(FileNotFoundError):
                found[path.name] = path.stat().st_size
        return found

    def connections(self) -> PoolConnections:
        """The connections to the file."""
        return self._file.connections

    def exists(self) -> bool:
        """Whether the file is there. Raises ConfigurationError if that cannot be told."""
        return self._file.exists()

    def inspect(self) -> Connection:
        """Open the file for looking at it, whatever its schema is like. The caller closes it.

        It makes no file, and changes neither a file nor its log. Raises StorageUnavailable if there is none.
        """
        from .inspection import open_to_look

        return open_to_look(self.path)

    def before_fork(self) -> None:
        try:
            check_outside(self)
            timeout = _FORK_SECONDS
        except TransactionOpen:
            # The transaction is the forking thread's own, so waiting for its end is pointless.
            timeout = 0
        self._file.before_fork(timeout)

    def after_fork_in_parent(self) -> None:
        self._file.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        self._file.after_fork_in_child()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"
