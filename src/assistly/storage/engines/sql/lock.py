from __future__ import annotations

from datetime import datetime
from typing import Any

from ...errors import StorageUnavailable
from ...records import WorkerLock
from .database import Row
from .store import SqlStore, to_microseconds

_ROUNDS = 10
_COLUMNS = "name, owner_id, fence, held_since, held_until"
_HELD = "owner_id = :owner_id AND held_until > :now"
_FENCED = f"name = :name AND fence = :fence AND {_HELD}"

_TAKE = f"""
UPDATE {{t}}worker_lock
SET fence = CASE WHEN {_HELD} THEN fence ELSE fence + 1 END,
    held_since = CASE WHEN {_HELD} THEN held_since ELSE :now END,
    acquired_at = CASE WHEN {_HELD} THEN acquired_at ELSE :now_ms END,
    held_until = :expires_at, expires_at = :expires_ms, owner_id = :owner_id
WHERE name = :name AND (owner_id IS NULL OR owner_id = :owner_id OR held_until <= :now)
RETURNING {_COLUMNS}
"""

_HOLDER = f"""
SELECT {_COLUMNS} FROM {{t}}worker_lock
WHERE name = :name AND owner_id IS NOT NULL AND held_until > :now
"""

_CREATE = f"""
INSERT INTO {{t}}worker_lock
    (id, name, owner_id, fence, held_since, held_until, acquired_at, expires_at)
SELECT coalesce(max(id), 0) + 1, :name{{text}}, :owner_id{{text}}, 1, :now{{timestamp}},
    :expires_at{{timestamp}}, :now_ms{{bigint}}, :expires_ms{{bigint}}
FROM {{t}}worker_lock
WHERE TRUE
ON CONFLICT DO NOTHING
RETURNING {_COLUMNS}
"""

_RENEW = f"""
UPDATE {{t}}worker_lock SET held_until = :expires_at, expires_at = :expires_ms
WHERE {_FENCED}
RETURNING {_COLUMNS}
"""

_RELEASE = f"""
UPDATE {{t}}worker_lock SET owner_id = NULL, held_until = :now, expires_at = :now_ms
WHERE {_FENCED}
"""


class SqlLockStore(SqlStore):
    def acquire(self, name: str, owner_id: str, *, expires_at: datetime, now: datetime) -> WorkerLock | None:
        params = self._params(name, owner_id, now=now, expires_at=expires_at)
        for _ in range(_ROUNDS):
            lock = self._change_one(_TAKE, params, self._lock)
            if lock is not None:
                return lock
            if self.current(name, now=now) is not None:
                return None
            lock = self._change_one(_CREATE, params, self._lock)
            if lock is not None:
                return lock
        raise StorageUnavailable("the lock is being taken and released all the time: try again")

    def renew(
        self, name: str, owner_id: str, fence: int, *, expires_at: datetime, now: datetime
    ) -> WorkerLock | None:
        params = self._params(name, owner_id, now=now, expires_at=expires_at) | {"fence": fence}
        return self._change_one(_RENEW, params, self._lock)

    def release(self, name: str, owner_id: str, fence: int, *, now: datetime) -> bool:
        params = self._params(name, owner_id, now=now, expires_at=now) | {"fence": fence}
        return self._change(_RELEASE, params) > 0

    def current(self, name: str, *, now: datetime) -> WorkerLock | None:
        return self._read_one(_HOLDER, {"name": name, "now": self._bind(now)}, self._lock)

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
