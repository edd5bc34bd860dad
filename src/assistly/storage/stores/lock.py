"""The worker lock: one owner at a time, with a fence."""

from __future__ import annotations

from datetime import datetime, timedelta

from .. import validation as check
from ..errors import LockLost
from ..records import WorkerLock
from .context import Context


class Locks:
    """`storage.lock`: named locks with one owner at a time, each with an expiry and a fence.

    The fence is a number that grows with each change of owner. Pass it on to what the lock protects: a
    holder that was overtaken has a lower one. Names and owners have 1 to 512 bytes of UTF-8.
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

        `ttl` defaults to SCHEDULE_WORKER_LOCK_SECONDS (45 seconds). An owner that holds the lock
        already gets the new expiry and keeps its fence. Raises InvalidValue for wrong arguments.
        """
        check.name("owner_id", owner_id)
        check.name("name", name)
        held = self._ttl(ttl)
        at = self._context.now(now)
        return self._context.backend.lock.acquire(name, owner_id, expires_at=check.later(at, held), now=at)

    def renew(
        self, lock: WorkerLock, *, ttl: timedelta | None = None, now: datetime | None = None
    ) -> WorkerLock:
        """Hold a lock until now + `ttl` (default: SCHEDULE_WORKER_LOCK_SECONDS).

        Raises LockLost if the lock has expired, was released, or has another owner.
        """
        check.instance("lock", lock, WorkerLock)
        held = self._ttl(ttl)
        at = self._context.now(now)
        renewed = self._context.backend.lock.renew(
            lock.name, lock.owner_id, lock.fence, expires_at=check.later(at, held), now=at
        )
        if renewed is None:
            raise LockLost(
                f"the lock {lock.name!r} with fence {lock.fence} is no longer held by {lock.owner_id!r}: "
                "stop what it protects, then acquire it anew"
            )
        return renewed

    def release(self, lock: WorkerLock, *, now: datetime | None = None) -> bool:
        """Free a lock: True if this holder held it until now, False if it was lost before."""
        check.instance("lock", lock, WorkerLock)
        return self._context.backend.lock.release(
            lock.name, lock.owner_id, lock.fence, now=self._context.now(now)
        )

    def current(self, name: str = "worker", *, now: datetime | None = None) -> WorkerLock | None:
        """The lock as it is held now; None if it is free or has expired."""
        check.name("name", name)
        return self._context.backend.lock.current(name, now=self._context.now(now))

    def _ttl(self, ttl: timedelta | None) -> timedelta:
        return self._context.policies.lock_ttl if ttl is None else check.duration("ttl", ttl, zero=False)
