from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ...engine.base import BackendBase
from ...engine.values import JsonText
from ...records import Event
from .database import Database, Executor, Row
from .dialect import Dialect
from .store import SqlStore, where

EVENT_COLUMNS = "id, event_type, payload, created_at"
_NEWEST_FIRST = "ORDER BY created_at DESC, id DESC"


class EventStatements:
    def __init__(self, d: Dialect) -> None:
        p, table = d.p, f"{d.t}events"
        self.append = f"""
            INSERT INTO {table} (event_type, payload, created_at)
            VALUES ({p.event_type}, {p.payload}{d.jsonb}, {p.created_at})
            RETURNING {EVENT_COLUMNS}
        """
        self.select = f"SELECT {EVENT_COLUMNS} FROM {table}"
        self.get = f"{self.select} WHERE id = {p.id}"
        self.of_type = f"event_type = {p.event_type}"
        self.before = f"(created_at, id) < ({p.before_at}, {p.before_id})"
        self.after = f"id > {p.id}"


class SqlEventStore(SqlStore):
    """An `EventStore`. Its `read_after` is correct only if rows become visible in the order of their ids."""

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend, database)
        self._sql = self._dialect.statements(EventStatements)

    def append(self, events: Sequence[tuple[str, JsonText, datetime]]) -> Sequence[Event]:
        def work(connection: Executor) -> list[Row]:
            return [
                row
                for event_type, payload, created_at in events
                for row in connection.rows(
                    self._sql.append,
                    {"event_type": event_type, "payload": payload, "created_at": self._bind(created_at)},
                )
            ]

        run = self._database.autocommit if len(events) == 1 else self._database.in_transaction
        return [self._event(row) for row in run(work)]

    def get(self, id: int) -> Event | None:
        return self._select_one(self._sql.get, {"id": id}, self._event)

    def list(
        self, *, event_type: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Event]:
        conditions = []
        params: dict[str, Any] = {}
        if event_type is not None:
            conditions.append(self._sql.of_type)
            params["event_type"] = event_type
        if before is not None:
            conditions.append(self._sql.before)
            params.update(before_at=self._bind(before[0]), before_id=before[1])
        statement = f"{self._sql.select} {where(conditions)} {_NEWEST_FIRST} LIMIT {limit:d}"
        return self._select(statement, params, self._event)

    def read_after(self, id: int, *, event_type: str | None, limit: int) -> Sequence[Event]:
        conditions = [self._sql.after]
        params: dict[str, Any] = {"id": id}
        if event_type is not None:
            conditions.append(self._sql.of_type)
            params["event_type"] = event_type
        statement = f"{self._sql.select} {where(conditions)} ORDER BY id LIMIT {limit:d}"
        return self._select(statement, params, self._event)

    def _event(self, row: Row) -> Event:
        id, event_type, payload, created_at = row
        return Event(id, event_type, self._json(payload), self._time(created_at))
