"""The garbage collector while a long batch is copied: docs/decisions/0017 says why."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STEP = 10_000
_YOUNG = 1
_paused = False


@contextmanager
def young_only(expected: int) -> Iterator[Callable[[int], None]]:
    """No full collections within the block, in which so many records are made.

    Yields what has to be told how many were made: it collects the young objects now and then.
    Nothing is changed where the records are few, or where the collector is off: the application
    wants that, or another batch is under way.
    """
    global _paused
    if expected < _STEP or not gc.isenabled():
        yield _nothing
        return
    try:
        _paused = True
        gc.disable()
        yield _steps()
    finally:
        _paused = False
        gc.enable()


def _steps() -> Callable[[int], None]:
    pending = 0

    def made(count: int) -> None:
        nonlocal pending
        pending += count
        if pending >= _STEP:
            pending = 0
            gc.collect(_YOUNG)

    return made


def _nothing(_: int) -> None: ...


def _after_fork() -> None:
    """The batch goes on in the parent alone."""
    global _paused
    if _paused:
        _paused = False
        gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
