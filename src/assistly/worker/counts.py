"""Counts the jobs of a worker by how they ended."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Literal

Ending = Literal["posted", "failed", "dead", "unknown", "snoozed", "put back", "lost", "not stored"]


class JobCounts:
    """Thread-safe counters of jobs by how they ended."""

    def __init__(self) -> None:
        self._counter: Counter[str] = Counter()
        self._mutex = threading.Lock()

    def add(self, ending: Ending) -> None:
        """Count one job."""
        with self._mutex:
            self._counter[ending] += 1

    def read(self) -> dict[str, int]:
        """A copy of the counters. Endings that did not occur are missing."""
        with self._mutex:
            return dict(self._counter)
