"""The memory engine: a dict, and an ordered set of its keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ..engine.keyvalue import BufferedMap, KeyValueBackend, OrderedStore, SortedKeys, Value
from ..errors import StorageUnavailable

LOCK_SECONDS = 10.0
"""How long a call waits for another one that reads or commits."""

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
        self._lock = _BoundedLock()
        self._committed = _Committed(self._lock)
        self._writing: BufferedMap | None = None
        self._is_held_for_fork = False
        self._is_torn = False

    def open(self) -> None:
        if self._is_torn:
            raise StorageUnavailable("the process was forked during a commit: open a new storage")

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
        self._is_held_for_fork = self._lock.try_for(_FORK_SECONDS)

    def after_fork_in_parent(self) -> None:
        if self._is_held_for_fork:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        self._is_torn = not self._is_held_for_fork
        self._lock = self._committed.lock = _BoundedLock()


class _BoundedLock:
    """A reentrant lock that nobody waits for longer than LOCK_SECONDS.

    A caught KeyboardInterrupt may have left it held, if it came right after `acquire`.
    """

    def __init__(self) -> None:
        lock = threading.RLock()
        self.release = lock.release
        self._try = lock.acquire

    def acquire(self) -> None:
        if not self._try(True, LOCK_SECONDS):
            raise StorageUnavailable(
                f"another call of this process did not end within {LOCK_SECONDS:g} seconds: if an exception "
                "of a signal handler has ended it, open a new storage"
            )

    def try_for(self, seconds: float) -> bool:
        """Acquire the lock, and return whether that took no longer than `seconds`."""
        return self._try(True, seconds)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _Committed:
    """The committed data."""

    def __init__(self, lock: _BoundedLock) -> None:
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
