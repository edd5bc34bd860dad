"""How a thread sleeps until jobs may have changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

POLL_SECONDS = 0.1
"""How often the store's version is asked for, where other processes may write."""


class Changes:
    """A count of commits that changed waiting jobs, which threads can sleep on.

    `version` is that of the store: None where no other object or process writes to it.
    """

    def __init__(self, version: Callable[[], int | None]) -> None:
        self._version = version
        self._condition = threading.Condition()
        self._count = 0
        self._seen = threading.local()

    def note(self) -> None:
        """The thread is about to look at the jobs: a change from here on ends its next `wait`."""
        self._seen.state = self._count, self._version()

    def add(self) -> None:
        """Jobs have changed: wake all that sleep."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def wait(self, timeout: float) -> None:
        """See `JobStore.wait`. A thread that has not looked yet does not sleep."""
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
        """In a forked child: the lock may be held by a thread that is not there."""
        self._condition = threading.Condition()
