"""Platforms that a worker leaves alone for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable


class PlatformPauses:
    """Until when each platform is paused, in seconds of the worker's clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._mutex = threading.Lock()

    def add(self, platform: str, seconds: float) -> None:
        """Pause it for that long from now on, or for longer if it is paused for longer already."""
        with self._mutex:
            self._until[platform] = max(self._clock() + seconds, self._until.get(platform, 0.0))

    def remaining(self, platform: str) -> float:
        """Seconds; 0 if it is not paused."""
        with self._mutex:
            return max(0.0, self._until.get(platform, 0.0) - self._clock())
