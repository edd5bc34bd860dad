"""Waiting on a condition instead of for a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

PATIENCE = 60.0


def until(condition: Callable[[], object], patience: float = PATIENCE) -> float:
    """How many seconds it took. Tests that replace the clocks of `time` do not reach this one."""
    tick = threading.Event()
    began = monotonic()
    while not condition():
        assert monotonic() - began < patience, "it did not happen in time"
        tick.wait(0.002)
    return monotonic() - began
