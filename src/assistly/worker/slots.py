"""Limits how many jobs of a platform all workers of one storage publish at once.

A slot is a lock in the storage whose holder may publish one job. A platform with a limit of 3 has the locks
`publish:{platform}:1` to `publish:{platform}:3`.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta

from assistly.storage.errors import LockLost
from assistly.storage.records import WorkerLock
from assistly.storage.storage import Storage

from .health import no_step


class PlatformSlots:
    """The slots that this worker holds. A slot expires after `ttl` unless it is renewed. Thread-safe."""

    def __init__(self, storage: Storage, owner_id: str, limits: Mapping[str, int], ttl: timedelta) -> None:
        self._locks = storage.lock
        self._owner_id = owner_id
        self._limits = dict(limits)
        self._ttl = ttl
        self._held: dict[str, WorkerLock] = {}
        self._mutex = threading.Lock()

    def are_limited(self, platform: str) -> bool:
        """Whether a job of this platform needs a slot."""
        return platform in self._limits

    def acquire(self, platform: str, most: int, step: Callable[[], None] = no_step) -> list[str]:
        """Take up to `most` free slots of a platform, and return their names.

        `step` is called before each storage call.
        """
        with self._mutex:
            names = [name for name in _names(platform, self._limits[platform]) if name not in self._held]
        # In random order: workers that all try slot 1 first would compete for it each time.
        random.shuffle(names)
        acquired: list[str] = []
        try:
            for name in names:
                if len(acquired) == most:
                    break
                step()
                if self._acquire(name):
                    acquired.append(name)
        except BaseException:
            self.release(acquired, step)
            raise
        return acquired

    def holds(self, name: str) -> bool:
        """Whether this worker holds the slot, as far as this process knows."""
        with self._mutex:
            return name in self._held

    def release(self, names: Iterable[str], step: Callable[[], None] = no_step) -> None:
        """Release these slots. A slot that cannot be released now expires later. `step`: see `acquire`."""
        for name in names:
            with self._mutex:
                lock = self._held.get(name)
            if lock is None:
                continue
            step()
            try:
                with suppress(Exception):
                    self._locks.release(lock)
            finally:
                # Not earlier: this worker could take the slot again, and the release would end that hold.
                with self._mutex:
                    self._held.pop(name, None)

    def renew(self) -> None:
        """Extend all held slots, and forget those that were lost. Raises StorageUnavailable."""
        with self._mutex:
            held = [*self._held.values()]
        for lock in held:
            try:
                renewed = self._locks.renew(lock, ttl=self._ttl)
            except LockLost:
                with self._mutex:
                    if self._held.get(lock.name) is lock:
                        del self._held[lock.name]
                continue
            with self._mutex:
                if self._held.get(lock.name) is lock:
                    self._held[lock.name] = renewed

    def _acquire(self, name: str) -> bool:
        lock = self._locks.acquire(self._owner_id, ttl=self._ttl, name=name)
        if lock is None:
            return False
        with self._mutex:
            self._held[name] = lock
        return True


def _names(platform: str, limit: int) -> list[str]:
    return [f"publish:{platform}:{number}" for number in range(1, limit + 1)]
