"""The table that the floors on Postgres use, with the one index that its claims need.

A sweep for expired leases would have to scan it: an index for that would make the floor slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from ..model import Surroundings
from ..workload import PLATFORM

Connection = psycopg.Connection[tuple[Any, ...]]

_TABLE = """
CREATE TABLE jobs (
    id bigserial PRIMARY KEY,
    status text NOT NULL DEFAULT 'scheduled',
    platform text NOT NULL,
    content text NOT NULL,
    due_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    worker_id text,
    lease_until timestamptz,
    finished_at timestamptz
);
CREATE INDEX ON jobs (due_at, id) WHERE status IN ('scheduled', 'retrying');
"""
_FILL = """
INSERT INTO jobs (platform, content, due_at)
SELECT %s, 'Fresh bread at seven, and rolls from batch ' || number || '.', now() - interval '1 hour'
FROM generate_series(1, %s) AS number
"""
_HISTORY = """
INSERT INTO jobs (status, platform, content, due_at, attempts, finished_at)
SELECT status, %s, 'Fresh bread at seven, and rolls from batch ' || number || '.',
    now() + at * interval '1 second' + number * interval '1 ms', 1, finished
FROM (
    SELECT 'posted' AS status, -86400 AS at, now() AS finished, generate_series(1, %s) AS number
    UNION ALL SELECT 'scheduled', 86400, NULL, generate_series(1, %s)
    UNION ALL SELECT 'retrying', 86400, NULL, generate_series(1, %s)
) AS history
"""


def connected(url: str, schema: str) -> Connection:
    return psycopg.connect(url, autocommit=True, options=f"-c search_path={schema}")


@contextmanager
def jobs_table(at: Surroundings) -> Iterator[tuple[str, Connection]]:
    """The name of its schema, and a connection to it."""
    with at.new_schema() as schema, connected(at.database_url, schema) as connection:
        connection.execute(_TABLE)
        yield schema, connection


def clear(connection: Connection) -> None:
    connection.execute("TRUNCATE jobs")


def filler(connection: Connection, *, keep: bool = False) -> Callable[[int], int]:
    """Puts so many due jobs in, in place of what was there unless that is to be kept, and vacuumed."""

    def fill(count: int) -> int:
        if keep:
            connection.execute("VACUUM (INDEX_CLEANUP ON) jobs")
        else:
            clear(connection)
        connection.execute(_FILL, (PLATFORM, count))
        connection.execute("ANALYZE jobs")
        return count

    return fill


def load_history(connection: Connection, finished: int, future: int, retrying: int) -> None:
    connection.execute(_HISTORY, (PLATFORM, finished, future, retrying))
    connection.execute("VACUUM (ANALYZE) jobs")
