"""Sessions, approvals, snapshots and documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from itertools import islice

from ...records import Approval, Session, Snapshot
from ..base import ApprovalStoreBase, DocumentStoreBase, SessionStoreBase, SnapshotStoreBase
from ..values import PAUSES, Document, JsonText
from . import keys
from .ordered import Value
from .rows import json_text
from .scopes import MapScope, MapStore, next_number


class KeyValueSessions(MapStore, SessionStoreBase[MapScope]):
    """Rows: data, version, updated_at. A second table orders them by time, for pruning."""

    def get(self, user_id: str, *, lock: bool = False) -> Session | None:  # noqa: ARG002 - writers are alone
        with self._read() as map:
            value = map.get(keys.SESSIONS + user_id.encode())
        return None if value is None else self._session(user_id, value)

    def save(self, user_id: str, data: JsonText, *, version: int, now: datetime) -> Session:
        key = user_id.encode()
        with self._write() as map:
            old = map.get(keys.SESSIONS + key)
            if old is not None:
                map.delete(keys.SESSIONS_BY_TIME + keys.time(self._unpack(old)[2]) + key)
            map.put(keys.SESSIONS + key, self._pack((data, version, now)))
            map.put(keys.SESSIONS_BY_TIME + keys.time(now) + key, b"")
            return Session(user_id, json.loads(data), version, now)

    def delete(self, user_id: str) -> bool:
        key = user_id.encode()
        with self._write() as map:
            old = map.get(keys.SESSIONS + key)
            if old is None:
                return False
            map.delete(keys.SESSIONS + key)
            map.delete(keys.SESSIONS_BY_TIME + keys.time(self._unpack(old)[2]) + key)
            return True

    def list(self, *, after: str | None, limit: int) -> Sequence[Session]:
        low = keys.SESSIONS if after is None else keys.SESSIONS + keys.name(after)
        with self._read() as map:
            found = [*islice(map.scan(low, keys.after(keys.SESSIONS)), limit)]
        return [self._session(key[1:].decode(), value) for key, value in found]

    def _session(self, user_id: str, value: Value) -> Session:
        data, version, updated_at = self._unpack(value)
        return Session(user_id, json.loads(data), version, updated_at)


class KeyValueApprovals(MapStore, ApprovalStoreBase[MapScope]):
    """Rows: status, payload, created_at, decided_at, sequence.

    Two tables order them by time, one of them within a status.
    """

    def add(self, id: str, payload: JsonText, *, status: str, created_at: datetime) -> Approval | None:
        key = keys.APPROVALS + id.encode()
        with self._write() as map:
            if map.get(key) is not None:
                return None
            sequence = next_number(map, keys.APPROVAL_SEQUENCE)
            place = keys.time_and_number(created_at, sequence)
            map.put(key, self._pack((status, payload, created_at, None, sequence)))
            map.put(keys.APPROVALS_BY_TIME + place, id.encode())
            map.put(keys.APPROVALS_BY_STATUS + keys.name(status) + place, id.encode())
            return Approval(id, status, json.loads(payload), created_at, None, sequence)

    def get(self, id: str, *, lock: bool = False) -> Approval | None:  # noqa: ARG002 - writers are alone
        with self._read() as map:
            value = map.get(keys.APPROVALS + id.encode())
        return None if value is None else self._approval(id, value)

    def save(self, approval: Approval) -> None:
        id = approval.id.encode()
        with self._write() as map:
            old = self._unpack(map.get(keys.APPROVALS + id))[0]
            place = keys.time_and_number(approval.created_at, approval.sequence)
            if old != approval.status:
                map.delete(keys.APPROVALS_BY_STATUS + keys.name(old) + place)
                map.put(keys.APPROVALS_BY_STATUS + keys.name(approval.status) + place, id)
            row = (
                approval.status,
                json_text(approval.payload),
                approval.created_at,
                approval.decided_at,
                approval.sequence,
            )
            map.put(keys.APPROVALS + id, self._pack(row))

    def list(
        self, *, status: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> Sequence[Approval]:
        table = keys.APPROVALS_BY_TIME if status is None else keys.APPROVALS_BY_STATUS + keys.name(status)
        high = table + (keys.END if before is None else keys.time_and_number(*before))
        with self._read() as map:
            ids = [id for _, id in islice(map.scan(table, high, reverse=True), limit)]
            return [self._approval(id.decode(), map.get(keys.APPROVALS + id)) for id in ids]

    def _approval(self, id: str, value: Value) -> Approval:
        status, payload, created_at, decided_at, sequence = self._unpack(value)
        return Approval(id, status, json.loads(payload), created_at, decided_at, sequence)


class KeyValueSnapshots(MapStore, SnapshotStoreBase[MapScope]):
    """Rows: payload, updated_at."""

    def put(self, kind: str, payload: JsonText, *, now: datetime) -> Snapshot:
        with self._write() as map:
            map.put(keys.SNAPSHOTS + kind.encode(), self._pack((payload, now)))
            return Snapshot(kind, json.loads(payload), now)

    def get(self, kind: str) -> Snapshot | None:
        with self._read() as map:
            value = map.get(keys.SNAPSHOTS + kind.encode())
        return None if value is None else self._snapshot(kind, value)

    def list(self) -> Sequence[Snapshot]:
        with self._read() as map:
            found = [*map.scan(keys.SNAPSHOTS, keys.after(keys.SNAPSHOTS))]
        return [self._snapshot(key[1:].decode(), value) for key, value in found]

    def _snapshot(self, kind: str, value: Value) -> Snapshot:
        payload, updated_at = self._unpack(value)
        return Snapshot(kind, json.loads(payload), updated_at)


class KeyValueDocuments(MapStore, DocumentStoreBase[MapScope]):
    """Rows: data, version, updated_at."""

    def get(self, collection: str, key: str, *, lock: bool = False) -> Document | None:  # noqa: ARG002
        with self._read() as map:
            value = map.get(_document(collection) + key.encode())
        return None if value is None else self._document(collection, key, value)

    def save(self, collection: str, key: str, data: JsonText, *, version: int, now: datetime) -> Document:
        with self._write() as map:
            self._note(collection)
            map.put(_document(collection) + key.encode(), self._pack((data, version, now)))
        return Document(collection, key, json.loads(data), version, now)

    def delete(self, collection: str, key: str) -> bool:
        place = _document(collection) + key.encode()
        with self._write() as map:
            if map.get(place) is None:
                return False
            self._note(collection)
            map.delete(place)
            return True

    def list(self, collection: str, *, after: str | None, limit: int) -> Sequence[Document]:
        table = _document(collection)
        low = table if after is None else table + keys.name(after)
        with self._read() as map:
            found = [*islice(map.scan(low, keys.after(table)), limit)]
        return [self._document(collection, key[len(table) :].decode(), value) for key, value in found]

    def _note(self, collection: str) -> None:
        if collection == PAUSES:
            self._backend.note_jobs()

    def _document(self, collection: str, key: str, value: Value) -> Document:
        data, version, updated_at = self._unpack(value)
        return Document(collection, key, json.loads(data), version, updated_at)


def _document(collection: str) -> bytes:
    return keys.DOCUMENTS + keys.name(collection)
