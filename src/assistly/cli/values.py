"""What users type: durations, times and JSON."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import typer

from .output import shortened

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str) -> timedelta:
    """Parse a number and a unit: 90s, 30m, 6h, 1d or 2w. A leading + is allowed."""
    number, unit = text[:-1].removeprefix("+"), text[-1:]
    if unit in _UNITS and number.isascii() and number.isdigit():
        with suppress(OverflowError, ValueError):
            return timedelta(**{_UNITS[unit]: int(number)})
    raise typer.BadParameter(f"{shortened(text, 40)!r} is not a duration: write 90s, 30m, 6h, 1d or 2w")


def positive_duration(text: str) -> timedelta:
    """Parse a duration greater than zero."""
    length = duration(text)
    if not length:
        raise typer.BadParameter("it must be greater than zero: 90s, 30m, 1h")
    return length


def time_from_now(text: str) -> datetime:
    """Parse a time with its offset from UTC, or a duration from now: +2h or 2h."""
    if not _is_like_duration(text, "+"):
        return _time(text, ", or +2h for two hours from now")
    return _from_now(text, duration(text))


def time_before_now(text: str) -> datetime:
    """Parse a time with its offset from UTC, or a duration before now: 2h or -2h."""
    if not _is_like_duration(text, "-"):
        return _time(text, ", or 2h for two hours ago")
    return _from_now(text, -duration(text.removeprefix("-")))


def _is_like_duration(text: str, sign: str) -> bool:
    return text.startswith(sign) or (text[:1].isdigit() and text[-1:] in _UNITS)


def _from_now(text: str, length: timedelta) -> datetime:
    try:
        return datetime.now(UTC) + length
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is out of range: years have four digits") from None


def _time(text: str, alternative: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.utcoffset() is None:
        raise typer.BadParameter(
            f"{shortened(text, 40)!r} is not a time with an offset: write 2026-03-01T09:00+01:00, or "
            f"2026-03-01T08:00Z{alternative}"
        )
    return parsed


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object."""
    value = json_value(text)
    if not isinstance(value, dict):
        raise typer.BadParameter('it must be a JSON object, such as {"tag": "news"}')
    return value


def json_value(text: str) -> Any:
    """Parse JSON."""
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"it is not JSON: {error}") from None
