"""Formats values for people."""

from __future__ import annotations

from datetime import timedelta


def span(length: timedelta | None, *, exact: bool = False) -> str:
    """A duration in its two largest units, or in all if `exact`: 2 h 5 min."""
    if length is None:
        return "no limit"
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


def file_size(count: int) -> str:
    """A number of bytes: 1.1 MB, or 12.3 kB below 0.1 MB."""
    if count >= 100_000:
        return f"{count / 1e6:,.1f} MB"
    return f"{count / 1e3:.1f} kB" if count else "0 kB"


def jobs_text(count: int, status: str) -> str:
    """A number of jobs with a status: 3 dead letters, 1,000 scheduled."""
    if status == "dead_letter":
        return f"{count:,} dead letter{'' if count == 1 else 's'}"
    return f"{count:,} {status.replace('_', ' ')}"
