"""Daemon threads of a worker."""

from __future__ import annotations

import threading
from collections.abc import Callable


def start_daemon(name: str, work: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


class PeriodicThread:
    """Calls `work` on a daemon thread every `interval` seconds, until it returns False or `stop`."""

    def __init__(self, name: str, interval: float, work: Callable[[], bool]) -> None:
        self._name = name
        self._interval = interval
        self._work = work
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the thread. The first call of `work` comes after one interval."""
        start_daemon(self._name, self._run)

    def stop(self) -> None:
        """Make no further calls. A call in progress is not waited for."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval) and self._work():
            pass
