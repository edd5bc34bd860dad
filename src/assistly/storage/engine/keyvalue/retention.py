"""Deletes records that are too old, or beyond a cap."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import islice

from ...retention import milliseconds
from ..base import RetentionStoreBase
from ..values import MOST_COUNTED, PrunedByAge, PrunedByCap
from . import keys
from .events import index_keys
from .jobs import KeyValueJobs
from .ordered import OrderedMap, Value
from .scopes import MapScope, MapStore

_BY_TIME: dict[PrunedByAge, bytes] = {
    "approvals": keys.APPROVALS_BY_TIME,
    "idempotency": keys.KEYS_BY_TIME,
    "nonces": keys.NONCES_BY_TIME,
    "posted": keys.JOBS_POSTED,
    "events": keys.EVENTS_BY_TIME,
    "sessions": keys.SESSIONS_BY_TIME,
}

Delete = Callable[[OrderedMap, bytes, Value], object]
"""Deletes a record and its index entries, given its key and value in the index by time."""


class KeyValueRetention(MapStore, RetentionStoreBase[MapScope]):
    """Scans the indexes by time."""

    def stamp(self) -> datetime | None:
        with self._read() as map:
            value = map.get(keys.LAST_PRUNE)
        return None if value is None else keys.time_in(value, 0)

    def set_stamp(self, stamp: datetime | None) -> None:
        with self._write() as map:
            if stamp is None:
                map.delete(keys.LAST_PRUNE)
            else:
                map.put(keys.LAST_PRUNE, keys.time(stamp))

    def delete_older(self, kind: PrunedByAge, cutoff: datetime, *, limit: int) -> int:
        return self._delete(kind, _place(kind, cutoff), limit)

    def newest_beyond(self, kind: PrunedByCap, cap: int) -> tuple[datetime, int] | None:
        table = _BY_TIME[kind]
        with self._read() as map:
            newest = map.scan(table, table + keys.END, reverse=True)
            found = next(islice(newest, cap, None), None)
        return None if found is None else (keys.time_in(found[0]), keys.last_number(found[0]))

    def delete_up_to(self, kind: PrunedByCap, edge: tuple[datetime, int], *, limit: int) -> int:
        return self._delete(kind, _place(kind, edge), limit)

    def count_prunable(self, kind: PrunedByAge, bound: datetime | tuple[datetime, int]) -> tuple[int, bool]:
        table = _BY_TIME[kind]
        with self._read() as map:
            found = map.scan(table, table + _place(kind, bound))
            count = sum(1 for _ in islice(found, MOST_COUNTED))
        return count, count < MOST_COUNTED

    def _delete(self, kind: PrunedByAge, end: bytes, limit: int) -> int:
        table = _BY_TIME[kind]
        delete: dict[PrunedByAge, Delete] = {
            "approvals": self._delete_approval,
            "idempotency": _delete_key,
            "nonces": _delete_nonce,
            "posted": self._delete_job,
            "events": self._delete_event,
            "sessions": _delete_session,
        }
        with self._write() as map:
            found = [*islice(map.scan(table, table + end), limit)]
            for key, value in found:
                delete[kind](map, key, value)
        return len(found)

    def _delete_approval(self, map: OrderedMap, key: bytes, id: Value) -> None:
        status = self._unpack(map.get(keys.APPROVALS + id))[0]
        map.delete(keys.APPROVALS_BY_STATUS + keys.name(status) + key[1:])
        map.delete(keys.APPROVALS + id)
        map.delete(key)

    def _delete_job(self, map: OrderedMap, key: bytes, _: Value) -> None:
        KeyValueJobs(self._backend, map).delete_row(map, keys.last_number(key))

    def _delete_event(self, map: OrderedMap, key: bytes, _: Value) -> None:
        id = keys.last_number(key)
        event_type = self._unpack(map.get(keys.EVENTS + keys.number(id)))[0]
        map.delete(keys.EVENTS + keys.number(id))
        for other in index_keys(id, event_type, keys.time_in(key)):
            map.delete(other)


def _place(kind: PrunedByAge, bound: datetime | tuple[datetime, int]) -> bytes:
    """Where the scan of an index by time ends: before a time, or after an edge."""
    if not isinstance(bound, datetime):
        return keys.time_and_number(*bound) + b"\x00"
    return keys.number(milliseconds(bound)) if kind == "nonces" else keys.time(bound)


def _delete_key(map: OrderedMap, key: bytes, name: Value) -> None:
    map.delete(keys.KEYS + name)
    map.delete(key)


def _delete_nonce(map: OrderedMap, key: bytes, _: Value) -> None:
    map.delete(keys.NONCES + key[9:])
    map.delete(key)


def _delete_session(map: OrderedMap, key: bytes, _: Value) -> None:
    map.delete(keys.SESSIONS + key[13:])
    map.delete(key)
