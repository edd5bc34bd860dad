"""Releases locks regardless of their owners."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from assistly.storage import LockLost, NotFound

from . import audit
from .applying import atomically

if TYPE_CHECKING:
    from assistly.storage import Storage, WorkerLock

    from .audit import Person


def held(
    storage: Storage, name: str, *, fence: int | None = None, shown: Callable[[datetime], str] = str
) -> WorkerLock:
    """Return the lock with this name and its current owner. Changes nothing.

    Raises NotFound if nobody holds it, and LockLost if its fence is not `fence`. `shown` formats times for
    the message.
    """
    lock = storage.lock.current(name)
    if lock is None:
        raise NotFound(f"nobody holds the lock {name!r}")
    if fence is not None and lock.fence != fence:
        raise LockLost(
            f"nothing was done: the lock {name!r} has fence {lock.fence}, not {fence}. {holder(lock, shown)}"
        )
    return lock


def holder(lock: WorkerLock, shown: Callable[[datetime], str]) -> str:
    """A sentence about the owner of the lock. `shown` formats the time at which it expires."""
    return f"It is held by {lock.owner_id!r}, with fence {lock.fence}, until {shown(lock.expires_at)}."


def release(storage: Storage, lock: WorkerLock, person: Person) -> None:
    """Release a lock, as `held` returned it. Raises LockLost if its owner no longer holds it.

    The owner is not notified: if it still runs, it continues until it next renews the lock.
    """

    def work(tx: Storage) -> None:
        if not tx.lock.release(lock):
            raise LockLost(f"nothing was done: {lock.owner_id!r} no longer holds the lock {lock.name!r}")
        audit.record(tx, "locks.release", person, name=lock.name, owner_id=lock.owner_id, fence=lock.fence)

    atomically(storage, work)
