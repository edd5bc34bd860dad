"""How long a worker pauses a platform and the jobs that it has already claimed."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

_FIRST_FLOOR = 1.0
_HIGHEST_FLOOR = 60.0


class PlatformPauses:
    """The pauses of platforms after rate limits, by the worker's clock. Thread-safe.

    Consecutive rate limits pause a platform for at least 1, 2, 4, … seconds, up to 60, whatever the platform
    requested. A success resets this.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._since: dict[str, float] = {}
        self._in_a_row: dict[str, int] = {}
        self._counted_at: dict[str, float] = {}
        self._mutex = threading.Lock()

    def rate_limited(self, platform: str, seconds: float, began: float) -> float:
        """Pause a platform for `seconds` or more, and return for how long.

        `began` is when the call began. Calls that were in progress at the last rate limit do not count again.
        """
        with self._mutex:
            now = self._clock()
            if self._is_news(platform, began):
                self._in_a_row[platform] = self._in_a_row.get(platform, 0) + 1
                self._counted_at[platform] = now
            # The exponent is bounded, since there may be many in a row.
            floor = min(math.ldexp(_FIRST_FLOOR, min(self._in_a_row[platform] - 1, 10)), _HIGHEST_FLOOR)
            pause = max(seconds, floor)
            self._until[platform] = max(now + pause, self._until.get(platform, now))
            self._since[platform] = now
            return pause

    def succeeded(self, platform: str, began: float) -> None:
        """Reset the pauses, unless the call began before the last rate limit."""
        with self._mutex:
            if self._is_news(platform, began):
                self._in_a_row.pop(platform, None)
                self._counted_at.pop(platform, None)

    def remaining(self, platform: str, claimed_at: float) -> float:
        """The seconds until the pause of a platform ends, for a job that was claimed before the pause; or 0.

        The storage knows the pause too. If it returns a job after that, somebody has ended the pause.
        """
        with self._mutex:
            if platform not in self._until or claimed_at > self._since[platform]:
                return 0.0
            return max(0.0, self._until[platform] - self._clock())

    def _is_news(self, platform: str, began: float) -> bool:
        return platform not in self._counted_at or began > self._counted_at[platform]
