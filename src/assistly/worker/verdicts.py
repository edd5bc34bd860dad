"""What a publisher is, and what it raises to say how a call went."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from assistly.storage.records import Job
from assistly.storage.validation import seconds

Publisher = Callable[[Job], str | Awaitable[str | None] | None]
"""Publishes a job and returns its remote id, if it has one. It may be a coroutine function.

Any exception that is not one of these and derives from Exception says that nothing was published:
the job is tried again by the retry policy. Raise Unknown where that is not certain.
"""


class Retry(Exception):
    """The platform takes nothing now, and nothing was published: a rate limit, say.

    The worker leaves the platform alone for `after` (seconds, or a timedelta; default: its own
    `pause`). It costs the job no attempt.
    """

    def __init__(self, message: str = "rate limited", *, after: float | timedelta | None = None) -> None:
        super().__init__(message)
        self.after = None if after is None else seconds("after", after)


class Permanent(Exception):
    """Nothing was published, and trying again is of no use: the job goes to the dead letters."""


class Unknown(Exception):
    """It may have been published or not: the job goes to the dead letters as `outcome unknown: …`."""
