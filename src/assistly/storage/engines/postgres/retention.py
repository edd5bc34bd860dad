from __future__ import annotations

import threading
from datetime import datetime, timedelta

from ...engine.base import BackendBase
from ..sql.database import Database, Params
from ..sql.retention import PrunedTable, SqlRetentionStore
from .dialect import PostgresDialect


class PostgresRetentionStatements:
    def __init__(self, d: PostgresDialect) -> None:
        self._d = d

    def delete(
        self, table: PrunedTable, condition: str, order: str, limit: int, *, from_reached: bool
    ) -> str:
        """Delete the first `limit` rows by `order` that meet the condition, or those of them among the next
        `limit` rows from the time `reached`. Return how many, and the latest time among them.

        A row may change while the delete waits for it, so the condition is checked for the row itself. CASE
        keeps the planner from using an index for that: it would compare each row found with each ctid. With
        one bound in the subquery, it reads the index by time in its order, whatever the statistics say.
        """
        name = f"{self._d.t}{table.name}"
        start = f"{table.time} >= {self._d.p.reached}" if from_reached else condition
        first = f"""
            SELECT ctid FROM {name} WHERE {start} AND {table.condition} ORDER BY {order} LIMIT {limit:d}
        """
        return f"""
            WITH gone AS (
                DELETE FROM {name}
                WHERE ctid = ANY(ARRAY({first}))
                    AND CASE WHEN {condition} AND {table.condition} THEN TRUE ELSE FALSE END
                RETURNING {table.time} AS at
            )
            SELECT pg_catalog.count(*), pg_catalog.max(at) FROM gone
        """


class PostgresRetentionStore(SqlRetentionStore):
    """Deletes rows by ctid, without a lookup in a second index.

    The index by time keeps the entries of deleted rows until they are vacuumed, and an old transaction can
    keep them for long. So that a batch need not walk past them, it starts at the time where this thread's
    last batch ended.
    """

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend, database)
        self._progress = _Progress()
        self._own = self._dialect.statements(PostgresRetentionStatements)

    def begin_prune(self, *, now: datetime, interval: timedelta) -> bool:
        self._progress.reached.clear()
        return super().begin_prune(now=now, interval=interval)

    def _delete(self, table: PrunedTable, condition: str, order: str, params: Params, limit: int) -> int:
        reached = self._progress.reached
        is_next = table in reached
        statement = self._own.delete(table, condition, order, limit, from_reached=is_next)
        if is_next:
            params = {**params, "reached": reached[table]}
        (row,) = self._database.returning(statement, params)
        count: int = row[0]
        if count == limit:
            reached[table] = row[1]
        else:
            reached.pop(table, None)
        return count


class _Progress(threading.local):
    def __init__(self) -> None:
        self.reached: dict[PrunedTable, object] = {}
