"""Clocks, which give the time of calls that are made without `now`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

from .errors import ConfigurationError

Clock = Callable[[], datetime]
"""Returns the current time as an aware datetime."""


def system_clock() -> datetime:
    """Return the time of this machine's clock, in UTC."""
    return datetime.now(UTC)


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
