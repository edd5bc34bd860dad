"""A lock that cannot stay held after an exception, whichever two instructions the exception comes between."""

from __future__ import annotations

import time
from threading import Lock, get_ident
from typing import Any, Protocol
from weakref import ref

POLL_SECONDS = 0.05
"""Seconds between two looks of a waiting thread whether the holder was collected."""


class Holder(Protocol):
    """An object that may hold a lock. It must not be part of a reference cycle.

    `WeakLock.acquire` sets the attributes.
    """

    reference: ref[Any] | None
    """The weak reference by which the lock knows it."""
    slot: int


class WeakLock:
    """A lock that belongs to an object: it is free when the holder has released it or was collected.

    A signal handler may raise an exception between any two instructions, for example when `acquire` has
    returned and no `try` block has begun. Then nobody releases the lock, but the holder is collected.
    Any thread may release it.
    """

    __slots__ = ("_slot", "_slots", "_woken", "thread")

    def __init__(self) -> None:
        # The first slot that has no reference to a collected object is the lock: it is free while empty.
        # References to collected objects stay in their slots. So one step of the interpreter, `setdefault`,
        # decides who holds the lock, and no second lock is needed, which could stay held itself.
        self._slots: dict[int, ref[Any]] = {}
        self._slot = 0
        """A slot to begin the search at."""
        self.thread = 0
        """The thread that acquired it last."""
        self._woken = Lock()

    @property
    def holder(self) -> object | None:
        """The object that holds the lock, or None."""
        return next((held for one in [*self._slots.values()] if (held := one()) is not None), None)

    def acquire(self, holder: Holder, timeout: float, *, reentrant: bool = False) -> bool:
        """Wait for the lock for at most `timeout` seconds, and return whether `holder` holds it now.

        With `reentrant`, returns True at once if another holder, which stays, acquired it in this thread.
        """
        holder.slot = slot = self._slot
        holder.reference = reference = ref(holder)
        if self._slots.setdefault(slot, reference) is not reference and not self._take(holder, reference):
            if reentrant and self.thread == get_ident():
                return True
            if not self._wait(holder, reference, time.monotonic() + timeout):
                return False
        if reentrant:
            self.thread = get_ident()
        return True

    def _wait(self, holder: Holder, reference: ref[Any], deadline: float) -> bool:
        while (left := deadline - time.monotonic()) > 0:
            # A lost wake-up costs one poll: whether the lock is free depends on the slots alone.
            self._woken.acquire(timeout=min(left, POLL_SECONDS))
            if self._take(holder, reference):
                return True
        return False

    def _take(self, holder: Holder, reference: ref[Any]) -> bool:
        slot = self._slot
        while True:
            holder.slot = slot
            found = self._slots.setdefault(slot, reference)
            if found is reference:
                return True
            if found() is not None:
                return False
            # A holder that was released and then collected is not in its slot any more.
            if self._slots.get(slot) is found:
                slot += 1
                self._slot = slot

    def release(self, holder: Holder) -> None:
        """Release the lock if `holder` holds it, and wake a waiting thread."""
        slot, slots, reference = holder.slot, self._slots, holder.reference
        if reference is not None and slots.get(slot) is reference:
            del slots[slot]
            if self._woken.locked():
                try:
                    self._woken.release()
                except RuntimeError:
                    return  # Another thread has done it just now.

    def is_held_by(self, holder: Holder) -> bool:
        """Whether this object holds the lock."""
        reference = holder.reference
        return reference is not None and self._slots.get(holder.slot) is reference
