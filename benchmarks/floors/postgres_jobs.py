"""The queue on Postgres: an insert, COPY, claim, begin of publishing and end, with psycopg's own cursor.

One prepared statement in autocommit is one round trip and one commit; less is not durable. The LIMIT of a
claim is a literal, since the plan for any LIMIT assumes a tenth of the table. `any(array(…))` takes the ids
from one scan of the index on due_at, and cannot turn into a scan of the table.

Not in it: looking for leases that ran out, which each claim of the storage does.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from ..model import Environment, Measure, Numbers, throughput, times
from ..parallel import parallel_workers
from ..pickup import TIMEOUT, picked_up
from ..workload import BATCH, PLATFORM, WORKER, content, until_empty
from .migrations import schema_script

Connection = psycopg.Connection[tuple[Any, ...]]
_CONTENT = "'Fresh bread at seven, and rolls from batch ' || number || '.'"


@dataclass(frozen=True)
class JobsTable:
    """A table of jobs, and the statements on it. A claim returns the id first and the fence last."""

    name: str
    create: str
    insert: str
    copy: str
    claim: str
    begin: str
    settle: str
    fill: str
    history: str


CONTRACT = JobsTable(
    name="assistly_queue_jobs",
    create=schema_script("postgres"),
    insert="""
INSERT INTO assistly_queue_jobs (status, platform, content, scheduled_at, due_at)
VALUES ('scheduled', %s, %s, now(), now()) RETURNING id
""",
    copy="COPY assistly_queue_jobs (status, platform, content, scheduled_at, due_at) FROM STDIN",
    claim="""
UPDATE assistly_queue_jobs SET status = 'processing', claim = claim + 1, worker_id = %s,
    lease_until = now() + interval '5 minutes', attention_at = now() + interval '5 minutes',
    updated_at = now()
WHERE id = ANY (ARRAY(
    SELECT id FROM assistly_queue_jobs
    WHERE status IN ('scheduled', 'retrying') AND due_at <= now()
        AND (attention_at IS NULL OR attention_at >= now())
    ORDER BY due_at, id LIMIT {limit} FOR UPDATE SKIP LOCKED
))
RETURNING id, platform, content, metadata, scheduled_at, retries, max_retries, claim
""",
    begin="""
UPDATE assistly_queue_jobs SET publish_started_at = now(), updated_at = now()
WHERE id = ANY (%s) AND claim = %s AND CASE status WHEN 'processing' THEN TRUE END AND lease_until > now()
""",
    settle="""
UPDATE assistly_queue_jobs SET status = 'posted', posted_at = now(), remote_id = NULL, next_retry_at = NULL,
    due_at = scheduled_at, attention_at = NULL, worker_id = NULL, lease_until = NULL, updated_at = now()
WHERE id = ANY (%s) AND claim = %s AND CASE status WHEN 'processing' THEN TRUE END
""",
    fill=f"""
INSERT INTO assistly_queue_jobs (status, platform, content, scheduled_at, due_at)
SELECT 'scheduled', %s, {_CONTENT}, now() - interval '1 hour', now() - interval '1 hour'
FROM generate_series(1, %s) AS number
""",
    history=f"""
INSERT INTO assistly_queue_jobs (
    status, platform, content, scheduled_at, next_retry_at, due_at, retries, claim, posted_at
)
SELECT status, %s, {_CONTENT},
    CASE WHEN status = 'retrying' THEN now() - interval '1 hour' ELSE at END,
    CASE WHEN status = 'retrying' THEN at END, at, CASE WHEN status = 'retrying' THEN 1 ELSE 0 END, 1,
    CASE WHEN status = 'posted' THEN at END
FROM (
    SELECT status, number, now() + shift * interval '1 second' + number * interval '1 ms' AS at
    FROM (
        SELECT 'posted' AS status, -86400 AS shift, generate_series(1, %s) AS number
        UNION ALL SELECT 'scheduled', 86400, generate_series(1, %s)
        UNION ALL SELECT 'retrying', 86400, generate_series(1, %s)
    ) AS kinds
) AS history
""",
)

LEAN = JobsTable(
    name="jobs",
    create="""
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
""",
    insert="INSERT INTO jobs (platform, content, due_at) VALUES (%s, %s, now()) RETURNING id",
    copy="COPY jobs (status, platform, content, created_at, due_at) FROM STDIN",
    claim="""
UPDATE jobs SET status = 'processing', attempts = attempts + 1, worker_id = %s,
    lease_until = now() + interval '5 minutes'
WHERE id = ANY (ARRAY(
    SELECT id FROM jobs WHERE status IN ('scheduled', 'retrying') AND due_at <= now()
    ORDER BY due_at, id LIMIT {limit} FOR UPDATE SKIP LOCKED
))
RETURNING id, platform, content, attempts
""",
    begin="""
UPDATE jobs SET status = 'publishing' WHERE id = ANY (%s) AND attempts = %s AND status = 'processing'
""",
    settle="""
UPDATE jobs SET status = 'posted', finished_at = now(), worker_id = NULL, lease_until = NULL
WHERE id = ANY (%s) AND attempts = %s AND status IN ('processing', 'publishing')
""",
    fill=f"""
INSERT INTO jobs (platform, content, due_at) SELECT %s, {_CONTENT}, now() - interval '1 hour'
FROM generate_series(1, %s) AS number
""",
    history=f"""
INSERT INTO jobs (status, platform, content, due_at, attempts, finished_at)
SELECT status, %s, {_CONTENT}, now() + at * interval '1 second' + number * interval '1 ms', 1, finished
FROM (
    SELECT 'posted' AS status, -86400 AS at, now() AS finished, generate_series(1, %s) AS number
    UNION ALL SELECT 'scheduled', 86400, NULL, generate_series(1, %s)
    UNION ALL SELECT 'retrying', 86400, NULL, generate_series(1, %s)
) AS history
""",
)


def connected(url: str, schema: str) -> Connection:
    """In autocommit, with the tables of a schema."""
    connection: Connection = psycopg.connect(url, autocommit=True)
    connection.execute(f"SET search_path = {schema}")
    return connection


@contextmanager
def jobs_table(environment: Environment, table: JobsTable) -> Iterator[tuple[str, Connection]]:
    """The name of its schema, and a connection to it."""
    with environment.new_schema() as schema, connected(environment.database_url, schema) as connection:
        connection.execute(table.create.encode())
        yield schema, connection


def filler(connection: Connection, table: JobsTable, *, keep: bool = False) -> Callable[[int], int]:
    """Puts so many due jobs in: instead of what was there, or beside it and after a vacuum."""

    def fill(count: int) -> int:
        connection.execute(f"VACUUM (INDEX_CLEANUP ON) {table.name}" if keep else f"TRUNCATE {table.name}")
        connection.execute(table.fill.encode(), (PLATFORM, count))
        connection.execute(f"ANALYZE {table.name}")
        return count

    return fill


def load_history(connection: Connection, table: JobsTable, finished: int, future: int, retrying: int) -> None:
    connection.execute(table.history.encode(), (PLATFORM, finished, future, retrying))
    connection.execute(f"VACUUM (ANALYZE) {table.name}")


@contextmanager
def enqueue(environment: Environment, table: JobsTable) -> Iterator[Measure]:
    with jobs_table(environment, table) as (_, connection), connection.cursor() as cursor:
        insert = table.insert.encode()

        def enqueue_one(number: int) -> None:
            cursor.execute(insert, (PLATFORM, content(number)), prepare=True)
            cursor.fetchone()

        yield throughput(times(enqueue_one), Numbers())


@contextmanager
def bulk(environment: Environment, table: JobsTable) -> Iterator[Measure]:
    """COPY in the text format, row by row. The server gives the ids, and nobody learns them."""
    with jobs_table(environment, table) as (_, connection), connection.cursor() as cursor:

        def prepare(count: int) -> Sequence[tuple[Any, ...]]:
            connection.execute(f"TRUNCATE {table.name}")
            now = datetime.now(UTC)
            return [("scheduled", PLATFORM, content(number), now, now) for number in range(count)]

        def insert(rows: Sequence[tuple[Any, ...]]) -> int:
            with cursor.copy(table.copy.encode()) as copy:
                for row in rows:
                    copy.write_row(row)
            return cursor.rowcount

        yield throughput(insert, prepare)


class RawWorker:
    """Claims, begins and settles with a cursor each."""

    def __init__(self, connection: Connection, table: JobsTable, limit: int) -> None:
        self._claim = table.claim.format(limit=limit).encode()
        self._begin = table.begin.encode()
        self._settle = table.settle.encode()
        self._cursors = connection.cursor(), connection.cursor(), connection.cursor()

    def claim(self) -> list[tuple[Any, ...]]:
        return self._cursors[0].execute(self._claim, (WORKER,), prepare=True).fetchall()

    def begin(self, jobs: Sequence[tuple[Any, ...]]) -> int:
        return self._change(self._cursors[1], self._begin, jobs)

    def settle(self, jobs: Sequence[tuple[Any, ...]]) -> int:
        return self._change(self._cursors[2], self._settle, jobs)

    def step(self) -> int:
        """How many jobs were claimed and settled."""
        jobs = self.claim()
        return self.settle(jobs) if jobs else 0

    def step_with_begin(self) -> int:
        jobs = self.claim()
        return self.settle(jobs) if jobs and self.begin(jobs) else 0

    @staticmethod
    def _change(cursor: Any, statement: bytes, jobs: Sequence[tuple[Any, ...]]) -> int:
        by_fence: defaultdict[int, list[int]] = defaultdict(list)
        for job in jobs:
            by_fence[job[-1]].append(job[0])
        return sum(
            cursor.execute(statement, (ids, fence), prepare=True).rowcount for fence, ids in by_fence.items()
        )


@contextmanager
def drain(environment: Environment, table: JobsTable, limit: int) -> Iterator[Measure]:
    with jobs_table(environment, table) as (_, connection):
        worker = RawWorker(connection, table, limit)
        yield throughput(until_empty(worker.step), filler(connection, table))


@contextmanager
def drain_beside(
    environment: Environment, table: JobsTable, limit: int, history: tuple[int, int, int]
) -> Iterator[Measure]:
    with jobs_table(environment, table) as (_, connection):
        load_history(connection, table, *history)
        worker = RawWorker(connection, table, limit)
        yield throughput(until_empty(worker.step), filler(connection, table, keep=True))


@contextmanager
def work(environment: Environment, concurrency: int) -> Iterator[Measure]:
    """What a worker has to store, for so many jobs at a time."""
    with jobs_table(environment, CONTRACT) as (_, connection):
        worker = RawWorker(connection, CONTRACT, concurrency)
        yield throughput(until_empty(worker.step_with_begin), filler(connection, CONTRACT))


@contextmanager
def drain_in_parallel(environment: Environment, table: JobsTable, workers: int) -> Iterator[Measure]:
    with jobs_table(environment, table) as (schema, connection):
        arguments = (environment.database_url, schema, table)
        with parallel_workers(workers, _parallel_worker, arguments, filler(connection, table)) as measure:
            yield measure


@contextmanager
def _parallel_worker(url: str, schema: str, table: JobsTable) -> Iterator[Callable[[], int]]:
    with connected(url, schema) as connection:
        yield RawWorker(connection, table, BATCH).step


@contextmanager
def _enqueuer(url: str, schema: str) -> Iterator[Callable[[], object]]:
    statement = f"WITH job AS ({CONTRACT.insert}) SELECT id, pg_notify('jobs', '') FROM job".encode()
    with connected(url, schema) as connection, connection.cursor() as cursor:
        yield lambda: cursor.execute(statement, (PLATFORM, "content"), prepare=True).fetchone()


@contextmanager
def pick_up(environment: Environment) -> Iterator[Measure]:
    """LISTEN; the inserting statement itself notifies, and the listener claims. Polling is slower."""
    url = environment.database_url
    with (
        jobs_table(environment, CONTRACT) as (schema, connection),
        closing(connected(url, schema)) as listener,
    ):
        listener.execute("LISTEN jobs")
        worker = RawWorker(connection, CONTRACT, 1)

        def receive() -> float:
            for _ in listener.notifies(timeout=TIMEOUT, stop_after=1):
                pass
            jobs = worker.claim()
            received = time.monotonic()
            if worker.settle(jobs) != 1:
                raise TimeoutError("no job came")
            return received

        with picked_up(receive, _enqueuer, (url, schema)) as measure:
            yield measure
