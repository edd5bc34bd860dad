"""Where the time comes from when a call does not say it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

from .errors import ConfigurationError

Clock = Callable[[], datetime]
"""Returns the current time as an aware datetime."""


def system_clock() -> datetime:
    """The wall clock of this machine."""
    return datetime.now(UTC)


def as_clock(clock: object) -> Clock | None:
    """A clock, or an object whose method `now` is one."""
    if clock is None:
        return None
    method: Any = clock if callable(clock) else getattr(clock, "now", None)
    if not callable(method):
        raise ConfigurationError(
            f"clock must be a callable that returns an aware datetime, not a {type(clock).__name__}"
        )
    return cast("Clock", method)
