"""What a publisher is, and what it raises to say how a call went."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from assistly.storage.records import Job
from assistly.storage.validation import seconds

Publisher = Callable[[Job], str | Awaitable[str | None] | None]
"""Publishes a job and returns its remote id, or None if it has none. It may be a coroutine function.

It raises `Retry`, `Permanent` or `Unknown` to say how the call went. Any other `Exception` means that
nothing was published: the attempt failed, and the retry policy decides what follows. A publisher that
cannot be sure of that, after a time-out say, must raise `Unknown`.
"""


class Retry(Exception):
    """Nothing was published, since the platform takes nothing now: a rate limit, for example.

    The worker leaves the platform alone for `after` (seconds, or a timedelta; default: the worker's
    `pause`, at most 30 days), and the job is claimed again after that. It costs the job no attempt.

    Raises InvalidValue if `after` is negative or no span of time.
    """

    def __init__(self, message: str = "rate limited", *, after: float | timedelta | None = None) -> None:
        super().__init__(message)
        self.after = None if after is None else seconds("after", after)


class Permanent(Exception):
    """Nothing was published, and retrying is pointless: the job becomes a dead letter with this reason."""


class Unknown(Exception):
    """It may have been published or not: the job becomes a dead letter, `outcome unknown: …`.

    It is not retried, since that could publish it twice. A person looks at the platform and decides.
    """
