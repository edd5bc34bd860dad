"""When a failed job is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from .validation import later


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`max_retries` failed attempts lead to the dead letters; `delay` lies between two attempts."""

    max_retries: int = 3
    delay: timedelta = timedelta(minutes=5)

    def next_attempt(self, now: datetime) -> datetime:
        return later(now, self.delay)
