"""Per-platform limits that all workers of one storage keep together.

A slot is a lock in the storage. Whoever holds `publish:{platform}:{n}` may publish one job there.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Mapping
from datetime import timedelta

from assistly.storage.errors import LockLost, StorageError
from assistly.storage.records import WorkerLock
from assistly.storage.storage import Storage


class Slots:
    def __init__(self, storage: Storage, owner_id: str, limits: Mapping[str, int], ttl: timedelta) -> None:
        self._locks = storage.lock
        self._owner_id = owner_id
        self._limits = dict(limits)
        self._ttl = ttl
        self._held: dict[str, WorkerLock] = {}
        self._guard = threading.Lock()

    def limited(self, platform: str) -> bool:
        return platform in self._limits

    def acquire(self, platform: str, most: int) -> list[str]:
        """The names of up to `most` slots that were free."""
        with self._guard:
            names = [name for name in _names(platform, self._limits[platform]) if name not in self._held]
        # Workers that all began with the first slot would meet there each time.
        random.shuffle(names)
        acquired: list[str] = []
        try:
            for name in names:
                if len(acquired) == most:
                    break
                if self._acquire(name):
                    acquired.append(name)
        except BaseException:
            self.release(acquired)
            raise
        return acquired

    def holds(self, name: str) -> bool:
        with self._guard:
            return name in self._held

    def release(self, names: Iterable[str]) -> None:
        """What cannot be released now is free when its time runs out."""
        for name in names:
            with self._guard:
                lock = self._held.pop(name, None)
            if lock is not None:
                try:
                    self._locks.release(lock)
                except StorageError:
                    continue

    def renew(self) -> None:
        """Forgets the slots that were lost. Raises for what may be tried again."""
        with self._guard:
            held = [*self._held.values()]
        for lock in held:
            try:
                renewed = self._locks.renew(lock, ttl=self._ttl)
            except LockLost:
                with self._guard:
                    if self._held.get(lock.name) is lock:
                        del self._held[lock.name]
                continue
            with self._guard:
                if self._held.get(lock.name) is lock:
                    self._held[lock.name] = renewed

    def _acquire(self, name: str) -> bool:
        lock = self._locks.acquire(self._owner_id, ttl=self._ttl, name=name)
        if lock is None:
            return False
        with self._guard:
            self._held[name] = lock
        return True


def _names(platform: str, limit: int) -> list[str]:
    return [f"publish:{platform}:{number}" for number in range(1, limit + 1)]
