"""How soon an idle worker has a job: LISTEN, told by the inserting statement itself, and a claim.

From before the call that enqueues in one process to after the claim in another. Polling is not as soon.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from ..model import Round, Surroundings
from ..pickup import PATIENCE, picked_up
from ..workload import PLATFORM
from .alone import run_alone
from .postgres_drain import claiming, settling
from .postgres_table import connected, jobs_table

_INSERT = """
WITH job AS (INSERT INTO jobs (platform, content, due_at) VALUES (%s, %s, now()) RETURNING id)
SELECT id, pg_notify('jobs', '') FROM job
"""


@contextmanager
def enqueuer(url: str, schema: str) -> Iterator[Callable[[], object]]:
    with connected(url, schema) as connection, connection.cursor() as cursor:
        yield lambda: cursor.execute(_INSERT, (PLATFORM, "content"), prepare=True).fetchone()


@contextmanager
def floor(at: Surroundings) -> Iterator[Round]:
    with jobs_table(at) as (schema, connection), closing(connected(at.database_url, schema)) as listener:
        listener.execute("LISTEN jobs")
        claim, settle = claiming(connection, 1), settling(connection)

        def receive() -> float:
            for _ in listener.notifies(timeout=PATIENCE, stop_after=1):
                pass
            jobs = claim()
            received = time.monotonic()
            if settle(jobs) != 1:
                raise TimeoutError("no job came")
            return received

        with picked_up(receive, enqueuer, (at.database_url, schema)) as measure:
            yield measure


if __name__ == "__main__":
    run_alone(floor, 50, unit=" ms")
