"""Sleeping until a job may be due."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .context import Context

_LONGEST_SLEEP = 5.0
_POLL_SECONDS = 0.1


def wait(context: Context, seconds: float, platforms: Sequence[str] | None = None) -> bool:
    """See `Queue.wait`."""
    deadline = time.monotonic() + seconds
    while True:
        now = context.now(None)
        due_at = context.backend.jobs.next_due_at(platforms=platforms, now=now)
        due_in = None if due_at is None else (due_at - now).total_seconds()
        if due_in is not None and due_in <= 0:
            return True
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        longest = min(left, _LONGEST_SLEEP) if due_in is None else min(left, _LONGEST_SLEEP, due_in)
        if context.is_root:
            context.backend.jobs.wait(longest)
        else:
            # No notification reaches a transaction, so it polls.
            time.sleep(min(longest, _POLL_SECONDS))
