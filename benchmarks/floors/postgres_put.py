"""Put if absent, one per call: a prepared INSERT … ON CONFLICT is one round trip and one commit.

The index on the time is what lets old ones be deleted without a scan. The goals are set against the
driver's cursor; without one it is faster by a third, which is measured beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..model import Numbers, Round, Surroundings, throughput, times
from ..workload import nonce
from .alone import run_alone
from .libpq import Prepared
from .postgres_table import Connection, connected

TABLE = """
CREATE TABLE nonces (nonce text PRIMARY KEY, timestamp_ms bigint NOT NULL);
CREATE INDEX ON nonces (timestamp_ms);
"""
INSERT = "INSERT INTO nonces (nonce, timestamp_ms) VALUES (%s, %s) ON CONFLICT DO NOTHING"


@contextmanager
def nonces_table(at: Surroundings) -> Iterator[tuple[str, Connection]]:
    with at.new_schema() as schema, connected(at.database_url, schema) as connection:
        connection.execute(TABLE)
        yield schema, connection


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def floor(at: Surroundings) -> Iterator[Round]:
    with nonces_table(at) as (_, connection), connection.cursor() as cursor:

        def put(number: int) -> bool:
            return cursor.execute(INSERT, (nonce(number), now_ms()), prepare=True).rowcount > 0

        yield throughput(times(put), Numbers())


@contextmanager
def without_cursor(at: Surroundings) -> Iterator[Round]:
    with nonces_table(at) as (_, connection):
        insert = Prepared(connection, INSERT.replace("%s, %s", "$1, $2"))
        yield throughput(
            times(lambda number: insert(nonce(number), str(now_ms())).command_tuples == 1), Numbers()
        )


if __name__ == "__main__":
    run_alone(floor, 2000)
