"""The event log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from itertools import islice

from ...records import Event
from ..base import EventStoreBase
from ..values import JsonText
from . import keys
from .ordered import OrderedMap
from .scopes import MapScope, MapStore, next_number


class KeyValueEvents(MapStore, EventStoreBase[MapScope]):
    """Rows: event_type, payload, created_at. With one writer at a time, events become visible by id."""

    def append(self, events: Sequence[tuple[str, JsonText, datetime]]) -> Sequence[Event]:
        appended: list[Event] = []
        with self._write() as map:
            for event_type, payload, created_at in events:
                id = next_number(map, keys.EVENT_IDS)
                map.put(keys.EVENTS + keys.number(id), self._pack((event_type, payload, created_at)))
                for key in index_keys(id, event_type, created_at):
                    map.put(key, b"")
                appended.append(Event(id, event_type, json.loads(payload), created_at))
        return appended

    def get(self, id: int) -> Event | None:
        with self._read() as map:
            return self._event(map, id)

    def list(
        self, *, event_type: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Event]:
        if event_type is None:
            table = keys.EVENTS_BY_TIME
        else:
            table = keys.EVENTS_BY_TYPE_AND_TIME + keys.name(event_type)
        high = table + (keys.END if before is None else keys.time_and_number(*before))
        with self._read() as map:
            found = [key for key, _ in islice(map.scan(table, high, reverse=True), limit)]
            return self._events(map, found)

    def read_after(self, id: int, *, event_type: str | None, limit: int) -> Sequence[Event]:
        table = keys.EVENTS if event_type is None else keys.EVENTS_BY_TYPE + keys.name(event_type)
        with self._read() as map:
            scan = map.scan(table + keys.number_after(id), table + keys.END)
            return self._events(map, [key for key, _ in islice(scan, limit)])

    def _events(self, map: OrderedMap, found: Sequence[bytes]) -> Sequence[Event]:
        events = (self._event(map, keys.last_number(key)) for key in found)
        return [event for event in events if event is not None]

    def _event(self, map: OrderedMap, id: int) -> Event | None:
        value = map.get(keys.EVENTS + keys.number(id))
        if value is None:
            return None
        event_type, payload, created_at = self._unpack(value)
        return Event(id, event_type, json.loads(payload), created_at)


def index_keys(id: int, event_type: str, created_at: datetime) -> tuple[bytes, bytes, bytes]:
    """The keys of an event in its three indexes."""
    place = keys.time_and_number(created_at, id)
    of_type = keys.name(event_type)
    return (
        keys.EVENTS_BY_TIME + place,
        keys.EVENTS_BY_TYPE + of_type + keys.number(id),
        keys.EVENTS_BY_TYPE_AND_TIME + of_type + place,
    )
