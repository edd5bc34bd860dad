from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ...backend import JsonText
from ...records import Snapshot
from .database import Row
from .store import SqlStore

_COLUMNS = "kind, payload, updated_at"

_PUT = f"""
INSERT INTO {{t}}store (kind, payload, updated_at)
VALUES (:kind, :payload{{jsonb}}, :now)
ON CONFLICT (kind) DO UPDATE SET payload = excluded.payload, updated_at = excluded.updated_at
RETURNING {_COLUMNS}
"""

_GET = f"SELECT {_COLUMNS} FROM {{t}}store WHERE kind = :kind"
_LIST = f"SELECT {_COLUMNS} FROM {{t}}store ORDER BY kind"


class SqlSnapshotStore(SqlStore):
    def put(self, kind: str, payload: JsonText, *, now: datetime) -> Snapshot:
        statement = self._render(_PUT)
        params = {"kind": kind, "payload": payload, "now": self._bind(now)}
        rows = self._database.single(lambda connection: connection.rows(statement, params))
        return self._snapshot(rows[0])

    def get(self, kind: str) -> Snapshot | None:
        statement = self._render(_GET)
        params = {"kind": kind}
        row = self._database.read(lambda connection: connection.row(statement, params))
        return row and self._snapshot(row)

    def list(self) -> Sequence[Snapshot]:
        statement = self._render(_LIST)
        rows = self._database.read(lambda connection: connection.rows(statement, {}))
        return [self._snapshot(row) for row in rows]

    def _snapshot(self, row: Row) -> Snapshot:
        kind, payload, updated_at = row
        return Snapshot(kind, self._json(payload), self._time(updated_at))
