"""Policies that say when a failed job is retried."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from .errors import ConfigurationError
from .records import Job
from .validation import duration, later, shown, whole


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retry after a fixed `delay` (default: 5 minutes).

    A job becomes a dead letter after `max_retries` failed attempts (default: 3).
    """

    max_retries: int = 3
    delay: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        """Raise InvalidValue unless `max_retries` is 1 or more and `delay` zero or more."""
        whole("max_retries", self.max_retries, least=1, most=2**31 - 1)
        duration("delay", self.delay, zero=True)

    def next_attempt(self, now: datetime, job: Job) -> datetime:
        """Return when `job` is due again after an attempt that failed at `now`.

        `job` is the claimed record: its `retries` do not include this attempt.
        """
        return later(now, duration("the result of delay_after", self.delay_after(job.retries), zero=True))

    def delay_after(self, retries: int) -> timedelta:  # noqa: ARG002 - for subclasses
        """Return the delay after a failed attempt that `retries` other failed attempts preceded."""
        return self.delay


@dataclass(frozen=True, slots=True)
class ExponentialRetry(RetryPolicy):
    """Retry after `delay`, multiplied by `factor` for each earlier failed attempt, at most `longest`.

    The delay is randomly shortened by up to the fraction `jitter` (0 to 1), so that jobs that failed together
    are not retried together. Raises ConfigurationError unless 1 <= factor < infinity and 0 <= jitter <= 1,
    and InvalidValue for the other fields like `RetryPolicy`.
    """

    factor: float = 2.0
    longest: timedelta = timedelta(days=1)
    jitter: float = 0.5

    def __post_init__(self) -> None:
        RetryPolicy.__post_init__(self)
        duration("longest", self.longest, zero=True)
        are_numbers = {type(self.factor), type(self.jitter)} <= {int, float}
        if not are_numbers or not (1 <= self.factor < float("inf")) or not 0 <= self.jitter <= 1:
            raise ConfigurationError(
                "a retry policy needs 1 <= factor < infinity and 0 <= jitter <= 1; "
                f"got factor={shown(self.factor)} and jitter={shown(self.jitter)}"
            )

    def delay_after(self, retries: int) -> timedelta:
        import random

        try:
            whole = min(self.delay * self.factor**retries, self.longest)
        except OverflowError:
            whole = self.longest
        return whole * (1 - random.uniform(0, self.jitter))
