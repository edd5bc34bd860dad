"""One job per call on SQLite: a cached INSERT in autocommit, which is one commit without a sync.

The id is known without RETURNING.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..model import Numbers, Round, Surroundings, throughput, times
from ..workload import PLATFORM, content
from .alone import run_alone
from .sqlite_file import sqlite_file
from .sqlite_jobs import INSERT, TABLE, now_us


@contextmanager
def floor(at: Surroundings) -> Iterator[Round]:
    with sqlite_file(at, TABLE) as connection:
        cursor = connection.cursor()

        def enqueue(number: int) -> int | None:
            now = now_us()
            return cursor.execute(INSERT, (PLATFORM, content(number), now, now)).lastrowid

        yield throughput(times(enqueue), Numbers())


if __name__ == "__main__":
    run_alone(floor, 20_000, postgres=False)
