"""How long records are kept, and how many."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from .validation import duration, earlier, whole

PRUNE_INTERVAL = timedelta(minutes=1)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Ages and caps of the records that are kept; the defaults are those of the `RETENTION_…` settings.

    A record is deleted when it is older than its age (None: never). A cap is the maximum number of records;
    the newest are kept. Raises InvalidValue for a negative age, a negative cap, and wrong types.
    """

    approvals_age: timedelta = timedelta(days=30)
    approvals_cap: int = 5000
    idempotency_age: timedelta = timedelta(days=14)
    idempotency_cap: int = 10000
    nonces_age: timedelta = timedelta(days=1)
    posted_age: timedelta | None = None
    events_age: timedelta | None = None
    sessions_age: timedelta | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_cap"):
                whole(field.name, value, least=0, most=2**31 - 1)
            elif value is not None or field.default is not None:
                duration(field.name, value, zero=True)


def cutoff(now: datetime, age: timedelta) -> datetime:
    """Return the time below which records are older than `age`."""
    return earlier(now, age)


def milliseconds(moment: datetime) -> int:
    """Return whole milliseconds since 1970, rounded down, which is how the time of a nonce is stored."""
    return (moment - _EPOCH) // _MILLISECOND
