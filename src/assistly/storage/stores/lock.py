"""The worker lock: one owner at a time, with a fence."""

from __future__ import annotations

from datetime import datetime, timedelta

from .. import validation as check
from ..errors import LockLost
from ..records import WorkerLock
from .context import Context


class Locks:
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
        """The lock until now + `ttl` (default: SCHEDULE_WORKER_LOCK_SECONDS), or None while another holds it.

        An owner that holds it already gets a new expiry and keeps its fence. Pass the fence on
        to whatever the lock protects: a holder that was overtaken has a lower one.
        """
        check.name("owner_id", owner_id)
        check.name("name", name)
        held = self._ttl(ttl)
        at = self._context.now(now)
        return self._context.backend.lock.acquire(name, owner_id, expires_at=check.later(at, held), now=at)

    def renew(
        self, lock: WorkerLock, *, ttl: timedelta | None = None, now: datetime | None = None
    ) -> WorkerLock:
        """Hold it until now + `ttl`. Raises LockLost once it expired or changed owners."""
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
        """True if it was still held and is free now."""
        check.instance("lock", lock, WorkerLock)
        return self._context.backend.lock.release(
            lock.name, lock.owner_id, lock.fence, now=self._context.now(now)
        )

    def current(self, name: str = "worker", *, now: datetime | None = None) -> WorkerLock | None:
        """Who holds it, or None."""
        check.name("name", name)
        return self._context.backend.lock.current(name, now=self._context.now(now))

    def _ttl(self, ttl: timedelta | None) -> timedelta:
        return self._context.policies.lock_ttl if ttl is None else check.duration("ttl", ttl, zero=False)
