"""Platforms on which a worker publishes nothing for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable


class PlatformPauses:
    """The pauses of platforms, by the worker's clock. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._mutex = threading.Lock()

    def add(self, platform: str, seconds: float) -> None:
        """Pause a platform for at least that many seconds from now on."""
        with self._mutex:
            self._until[platform] = max(self._clock() + seconds, self._until.get(platform, 0.0))

    def remaining(self, platform: str) -> float:
        """The seconds until the pause of a platform ends; 0 if it is not paused."""
        with self._mutex:
            return max(0.0, self._until.get(platform, 0.0) - self._clock())
