"""An `OrderedStore` on LMDB.

A write transaction of LMDB belongs to a thread, and one of assistly does not. So what is written is
buffered, and put into LMDB at the commit, by whatever thread makes it. That nobody else commits in
between is seen to by a lock on a file beside LMDB's own.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import lmdb

from assistly.storage.engine import BufferedMap, OrderedStore
from assistly.storage.errors import StorageClosed, StorageUnavailable

from .environment import Environment, give_back, take

_LOCK_SECONDS = 10.0
_PAGE = 256

Item = tuple[bytes, bytes]


class LmdbStore(OrderedStore[BufferedMap]):
    """The map is the environment's unnamed database."""

    max_key_bytes = 511

    def __init__(self, path: Path, map_size: int) -> None:
        self._environment = take(path, map_size)
        self._lock: int | None = None

    def open(self) -> None:
        with self._environment.use():
            if self._lock is None:
                self._lock = os.open(self._environment.path / "assistly.lock", os.O_RDWR | os.O_CREAT, 0o600)

    def begin(self, write: bool) -> BufferedMap:
        if not write:
            return BufferedMap(_Snapshot(self._environment))
        if self._lock is None:
            raise StorageClosed("the storage is closed: open a new one")
        _wait_for(self._lock, self._environment.path)
        return BufferedMap(_Committed(self._environment))

    def commit(self, map: BufferedMap) -> None:
        try:
            with self._environment.use() as environment, environment.begin(write=True) as transaction:
                for key, value in map.changes.items():
                    if value is None:
                        transaction.delete(key)
                    else:
                        transaction.put(key, value)
        finally:
            self._unlock()

    def rollback(self, map: BufferedMap) -> None:
        if isinstance(map.below, _Snapshot):
            map.below.end()
        else:
            self._unlock()

    def version(self) -> int:
        # Not `last_txnid`: it counts a commit that is still being synced, which readers do not see yet.
        with self._environment.use() as environment, environment.begin() as transaction:
            return int(transaction.id())

    def close(self) -> None:
        self.after_fork_in_child()
        give_back(self._environment)

    def after_fork_in_child(self) -> None:
        """The lock is the parent's, and stays so when the child's descriptor of it is closed."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _unlock(self) -> None:
        # To close it is not enough: a child that was forked meanwhile has it open, too.
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


class _Snapshot:
    """A reader: one transaction of LMDB, which any thread may use."""

    def __init__(self, environment: Environment) -> None:
        with ExitStack() as stack:
            self._transaction = stack.enter_context(stack.enter_context(environment.use()).begin())
            self.end = stack.pop_all().close
        self.get = self._transaction.get

    def scan(self, low: bytes, high: bytes, *, reverse: bool = False) -> Iterator[Item]:
        return _scan(self._transaction, low, high, reverse)


class _Committed:
    """What the holder of the lock reads: nobody commits meanwhile, so each call may look for itself."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def get(self, key: bytes) -> bytes | None:
        with self._environment.use() as environment, environment.begin() as transaction:
            found = transaction.get(key)
            return None if found is None else bytes(found)

    def scan(self, low: bytes, high: bytes, *, reverse: bool = False) -> Iterator[Item]:
        while page := self._page(low, high, reverse):
            yield from page
            if reverse:
                high = page[-1][0]
            else:
                low = page[-1][0] + b"\x00"

    def _page(self, low: bytes, high: bytes, reverse: bool) -> list[Item]:
        with self._environment.use() as environment, environment.begin() as transaction:
            found = _scan(transaction, low, high, reverse)
            return [item for item, _ in zip(found, range(_PAGE), strict=False)]


def _scan(transaction: lmdb.Transaction, low: bytes, high: bytes, reverse: bool) -> Iterator[Item]:
    cursor = transaction.cursor()
    is_there = cursor.set_range(high if reverse else low)
    if reverse:
        is_there = cursor.prev() if is_there else cursor.last()
    while is_there:
        key, value = map(bytes, cursor.item())
        if key < low if reverse else key >= high:
            return
        yield key, value
        is_there = cursor.prev() if reverse else cursor.next()


def _wait_for(lock: int, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while time.monotonic() < deadline:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.001)
    raise StorageUnavailable(f"another transaction on {path} did not end within {_LOCK_SECONDS:g} seconds")
