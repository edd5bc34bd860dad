"""Delete old finished jobs, or old nonces: one DELETE. It is what anybody would write, and one long
statement."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from ..model import Environment, Measure
from .postgres_jobs import CONTRACT, Connection, jobs_table
from .postgres_keys import keys_tables

AGE = timedelta(days=1)
_DELETE = "DELETE FROM assistly_queue_jobs WHERE status = 'posted' AND posted_at < %s"
_FILL = """
INSERT INTO assistly_queue_jobs (
    status, platform, content, scheduled_at, due_at, claim, created_at, updated_at, posted_at
)
SELECT 'posted', 'mastodon', 'Fresh bread at seven, and rolls from batch ' || number || '.',
    at, at, 1, at, at, at
FROM (
    SELECT number, now() - %s::interval + number * interval '1 ms' AS at
    FROM generate_series(1, %s) AS number
) AS jobs
"""


@contextmanager
def floor(environment: Environment) -> Iterator[Measure]:
    with jobs_table(environment, CONTRACT) as (_, connection):

        def delete() -> tuple[int, float]:
            began = time.perf_counter()
            rows = connection.execute(_DELETE, (datetime.now(UTC) - AGE,), prepare=True).rowcount
            return rows, time.perf_counter() - began

        yield pruning(connection, delete)


def pruning(connection: Connection, prune: Callable[[], tuple[int, float]]) -> Measure:
    """Rows per second, and the longest statement in milliseconds.

    `prune` returns how many rows it deleted, and the seconds of its longest statement. Two rows of five
    are young, and stay.
    """
    young = 0

    def measure(count: int) -> tuple[float, float]:
        nonlocal young
        connection.execute(_FILL, (2 * AGE, count))
        missing = max(0, count * 2 // 3 - young)
        connection.execute(_FILL, (AGE / 2, missing))
        young += missing
        connection.execute(f"VACUUM (ANALYZE) {CONTRACT.name}")
        began = time.perf_counter()
        deleted, longest = prune()
        seconds = time.perf_counter() - began
        if deleted != count:
            raise AssertionError(f"{deleted} of {count} rows were deleted")
        return count / seconds, longest * 1e3

    return measure


_TENTH = 10
_FILL_NONCES = """
INSERT INTO assistly_nonces (nonce, timestamp_ms)
SELECT 'nonce ' || number, number FROM generate_series(1, %s) AS number
"""
_DELETE_NONCES = "DELETE FROM assistly_nonces WHERE timestamp_ms < %s"


@contextmanager
def nonces_floor(environment: Environment) -> Iterator[Measure]:
    with keys_tables(environment) as (_, connection):

        def delete() -> int:
            before = round((datetime.now(UTC) - AGE).timestamp() * 1e3)
            return connection.execute(_DELETE_NONCES, (before,), prepare=True).rowcount

        yield pruning_nonces(connection, delete)


def pruning_nonces(connection: Connection, prune: Callable[[], int]) -> Measure:
    """Nonces per second, and how many times as long one of them takes as with a tenth of them.

    `prune` deletes all nonces and returns how many there were. The table has just been analyzed.
    """

    def rate(count: int) -> float:
        connection.execute(_FILL_NONCES, (count,))
        connection.execute("VACUUM (ANALYZE) assistly_nonces")
        began = time.perf_counter()
        deleted = prune()
        seconds = time.perf_counter() - began
        if deleted != count:
            raise AssertionError(f"{deleted} of {count} nonces were deleted")
        return count / seconds

    def measure(count: int) -> tuple[float, float]:
        few = rate(count // _TENTH)
        many = rate(count)
        return many, few / many

    return measure
