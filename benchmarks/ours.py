"""Assistly through its public API, with its default settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from assistly.storage import NewJob, Posted, Storage, open_storage

from .floors.postgres_table import Connection, connected
from .floors.sqlite_file import opened
from .model import Numbers, Round, Surroundings, throughput, times
from .workload import BATCH, PLATFORM, WORKER, content, in_batches, nonce, until_empty

_FILL = """
INSERT INTO assistly_queue_jobs (status, platform, content, scheduled_at, due_at)
SELECT 'scheduled', %s, 'Fresh bread at seven, and rolls from batch ' || number || '.',
    now() - interval '1 hour', now() - interval '1 hour'
FROM generate_series(1, %s) AS number
"""
_HISTORY = """
INSERT INTO assistly_queue_jobs (
    status, platform, content, scheduled_at, next_retry_at, due_at, retries, claim, posted_at
)
SELECT status, %s, 'Fresh bread at seven, and rolls from batch ' || number || '.',
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
"""


def postgres_settings(at: Surroundings, schema: str) -> dict[str, Any]:
    return {
        "engine": "postgres",
        "database_url": at.database_url,
        "schema": schema,
        "pool_size": at.pool_size,
    }


@contextmanager
def postgres(at: Surroundings) -> Iterator[tuple[Storage, Connection]]:
    """A storage in a schema of its own, and a connection to look in from aside."""
    with (
        at.new_schema() as schema,
        open_storage(**postgres_settings(at, schema)) as storage,
        connected(at.database_url, schema) as connection,
    ):
        yield storage, connection


@contextmanager
def postgres_schema(at: Surroundings) -> Iterator[tuple[str, Connection]]:
    """A schema with our tables, for storages in other processes."""
    with at.new_schema() as schema:
        with open_storage(**postgres_settings(at, schema)):
            pass
        with connected(at.database_url, schema) as connection:
            yield schema, connection


@contextmanager
def sqlite(at: Surroundings) -> Iterator[Storage]:
    with open_storage(engine="sqlite", sqlite_path=at.new_path()) as storage:
        yield storage


@contextmanager
def sqlite_drain(at: Surroundings) -> Iterator[Round]:
    path = at.new_path()
    with open_storage(engine="sqlite", sqlite_path=path) as storage, closing(opened(path)) as connection:

        def fill(count: int) -> int:
            connection.execute("DELETE FROM assistly_queue_jobs")
            return len(storage.queue.schedule_many(NewJob(PLATFORM, content(n)) for n in range(count)))

        yield drains(storage, fill)


@contextmanager
def memory(_: Surroundings) -> Iterator[Storage]:
    with open_storage(engine="memory") as storage:
        yield storage


def enqueues(storage: Storage) -> Round:
    return throughput(times(lambda number: storage.queue.schedule(PLATFORM, content(number))), Numbers())


def drains(storage: Storage, fill: Callable[[int], int], limit: int = BATCH) -> Round:
    return throughput(until_empty(step(storage, limit)), fill)


def step(storage: Storage, limit: int = BATCH) -> Callable[[], int]:
    """Claims and settles a batch; how many jobs that were."""
    queue = storage.queue

    def claim_and_settle() -> int:
        jobs = queue.claim_due(worker_id=WORKER, limit=limit)
        return len(queue.settle(map(Posted, jobs)).jobs) if jobs else 0

    return claim_and_settle


@contextmanager
def worker(settings: dict[str, Any]) -> Iterator[Callable[[], int]]:
    """For a process of its own."""
    with open_storage(**settings) as storage:
        yield step(storage)


def registers(storage: Storage) -> Round:
    return throughput(times(lambda number: storage.nonces.register(nonce(number))), Numbers())


def registers_batches(storage: Storage) -> Round:
    numbers = Numbers()
    register_many: Callable[[list[str]], list[bool]] = getattr(
        storage.nonces, "register_many", lambda names: [storage.nonces.register(name) for name in names]
    )

    def register(batches: list[list[str]]) -> int:
        return sum(register_many(batch).count(True) for batch in batches)

    return throughput(register, lambda count: in_batches(map(nonce, numbers(count))))


def claims_keys(storage: Storage) -> Round:
    return throughput(times(lambda number: storage.idempotency.claim(nonce(number))), Numbers())


@contextmanager
def postgres_bulk(at: Surroundings) -> Iterator[Round]:
    with postgres(at) as (storage, connection):

        def prepare(count: int) -> list[NewJob]:
            connection.execute("TRUNCATE assistly_queue_jobs")
            return [NewJob(PLATFORM, content(number)) for number in range(count)]

        yield throughput(lambda jobs: len(storage.queue.schedule_many(jobs)), prepare)


def filler(connection: Connection, *, keep: bool = False) -> Callable[[int], int]:
    """A round that keeps what was there begins vacuumed, since the others begin with a new table."""

    def fill(count: int) -> int:
        connection.execute("VACUUM assistly_queue_jobs" if keep else "TRUNCATE assistly_queue_jobs")
        connection.execute(_FILL, (PLATFORM, count))
        connection.execute("ANALYZE assistly_queue_jobs")
        return count

    return fill


def load_history(connection: Connection, finished: int, future: int, retrying: int) -> None:
    connection.execute(_HISTORY, (PLATFORM, finished, future, retrying))
    connection.execute("VACUUM (ANALYZE) assistly_queue_jobs")
