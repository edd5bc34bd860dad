"""The server's clock, without a round trip for each reading."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from ...errors import StorageError

_SYNC_SECONDS = 1.0
# If the server refuses to answer for longer than this, the call that needs the time fails at once.
_PATIENCE_SECONDS = 0.25
# A larger correction is not a measuring error: the server's clock was set.
_LARGEST_CORRECTION = timedelta(seconds=0.1)
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)

ticks: Callable[[], float] = time.monotonic if _BOOTTIME is None else partial(time.clock_gettime, _BOOTTIME)
"""Seconds of a monotonic clock; on Linux one that also counts while the machine is suspended."""

Ask = Callable[[], tuple[float, datetime]]
"""Asks the server for its time. Returns the `ticks` before the query was sent, and the answer."""


class _Anchor(NamedTuple):
    """An answer of the server, and the `ticks` of that time. `now` returns no time before `least`."""

    at: float
    answer: datetime
    least: datetime


class ServerClock:
    """The time of `clock_timestamp()` on the server, so that hosts with skewed clocks agree.

    A query for it takes as long as an operation. So the server is asked at most once a second; in between,
    the time since the answer is measured with a monotonic clock. The answer is taken as the time in the
    middle of the round trip, so the error is at most half a round trip, plus the drift of two clocks in a
    second (some 50 µs). If a later answer shows that the clock was ahead, it stands still until the time is
    right, so that a job scheduled for now is due at the next call. It goes back only if the server's own
    clock was set back.
    """

    def __init__(self) -> None:
        self._anchor: _Anchor | None = None

    def now(self, ask: Ask) -> datetime:
        """Return the server's time. `ask` is called if the last answer is a second old or more."""
        anchor = self._anchor
        if anchor is None or not 0 <= ticks() - anchor.at < _SYNC_SECONDS:
            anchor = self._sync(ask)
        return max(anchor.least, anchor.answer + timedelta(0, ticks() - anchor.at))

    def _sync(self, ask: Ask) -> _Anchor:
        previous = self._anchor
        began = ticks()
        try:
            before, answer = ask()
        except StorageError:
            # The operation that needs the time will raise a more useful error, unless it succeeds. But it
            # should not wait as long once more.
            if previous is None or ticks() - began > _PATIENCE_SECONDS:
                raise
            return previous
        at = (before + ticks()) / 2
        least = answer
        if previous is not None:
            expected = previous.answer + timedelta(0, at - previous.at)
            if timedelta(0) < expected - answer < _LARGEST_CORRECTION:
                least = expected
        anchor = self._anchor = _Anchor(at, answer, least)
        return anchor
