"""Claim and settle a batch on SQLite: two statements, each its own transaction; ids as one JSON array.

One UPDATE per id takes longer. A list of a hundred parameters takes as long.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from ..model import Round, Surroundings, throughput
from ..workload import BATCH, WORKER, until_empty
from .alone import run_alone
from .sqlite_file import sqlite_file
from .sqlite_jobs import TABLE, filler, now_us

_LEASE_US = 300_000_000
_CLAIM = f"""
UPDATE jobs SET status = 'processing', attempts = attempts + 1, worker_id = ?, lease_until = ?
WHERE id IN (
    SELECT id FROM jobs WHERE status IN ('scheduled', 'retrying') AND due_at <= ?
    ORDER BY due_at, id LIMIT {BATCH}
)
RETURNING id, platform, content, attempts
"""
_SETTLE = """
UPDATE jobs SET status = 'posted', finished_at = ?, worker_id = NULL, lease_until = NULL
WHERE id IN (SELECT value FROM json_each(?)) AND status = 'processing'
"""


@contextmanager
def floor(at: Surroundings) -> Iterator[Round]:
    with sqlite_file(at, TABLE) as connection:
        cursor = connection.cursor()

        def claim_and_settle() -> int:
            now = now_us()
            jobs = cursor.execute(_CLAIM, (WORKER, now + _LEASE_US, now)).fetchall()
            if not jobs:
                return 0
            ids = json.dumps([job[0] for job in jobs])
            return cursor.execute(_SETTLE, (now_us(), ids)).rowcount

        yield throughput(until_empty(claim_and_settle), filler(connection))


if __name__ == "__main__":
    run_alone(floor, 20_000, postgres=False)
