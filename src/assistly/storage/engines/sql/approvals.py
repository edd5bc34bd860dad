from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ...engine.base import BackendBase
from ...engine.values import JsonText
from ...records import Approval
from .database import Database, Row
from .dialect import Dialect
from .store import SqlStore, where

_COLUMNS = "id, status, payload, created_at, decided_at, seq"
_NEWEST_FIRST = "ORDER BY created_at DESC, seq DESC"


class ApprovalStatements:
    def __init__(self, d: Dialect) -> None:
        p, table = d.p, f"{d.t}approvals"
        self.add = f"""
            INSERT INTO {table} (id, status, payload, created_at)
            VALUES ({p.id}, {p.status}, {p.payload}{d.jsonb}, {p.created_at})
            ON CONFLICT (id) DO NOTHING
            RETURNING {_COLUMNS}
        """
        self.get = f"SELECT {_COLUMNS} FROM {table} WHERE id = {p.id}"
        self.get_locked = f"{self.get} {d.for_update}"
        self.select = f"SELECT {_COLUMNS} FROM {table}"
        self.of_status = f"status = {p.status}"
        self.before = f"(created_at, seq) < ({p.before_at}, {p.before_seq})"
        self.decide = f"""
            UPDATE {table}
            SET status = {p.status}, decided_at = {p.now}, payload = coalesce({p.payload}{d.jsonb}, payload)
            WHERE id = {p.id} AND status = {p.expected}
            RETURNING {_COLUMNS}
        """


class SqlApprovalStore(SqlStore):
    """An `ApprovalStore`."""

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend, database)
        self._sql = self._dialect.statements(ApprovalStatements)

    def add(self, id: str, payload: JsonText, *, status: str, created_at: datetime) -> Approval | None:
        params = {"id": id, "status": status, "payload": payload, "created_at": self._bind(created_at)}
        return self._write_one(self._sql.add, params, self._approval)

    def get(self, id: str, *, lock: bool = False) -> Approval | None:
        statement = self._sql.get_locked if lock else self._sql.get
        return self._select_one(statement, {"id": id}, self._approval)

    def list(
        self, *, status: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Approval]:
        conditions = []
        params: dict[str, Any] = {}
        if status is not None:
            conditions.append(self._sql.of_status)
            params["status"] = status
        if before is not None:
            conditions.append(self._sql.before)
            params.update(before_at=self._bind(before[0]), before_seq=before[1])
        statement = f"{self._sql.select} {where(conditions)} {_NEWEST_FIRST} LIMIT {limit:d}"
        return self._select(statement, params, self._approval)

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
        return self._write_one(self._sql.decide, params, self._approval)

    def _approval(self, row: Row) -> Approval:
        id, status, payload, created_at, decided_at, seq = row
        return Approval(
            id,
            status,
            self._json(payload),
            self._time(created_at),
            self._optional_time(decided_at),
            seq,
        )
