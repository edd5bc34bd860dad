from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ...engine.values import JsonText
from ...records import Session
from .database import Row
from .store import SqlStore

_COLUMNS = "user_id, session, version, updated_at"

_GET = f"SELECT {_COLUMNS} FROM {{t}}sessions WHERE user_id = :user_id"
_GET_LOCKED = f"{_GET} {{for_update}}"

_PUT = f"""
INSERT INTO {{t}}sessions AS stored (user_id, session, version, updated_at)
VALUES (:user_id, :data{{jsonb}}, 1, :now)
ON CONFLICT (user_id) DO UPDATE
SET session = excluded.session, version = stored.version + 1, updated_at = excluded.updated_at
RETURNING {_COLUMNS}
"""

_PUT_NEW = f"""
INSERT INTO {{t}}sessions (user_id, session, version, updated_at)
VALUES (:user_id, :data{{jsonb}}, 1, :now)
ON CONFLICT (user_id) DO NOTHING
RETURNING {_COLUMNS}
"""

_PUT_EXPECTED = f"""
UPDATE {{t}}sessions
SET session = :data{{jsonb}}, version = version + 1, updated_at = :now
WHERE user_id = :user_id AND version = :version
RETURNING {_COLUMNS}
"""

_DELETE = "DELETE FROM {t}sessions WHERE user_id = :user_id"

_LIST = f"SELECT {_COLUMNS} FROM {{t}}sessions ORDER BY user_id LIMIT {{limit}}"
_LIST_AFTER = f"""
SELECT {_COLUMNS} FROM {{t}}sessions WHERE user_id > :after ORDER BY user_id LIMIT {{limit}}
"""


class SqlSessionStore(SqlStore):
    def get(self, user_id: str, *, lock: bool = False) -> Session | None:
        return self._read_one(_GET_LOCKED if lock else _GET, {"user_id": user_id}, self._session)

    def put(
        self, user_id: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Session | None:
        params: dict[str, Any] = {"user_id": user_id, "data": data, "now": self._bind(now)}
        if expected_version is None:
            return self._change_one(_PUT, params, self._session)
        if expected_version == 0:
            return self._change_one(_PUT_NEW, params, self._session)
        return self._change_one(_PUT_EXPECTED, params | {"version": expected_version}, self._session)

    def delete(self, user_id: str) -> bool:
        return self._change(_DELETE, {"user_id": user_id}) > 0

    def list(self, *, after: str | None, limit: int) -> Sequence[Session]:
        if after is None:
            return self._read_all(_LIST, {}, self._session, limit)
        return self._read_all(_LIST_AFTER, {"after": after}, self._session, limit)

    def _session(self, row: Row) -> Session:
        user_id, data, version, updated_at = row
        return Session(user_id, self._json(data), version, self._time(updated_at))
