"""Waiting for what a server sends."""

from __future__ import annotations

import select
from collections.abc import Callable


def poll_readable(descriptor: int) -> Callable[[int], object]:
    """Whether the descriptor can be read, or is closed, after at most so many milliseconds."""
    if not hasattr(select, "poll"):
        return lambda most: select.select([descriptor], [], [], most / 1000)[0]
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return poll.poll
