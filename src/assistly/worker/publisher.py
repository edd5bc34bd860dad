"""The type of publishers, and the exceptions that they raise."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from assistly.storage.records import Job
from assistly.storage.validation import seconds

Publisher = Callable[[Job], str | Awaitable[str | None] | None]
"""Publishes a job and returns its remote id, or None if it has none. It may be a coroutine function.

Any `Exception` except `Retry`, `Permanent` and `Unknown` means that nothing was published: the attempt has
failed, and the retry policy decides when the next one is. A publisher that cannot be sure of that, after a
time-out for example, must raise `Unknown`.
"""


class Retry(Exception):
    """Raise it if nothing was published because the platform accepts nothing now, as with a rate limit.

    The worker pauses the platform for `after` (seconds, or a timedelta; default: the worker's `pause`; at
    most 30 days), and the job is claimed again after that. It costs the job no attempt.

    The constructor raises InvalidValue if `after` is negative, or neither a number nor a timedelta.
    """

    def __init__(self, message: str = "rate limited", *, after: float | timedelta | None = None) -> None:
        super().__init__(message)
        self.after = None if after is None else seconds("after", after)


class Permanent(Exception):
    """Raise it if nothing was published and a retry is pointless: the job becomes a dead letter."""


class Unknown(Exception):
    """Raise it if the job may have been published or not: it becomes a dead letter, `outcome unknown: …`.

    It is not retried, since that could publish it twice. A person checks the platform and decides.
    """
