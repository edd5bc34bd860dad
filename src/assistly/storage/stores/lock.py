"""Named locks: one owner at a time, with an expiry and a fence."""

from __future__ import annotations

import builtins
from datetime import datetime, timedelta

from .. import validation as check
from ..errors import LockLost
from ..records import WorkerLock
from .context import Context


class Locks:
    """`storage.lock`: named locks with one owner at a time, each with an expiry and a fence.

    The fence is a number that grows with each change of owner. Pass it to the resource that the lock
    protects, which can then refuse a former owner by its lower fence. Names and owners have 1 to 512 bytes
    of UTF-8.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def acquire(
        self,
        owner_id: str,
        *,
        ttl: timedelta | None = None,
        name: str = "worker",
        now: datetime | None = None,
    ) -> WorkerLock | None:
        """Take a lock until now + `ttl`, or return None while another owner holds it.

        `ttl` defaults to SCHEDULE_WORKER_LOCK_SECONDS (45 seconds). An owner that already holds the lock gets
        the new expiry and keeps its fence. Raises InvalidValue for wrong arguments.
        """
        check.name("owner_id", owner_id)
        check.name("name", name)
        held = self._ttl(ttl)
        at = self._context.lease_now(now)
        return self._context.backend.lock.acquire(name, owner_id, expires_at=check.later(at, held), now=at)

    def renew(
        self, lock: WorkerLock, *, ttl: timedelta | None = None, now: datetime | None = None
    ) -> WorkerLock:
        """Extend a held lock until now + `ttl` (default: SCHEDULE_WORKER_LOCK_SECONDS), and return it.

        Raises LockLost if the lock has expired, was released, or has another owner.
        """
        _checked(lock)
        held = self._ttl(ttl)
        at = self._context.lease_now(now)
        renewed = self._context.backend.lock.renew(
            lock.name, lock.owner_id, lock.fence, expires_at=check.later(at, held), now=at
        )
        if renewed is None:
            raise LockLost(
                f"the lock {lock.name!r} with fence {lock.fence} is no longer held by {lock.owner_id!r}: "
                "stop the work that it protects, then acquire it again"
            )
        return renewed

    def release(self, lock: WorkerLock, *, now: datetime | None = None) -> bool:
        """Release a lock; return False if it has expired, was already released, or has another owner."""
        _checked(lock)
        return self._context.backend.lock.release(
            lock.name, lock.owner_id, lock.fence, now=self._context.lease_now(now)
        )

    def current(self, name: str = "worker", *, now: datetime | None = None) -> WorkerLock | None:
        """Return the lock if it is held; None if it is free or has expired."""
        check.name("name", name)
        return self._context.backend.lock.current(name, now=self._context.lease_now(now))

    def list(self, *, now: datetime | None = None) -> builtins.list[WorkerLock]:
        """Return all held locks by name, without expired and released ones.

        Raises ConfigurationError if the engine cannot list locks.
        """
        return [*self._context.backend.lock.list(now=self._context.lease_now(now))]

    def _ttl(self, ttl: timedelta | None) -> timedelta:
        return self._context.policies.lock_ttl if ttl is None else check.duration("ttl", ttl, zero=False)


def _checked(lock: object) -> None:
    lock = check.instance("lock", lock, WorkerLock)
    check.name("lock.name", lock.name)
    check.name("lock.owner_id", lock.owner_id)
    check.whole("lock.fence", lock.fence, least=0, most=check.MAX_ID)
