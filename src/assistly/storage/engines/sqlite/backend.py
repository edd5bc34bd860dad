from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

from ..sql.backend import SqlBackend, SqlStores
from ..sql.jobs import SqlJobStore
from .connections import checked_path, require_sqlite
from .database import SqliteDatabase
from .nonces import SqliteNonceStore

_TAKE_WRITE_LOCK = "DELETE FROM {t}retention WHERE id = 0"


class SqliteJobStore(SqlJobStore):
    def lock_platforms(self, platforms: Sequence[str]) -> None:  # noqa: ARG002  (the lock is the file's)
        statement = self._render(_TAKE_WRITE_LOCK)
        self._database.single(lambda connection: connection.execute(statement, {}))


_STORES = SqlStores(jobs=SqliteJobStore, nonces=SqliteNonceStore)


class SqliteBackend(SqlBackend):
    """All processes that give the same path share the file."""

    def __init__(
        self,
        path: str | os.PathLike[str] = "data/assistly.db",
        *,
        auto_migrate: bool = True,
        busy_timeout: timedelta = timedelta(seconds=10),
    ) -> None:
        require_sqlite()
        self.path = checked_path(path)
        super().__init__(
            SqliteDatabase(self.path, auto_migrate=auto_migrate, busy_timeout=busy_timeout), _STORES
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"
