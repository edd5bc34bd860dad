"""When a failed job is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from .errors import ConfigurationError
from .records import Job
from .validation import later


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`max_retries` failed attempts lead to the dead letters; `delay` lies between two attempts."""

    max_retries: int = 3
    delay: timedelta = timedelta(minutes=5)

    def next_attempt(self, now: datetime, job: Job) -> datetime:
        """`job` is as it was claimed: its `retries` do not count the attempt that has just failed."""
        return later(now, self.delay_after(job.retries))

    def delay_after(self, retries: int) -> timedelta:  # noqa: ARG002 - for policies that look at it
        return self.delay


@dataclass(frozen=True, slots=True)
class ExponentialRetry(RetryPolicy):
    """`delay`, times `factor` for each attempt that failed before, at most `longest`.

    Of that, a random share of up to `jitter` is left off, so that jobs that failed together do not
    come back together.
    """

    factor: float = 2.0
    longest: timedelta = timedelta(days=1)
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if not (1 <= self.factor < float("inf")) or not 0 <= self.jitter <= 1:
            raise ConfigurationError("a retry policy needs 1 <= factor < infinity and 0 <= jitter <= 1")

    def delay_after(self, retries: int) -> timedelta:
        import random

        try:
            whole = min(self.delay * self.factor**retries, self.longest)
        except OverflowError:
            whole = self.longest
        return whole * (1 - random.uniform(0, self.jitter))
