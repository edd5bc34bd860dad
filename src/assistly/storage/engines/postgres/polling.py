"""Waiting until a socket is readable."""

from __future__ import annotations

import select
from collections.abc import Callable


def poll_readable(descriptor: int) -> Callable[[int], object]:
    """Return a function that waits up to so many milliseconds for the descriptor to be readable or closed.

    Its result is true if it is.
    """
    if not hasattr(select, "poll"):
        return lambda most: select.select([descriptor], [], [], most / 1000)[0]
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return poll.poll
