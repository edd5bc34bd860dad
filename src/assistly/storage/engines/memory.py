"""The memory engine: a dict, and an ordered set of its keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from weakref import ref

from ..engine.keyvalue import BufferedMap, KeyValueBackend, OrderedStore, SortedKeys, Value
from ..engine.keyvalue.weaklock import WeakLock
from ..errors import StorageUnavailable

_FORK_SECONDS = 5.0
_LOCK_SECONDS = 10.0


class MemoryBackend(KeyValueBackend):
    """Keeps all data in this process, until it ends. A forked child has a copy of its own."""

    in_process = True
    durable = False
    multi_process = False

    def __init__(self) -> None:
        super().__init__(_MemoryStore())


class _ReaderMap(BufferedMap):
    """A map for reading, which holds the lock of its store."""

    __slots__ = ("__weakref__", "reference", "slot")

    reference: ref[_ReaderMap] | None
    slot: int


class _Hold:
    """Holds the lock of the store for a commit, a fork or `close`."""

    reference: ref[_Hold] | None = None
    slot = 0


class _MemoryStore(OrderedStore[BufferedMap]):
    """A reader holds the lock during its call. A writer buffers its changes, and holds it only to commit."""

    holds_objects = True

    def __init__(self) -> None:
        # Acquired as reentrant, so that a signal handler or a finalizer may read while its thread does.
        self._lock = WeakLock()
        self._committed = _Committed()
        self._forking = _Hold()
        """Holds the lock during a fork."""
        self._is_held_for_fork = False
        self._is_sorting_held_for_fork = False
        self._is_torn = False

    def open(self) -> None:
        if self._is_torn:
            raise StorageUnavailable("the process was forked in the middle of a commit: open a new storage")

    def begin(self, write: bool) -> BufferedMap:
        if write:
            return BufferedMap(self._committed)
        map = _ReaderMap(self._committed)
        if not self._lock.acquire(map, _LOCK_SECONDS, reentrant=True):
            raise _unavailable()
        return map

    def commit(self, map: BufferedMap) -> None:
        # Not the map: it may be part of a reference cycle.
        hold = _Hold()
        try:
            if not self._lock.acquire(hold, _LOCK_SECONDS, reentrant=True):
                raise _unavailable()
            try:
                self._committed.apply(map.changes)
            except BaseException:
                # After a KeyboardInterrupt, apply the rest: all of a transaction is stored, or nothing.
                self._committed.apply(map.changes)
                raise
        finally:
            self._lock.release(hold)

    def rollback(self, map: BufferedMap) -> None:
        if isinstance(map, _ReaderMap):
            self._lock.release(map)

    def version(self) -> None:
        return None

    def close(self) -> None:
        hold = _Hold()
        try:
            if not self._lock.acquire(hold, _LOCK_SECONDS, reentrant=True):
                raise _unavailable()
            self._committed = _Committed()
        finally:
            self._lock.release(hold)

    def before_fork(self) -> None:
        self._is_held_for_fork = self._lock.acquire(self._forking, _FORK_SECONDS, reentrant=True)
        self._is_sorting_held_for_fork = self._committed.sorting.acquire(timeout=_FORK_SECONDS)

    def after_fork_in_parent(self) -> None:
        if self._is_sorting_held_for_fork:
            self._committed.sorting.release()
        if self._is_held_for_fork:
            self._lock.release(self._forking)

    def after_fork_in_child(self) -> None:
        self._is_torn = not (self._is_held_for_fork and self._is_sorting_held_for_fork)
        self._lock = WeakLock()
        self._committed.sorting = threading.RLock()


def _unavailable() -> StorageUnavailable:
    return StorageUnavailable(f"another call of this process did not end within {_LOCK_SECONDS:g} seconds")


class _Committed:
    """The committed data."""

    def __init__(self) -> None:
        # Reentrant, for signal handlers. Scans take it since they may sort keys, and a writer that scans
        # does not hold the lock of the store.
        self.sorting = threading.RLock()
        self._values: dict[bytes, Value] = {}
        self._keys = SortedKeys()
        self.get = self._values.get

    def scan(self, low: bytes, high: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, Value]]:
        values = self._values
        with self.sorting:
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
