"""Lets threads sleep until jobs may have changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

POLL_SECONDS = 0.1
"""Seconds between two reads of the store's version, if other processes may write."""


class Changes:
    """Counts the commits that changed waiting jobs, and lets threads sleep until the next one.

    `version` is `OrderedStore.version`.
    """

    def __init__(self, version: Callable[[], int | None]) -> None:
        self._version = version
        self._condition = threading.Condition()
        self._count = 0
        self._seen = threading.local()

    def note(self) -> None:
        """Note that the calling thread reads the jobs now: a later change ends its next `wait`."""
        self._seen.state = self._count, self._version()

    def add(self) -> None:
        """Count a commit that changed jobs, and wake the waiting threads."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def wait(self, timeout: float) -> None:
        """See `JobStore.wait`. Returns at once in a thread that has not called `note`."""
        seen: tuple[int, int | None] | None = getattr(self._seen, "state", None)
        if seen is None:
            return
        count, version = seen
        deadline = time.monotonic() + min(timeout, threading.TIMEOUT_MAX)
        with self._condition:
            while self._count == count and (left := deadline - time.monotonic()) > 0:
                if version is None:
                    self._condition.wait(left)
                    continue
                if self._version() != version:
                    return
                self._condition.wait(min(left, POLL_SECONDS))

    def renew(self) -> None:
        """In a forked child, replace the lock, which a thread of the parent may have held."""
        self._condition = threading.Condition()
