from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ...engine.values import JsonText
from ...records import Event
from .database import Row
from .store import SqlStore

EVENT_COLUMNS = "id, event_type, payload, created_at"

_APPEND = f"""
INSERT INTO {{t}}events (event_type, payload, created_at)
VALUES (:event_type, :payload{{jsonb}}, :created_at)
RETURNING {EVENT_COLUMNS}
"""

_GET = f"SELECT {EVENT_COLUMNS} FROM {{t}}events WHERE id = :id"

_NEWEST_FIRST = "ORDER BY created_at DESC, id DESC LIMIT {limit}"
_BEFORE = "(created_at, id) < (:before_at, :before_id)"
_LIST = {
    (False, False): f"SELECT {EVENT_COLUMNS} FROM {{t}}events {_NEWEST_FIRST}",
    (False, True): f"SELECT {EVENT_COLUMNS} FROM {{t}}events WHERE {_BEFORE} {_NEWEST_FIRST}",
    (True, False): f"SELECT {EVENT_COLUMNS} FROM {{t}}events WHERE event_type = :event_type {_NEWEST_FIRST}",
    (True, True): f"""
SELECT {EVENT_COLUMNS} FROM {{t}}events WHERE event_type = :event_type AND {_BEFORE} {_NEWEST_FIRST}
""",
}

_AFTER = f"SELECT {EVENT_COLUMNS} FROM {{t}}events WHERE id > :id ORDER BY id LIMIT {{limit}}"
_AFTER_OF_TYPE = f"""
SELECT {EVENT_COLUMNS} FROM {{t}}events
WHERE event_type = :event_type AND id > :id ORDER BY id LIMIT {{limit}}
"""


class SqlEventStore(SqlStore):
    """`read_after` is right where rows become visible in the order of their ids."""

    def append(self, events: Sequence[tuple[str, JsonText, datetime]]) -> Sequence[Event]:
        batch = [
            {"event_type": event_type, "payload": payload, "created_at": self._bind(created_at)}
            for event_type, payload, created_at in events
        ]
        return [self._event(row) for row in self._each(_APPEND, batch) if row is not None]

    def get(self, id: int) -> Event | None:
        return self._read_one(_GET, {"id": id}, self._event)

    def list(
        self, *, event_type: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Event]:
        params: dict[str, Any] = {}
        if event_type is not None:
            params["event_type"] = event_type
        if before is not None:
            params.update(before_at=self._bind(before[0]), before_id=before[1])
        return self._read_all(_LIST[event_type is not None, before is not None], params, self._event, limit)

    def read_after(self, id: int, *, event_type: str | None, limit: int) -> Sequence[Event]:
        if event_type is None:
            return self._read_all(_AFTER, {"id": id}, self._event, limit)
        params = {"id": id, "event_type": event_type}
        return self._read_all(_AFTER_OF_TYPE, params, self._event, limit)

    def _event(self, row: Row) -> Event:
        id, event_type, payload, created_at = row
        return Event(id, event_type, self._json(payload), self._time(created_at))
