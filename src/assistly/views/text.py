"""How values are written for people."""

from __future__ import annotations

from datetime import timedelta


def span(length: timedelta | None, *, exact: bool = False) -> str:
    """A length of time in its two largest units, or if it shall be `exact` in all: 2 h 5 min."""
    if length is None:
        return "any time"
    rest = max(timedelta(0), length)
    if not exact:
        rest = timedelta(seconds=round(rest.total_seconds()))
    parts = []
    for unit, size in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1))):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    if rest:
        parts.append(f"{rest.total_seconds():.6f}".rstrip("0").rstrip(".") + " s")
    return " ".join(parts if exact else parts[:2]) or "0 s"
