"""The type of publishers, and the exceptions that they raise."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Protocol

from assistly.storage.records import Job

from .publication import Publication

RemoteId = str | int | None

PublishResult = RemoteId | Awaitable[RemoteId] | Future[Any]


class PublishesJobs(Protocol):
    """A publisher that is an object."""

    def publish(self, job: Job, /) -> PublishResult:
        """Publish a job. See `Publisher`."""


class PublishesInSteps(Protocol):
    """A publisher that is an object, and is also told of the attempt."""

    def publish(self, job: Job, publication: Publication, /) -> PublishResult:
        """Publish a job. See `Publisher`."""


Publisher = (
    Callable[[Job], PublishResult]
    | Callable[[Job, Publication], PublishResult]
    | PublishesJobs
    | PublishesInSteps
)
"""Publishes a job and returns its remote id as a str or an int, or None if it has none.

It is a function, another object that can be called, or an object with a method `publish`. What is called
takes the job, and may take a second argument, the `Publication`: it is passed if there must be one, or if it
is named `publication`. It may be a coroutine function. If it returns an awaitable or a
`concurrent.futures.Future`, the worker waits for that, and the result is what counts.

Any `Exception` except `Retry`, `Permanent` and `Unknown` means that nothing was published: the attempt has
failed, and the retry policy decides when the next one is. A publisher that cannot be sure of that, after a
timeout for example, must raise `Unknown`.

Any other result (True, False, bytes, a dict, a response, a generator) says neither that the job was
published nor that it was not, so it counts as `Unknown`. A publisher that has failed must raise an exception.

An object may also have a method `check`, or a coroutine method. Workers call it with a job whose outcome is
unknown; it looks at the platform, and returns `WasPosted`, `NotPosted` or `StillUnknown`. The job is posted
then, or published again with its checkpoint, or asked about later. Anything else that it returns or raises
counts as `StillUnknown`.
"""


class Retry(Exception):
    """Raise it if nothing was published because the platform accepts nothing now, as with a rate limit.

    The worker pauses the platform for `after` (seconds, or a timedelta; default: the worker's `pause`; at
    most 30 days), and the job is claimed again after that. It costs the job no attempt.

    However short `after` is, the first pause lasts for at least 1 second, the next ones in a row for 2, 4, 8
    and so on, up to 60, until the platform accepts something again. Less than zero counts as zero. What is no
    time (NaN, an infinity, a text) counts as missing.
    """

    def __init__(self, message: str = "rate limited", *, after: float | timedelta | None = None) -> None:
        super().__init__(message)
        self.after = pause_seconds(after)


def pause_seconds(after: object) -> float | None:
    """A time to wait in seconds, zero or more; None for what is no time."""
    if isinstance(after, timedelta):
        seconds = after.total_seconds()
    elif isinstance(after, int | float | Decimal) and not isinstance(after, bool):
        try:
            seconds = float(after)
        except OverflowError:
            seconds = timedelta.max.total_seconds() if after > 0 else 0.0
        except ValueError:
            return None
    else:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


class Permanent(Exception):
    """Raise it if nothing was published and a retry is pointless: the job becomes a dead letter."""


class Unknown(Exception):
    """Raise it if the job may have been published or not: it becomes a dead letter, `outcome unknown: …`.

    It is not retried, since that could publish it twice. The publisher's `check`, if it has one, or a person
    looks at the platform and decides. One inside an `ExceptionGroup`, as `asyncio.TaskGroup` raises it,
    counts as well.
    """


@dataclass(frozen=True, slots=True)
class WasPosted:
    """What a check returns if the job was published; `remote_id` is its id on the platform, if known."""

    remote_id: RemoteId = None


@dataclass(frozen=True, slots=True)
class NotPosted:
    """What a check returns if the job was not published, and no earlier request can publish it any more."""


@dataclass(frozen=True, slots=True)
class StillUnknown:
    """What a check returns if it cannot tell now. `reason` is for the log."""

    reason: str = ""


CheckResult = WasPosted | NotPosted | StillUnknown
"""The answer to whether a job with an unknown outcome was published."""
