"""Put if absent on SQLite, one per call: a cached INSERT OR IGNORE in autocommit.

Without rowid the table is one tree less. The index on the time is what lets old ones be deleted
without a scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..model import Numbers, Round, Surroundings, throughput, times
from ..workload import nonce
from .alone import run_alone
from .postgres_put import now_ms
from .sqlite_file import sqlite_file

TABLE = """
CREATE TABLE nonces (nonce TEXT NOT NULL PRIMARY KEY, timestamp_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX nonces_timestamp ON nonces (timestamp_ms);
"""
_INSERT = "INSERT OR IGNORE INTO nonces VALUES (?, ?)"


@contextmanager
def floor(at: Surroundings) -> Iterator[Round]:
    with sqlite_file(at, TABLE) as connection:
        cursor = connection.cursor()

        def put(number: int) -> bool:
            return cursor.execute(_INSERT, (nonce(number), now_ms())).rowcount > 0

        yield throughput(times(put), Numbers())


if __name__ == "__main__":
    run_alone(floor, 20_000, postgres=False)
