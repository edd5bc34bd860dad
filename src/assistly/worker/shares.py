"""Shares the threads of a worker out among its platforms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence


class ThreadShares:
    """Which platforms a worker may claim jobs of now, and how many.

    One free thread is kept for each other platform of which no job is running. So neither a backlog nor a
    publisher that hangs takes all threads. With fewer threads than platforms, at most half of the threads
    are kept. Platforms take turns: one that was given jobs comes after those that were not.

    The platforms in `alone` are never claimed together with others; it may be set anew at any time. Only one
    thread may use this object.
    """

    def __init__(self, platforms: Sequence[str], concurrency: int, alone: Collection[str] = ()) -> None:
        self._platforms = [*platforms]
        self.alone = alone
        self._free = concurrency
        self._running: Counter[str] = Counter()
        self._most_kept = concurrency if concurrency >= len(platforms) else concurrency // 2
        self._had_turn: set[str] = set()

    def begin(self, platform: str) -> None:
        """Give a thread to a job of this platform."""
        self._free -= 1
        self._running[platform] += 1
        self._had_turn.add(platform)

    def end(self, platform: str) -> None:
        """Take the thread of a job of this platform back."""
        self._free += 1
        self._running[platform] -= 1

    def next_group(self, without: Collection[str] = ()) -> tuple[list[str], int]:
        """Return platforms to claim for together, and the most jobs to claim; ([], 0) if there are none."""
        idle = sum(not self._running[platform] for platform in self._platforms)
        allowed = {
            platform: most
            for platform in self._platforms
            if platform not in without and (most := self._allowed(platform, idle))
        }
        group = [platform for platform in allowed if platform not in self._had_turn]
        if allowed and not group:
            self._had_turn.clear()
            group = [*allowed]
        group = [platform for platform in group if platform not in self.alone] or group[:1]
        return group, min((allowed[platform] for platform in group), default=0)

    def _allowed(self, platform: str, idle: int) -> int:
        """The most jobs that the platform may be given; `idle` is how many platforms have no running job."""
        is_idle = not self._running[platform]
        most = self._free - min(idle - is_idle, self._most_kept)
        return max(most, min(self._free, 1) if is_idle else 0)
