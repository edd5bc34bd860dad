"""One lock per key, across all processes that share a storage."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from hashlib import blake2b
from weakref import WeakValueDictionary

from assistly.storage.aio import AsyncStorage
from assistly.storage.aio.threads import to_the_end
from assistly.storage.errors import LockLost, StorageClosed, StorageError
from assistly.storage.records import WorkerLock
from assistly.storage.validation import duration

from .requirements import async_storage

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
logger = logging.getLogger("assistly.integrations")


class KeyedLocks:
    """Locks by key, in the storage. Within one process, waiters get a lock in order.

    A lock is renewed while it is held, and stays locked for `ttl` after its process dies. The storage keeps a
    row for each lock name forever, so the keys share 65,536 names: occasionally two keys share a lock.
    """

    def __init__(self, storage: AsyncStorage, prefix: str, ttl: timedelta, grace: timedelta) -> None:
        self._locks = async_storage(storage).lock
        self._prefix = prefix
        self._ttl = duration("ttl", ttl, zero=False)
        self._grace = duration("grace", grace, zero=True)
        self._owner_id = f"{prefix}-{secrets.token_hex(8)}"
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._held: dict[asyncio.Task[None], WorkerLock] = {}
        self._blocks = self._closings = 0
        self._no_blocks = asyncio.Event()

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncGenerator[None, None]:
        """Hold the lock of the key during the block. Do not nest blocks: two keys may share a lock.

        Waits for the lock without a time limit. Raises StorageClosed if `close` ends the waiting."""
        name = f"{self._prefix}:{blake2b(key.encode(), digest_size=2).hexdigest()}"
        self._blocks += 1
        closings = self._closings
        try:
            async with self._turns.setdefault(name, asyncio.Lock()):
                held = await self._acquire(name, closings)
                renewal = asyncio.create_task(self._renew(held))
                self._held[renewal] = held
                try:
                    yield
                finally:
                    await self._release(renewal)
        finally:
            self._blocks -= 1
            if not self._blocks:
                self._no_blocks.set()

    async def close(self) -> None:
        """Wait for blocks, and those that wait for a lock, `grace` at most; then release what is held."""
        if self._blocks:
            self._no_blocks.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._no_blocks.wait(), self._grace.total_seconds())
        self._closings += 1
        for renewal, lock in [*self._held.items()]:
            logger.warning("the lock %r is released, although its work has not ended", lock.name)
            await self._release(renewal)

    async def _acquire(self, name: str, closings: int) -> WorkerLock:
        pause = _FIRST_PAUSE
        while self._closings == closings:
            if (lock := await self._try(name)) is not None and self._closings == closings:
                return lock
            if lock is not None:
                await self._give_back(lock)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise StorageClosed("this update waited for another one when the event isolation was closed")

    async def _try(self, name: str) -> WorkerLock | None:
        """Try once to take a lock. If that is cancelled, the lock is not held."""
        taking = asyncio.ensure_future(self._locks.acquire(self._owner_id, name=name, ttl=self._ttl))
        try:
            return await to_the_end(taking)
        except asyncio.CancelledError:
            if not taking.cancelled() and not taking.exception() and (lock := taking.result()):
                await self._give_back(lock)
            raise

    async def _renew(self, lock: WorkerLock) -> None:
        while True:
            await asyncio.sleep(self._ttl.total_seconds() / 3)
            try:
                await self._locks.renew(lock, ttl=self._ttl)
            except LockLost as error:
                logger.error("another process may do the same work at the same time: %s", error)
                return
            except StorageError as error:
                logger.warning("could not renew a lock; will retry: %s", error)

    async def _release(self, renewal: asyncio.Task[None]) -> None:
        lock = self._held.pop(renewal, None)
        renewal.cancel()
        if lock is not None:
            await self._give_back(lock)

    async def _give_back(self, lock: WorkerLock) -> None:
        try:
            await to_the_end(asyncio.ensure_future(self._locks.release(lock)))
        except StorageError as error:
            logger.warning("could not release a lock, which stays held for %s: %s", self._ttl, error)
