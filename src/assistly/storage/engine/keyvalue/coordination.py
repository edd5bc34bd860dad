"""Idempotency keys, nonces and locks, for which callers compete."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ...records import WorkerLock
from ...transitions import lock_held
from ..base import IdempotencyStoreBase, LockStoreBase, NonceStoreBase
from ..values import IdempotencyRow, LockRow
from . import keys
from .rows import key_of_row, row_of_key, row_of_lock
from .scopes import MapScope, MapStore, next_number


class KeyValueIdempotency(MapStore, IdempotencyStoreBase[MapScope]):
    """A second table orders them by time, for pruning."""

    def row(self, key: str, *, lock: bool = False) -> IdempotencyRow | None:  # noqa: ARG002 - writers are alone
        with self._read() as map:
            value = map.get(keys.KEYS + key.encode())
        return None if value is None else key_of_row(key, self._unpack(value))

    def save(self, row: IdempotencyRow) -> None:
        key = row.key.encode()
        with self._write() as map:
            value = map.get(keys.KEYS + key)
            if value is None:
                sequence = next_number(map, keys.KEY_SEQUENCE)
            else:
                _, _, saved_at, _, _, _, sequence = self._unpack(value)
                map.delete(keys.KEYS_BY_TIME + keys.time_and_number(saved_at, sequence))
            map.put(keys.KEYS + key, self._pack(row_of_key(row, sequence)))
            map.put(keys.KEYS_BY_TIME + keys.time_and_number(row.saved_at, sequence), key)

    def delete(self, key: str) -> None:
        with self._write() as map:
            _, _, saved_at, _, _, _, sequence = self._unpack(map.get(keys.KEYS + key.encode()))
            map.delete(keys.KEYS + key.encode())
            map.delete(keys.KEYS_BY_TIME + keys.time_and_number(saved_at, sequence))


class KeyValueNonces(MapStore, NonceStoreBase[MapScope]):
    """A second table orders them by time, for pruning."""

    def register(self, nonce: str, timestamp_ms: int) -> bool:
        key = nonce.encode()
        with self._write() as map:
            if map.get(keys.NONCES + key) is not None:
                return False
            map.put(keys.NONCES + key, b"")
            map.put(keys.NONCES_BY_TIME + keys.number(timestamp_ms) + key, b"")
            return True

    def seen(self, nonce: str) -> bool:
        with self._read() as map:
            return map.get(keys.NONCES + nonce.encode()) is not None


class KeyValueLocks(MapStore, LockStoreBase[MapScope]):
    """Rows: owner_id, fence, acquired_at, expires_at."""

    def load(self, name: str, *, lock: bool = False) -> LockRow | None:  # noqa: ARG002 - writers are alone
        with self._read() as map:
            value = map.get(keys.LOCKS + name.encode())
        return None if value is None else LockRow(name, *self._unpack(value))

    def list(self, *, now: datetime) -> Sequence[WorkerLock]:
        with self._read() as map:
            found = [*map.scan(keys.LOCKS, keys.after(keys.LOCKS))]
        rows = (LockRow(key[1:].decode(), *self._unpack(value)) for key, value in found)
        held = (lock_held(row, now=now) for row in rows)
        return [lock for lock in held if lock is not None]

    def save(self, row: LockRow) -> None:
        with self._write() as map:
            map.put(keys.LOCKS + row.name.encode(), self._pack(row_of_lock(row)))
