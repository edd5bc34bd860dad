from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ...engine.values import JsonText
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
        params = {"kind": kind, "payload": payload, "now": self._bind(now)}
        return self._write_one(_PUT, params, self._snapshot)

    def get(self, kind: str) -> Snapshot | None:
        return self._read_one(_GET, {"kind": kind}, self._snapshot)

    def list(self) -> Sequence[Snapshot]:
        return self._read_all(_LIST, {}, self._snapshot)

    def _snapshot(self, row: Row) -> Snapshot:
        kind, payload, updated_at = row
        return Snapshot(kind, self._json(payload), self._time(updated_at))
