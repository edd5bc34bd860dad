"""Reads and writes all rows, as `engine.transfer` defines them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from ...records import Attempt, Job, JobStatus
from ..transfer import LAST_PRUNE, LATENCY, MARKS, NUMBERED, ROW_KINDS, Row, RowKind, canonical_text
from ..values import IdempotencyRow, JsonText
from . import keys
from .coordination import KeyValueIdempotency
from .documents import KeyValueSessions
from .events import index_keys
from .jobs import KeyValueJobs
from .ordered import OrderedMap, Value
from .rows import job_of_row, row_of_key
from .scopes import MapStore

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TABLES = {
    "documents": keys.DOCUMENTS,
    "sessions": keys.SESSIONS,
    "approvals": keys.APPROVALS,
    "idempotency": keys.KEYS,
    "nonces": keys.NONCES_BY_TIME,
    "counters": keys.COUNTERS,
    "locks": keys.LOCKS,
    "snapshots": keys.SNAPSHOTS,
    "events": keys.EVENTS,
    "jobs": keys.JOBS,
}
_SEQUENCES = {
    "approvals": keys.APPROVAL_SEQUENCE,
    "events": keys.EVENT_IDS,
    "idempotency": keys.KEY_SEQUENCE,
    "jobs": keys.JOB_IDS,
}


class KeyValueTransfer(MapStore):
    """What `read_rows` and `write_rows` do. Its methods for a kind are called with its key in the map."""

    def read(self, kind: str, *, after: Row | None, limit: int) -> Sequence[Row]:
        """As `StorageBackend.read_rows`."""
        with self._read() as map:
            if kind == MARKS:
                return [] if after is not None else self._marks(map)
            if kind == "latency":
                return [] if after is not None else self._latency(map)
            decode: Callable[[bytes, Value], Row] = getattr(self, f"_read_{kind}")
            found = islice(map.scan(*_range(kind, after, None)), limit)
            return [decode(key, value) for key, value in found]

    def write(self, kind: str, rows: Sequence[Row], *, after: Row | None, through: Row | None) -> None:
        """As `StorageBackend.write_rows`."""
        with self._write() as map:
            if kind == MARKS:
                self._set_marks(map, dict(rows))
                return
            if kind == "latency":
                map.delete(keys.LATENCY)
                for _, *numbers in rows:
                    map.put(keys.LATENCY, self._pack(tuple(numbers)))
                return
            if kind in ("jobs", "documents"):
                self._backend.note_jobs()
            delete: Callable[[OrderedMap, bytes, Value], None] = getattr(self, f"_delete_{kind}", _delete)
            for key, value in [*map.scan(*_range(kind, after, through))]:
                delete(map, key, value)
            put: Callable[..., None] = getattr(self, f"_put_{kind}")
            for row in rows:
                put(map, *row)

    def _marks(self, map: OrderedMap) -> list[Row]:
        stamp = map.get(keys.LAST_PRUNE)
        numbers = [(kind, _next(map, kind) - 1) for kind in NUMBERED]
        return [*numbers, (LAST_PRUNE, None if stamp is None else _number(keys.time_in(stamp, 0)))]

    def _set_marks(self, map: OrderedMap, marks: dict[str, Any]) -> None:
        for kind in NUMBERED:
            if marks.get(kind):
                value = max(marks[kind] + 1, _next(map, kind))
                map.put(_SEQUENCES[kind], value.to_bytes(8, "big"))
        if LAST_PRUNE in marks:
            stamp = marks[LAST_PRUNE]
            if stamp is None:
                map.delete(keys.LAST_PRUNE)
            else:
                map.put(keys.LAST_PRUNE, keys.time(_time(stamp)))

    def _latency(self, map: OrderedMap) -> list[Row]:
        value = map.get(keys.LATENCY)
        return [] if value is None else [(LATENCY, *self._unpack(value))]

    # Each kind in the order of ROW_KINDS.
    def _read_documents(self, key: bytes, value: Value) -> Row:
        collection, _, name = key[1:].partition(b"\x00")
        data, version, updated_at = self._unpack(value)
        return collection.decode(), name.decode(), canonical_text(data), version, _number(updated_at)

    def _put_documents(
        self, map: OrderedMap, collection: str, key: str, data: str, version: int, updated_at: int
    ) -> None:
        map.put(_document(collection, key), self._pack((data, version, _time(updated_at))))

    def _read_sessions(self, key: bytes, value: Value) -> Row:
        data, version, updated_at = self._unpack(value)
        return key[1:].decode(), canonical_text(data), version, _number(updated_at)

    def _put_sessions(self, map: OrderedMap, user_id: str, data: str, version: int, updated_at: int) -> None:
        store = KeyValueSessions(self._backend, map)
        store.save(user_id, JsonText(data), version=version, now=_time(updated_at))

    def _delete_sessions(self, map: OrderedMap, key: bytes, _: Value) -> None:
        KeyValueSessions(self._backend, map).delete(key[1:].decode())

    def _read_approvals(self, key: bytes, value: Value) -> Row:
        status, payload, created_at, decided_at, sequence = self._unpack(value)
        return (
            key[1:].decode(),
            status,
            canonical_text(payload),
            _number(created_at),
            None if decided_at is None else _number(decided_at),
            sequence,
        )

    def _put_approvals(
        self,
        map: OrderedMap,
        id: str,
        status: str,
        payload: str,
        created_at: int,
        decided_at: int | None,
        sequence: int,
    ) -> None:
        created, decided = _time(created_at), None if decided_at is None else _time(decided_at)
        place = keys.time_and_number(created, sequence)
        map.put(keys.APPROVALS + id.encode(), self._pack((status, payload, created, decided, sequence)))
        map.put(keys.APPROVALS_BY_TIME + place, id.encode())
        map.put(keys.APPROVALS_BY_STATUS + keys.name(status) + place, id.encode())

    def _delete_approvals(self, map: OrderedMap, key: bytes, value: Value) -> None:
        status, _, created_at, _, sequence = self._unpack(value)
        place = keys.time_and_number(created_at, sequence)
        map.delete(key)
        map.delete(keys.APPROVALS_BY_TIME + place)
        map.delete(keys.APPROVALS_BY_STATUS + keys.name(status) + place)

    def _read_idempotency(self, key: bytes, value: Value) -> Row:
        completed, text, saved_at, fingerprint, token, lease_until, sequence = self._unpack(value)
        return (
            key[1:].decode(),
            completed,
            canonical_text(text) if completed else None,
            _number(saved_at),
            fingerprint,
            token,
            None if lease_until is None else _number(lease_until),
            sequence,
        )

    def _put_idempotency(
        self,
        map: OrderedMap,
        key: str,
        completed: bool,
        value: str | None,
        saved_at: int,
        fingerprint: str | None,
        token: int | None,
        lease_until: int | None,
        sequence: int,
    ) -> None:
        saved = _time(saved_at)
        lease = None if lease_until is None else _time(lease_until)
        decoded = None if value is None else json.loads(value)
        row = IdempotencyRow(key, completed, decoded, saved, fingerprint, token, lease)
        map.put(keys.KEYS + key.encode(), self._pack(row_of_key(row, sequence)))
        map.put(keys.KEYS_BY_TIME + keys.time_and_number(saved, sequence), key.encode())

    def _delete_idempotency(self, map: OrderedMap, key: bytes, _: Value) -> None:
        KeyValueIdempotency(self._backend, map).delete(key[1:].decode())

    def _read_nonces(self, key: bytes, _: Value) -> Row:
        return keys.last_number(key[:9]), key[9:].decode()

    def _put_nonces(self, map: OrderedMap, timestamp_ms: int, nonce: str) -> None:
        name = nonce.encode()
        if map.get(keys.NONCES + name) is not None:
            self._forget_nonce(map, name)
        map.put(keys.NONCES + name, b"")
        map.put(keys.NONCES_BY_TIME + keys.number(timestamp_ms) + name, b"")

    def _forget_nonce(self, map: OrderedMap, name: bytes) -> None:
        """Delete a nonce of which the time is not known. Only a copy that goes on meets one."""
        table = keys.NONCES_BY_TIME
        for key, _ in [*map.scan(table, keys.after(table))]:
            if key[9:] == name:
                map.delete(key)

    def _delete_nonces(self, map: OrderedMap, key: bytes, _: Value) -> None:
        map.delete(keys.NONCES + key[9:])
        map.delete(key)

    def _read_counters(self, key: bytes, value: Value) -> Row:
        return key[1:].decode(), self._unpack(value)[0]

    def _put_counters(self, map: OrderedMap, name: str, value: int) -> None:
        map.put(keys.COUNTERS + name.encode(), self._pack((value,)))

    def _read_locks(self, key: bytes, value: Value) -> Row:
        owner_id, fence, acquired_at, expires_at = self._unpack(value)
        return key[1:].decode(), owner_id, fence, _number(acquired_at), _number(expires_at)

    def _put_locks(
        self, map: OrderedMap, name: str, owner_id: str | None, fence: int, acquired_at: int, expires_at: int
    ) -> None:
        row = owner_id, fence, _time(acquired_at), _time(expires_at)
        map.put(keys.LOCKS + name.encode(), self._pack(row))

    def _read_snapshots(self, key: bytes, value: Value) -> Row:
        payload, updated_at = self._unpack(value)
        return key[1:].decode(), canonical_text(payload), _number(updated_at)

    def _put_snapshots(self, map: OrderedMap, kind: str, payload: str, updated_at: int) -> None:
        map.put(keys.SNAPSHOTS + kind.encode(), self._pack((payload, _time(updated_at))))

    def _read_events(self, key: bytes, value: Value) -> Row:
        event_type, payload, created_at = self._unpack(value)
        return keys.last_number(key), event_type, canonical_text(payload), _number(created_at)

    def _put_events(self, map: OrderedMap, id: int, event_type: str, payload: str, created_at: int) -> None:
        created = _time(created_at)
        map.put(keys.EVENTS + keys.number(id), self._pack((event_type, payload, created)))
        for key in index_keys(id, event_type, created):
            map.put(key, b"")

    def _delete_events(self, map: OrderedMap, key: bytes, value: Value) -> None:
        event_type, _, created_at = self._unpack(value)
        map.delete(key)
        for other in index_keys(keys.last_number(key), event_type, created_at):
            map.delete(other)

    def _read_jobs(self, _: bytes, value: Value) -> Row:
        job = job_of_row(self._unpack(value))
        return tuple(
            _row_value(column.type, getattr(job, column.name)) for column in ROW_KINDS["jobs"].columns
        )

    def _put_jobs(self, map: OrderedMap, *row: Any) -> None:
        job = Job(
            **{
                column.name: _job_value(column.name, column.type, value)
                for column, value in zip(ROW_KINDS["jobs"].columns, row, strict=True)
            }
        )
        jobs = KeyValueJobs(self._backend, map)
        if job.idempotency_key is not None:
            other = map.get(keys.JOBS_BY_KEY + job.idempotency_key.encode())
            if other is not None:
                jobs.delete_row(map, keys.last_number(other))
        jobs.put_row(map, job, None)

    def _delete_jobs(self, map: OrderedMap, key: bytes, _: Value) -> None:
        KeyValueJobs(self._backend, map).delete_row(map, keys.last_number(key))


def _delete(map: OrderedMap, key: bytes, _: Value) -> None:
    map.delete(key)


def _next(map: OrderedMap, kind: str) -> int:
    stored = map.get(_SEQUENCES[kind])
    return 1 if stored is None else int.from_bytes(stored, "big")


def _range(kind: str, after: Row | None, through: Row | None) -> tuple[bytes, bytes]:
    table = _TABLES[kind]
    low = table if after is None else _key(ROW_KINDS[kind], after) + b"\x00"
    return low, keys.after(table) if through is None else _key(ROW_KINDS[kind], through) + b"\x00"


def _key(kind: RowKind, key: Row) -> bytes:
    """The key in the map."""
    if kind.name == "documents":
        return _document(*key)
    parts = [part.encode() if isinstance(part, str) else keys.number(part) for part in key]
    return _TABLES[kind.name] + b"".join(parts)


def _document(collection: str, key: str) -> bytes:
    return keys.DOCUMENTS + keys.name(collection) + key.encode()


def _time(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _number(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "at": _number(attempt.at),
        "worker_id": attempt.worker_id,
        "error": attempt.error,
    }


def _row_value(type: str, value: Any) -> Any:
    if type == "json" and isinstance(value, tuple):
        return canonical_text(json.dumps([_attempt(attempt) for attempt in value]))
    if value is None:
        return None
    if type == "json":
        return canonical_text(json.dumps(value))
    if type == "time":
        return _number(value)
    if type == "duration":
        return value // _MICROSECOND
    return str(value) if type == "text" else value


def _job_value(name: str, type: str, value: Any) -> Any:
    if value is None:
        return None
    if name == "status":
        return JobStatus(value)
    if name == "attempts":
        return tuple(
            Attempt(one["number"], _time(one["at"]), one["worker_id"], one["error"])
            for one in json.loads(value)
        )
    if type == "json":
        return json.loads(value)
    if type == "time":
        return _time(value)
    return timedelta(microseconds=value) if type == "duration" else value
