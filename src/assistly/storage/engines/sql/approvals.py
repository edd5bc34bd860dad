from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ...engine.values import JsonText
from ...records import Approval
from .database import Row
from .store import SqlStore

_COLUMNS = "id, status, payload, created_at, decided_at, seq"

_ADD = f"""
INSERT INTO {{t}}approvals (id, status, payload, created_at)
VALUES (:id, :status, :payload{{jsonb}}, :created_at)
ON CONFLICT (id) DO NOTHING
RETURNING {_COLUMNS}
"""

_GET = f"SELECT {_COLUMNS} FROM {{t}}approvals WHERE id = :id"
_GET_LOCKED = f"{_GET} {{for_update}}"

_NEWEST_FIRST = "ORDER BY created_at DESC, seq DESC LIMIT {limit}"
_BEFORE = "(created_at, seq) < (:before_at, :before_seq)"
_LIST = {
    (False, False): f"SELECT {_COLUMNS} FROM {{t}}approvals {_NEWEST_FIRST}",
    (False, True): f"SELECT {_COLUMNS} FROM {{t}}approvals WHERE {_BEFORE} {_NEWEST_FIRST}",
    (True, False): f"SELECT {_COLUMNS} FROM {{t}}approvals WHERE status = :status {_NEWEST_FIRST}",
    (True, True): f"""
SELECT {_COLUMNS} FROM {{t}}approvals WHERE status = :status AND {_BEFORE} {_NEWEST_FIRST}
""",
}

_DECIDE = f"""
UPDATE {{t}}approvals
SET status = :status, decided_at = :now, payload = coalesce(:payload{{jsonb}}, payload)
WHERE id = :id AND status = :expected
RETURNING {_COLUMNS}
"""


class SqlApprovalStore(SqlStore):
    def add(self, id: str, payload: JsonText, *, status: str, created_at: datetime) -> Approval | None:
        params = {"id": id, "status": status, "payload": payload, "created_at": self._bind(created_at)}
        return self._change_one(_ADD, params, self._approval)

    def get(self, id: str, *, lock: bool = False) -> Approval | None:
        return self._read_one(_GET_LOCKED if lock else _GET, {"id": id}, self._approval)

    def list(
        self, *, status: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Approval]:
        params: dict[str, Any] = {}
        if status is not None:
            params["status"] = status
        if before is not None:
            params.update(before_at=self._bind(before[0]), before_seq=before[1])
        return self._read_all(_LIST[status is not None, before is not None], params, self._approval, limit)

    def decide(
        self, id: str, status: str, *, expected: str, payload: JsonText | None, now: datetime
    ) -> Approval | None:
        params = {
            "id": id,
            "status": status,
            "expected": expected,
            "payload": payload,
            "now": self._bind(now),
        }
        return self._change_one(_DECIDE, params, self._approval)

    def _approval(self, row: Row) -> Approval:
        id, status, payload, created_at, decided_at, seq = row
        return Approval(id, status, self._json(payload), self._time(created_at), self._time(decided_at), seq)
