from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ...engine.base import BackendBase
from ...engine.values import MOST_COUNTED, PrunedByAge, PrunedByCap
from .database import Database, Params
from .dialect import Dialect
from .store import SqlStore, to_microseconds

_STAMP = 1
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PrunedTable:
    """A table to prune: `key` is the column that identifies a row, `time` the one that gives its age."""

    name: str
    key: str
    time: str
    condition: str = "TRUE"


PRUNED_TABLES: dict[PrunedByAge, PrunedTable] = {
    "approvals": PrunedTable("approvals", "seq", "created_at"),
    "idempotency": PrunedTable("idempotency", "seq", "saved_at"),
    "nonces": PrunedTable("nonces", "nonce", "timestamp_ms"),
    "posted": PrunedTable("queue_jobs", "id", "posted_at", "status = 'posted'"),
    "events": PrunedTable("events", "id", "created_at"),
    "sessions": PrunedTable("sessions", "user_id", "updated_at"),
}


class RetentionStatements:
    def __init__(self, d: Dialect) -> None:
        self._d = d
        p, table = d.p, f"{d.t}retention"
        self.begin = f"""
            INSERT INTO {table} AS stored (id, pruned_at) VALUES ({p.id}, {p.now})
            ON CONFLICT (id) DO UPDATE SET pruned_at = excluded.pruned_at
            WHERE stored.pruned_at IS NULL OR stored.pruned_at <= {p.earlier} OR stored.pruned_at >= {p.later}
            RETURNING id
        """
        self.reset = f"UPDATE {table} SET pruned_at = NULL WHERE id = {p.id} AND pruned_at = {p.now}"

    def older(self, table: PrunedTable) -> str:
        return f"{table.time} < {self._d.p.cutoff}"

    def up_to_edge(self, table: PrunedTable) -> str:
        return f"({table.time}, seq) <= ({self._d.p.edge_at}, {self._d.p.edge_seq})"

    def newest_beyond(self, table: PrunedTable) -> str:
        return f"""
            SELECT {table.time}, seq FROM {self._d.t}{table.name}
            ORDER BY {table.time} DESC, seq DESC LIMIT 1 OFFSET {self._d.p.cap}
        """

    def count(self, table: PrunedTable, condition: str, limit: int) -> str:
        """Count the rows that meet the condition, up to `limit`."""
        found = (
            f"SELECT 1 FROM {self._d.t}{table.name} WHERE {condition} AND {table.condition} LIMIT {limit:d}"
        )
        return f"SELECT {self._d.f}count(*) FROM ({found}) AS found"

    def delete(self, table: PrunedTable, condition: str, order: str, limit: int) -> str:
        """Delete the first `limit` rows by `order`.

        The condition is repeated outside the subquery, since a row may change while the delete waits for it.
        """
        condition = f"{condition} AND {table.condition}"
        name = f"{self._d.t}{table.name}"
        first = f"SELECT {table.key} FROM {name} WHERE {condition} ORDER BY {order} LIMIT {limit:d}"
        return f"DELETE FROM {name} WHERE {table.key} {self._d.among(first)} AND {condition}"


class SqlRetentionStore(SqlStore):
    """A `RetentionStore`."""

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend, database)
        self._sql = self._dialect.statements(RetentionStatements)

    def begin_prune(self, *, now: datetime, interval: timedelta) -> bool:
        params = {
            "id": _STAMP,
            "now": self._bind(now),
            "earlier": self._bind(_shifted(now, -interval)),
            "later": self._bind(_shifted(now, interval)),
        }
        return bool(self._database.returning(self._sql.begin, params))

    def reset_prune(self, *, now: datetime) -> None:
        self._database.execute(self._sql.reset, {"id": _STAMP, "now": self._bind(now)})

    def delete_older(self, kind: PrunedByAge, cutoff: datetime, *, limit: int) -> int:
        table = PRUNED_TABLES[kind]
        return self._delete(table, self._sql.older(table), table.time, self._cutoff(kind, cutoff), limit)

    def newest_beyond(self, kind: PrunedByCap, cap: int) -> tuple[datetime, int] | None:
        statement = self._sql.newest_beyond(PRUNED_TABLES[kind])
        return self._select_one(statement, {"cap": cap}, lambda row: (self._time(row[0]), row[1]))

    def delete_up_to(self, kind: PrunedByCap, edge: tuple[datetime, int], *, limit: int) -> int:
        table = PRUNED_TABLES[kind]
        return self._delete(table, self._sql.up_to_edge(table), f"{table.time}, seq", self._edge(edge), limit)

    def count_prunable(self, kind: PrunedByAge, bound: datetime | tuple[datetime, int]) -> tuple[int, bool]:
        table = PRUNED_TABLES[kind]
        if isinstance(bound, datetime):
            condition, params = self._sql.older(table), self._cutoff(kind, bound)
        else:
            condition, params = self._sql.up_to_edge(table), self._edge(bound)
        ((count,),) = self._database.select(self._sql.count(table, condition, MOST_COUNTED), params)
        return count, count < MOST_COUNTED

    def _cutoff(self, kind: PrunedByAge, cutoff: datetime) -> Params:
        return {"cutoff": to_microseconds(cutoff) // 1000 if kind == "nonces" else self._bind(cutoff)}

    def _edge(self, edge: tuple[datetime, int]) -> Params:
        return {"edge_at": self._bind(edge[0]), "edge_seq": edge[1]}

    def _delete(self, table: PrunedTable, condition: str, order: str, params: Params, limit: int) -> int:
        """Delete the first `limit` rows by `order`; return how many."""
        return self._database.execute(self._sql.delete(table, condition, order, limit), params)


def _shifted(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return _EARLIEST if by < timedelta(0) else _LATEST
