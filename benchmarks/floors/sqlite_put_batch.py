"""Put if absent on SQLite in batches of 100: a batch is one statement, one JSON array and one commit.

A hundred single statements in one transaction take as long, and do not tell which keys were new.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..model import Numbers, Round, Surroundings, throughput
from ..workload import in_batches, nonce
from .alone import run_alone
from .postgres_put import now_ms
from .sqlite_file import sqlite_file
from .sqlite_put import TABLE

_INSERT = """
INSERT INTO nonces SELECT value, ? FROM json_each(?) WHERE true ON CONFLICT DO NOTHING RETURNING nonce
"""


@contextmanager
def floor(at: Surroundings) -> Iterator[Round]:
    with sqlite_file(at, TABLE) as connection:
        cursor = connection.cursor()
        numbers = Numbers()

        def prepare(count: int) -> Sequence[list[str]]:
            return in_batches(map(nonce, numbers(count)))

        def put(batches: Sequence[list[str]]) -> int:
            return sum(_put(batch) for batch in batches)

        def _put(batch: list[str]) -> int:
            new = {row[0] for row in cursor.execute(_INSERT, (now_ms(), json.dumps(batch)))}
            return [name in new for name in batch].count(True)

        yield throughput(put, prepare)


if __name__ == "__main__":
    run_alone(floor, 50_000, postgres=False)
