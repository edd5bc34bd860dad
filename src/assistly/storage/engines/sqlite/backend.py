from __future__ import annotations

import os
from datetime import timedelta

from ..sql.backend import SqlBackend, SqlStores
from .connections import checked_path, require_sqlite
from .database import SqliteDatabase
from .jobs import SqliteJobStore

_STORES = SqlStores(jobs=SqliteJobStore)


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
