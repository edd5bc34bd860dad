from __future__ import annotations

import threading
from datetime import datetime, timedelta

from ...engine.base import BackendBase
from ...engine.values import PrunedByCap
from ..sql.database import Database, Params
from ..sql.retention import PRUNED_TABLES, PrunedTable, SqlRetentionStore
from .dialect import PostgresDialect


class PostgresRetentionStatements:
    def __init__(self, d: PostgresDialect) -> None:
        self._d = d

    def delete(self, table: PrunedTable, first: str, condition: str, order: str, limit: int) -> str:
        """Delete those that meet the condition among the first `limit` rows by `order` that meet `first`.
        Return how many, and the latest time among them.

        A row may change while the delete waits for it, so the condition is checked for the row itself. CASE
        keeps the planner from using an index for that: it would compare each row found with each ctid.
        """
        name = f"{self._d.t}{table.name}"
        return f"""
            WITH gone AS (
                DELETE FROM {name}
                WHERE ctid = ANY(ARRAY(
                    SELECT ctid FROM {name}
                    WHERE {first} AND {table.condition} ORDER BY {order} LIMIT {limit:d}
                ))
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

    def delete_up_to(self, kind: PrunedByCap, edge: tuple[datetime, int], *, limit: int) -> int:
        table = PRUNED_TABLES[kind]
        # No index has the keys of one moment in order, and sorting them for each batch would take long.
        order = table.time if kind == "idempotency" else f"{table.time}, seq"
        return self._delete(table, self._sql.up_to_edge(table), order, self._edge(edge), limit)

    def _delete(self, table: PrunedTable, condition: str, order: str, params: Params, limit: int) -> int:
        reached = self._progress.reached
        first = condition
        if table in reached:
            params = {**params, "reached": reached[table]}
            first = f"{table.time} >= {self._dialect.p.reached}"
            # Two bounds for a time look like few rows to the planner, which would sort them all for each
            # batch. So rows that are too young are left to the condition, and end the last batch.
            if "edge_seq" in params:
                first = f"{first} AND {condition}"
        (row,) = self._database.returning(self._own.delete(table, first, condition, order, limit), params)
        count: int = row[0]
        if count == limit:
            reached[table] = row[1]
        else:
            reached.pop(table, None)
        return count


class _Progress(threading.local):
    def __init__(self) -> None:
        self.reached: dict[PrunedTable, object] = {}
