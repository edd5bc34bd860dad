"""Claim and settle a batch: two statements, each one commit, and no row is touched more than these two times.

The LIMIT is a literal, since the plan for any LIMIT assumes a tenth of the table. `any(array(…))` takes
the ids from one scan of the index on due_at, and cannot turn into a scan of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg.rows import tuple_row

from ..model import Round, Surroundings, throughput
from ..workload import BATCH, WORKER, until_empty
from .alone import run_alone
from .postgres_table import Connection, connected, filler, jobs_table

_CLAIM = """
UPDATE jobs SET status = 'processing', attempts = attempts + 1, worker_id = %s,
    lease_until = now() + interval '5 minutes'
WHERE id = ANY (ARRAY(
    SELECT id FROM jobs WHERE status IN ('scheduled', 'retrying') AND due_at <= now()
    ORDER BY due_at, id LIMIT {limit} FOR UPDATE SKIP LOCKED
))
RETURNING id, platform, content, attempts
"""
_SETTLE = """
UPDATE jobs SET status = 'posted', finished_at = now(), worker_id = NULL, lease_until = NULL
WHERE id = ANY (%s) AND status = 'processing'
"""


Claimed = list[tuple[int, str, str, int]]


def claiming(connection: Connection, limit: int) -> Callable[[], Claimed]:
    cursor: psycopg.Cursor[tuple[int, str, str, int]] = connection.cursor(row_factory=tuple_row)
    claim = _CLAIM.format(limit=limit)
    return lambda: cursor.execute(claim, (WORKER,), prepare=True).fetchall()


def settling(connection: Connection) -> Callable[[Claimed], int]:
    cursor = connection.cursor()
    return lambda jobs: cursor.execute(_SETTLE, ([job[0] for job in jobs],), prepare=True).rowcount


def step(connection: Connection, limit: int) -> Callable[[], int]:
    """Claims and settles a batch; how many jobs that were."""
    claim, settle = claiming(connection, limit), settling(connection)

    def claim_and_settle() -> int:
        jobs = claim()
        return settle(jobs) if jobs else 0

    return claim_and_settle


@contextmanager
def worker(url: str, schema: str) -> Iterator[Callable[[], int]]:
    """For a process of its own."""
    with connected(url, schema) as connection:
        yield step(connection, BATCH)


@contextmanager
def floor(at: Surroundings, limit: int = BATCH) -> Iterator[Round]:
    with jobs_table(at) as (_, connection):
        yield throughput(until_empty(step(connection, limit)), filler(connection))


if __name__ == "__main__":
    run_alone(floor, 10_000)
