from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ...engine.base import BackendBase
from ...engine.values import JsonText
from ...records import Snapshot
from .database import Database, Row
from .dialect import Dialect
from .store import SqlStore

_COLUMNS = "kind, payload, updated_at"


class SnapshotStatements:
    def __init__(self, d: Dialect) -> None:
        p, table = d.p, f"{d.t}store"
        self.put = f"""
            INSERT INTO {table} (kind, payload, updated_at)
            VALUES ({p.kind}, {p.payload}{d.jsonb}, {p.now})
            ON CONFLICT (kind) DO UPDATE SET payload = excluded.payload, updated_at = excluded.updated_at
            RETURNING {_COLUMNS}
        """
        self.get = f"SELECT {_COLUMNS} FROM {table} WHERE kind = {p.kind}"
        self.list = f"SELECT {_COLUMNS} FROM {table} ORDER BY kind"


class SqlSnapshotStore(SqlStore):
    """A `SnapshotStore`."""

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend, database)
        self._sql = self._dialect.statements(SnapshotStatements)

    def put(self, kind: str, payload: JsonText, *, now: datetime) -> Snapshot:
        params = {"kind": kind, "payload": payload, "now": self._bind(now)}
        (row,) = self._database.returning(self._sql.put, params)
        return self._snapshot(row)

    def get(self, kind: str) -> Snapshot | None:
        return self._select_one(self._sql.get, {"kind": kind}, self._snapshot)

    def list(self) -> Sequence[Snapshot]:
        return self._select(self._sql.list, {}, self._snapshot)

    def _snapshot(self, row: Row) -> Snapshot:
        kind, payload, updated_at = row
        return Snapshot(kind, self._json(payload), self._time(updated_at))
