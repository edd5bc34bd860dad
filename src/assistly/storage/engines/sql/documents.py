from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ...engine.base import BackendBase
from ...engine.values import Document, JsonText
from .database import Database, Row
from .dialect import Dialect
from .store import SqlStore

_COLUMNS = "collection, key, data, version, updated_at"


class DocumentStatements:
    def __init__(self, d: Dialect) -> None:
        p, table = d.p, f"{d.t}documents"
        is_it = f"collection = {p.collection} AND key = {p.key}"
        insert = f"""
            INSERT INTO {table} AS stored (collection, key, data, version, updated_at)
            VALUES ({p.collection}, {p.key}, {p.data}{d.jsonb}, 1, {p.now})
            ON CONFLICT (collection, key)
        """
        self.get = f"SELECT {_COLUMNS} FROM {table} WHERE {is_it}"
        self.get_locked = f"{self.get} {d.for_update}"
        self.put = f"""
            {insert} DO UPDATE
            SET data = excluded.data, version = stored.version + 1, updated_at = excluded.updated_at
            RETURNING {_COLUMNS}
        """
        self.put_new = f"{insert} DO NOTHING RETURNING {_COLUMNS}"
        self.put_expected = f"""
            UPDATE {table} SET data = {p.data}{d.jsonb}, version = version + 1, updated_at = {p.now}
            WHERE {is_it} AND version = {p.version}
            RETURNING {_COLUMNS}
        """
        self.delete = f"DELETE FROM {table} WHERE {is_it}"
        self.list = f"""
            SELECT {_COLUMNS} FROM {table} WHERE collection = {p.collection} AND key > {p.after} ORDER BY key
        """


class SqlDocumentStore(SqlStore):
    """A `DocumentStore`."""

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend, database)
        self._sql = self._dialect.statements(DocumentStatements)

    def get(self, collection: str, key: str, *, lock: bool = False) -> Document | None:
        statement = self._sql.get_locked if lock else self._sql.get
        return self._select_one(statement, {"collection": collection, "key": key}, self._document)

    def put(
        self, collection: str, key: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Document | None:
        params: dict[str, Any] = {
            "collection": collection,
            "key": key,
            "data": data,
            "now": self._bind(now),
        }
        if expected_version is None:
            return self._write_one(self._sql.put, params, self._document)
        if expected_version == 0:
            return self._write_one(self._sql.put_new, params, self._document)
        params["version"] = expected_version
        return self._write_one(self._sql.put_expected, params, self._document)

    def delete(self, collection: str, key: str) -> bool:
        return self._database.execute(self._sql.delete, {"collection": collection, "key": key}) > 0

    def list(self, collection: str, *, after: str | None, limit: int) -> Sequence[Document]:
        params = {"collection": collection, "after": "" if after is None else after}
        return self._select(f"{self._sql.list} LIMIT {limit:d}", params, self._document)

    def _document(self, row: Row) -> Document:
        collection, key, data, version, updated_at = row
        return Document(collection, key, self._json(data), version, self._time(updated_at))
