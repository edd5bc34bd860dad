"""Reads and writes all rows, as `engine.transfer` defines them, with SQL."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from ...engine.base import BackendBase
from ...engine.transfer import LAST_PRUNE, LATENCY, MARKS, NUMBERED, ROW_KINDS, Column, Row, RowKind
from .database import Database, Params
from .dialect import Dialect
from .metrics import FIRST_ROW, Totals, payload_of, totals_of
from .store import SqlStore, where

TABLES = {
    "documents": "documents",
    "sessions": "sessions",
    "approvals": "approvals",
    "idempotency": "idempotency",
    "nonces": "nonces",
    "locks": "worker_lock",
    "snapshots": "store",
    "events": "events",
    "jobs": "queue_jobs",
}
"""The tables of the kinds that have one of their own, without the prefix."""

NUMBER_COLUMNS = {"approvals": "seq", "events": "id", "idempotency": "seq", "jobs": "id"}
"""The columns with the numbers that are given out once, by kind."""

_COLUMNS = {
    ("sessions", "data"): "session",
    ("approvals", "sequence"): "seq",
    ("idempotency", "sequence"): "seq",
    ("locks", "acquired_at"): "held_since",
    ("locks", "expires_at"): "held_until",
}
"""Columns whose names differ from those of the rows."""

_MILLISECONDS = 1000
_LAST_PRUNE_ROW = 1


def column_of(kind: RowKind, column: Column) -> str:
    """The name of a column in the table."""
    return _COLUMNS.get((kind.name, column.name), column.name)


class TransferStatements:
    """The statements on one kind of rows."""

    def __init__(self, d: Dialect, kind: RowKind) -> None:
        self.table = f"{d.t}{TABLES[kind.name]}"
        self._keys = [f"{key}{d.by_code_point if type == 'text' else ''}" for key, type in _key_columns(kind)]
        self._names = kind.key_names
        self._d = d
        self.columns = [column_of(kind, column) for column in kind.columns]
        chosen = ", ".join(d.stored(column_of(kind, column), column.type) for column in kind.columns)
        self._select = f"SELECT {chosen} FROM {self.table}"

    def page(self, after: Row | None, limit: int) -> str:
        order = ", ".join(self._keys)
        return f"{self._select} {where(self._after(after))} ORDER BY {order} LIMIT {limit:d}"

    def delete(self, after: Row | None, through: Row | None) -> str:
        conditions = self._after(after) + (
            [] if through is None else [f"{self._tuple()} <= ({self._parameters('through')})"]
        )
        return f"DELETE FROM {self.table} {where(conditions)}"

    def delete_unique(self, column: str) -> str:
        return f"DELETE FROM {self.table} WHERE {column} {self._d.among_list('values')}"

    def _after(self, after: Row | None) -> list[str]:
        return [] if after is None else [f"{self._tuple()} > ({self._parameters('after')})"]

    def _tuple(self) -> str:
        return f"({', '.join(self._keys)})"

    def _parameters(self, prefix: str) -> str:
        return ", ".join(getattr(self._d.p, f"{prefix}_{name}") for name in self._names)


def _key_columns(kind: RowKind) -> list[tuple[str, str]]:
    return [(column_of(kind, column), column.type) for column in kind.columns[: kind.key_columns]]


class SqlTransfer(SqlStore, ABC):
    """What `read_rows` and `write_rows` do."""

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend, database)
        self._d = database.dialect
        self._fixes = {name: self._fixes_of(ROW_KINDS[name]) for name in TABLES}

    def read(self, kind: str, *, after: Row | None, limit: int) -> Sequence[Row]:
        """As `StorageBackend.read_rows`."""
        if kind == MARKS:
            return [] if after is not None else self._marks()
        if kind in ("counters", "latency"):
            return _page(_metric_rows(kind, self._totals()), after, limit)
        rows = self._database.select(
            self._statements(kind).page(after, limit), _key_params(ROW_KINDS[kind], "after", after)
        )
        fixes = self._fixes[kind]
        return [_fixed(row, fixes) for row in rows] if fixes else rows

    def write(self, kind: str, rows: Sequence[Row], *, after: Row | None, through: Row | None) -> None:
        """As `StorageBackend.write_rows`, inside a transaction."""
        if kind == MARKS:
            self._set_marks(dict(rows))
        elif kind in ("counters", "latency"):
            self._write_metrics(kind, rows, after, through)
        else:
            self._replace(ROW_KINDS[kind], rows, after, through)

    def _replace(self, kind: RowKind, rows: Sequence[Row], after: Row | None, through: Row | None) -> None:
        sql = self._statements(kind.name)
        bounds = {**_key_params(kind, "after", after), **_key_params(kind, "through", through)}
        self._database.execute(sql.delete(after, through), bounds)
        if not rows:
            return
        if kind.unique is not None:
            place = kind.place(kind.unique)
            values = [row[place] for row in rows if row[place] is not None]
            if values:
                self._database.execute(
                    sql.delete_unique(kind.unique), {"values": self._dialect.bind_list(values)}
                )
        if kind.name == "locks":
            self._insert_locks(rows)
        else:
            self._insert(kind, rows)

    @abstractmethod
    def _fixes_of(self, kind: RowKind) -> list[tuple[int, Callable[[Any], Any]]]:
        """The columns of which a stored value is not yet that of a row, and what it becomes."""

    @abstractmethod
    def _insert(self, kind: RowKind, rows: Sequence[Row]) -> None:
        """Insert rows."""

    @abstractmethod
    def _newest(self, kind: str) -> int:
        """The highest number that was given out, 0 if none was."""

    @abstractmethod
    def _raise_newest(self, kind: str, number: int) -> None:
        """Give out higher numbers only from now on."""

    def _statements(self, kind: str) -> TransferStatements:
        return TransferStatements(self._d, ROW_KINDS[kind])

    def _insert_locks(self, rows: Sequence[Row]) -> None:
        p, table = self._d.p, f"{self._d.t}worker_lock"
        statement = f"""
            INSERT INTO {table} (id, name, owner_id, fence, held_since, held_until, acquired_at, expires_at)
            SELECT coalesce({self._d.f}max(id), 0) + 1, {p.name}{self._d.text}, {p.owner_id}{self._d.text},
                {p.fence}{self._d.bigint}, {self._d.from_microseconds(p.held_since)},
                {self._d.from_microseconds(p.held_until)}, {p.acquired_ms}{self._d.bigint},
                {p.expires_ms}{self._d.bigint}
            FROM {table}
        """
        for name, owner_id, fence, acquired_at, expires_at in rows:
            params = {
                "name": name,
                "owner_id": owner_id,
                "fence": fence,
                "held_since": acquired_at,
                "held_until": expires_at,
                "acquired_ms": acquired_at // _MILLISECONDS,
                "expires_ms": expires_at // _MILLISECONDS,
            }
            self._database.execute(statement, params)

    def _marks(self) -> list[Row]:
        (stamp,) = self._database.select(
            f"SELECT max({self._d.stored('pruned_at', 'time')}) FROM {self._d.t}retention", {}
        )[0]
        return [*((kind, self._newest(kind)) for kind in NUMBERED), (LAST_PRUNE, stamp)]

    def _set_marks(self, marks: dict[str, Any]) -> None:
        for kind in NUMBERED:
            if marks.get(kind):
                self._raise_newest(kind, marks[kind])
        if LAST_PRUNE in marks:
            p = self._d.p
            statement = f"""
                INSERT INTO {self._d.t}retention (id, pruned_at)
                VALUES ({_LAST_PRUNE_ROW}, {self._d.from_microseconds(p.pruned_at)})
                ON CONFLICT (id) DO UPDATE SET pruned_at = excluded.pruned_at
            """
            self._database.execute(statement, {"pruned_at": marks[LAST_PRUNE]})

    def _totals(self) -> Totals:
        rows = self._database.select(f"SELECT id, payload FROM {self._d.t}metrics", {})
        return totals_of([payload_of(id, self._json(payload)) for id, payload in rows])

    def _write_metrics(self, kind: str, rows: Sequence[Row], after: Row | None, through: Row | None) -> None:
        """Write all metrics as one row: on engines that spread them, later writers spread them again."""
        totals = self._totals()
        kept = {
            row[0]: row
            for row in _metric_rows(kind, totals)
            if not ((after is None or row[:1] > after) and (through is None or row[:1] <= through))
        }
        kept |= {row[0]: row for row in rows}
        counters = dict(kept.values()) if kind == "counters" else totals.counters
        payload: dict[str, Any] = {"counters": counters}
        latency = (
            (kept.get(LATENCY) or (LATENCY, 0, 0, 0)) if kind == "latency" else (LATENCY, *totals.latency)
        )
        if latency[1]:
            payload["latency"] = dict(zip(("count", "total_ns", "max_ns"), latency[1:], strict=True))
        table, p = f"{self._d.t}metrics", self._d.p
        self._database.execute(f"DELETE FROM {table}", {})
        if counters or latency[1]:
            self._database.execute(
                f"INSERT INTO {table} (id, payload, updated_at) "
                f"VALUES ({FIRST_ROW}, {p.payload}{self._d.jsonb}, {p.now})",
                {"payload": json.dumps(payload), "now": self._bind(self._backend.now())},
            )


def _key_params(kind: RowKind, prefix: str, key: Row | None) -> Params:
    if key is None:
        return {}
    return {f"{prefix}_{name}": value for name, value in zip(kind.key_names, key, strict=True)}


def _fixed(row: Row, fixes: Sequence[tuple[int, Callable[[Any], Any]]]) -> Row:
    values = list(row)
    for place, fix in fixes:
        if values[place] is not None:
            values[place] = fix(values[place])
    return tuple(values)


def _metric_rows(kind: str, totals: Totals) -> list[Row]:
    if kind == "counters":
        return sorted(totals.counters.items())
    return [(LATENCY, *totals.latency)] if totals.latency[0] else []


def _page(rows: Sequence[Row], after: Row | None, limit: int) -> list[Row]:
    return [row for row in rows if after is None or row[:1] > after][:limit]
