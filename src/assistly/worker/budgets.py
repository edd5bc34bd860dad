"""How a worker obeys the limits of platforms (`storage.platforms.limit`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from assistly.storage.storage import Storage

REFRESH_SECONDS = 5.0
"""How long a worker may not notice that the limit of a platform was set or removed."""


class PlatformBudgets:
    """The platforms with a limit, and their tokens. Only the thread that claims may use it."""

    def __init__(self, storage: Storage, clock: Callable[[], float]) -> None:
        self._platforms = storage.platforms
        self._clock = clock
        self._read_at: float | None = None
        self.limited: frozenset[str] = frozenset()
        """The platforms that have a limit."""

    def refresh(self) -> None:
        """Read which platforms have a limit, unless that was just read."""
        now = self._clock()
        if self._read_at is None or now - self._read_at >= REFRESH_SECONDS:
            self.limited = frozenset(one.name for one in self._platforms.list() if one.limit is not None)
            self._read_at = now

    def take(self, platform: str, most: int) -> int:
        """Take up to `most` tokens of a platform, and return how many."""
        return self._platforms.take(platform, most)

    def give_back(self, platform: str, tokens: int) -> None:
        """Return tokens for which no job was found."""
        if tokens:
            self._platforms.give_back(platform, tokens)
