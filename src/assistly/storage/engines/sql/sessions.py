from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ...engine.base import BackendBase
from ...engine.values import JsonText
from ...records import Session
from .database import Database, Row
from .dialect import Dialect
from .store import SqlStore

_COLUMNS = "user_id, session, version, updated_at"


class SessionStatements:
    def __init__(self, d: Dialect) -> None:
        p, table = d.p, f"{d.t}sessions"
        self.get = f"SELECT {_COLUMNS} FROM {table} WHERE user_id = {p.user_id}"
        self.get_locked = f"{self.get} {d.for_update}"
        self.put = f"""
            INSERT INTO {table} AS stored (user_id, session, version, updated_at)
            VALUES ({p.user_id}, {p.data}{d.jsonb}, 1, {p.now})
            ON CONFLICT (user_id) DO UPDATE
            SET session = excluded.session, version = stored.version + 1, updated_at = excluded.updated_at
            RETURNING {_COLUMNS}
        """
        self.put_new = f"""
            INSERT INTO {table} (user_id, session, version, updated_at)
            VALUES ({p.user_id}, {p.data}{d.jsonb}, 1, {p.now})
            ON CONFLICT (user_id) DO NOTHING
            RETURNING {_COLUMNS}
        """
        self.put_expected = f"""
            UPDATE {table} SET session = {p.data}{d.jsonb}, version = version + 1, updated_at = {p.now}
            WHERE user_id = {p.user_id} AND version = {p.version}
            RETURNING {_COLUMNS}
        """
        self.delete = f"DELETE FROM {table} WHERE user_id = {p.user_id}"
        self.list = f"SELECT {_COLUMNS} FROM {table} ORDER BY user_id"
        self.list_after = f"SELECT {_COLUMNS} FROM {table} WHERE user_id > {p.after} ORDER BY user_id"


class SqlSessionStore(SqlStore):
    """A `SessionStore`."""

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend, database)
        self._sql = self._dialect.statements(SessionStatements)

    def get(self, user_id: str, *, lock: bool = False) -> Session | None:
        statement = self._sql.get_locked if lock else self._sql.get
        return self._select_one(statement, {"user_id": user_id}, self._session)

    def put(
        self, user_id: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Session | None:
        params: dict[str, Any] = {"user_id": user_id, "data": data, "now": self._bind(now)}
        if expected_version is None:
            return self._write_one(self._sql.put, params, self._session)
        if expected_version == 0:
            return self._write_one(self._sql.put_new, params, self._session)
        params["version"] = expected_version
        return self._write_one(self._sql.put_expected, params, self._session)

    def delete(self, user_id: str) -> bool:
        return self._database.execute(self._sql.delete, {"user_id": user_id}) > 0

    def list(self, *, after: str | None, limit: int) -> Sequence[Session]:
        if after is None:
            return self._select(f"{self._sql.list} LIMIT {limit:d}", {}, self._session)
        return self._select(f"{self._sql.list_after} LIMIT {limit:d}", {"after": after}, self._session)

    def _session(self, row: Row) -> Session:
        user_id, data, version, updated_at = row
        return Session(user_id, self._json(data), version, self._time(updated_at))
