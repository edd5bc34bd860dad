from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ...backend import JsonText
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
        statement = self._render(_GET_LOCKED if lock else _GET)
        params = {"user_id": user_id}
        row = self._database.read(lambda connection: connection.row(statement, params))
        return row and self._session(row)

    def put(
        self, user_id: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Session | None:
        template = _PUT if expected_version is None else _PUT_EXPECTED if expected_version else _PUT_NEW
        statement = self._render(template)
        params = {"user_id": user_id, "data": data, "now": self._bind(now)}
        if expected_version:
            params["version"] = expected_version
        row = self._database.single(lambda connection: connection.row(statement, params))
        return row and self._session(row)

    def delete(self, user_id: str) -> bool:
        statement = self._render(_DELETE)
        params = {"user_id": user_id}
        return self._database.single(lambda connection: connection.execute(statement, params)) > 0

    def list(self, *, after: str | None, limit: int) -> Sequence[Session]:
        statement = self._render(_LIST if after is None else _LIST_AFTER, limit)
        params = {} if after is None else {"after": after}
        rows = self._database.read(lambda connection: connection.rows(statement, params))
        return [self._session(row) for row in rows]

    def _session(self, row: Row) -> Session:
        user_id, data, version, updated_at = row
        return Session(user_id, self._json(data), version, self._time(updated_at))
