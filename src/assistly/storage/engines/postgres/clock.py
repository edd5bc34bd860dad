"""The server's clock, without asking for it each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from ...errors import StorageError
from ..sql.store import to_microseconds

_EVERY = 1.0
_TICKS = getattr(time, "CLOCK_BOOTTIME", None)

ticks: Callable[[], float] = time.monotonic if _TICKS is None else partial(time.clock_gettime, _TICKS)
"""Seconds that go on while the machine sleeps, where the system can tell."""


class _Anchor(NamedTuple):
    """What the server answered, and when, by `ticks`."""

    at: float
    answer: datetime
    microseconds: int


def _anchor(before: float, answer: datetime) -> _Anchor:
    return _Anchor((before + ticks()) / 2, answer, to_microseconds(answer))


class ServerClock:
    """What `clock_timestamp()` says on the server, so that hosts with skewed clocks agree.

    Asking costs a round trip, as much as many an operation. So it is asked once a second at
    most, and in between the time passed since is added from a clock that nobody can set. The
    answer is taken for the middle of the round trip: the error is at most half of it plus what
    two quartzes drift apart in a second (some 50 µs). Time goes back only by that correction, or
    where the server's own clock was set back.
    """

    def __init__(self) -> None:
        self._anchor: _Anchor | None = None

    def now(self, ask: Callable[[], datetime]) -> datetime:
        anchor = self._anchor
        if anchor is not None:
            passed = ticks() - anchor.at
            if 0 <= passed < _EVERY:
                return anchor.answer + timedelta(0, passed)
        anchor = self._sync(ask, anchor)
        return anchor.answer + timedelta(seconds=ticks() - anchor.at)

    def now_ms(self, ask: Callable[[], datetime]) -> int:
        anchor = self._anchor
        if anchor is not None:
            passed = ticks() - anchor.at
            if 0 <= passed < _EVERY:
                return (anchor.microseconds + round(1_000_000 * passed)) // 1000
        return to_microseconds(self.now(ask)) // 1000

    def learn(self, answer: datetime, before: float) -> None:
        """The server just said this, to a question of ours that left at `before`."""
        self._anchor = _anchor(before, answer)

    def _sync(self, ask: Callable[[], datetime], previous: _Anchor | None) -> _Anchor:
        before = ticks()
        try:
            answer = ask()
        except StorageError:
            # What comes next will meet the same trouble, and say it better than a clock does.
            if previous is None:
                raise
            return previous
        anchor = self._anchor = _anchor(before, answer)
        return anchor
