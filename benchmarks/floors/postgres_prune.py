"""Delete old finished jobs: one DELETE to an edge row per 10,000. Batches, so that no statement lasts long.

Each row deleted is one visit to the table; its index entries stay for VACUUM. TRUNCATE of a partition
would be faster, but keeps nothing of what is not old.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from ..model import Round, Surroundings
from .alone import run_alone
from .postgres_table import Connection, jobs_table

BATCH = 10_000
AGE = timedelta(days=1)
_INDEX = "CREATE INDEX ON jobs (finished_at, id) WHERE status = 'posted'"
_EDGE = f"""
SELECT finished_at, id FROM jobs WHERE status = 'posted' AND finished_at < %s
ORDER BY finished_at, id OFFSET {BATCH - 1} LIMIT 1
"""
_UP_TO = "DELETE FROM jobs WHERE status = 'posted' AND finished_at < %s AND (finished_at, id) <= (%s, %s)"
_REST = "DELETE FROM jobs WHERE status = 'posted' AND finished_at < %s"
_FILL = """
INSERT INTO jobs (status, platform, content, due_at, attempts, finished_at)
SELECT 'posted', 'mastodon', 'Fresh bread at seven, and rolls from batch ' || number || '.', at, 1, at
FROM (
    SELECT number, now() - %s::interval + number * interval '1 ms' AS at
    FROM generate_series(1, %s) AS number
) AS jobs
"""


@contextmanager
def floor(at: Surroundings) -> Iterator[Round]:
    with jobs_table(at) as (_, connection):
        connection.execute(_INDEX)

        def insert(count: int, age: timedelta) -> None:
            connection.execute(_FILL, (age, count))

        def vacuum() -> None:
            connection.execute("VACUUM (ANALYZE) jobs")

        yield pruning(lambda: _prune(connection), insert, vacuum)


def _prune(connection: Connection) -> tuple[int, float]:
    cutoff = datetime.now(UTC) - AGE
    total, longest = 0, 0.0

    def timed(statement: str, parameters: tuple[Any, ...]) -> Any:
        nonlocal longest
        began = time.perf_counter()
        cursor = connection.execute(statement, parameters, prepare=True)
        longest = max(longest, time.perf_counter() - began)
        return cursor

    while edge := timed(_EDGE, (cutoff,)).fetchone():
        total += timed(_UP_TO, (cutoff, *edge)).rowcount
    return total + timed(_REST, (cutoff,)).rowcount, longest


def pruning(
    prune: Callable[[], tuple[int, float]],
    insert: Callable[[int, timedelta], None],
    vacuum: Callable[[], None],
) -> Round:
    """Rows per second, and the longest statement in milliseconds; two rows of five are young, and stay."""
    young = 0

    def measure(count: int) -> tuple[float, float]:
        nonlocal young
        insert(count, 2 * AGE)
        missing = max(0, count * 2 // 3 - young)
        insert(missing, AGE / 2)
        young += missing
        vacuum()
        began = time.perf_counter()
        deleted, longest = prune()
        seconds = time.perf_counter() - began
        if deleted != count:
            raise AssertionError(f"{deleted} of {count} rows were deleted")
        return count / seconds, longest * 1e3

    return measure


if __name__ == "__main__":
    run_alone(floor, 600_000, unit="")
