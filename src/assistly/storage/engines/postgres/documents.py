"""Documents, of which pauses wake the threads that wait for jobs."""

from __future__ import annotations

from datetime import datetime

from ...engine.base import BackendBase
from ...engine.values import PAUSES, Document, JsonText
from ..sql.documents import SqlDocumentStore
from .server import PostgresWork


class PostgresDocumentStore(SqlDocumentStore):
    """A `DocumentStore`."""

    def __init__(self, backend: BackendBase, database: PostgresWork) -> None:
        super().__init__(backend, database)
        self._postgres = database

    def put(
        self, collection: str, key: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Document | None:
        document = super().put(collection, key, data, expected_version=expected_version, now=now)
        if document is not None and collection == PAUSES:
            self._postgres.notify_of_jobs()
        return document

    def delete(self, collection: str, key: str) -> bool:
        is_deleted = super().delete(collection, key)
        if is_deleted and collection == PAUSES:
            self._postgres.notify_of_jobs()
        return is_deleted
