"""The server's clock, without asking for it each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from ...errors import StorageError

_EVERY = 1.0
# More than that is no error of ours: the server's clock was set.
_CORRECTION = timedelta(seconds=0.1)
_TICKS = getattr(time, "CLOCK_BOOTTIME", None)

ticks: Callable[[], float] = time.monotonic if _TICKS is None else partial(time.clock_gettime, _TICKS)
"""Seconds that go on while the machine sleeps, where the system can tell."""

Ask = Callable[[], tuple[float, datetime]]
"""When the question left, by `ticks`, and the server's answer."""


class _Anchor(NamedTuple):
    """What the server answered, and when, by `ticks`; no time before `least` is told."""

    at: float
    answer: datetime
    least: datetime


class ServerClock:
    """What `clock_timestamp()` says on the server, so that hosts with skewed clocks agree.

    Asking costs a round trip, as much as many an operation. So it is asked once a second at
    most, and in between the time passed since is added from a clock that nobody can set. The
    answer is taken for the middle of the round trip: the error is at most half of it plus what
    two quartzes drift apart in a second (some 50 µs). Where a later answer corrects that, time
    stands still until it is right, so that a job that was scheduled now is due at the next call.
    It goes back only where the server's own clock was set back.
    """

    def __init__(self) -> None:
        self._anchor: _Anchor | None = None

    def now(self, ask: Ask) -> datetime:
        """The server's time; `ask` is called if it was last called a second ago or more."""
        anchor = self._anchor
        if anchor is None or not 0 <= ticks() - anchor.at < _EVERY:
            anchor = self._sync(ask)
        return max(anchor.least, anchor.answer + timedelta(0, ticks() - anchor.at))

    def _sync(self, ask: Ask) -> _Anchor:
        previous = self._anchor
        try:
            before, answer = ask()
        except StorageError:
            # What comes next will meet the same trouble, and say it better than a clock does.
            if previous is None:
                raise
            return previous
        at = (before + ticks()) / 2
        least = answer
        if previous is not None:
            expected = previous.answer + timedelta(0, at - previous.at)
            if timedelta(0) < expected - answer < _CORRECTION:
                least = expected
        anchor = self._anchor = _Anchor(at, answer, least)
        return anchor
