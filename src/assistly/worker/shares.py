"""Distributes the threads of a worker among its platforms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence


class ThreadShares:
    """The platforms for which a worker may claim jobs now, and how many.

    One free thread is reserved for each other platform without a running job, so that neither a backlog nor a
    hanging publisher takes all threads. With fewer threads than platforms, at most half of the threads are
    reserved. Platforms take turns: one that got jobs comes after those that did not.

    The platforms in `alone` are never claimed together with others; it may be replaced at any time. Only one
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
        """Assign a thread to a job of this platform."""
        self._free -= 1
        self._running[platform] += 1
        self._had_turn.add(platform)

    def end(self, platform: str) -> None:
        """Free the thread of a job of this platform."""
        self._free += 1
        self._running[platform] -= 1

    def next_group(self, without: Collection[str] = ()) -> tuple[list[str], int]:
        """Return platforms to claim for together, and the maximum number of jobs; ([], 0) if none."""
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
        """The maximum number of jobs for the platform; `idle` is how many platforms have no running job."""
        is_idle = not self._running[platform]
        most = self._free - min(idle - is_idle, self._most_kept)
        return max(most, min(self._free, 1) if is_idle else 0)
