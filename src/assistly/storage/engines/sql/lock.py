from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ...engine.base import BackendBase
from ...errors import StorageUnavailable
from ...records import WorkerLock
from .database import Database, Row
from .dialect import Dialect
from .store import SqlStore, to_microseconds

_ROUNDS = 10
_COLUMNS = "name, owner_id, fence, held_since, held_until"


class LockStatements:
    """The statements on locks. The columns `held_since` and `held_until` decide; `acquired_at` and
    `expires_at` hold the same times in milliseconds, for the system that the schema comes from."""

    def __init__(self, d: Dialect) -> None:
        p, table = d.p, f"{d.t}worker_lock"
        is_held = f"owner_id = {p.owner_id} AND held_until > {p.now}"
        is_fenced = f"name = {p.name} AND fence = {p.fence} AND {is_held}"
        self.take = f"""
            UPDATE {table}
            SET fence = CASE WHEN {is_held} THEN fence ELSE fence + 1 END,
                held_since = CASE WHEN {is_held} THEN held_since ELSE {p.now} END,
                acquired_at = CASE WHEN {is_held} THEN acquired_at ELSE {p.now_ms} END,
                held_until = {p.expires_at}, expires_at = {p.expires_ms}, owner_id = {p.owner_id}
            WHERE name = {p.name} AND (owner_id IS NULL OR owner_id = {p.owner_id} OR held_until <= {p.now})
            RETURNING {_COLUMNS}
        """
        self.holder = f"""
            SELECT {_COLUMNS} FROM {table}
            WHERE name = {p.name} AND owner_id IS NOT NULL AND held_until > {p.now}
        """
        self.list = f"""
            SELECT {_COLUMNS} FROM {table} WHERE owner_id IS NOT NULL AND held_until > {p.now}
            ORDER BY name{d.by_code_point}
        """
        self.create = f"""
            INSERT INTO {table} (id, name, owner_id, fence, held_since, held_until, acquired_at, expires_at)
            SELECT coalesce({d.f}max(id), 0) + 1, {p.name}{d.text}, {p.owner_id}{d.text}, 1,
                {p.now}{d.timestamp}, {p.expires_at}{d.timestamp},
                {p.now_ms}{d.bigint}, {p.expires_ms}{d.bigint}
            FROM {table}
            WHERE TRUE
            ON CONFLICT DO NOTHING
            RETURNING {_COLUMNS}
        """
        self.renew = f"""
            UPDATE {table} SET held_until = {p.expires_at}, expires_at = {p.expires_ms}
            WHERE {is_fenced}
            RETURNING {_COLUMNS}
        """
        self.release = f"""
            UPDATE {table} SET owner_id = NULL, held_until = {p.now}, expires_at = {p.now_ms}
            WHERE {is_fenced}
        """


class SqlLockStore(SqlStore):
    """A `LockStore`."""

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend, database)
        self._sql = self._dialect.statements(LockStatements)

    def acquire(self, name: str, owner_id: str, *, expires_at: datetime, now: datetime) -> WorkerLock | None:
        params = self._params(name, owner_id, now=now, expires_at=expires_at)
        for _ in range(_ROUNDS):
            lock = self._write_one(self._sql.take, params, self._lock)
            if lock is not None:
                return lock
            if self.current(name, now=now) is not None:
                return None
            lock = self._write_one(self._sql.create, params, self._lock)
            if lock is not None:
                return lock
        raise StorageUnavailable(
            f"the lock {name!r} was taken and released by others in each of {_ROUNDS} attempts: try again"
        )

    def renew(
        self, name: str, owner_id: str, fence: int, *, expires_at: datetime, now: datetime
    ) -> WorkerLock | None:
        params = self._params(name, owner_id, now=now, expires_at=expires_at) | {"fence": fence}
        return self._write_one(self._sql.renew, params, self._lock)

    def release(self, name: str, owner_id: str, fence: int, *, now: datetime) -> bool:
        params = self._params(name, owner_id, now=now, expires_at=now) | {"fence": fence}
        return self._database.execute(self._sql.release, params) > 0

    def current(self, name: str, *, now: datetime) -> WorkerLock | None:
        return self._select_one(self._sql.holder, {"name": name, "now": self._bind(now)}, self._lock)

    def list(self, *, now: datetime) -> Sequence[WorkerLock]:
        return self._select(self._sql.list, {"now": self._bind(now)}, self._lock)

    def _params(self, name: str, owner_id: str, *, now: datetime, expires_at: datetime) -> dict[str, Any]:
        return {
            "name": name,
            "owner_id": owner_id,
            "now": self._bind(now),
            "now_ms": to_microseconds(now) // 1000,
            "expires_at": self._bind(expires_at),
            "expires_ms": to_microseconds(expires_at) // 1000,
        }

    def _lock(self, row: Row) -> WorkerLock:
        name, owner_id, fence, held_since, held_until = row
        return WorkerLock(name, owner_id, fence, self._time(held_since), self._time(held_until))
