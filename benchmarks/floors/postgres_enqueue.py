"""One job per call: a prepared INSERT in autocommit is one round trip and one commit. Less is not durable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..model import Numbers, Round, Surroundings, throughput, times
from ..workload import PLATFORM, content
from .alone import run_alone
from .postgres_table import jobs_table

_INSERT = "INSERT INTO jobs (platform, content, due_at) VALUES (%s, %s, now()) RETURNING id"


@contextmanager
def floor(at: Surroundings) -> Iterator[Round]:
    with jobs_table(at) as (_, connection), connection.cursor() as cursor:

        def enqueue(number: int) -> None:
            cursor.execute(_INSERT, (PLATFORM, content(number)), prepare=True)
            cursor.fetchone()

        yield throughput(times(enqueue), Numbers())


if __name__ == "__main__":
    run_alone(floor, 2000)
