from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timedelta

from ..sql.database import Params
from ..sql.retention import SqlRetentionStore, Table
from .session import PostgresWork


class PostgresRetentionStore(SqlRetentionStore):
    """Deletes rows by their place, which takes no second index.

    The index by time goes on naming what was deleted, until VACUUM comes by; while a transaction is
    open anywhere, nothing can be skipped. So a batch begins where this thread's last one ended.
    """

    def __init__(self, database: PostgresWork) -> None:
        super().__init__(database)
        self._progress = _Progress()

    def begin_prune(self, *, now: datetime, interval: timedelta) -> bool:
        self._progress.reached.clear()
        return super().begin_prune(now=now, interval=interval)

    def _delete(self, table: Table, where: str, order: str, params: Params, limit: int) -> int:
        reached = self._progress.reached
        if table in reached:
            where = f"{table.time} >= :reached AND {where}"
            params = {**params, "reached": reached[table]}
        placed = replace(table, key="ctid").delete(where, order)
        statement = self._render(
            f"WITH gone AS ({placed} RETURNING {table.time} AS at) SELECT count(*), max(at) FROM gone", limit
        )
        (row,) = self._database.autocommit(lambda connection: connection.rows(statement, params))
        count: int = row[0]
        if count == limit:
            reached[table] = row[1]
        else:
            reached.pop(table, None)
        return count


class _Progress(threading.local):
    def __init__(self) -> None:
        self.reached: dict[Table, object] = {}
