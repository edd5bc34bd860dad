"""The memory engine: a dict, and an ordered set of its keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ..engine.keyvalue import BufferedMap, KeyValueBackend, OrderedStore, SortedKeys, Value
from ..errors import StorageUnavailable

_FORK_SECONDS = 5.0


class MemoryBackend(KeyValueBackend):
    """Keeps all data in this process, until it ends. A forked child has a copy of its own."""

    in_process = True
    durable = False
    multi_process = False

    def __init__(self) -> None:
        super().__init__(_MemoryStore())


class _MemoryStore(OrderedStore[BufferedMap]):
    """A reader holds the lock during its call. A writer buffers its changes, and holds it only to commit."""

    holds_objects = True

    def __init__(self) -> None:
        # Reentrant: a scan takes it, since it may sort keys, and a reader that scans holds it already.
        self._lock = threading.RLock()
        self._committed = _Committed(self._lock)
        self._writing: BufferedMap | None = None
        self._is_held_for_fork = False
        self._is_torn = False

    def open(self) -> None:
        if self._is_torn:
            raise StorageUnavailable("the process was forked in the middle of a commit: open a new storage")

    def begin(self, write: bool) -> BufferedMap:
        map = BufferedMap(self._committed)
        if write:
            self._writing = map
        else:
            self._lock.acquire()
        return map

    def commit(self, map: BufferedMap) -> None:
        self._writing = None
        with self._lock:
            try:
                self._committed.apply(map.changes)
            except BaseException:
                # After a KeyboardInterrupt, apply the rest: all of a transaction is stored, or nothing.
                self._committed.apply(map.changes)
                raise

    def rollback(self, map: BufferedMap) -> None:
        if map is self._writing:
            self._writing = None
        else:
            self._lock.release()

    def version(self) -> None:
        return None

    def close(self) -> None:
        with self._lock:
            self._committed = _Committed(self._lock)

    def before_fork(self) -> None:
        self._is_held_for_fork = self._lock.acquire(timeout=_FORK_SECONDS)

    def after_fork_in_parent(self) -> None:
        if self._is_held_for_fork:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        self._is_torn = not self._is_held_for_fork
        self._lock = self._committed.lock = threading.RLock()


class _Committed:
    """The committed data."""

    def __init__(self, lock: threading.RLock) -> None:
        self.lock = lock
        self._values: dict[bytes, Value] = {}
        self._keys = SortedKeys()
        self.get = self._values.get

    def scan(self, low: bytes, high: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, Value]]:
        values = self._values
        with self.lock:
            keys = self._keys.between(low, high, reverse=reverse)
        return ((key, values[key]) for key in keys)

    def apply(self, changes: dict[bytes, Value | None]) -> None:
        """Apply the changes. Calling it again after an interrupt completes them."""
        values, add, discard = self._values, self._keys.add, self._keys.discard
        for key, value in changes.items():
            if value is None:
                values.pop(key, None)
                discard(key)
            else:
                if key not in values:
                    add(key)
                values[key] = value
