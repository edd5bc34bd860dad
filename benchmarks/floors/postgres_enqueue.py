"""One job per call: a prepared INSERT in autocommit is one round trip and one commit. Less is not durable.

With the driver's cursor, which the goals are set against. Without one it is faster by a third, which
is measured beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..model import Numbers, Round, Surroundings, throughput, times
from ..workload import PLATFORM, content
from .alone import run_alone
from .libpq import Prepared
from .postgres_table import jobs_table

_INSERT = "INSERT INTO jobs (platform, content, due_at) VALUES (%s, %s, now()) RETURNING id"


@contextmanager
def floor(at: Surroundings) -> Iterator[Round]:
    with jobs_table(at) as (_, connection), connection.cursor() as cursor:

        def enqueue(number: int) -> None:
            cursor.execute(_INSERT, (PLATFORM, content(number)), prepare=True)
            cursor.fetchone()

        yield throughput(times(enqueue), Numbers())


@contextmanager
def without_cursor(at: Surroundings) -> Iterator[Round]:
    with jobs_table(at) as (_, connection):
        insert = Prepared(connection, _INSERT.replace("%s, %s", "$1, $2"))
        yield throughput(times(lambda number: insert(PLATFORM, content(number)).get_value(0, 0)), Numbers())


if __name__ == "__main__":
    run_alone(floor, 2000)
