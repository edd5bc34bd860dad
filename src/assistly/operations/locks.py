"""Frees locks, whoever holds them."""

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
    """Return the lock of this name, as somebody holds it. Nothing is changed.

    Raises NotFound if nobody does, and LockLost if it has not the `fence` that is given; `shown` writes times
    for the message.
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
    """A sentence about who holds the lock. `shown` writes the time until which that is so."""
    return f"It is held by {lock.owner_id!r}, with fence {lock.fence}, until {shown(lock.expires_at)}."


def release(storage: Storage, lock: WorkerLock, person: Person) -> None:
    """Free a lock, as `held` returned it. Raises LockLost if its owner does not hold it any more.

    The owner is not told: if it still runs, it goes on until it next renews the lock.
    """

    def work(tx: Storage) -> None:
        if not tx.lock.release(lock):
            raise LockLost(
                f"nothing was done: {lock.owner_id!r} does not hold the lock {lock.name!r} any more"
            )
        audit.record(tx, "locks.release", person, name=lock.name, owner_id=lock.owner_id, fence=lock.fence)

    atomically(storage, work)
