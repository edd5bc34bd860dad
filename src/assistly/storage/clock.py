"""Clocks, which give the time of calls without `now`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

from .errors import ConfigurationError

Clock = Callable[[], datetime]
"""Returns the current time as an aware datetime."""


def system_clock() -> datetime:
    """Return the time of this machine's clock, in UTC."""
    return datetime.now(UTC)


_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)

ticks: Callable[[], float] = time.monotonic if _BOOTTIME is None else partial(time.clock_gettime, _BOOTTIME)
"""Seconds of a monotonic clock; on Linux one that also counts while the machine is suspended."""

_TOLERANCE = timedelta(seconds=1)


class MachineClock:
    """The clock of this machine, and a time for leases that does not go back.

    `now` is the time of day. `lease_time` is the same, unless the clock was set back by more than a second
    since this process began: then it continues with the monotonic clock until the time of day has caught up.
    So a lease lasts as long as intended, and a job is due at its time of day. A clock that is set forward is
    followed at once. Each time the clock is set back, this is logged once.
    """

    def __init__(
        self, wall: Callable[[], datetime] = system_clock, ticks: Callable[[], float] = ticks
    ) -> None:
        self._wall = wall
        self._ticks = ticks
        self._anchor = (ticks(), wall())
        """A reading of both clocks, before the clock was set back if it was."""
        self._is_behind = False

    def now(self) -> datetime:
        """The time of day."""
        wall = self._wall()
        self._lead(wall)
        return wall

    def lease_time(self, now: datetime) -> datetime:
        """The time for leases, locks and claims, given the time of day."""
        return now + self._lead(now)

    def _lead(self, wall: datetime) -> timedelta:
        """How far the time for leases is ahead of the time of day."""
        at = self._ticks()
        then, time_of_day = self._anchor
        lead = time_of_day + timedelta(0, at - then) - wall
        if lead <= _TOLERANCE:
            self._anchor, self._is_behind = (at, wall), False
            return timedelta(0)
        if not self._is_behind:
            self._is_behind = True
            _warn(lead)
        return lead


def _warn(lead: timedelta) -> None:
    import logging

    logging.getLogger("assistly.storage").warning(
        "the clock of this machine was set back by %.1f seconds: until it has caught up, this process uses "
        "the monotonic clock for leases, locks and claims; restart all processes that share its data, or "
        "none",
        lead.total_seconds(),
    )


machine_clock = MachineClock()
"""The clock of the engines without a server, one for the process."""


def as_clock(clock: object) -> Clock | None:
    """Return `clock` itself if it is callable, else its method `now`; None for None.

    Raises ConfigurationError if it is neither.
    """
    if clock is None:
        return None
    method: Any = clock if callable(clock) else getattr(clock, "now", None)
    if not callable(method):
        raise ConfigurationError(
            "clock must be a callable that returns an aware datetime, or an object with such a method "
            f"`now`, not a {type(clock).__name__}"
        )
    return cast("Clock", method)
