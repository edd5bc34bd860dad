"""The queue on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .. import ours
from ..floors import sqlite_drain, sqlite_enqueue
from ..model import Contender, Figure, Round, Row, Surroundings
from ..workload import BATCH


@contextmanager
def _enqueue(at: Surroundings) -> Iterator[Round]:
    with ours.sqlite(at) as storage:
        yield ours.enqueues(storage)


ROWS = (
    Row(
        "sqlite-enqueue",
        "enqueue one, SQLite",
        (Figure("jobs/s", 0.80),),
        {"tiny": 20, "quick": 5000, "full": 20_000},
        (Contender("raw driver", sqlite_enqueue.floor, role="floor"), Contender("Assistly", _enqueue)),
    ),
    Row(
        "sqlite-drain",
        f"drain in batches of {BATCH}, SQLite",
        (Figure("jobs/s", 0.60),),
        {"tiny": 250, "quick": 10_000, "full": 50_000},
        (
            Contender("raw driver", sqlite_drain.floor, role="floor"),
            Contender("Assistly", ours.sqlite_drain),
        ),
    ),
)
