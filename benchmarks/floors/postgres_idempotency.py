"""Claim an idempotency key: a prepared INSERT … ON CONFLICT is one round trip and one commit.

It stores what a claim is: when, by whom, and until when. The index on the time is what lets old ones
be deleted without a scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..model import Numbers, Round, Surroundings, throughput, times
from ..workload import nonce
from .alone import run_alone
from .postgres_table import connected

_TABLE = """
CREATE TABLE idempotency (
    key text PRIMARY KEY,
    saved_at timestamptz NOT NULL,
    value jsonb,
    token bigint,
    lease_until timestamptz
);
CREATE INDEX ON idempotency (saved_at);
"""
_INSERT = """
INSERT INTO idempotency (key, saved_at, token, lease_until)
VALUES (%s, now(), %s, now() + interval '1 minute') ON CONFLICT DO NOTHING
"""


@contextmanager
def floor(at: Surroundings) -> Iterator[Round]:
    with at.new_schema() as schema, connected(at.database_url, schema) as connection:
        connection.execute(_TABLE)
        cursor = connection.cursor()

        def claim(number: int) -> bool:
            return cursor.execute(_INSERT, (nonce(number), number), prepare=True).rowcount > 0

        yield throughput(times(claim), Numbers())


if __name__ == "__main__":
    run_alone(floor, 2000)
