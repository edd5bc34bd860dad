from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timedelta

from ...engine.base import BackendBase
from ..sql.database import Database, Params
from ..sql.retention import PrunedTable, SqlRetentionStore


class PostgresRetentionStore(SqlRetentionStore):
    """Deletes rows by ctid, without a lookup in a second index.

    The index by time keeps the entries of deleted rows until they are vacuumed, and an old transaction can
    keep them for long. So that a batch need not walk past them, it starts at the time where this thread's
    last batch ended.
    """

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend, database)
        self._progress = _Progress()

    def begin_prune(self, *, now: datetime, interval: timedelta) -> bool:
        self._progress.reached.clear()
        return super().begin_prune(now=now, interval=interval)

    def _delete(self, table: PrunedTable, condition: str, order: str, params: Params, limit: int) -> int:
        reached = self._progress.reached
        if table in reached:
            condition = f"{table.time} >= {self._dialect.p.reached} AND {condition}"
            params = {**params, "reached": reached[table]}
        delete = self._sql.delete(replace(table, key="ctid"), condition, order, limit)
        (row,) = self._database.returning(
            f"WITH gone AS ({delete} RETURNING {table.time} AS at) SELECT count(*), max(at) FROM gone", params
        )
        count: int = row[0]
        if count == limit:
            reached[table] = row[1]
        else:
            reached.pop(table, None)
        return count


class _Progress(threading.local):
    def __init__(self) -> None:
        self.reached: dict[PrunedTable, object] = {}
