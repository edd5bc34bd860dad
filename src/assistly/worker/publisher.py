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
    """A publisher object with a method `publish`."""

    def publish(self, job: Job, /) -> PublishResult:
        """Publish a job. See `Publisher`."""


class PublishesInSteps(Protocol):
    """A publisher object whose `publish` also takes the `Publication`."""

    def publish(self, job: Job, publication: Publication, /) -> PublishResult:
        """Publish a job. See `Publisher`."""


Publisher = (
    Callable[[Job], PublishResult]
    | Callable[[Job, Publication], PublishResult]
    | PublishesJobs
    | PublishesInSteps
)
"""Publishes a job and returns its remote id as a str or an int, or None if it has none.

A publisher is a function, another callable, or an object with a method `publish`. It takes the job, and
optionally a second argument, the `Publication`, which is passed if a second argument is required or if it is
named `publication`. It may be a coroutine function. If it returns an awaitable or a
`concurrent.futures.Future`, the worker waits for it and uses its result.

Any `Exception` except `Retry`, `Permanent` and `Unknown` means that nothing was published: the attempt has
failed, and the retry policy decides when the next one is. A publisher that cannot be sure of this, for
example after a timeout, must raise `Unknown`.

Any other result (True, False, bytes, a dict, a response, a generator) does not say whether the job was
published, so it counts as `Unknown`. A publisher that has failed must raise an exception.

A publisher object may also have a method `check`, which may be a coroutine method. Workers call it with a job
whose outcome is unknown; it looks at the platform, and returns `WasPosted`, `NotPosted` or `StillUnknown`.
Then the job is posted, published again with its checkpoint, or checked again later. Anything else that it
returns or raises counts as `StillUnknown`.
"""


class Retry(Exception):
    """Raise this if nothing was published because the platform accepts nothing now, such as a rate limit.

    The worker pauses the platform for `after` (seconds, or a timedelta; default: the worker's `pause`; at
    most 30 days), and the job is claimed again after that. This uses no attempt of the job.

    However short `after` is, the first pause lasts at least 1 second, and consecutive ones 2, 4, 8 and so on,
    up to 60, until the platform accepts something again. A negative value counts as zero. A value that is not
    a duration (NaN, an infinity, a str) is ignored.
    """

    def __init__(self, message: str = "rate limited", *, after: float | timedelta | None = None) -> None:
        super().__init__(message)
        self.after = pause_seconds(after)


def pause_seconds(after: object) -> float | None:
    """A duration in seconds, zero or more; None if the value is not a duration."""
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
    """Raise this if nothing was published and retrying does not help: the job becomes a dead letter."""


class Unknown(Exception):
    """Raise this if the job may or may not have been published. It becomes a dead letter, `outcome unknown:
    …`.

    It is not retried, since that could publish it twice. The publisher's `check`, if it has one, or a person
    looks at the platform and decides. An `Unknown` inside an `ExceptionGroup`, as raised by
    `asyncio.TaskGroup`, counts too.
    """


@dataclass(frozen=True, slots=True)
class WasPosted:
    """A check returns this if the job was published. `remote_id` is its id on the platform, if known."""

    remote_id: RemoteId = None


@dataclass(frozen=True, slots=True)
class NotPosted:
    """A check returns this if the job was not published and no earlier request can still publish it."""


@dataclass(frozen=True, slots=True)
class StillUnknown:
    """A check returns this if it cannot tell yet. `reason` is for the log."""

    reason: str = ""


CheckResult = WasPosted | NotPosted | StillUnknown
"""What a check returns: whether a job with an unknown outcome was published."""
