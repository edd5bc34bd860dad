"""What is kept, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from .validation import earlier

PRUNE_INTERVAL = timedelta(minutes=1)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Ages and caps. An age of None keeps for ever; exactly that old is kept."""

    approvals_age: timedelta = timedelta(days=30)
    approvals_cap: int = 5000
    idempotency_age: timedelta = timedelta(days=14)
    idempotency_cap: int = 10000
    nonces_age: timedelta = timedelta(days=1)
    posted_age: timedelta | None = None
    events_age: timedelta | None = None
    sessions_age: timedelta | None = None


def cutoff(now: datetime, age: timedelta) -> datetime:
    """Records with a time below this are older than `age`."""
    return earlier(now, age)


def milliseconds(moment: datetime) -> int:
    """Whole milliseconds since the epoch, rounded down: how nonces keep their time."""
    return (moment - _EPOCH) // _MILLISECOND
