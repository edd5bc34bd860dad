"""The threads of a worker, their events and queues, and their clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol, TypeVar

T = TypeVar("T")


class Thread(Protocol):
    """A started thread."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it ends, `timeout` seconds at most."""


class ThreadEvent(Protocol):
    """A flag that threads wait for."""

    def set(self) -> None:
        """Set the flag permanently."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set, `timeout` seconds at most; return whether it is."""


class MessageQueue(Protocol[T]):
    """An unbounded queue. `put` is reentrant, so a signal handler may call it."""

    def put(self, item: T) -> None:
        """Append an item."""

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Remove and return the first item. Raises `queue.Empty` after `timeout` seconds without one."""

    def empty(self) -> bool:
        """Whether there is no item now."""


class Runtime:
    """Starts daemon threads, creates their events and queues, and reads the monotonic clock.

    All waiting in a worker uses these, so that a subclass can decide which thread runs when.
    """

    def start(self, name: str, work: Callable[[], None]) -> Thread:
        """Start a daemon thread."""
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    def event(self) -> ThreadEvent:
        """A flag that is not set."""
        return threading.Event()

    def queue(self) -> MessageQueue[T]:
        """An empty queue."""
        return SimpleQueue()

    def monotonic(self) -> float:
        """Seconds of a monotonic clock."""
        return time.monotonic()


class PeriodicThread:
    """Calls `work` on a daemon thread every `interval` seconds, until it returns False or `stop`.

    The first call comes after one interval; with `at_once`, when the thread starts.
    """

    def __init__(
        self, runtime: Runtime, name: str, interval: float, work: Callable[[], bool], *, at_once: bool = False
    ) -> None:
        self._runtime = runtime
        self._name = name
        self._interval = interval
        self._work = work
        self._at_once = at_once
        self._stopped = runtime.event()

    def start(self) -> None:
        """Start the thread."""
        self._runtime.start(self._name, self._run)

    def stop(self) -> None:
        """Make no further calls. Does not wait for a call in progress."""
        self._stopped.set()

    def _run(self) -> None:
        wait = 0.0 if self._at_once else self._interval
        while not self._stopped.wait(wait) and self._work():
            wait = self._interval
