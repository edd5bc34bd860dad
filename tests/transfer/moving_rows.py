"""What the tests of export, import and copy share."""

from __future__ import annotations

from typing import Any

from assistly.storage import Storage
from assistly.storage.engine.moving import MovingBackend
from assistly.storage.engine.transfer import ROW_KINDS, Row
from golden.content import Clock, fill, read_all


def filled(backend: MovingBackend) -> None:
    """Fill an empty storage with a record of every kind, in every state."""
    clock = Clock()
    fill(Storage(backend, clock=clock, auto_prune=False), clock)
    backend.retention.begin_prune(now=clock.time, interval=clock.time - clock.time.replace(year=2020))


def all_rows(backend: MovingBackend) -> dict[str, list[Row]]:
    return {kind: [*backend.read_rows(kind, after=None, limit=100_000)] for kind in ROW_KINDS}


def answers(backend: MovingBackend) -> dict[str, Any]:
    """What the public API says."""
    clock = Clock()
    return read_all(Storage(backend, clock=clock, auto_prune=False))
