"""What is waiting is found without walking over all that was posted before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from assistly.storage import Failed, PostgresBackend, SqliteBackend, Storage
from assistly.storage.engines.sqlite.driver import sqlite3
from backends.plans import PostgresWatch, SqliteWatch, Watch

POSTED = 20_000
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

_FILL = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows})
INSERT INTO {table} (
    status, platform, content, scheduled_at, due_at, created_at, updated_at, posted_at
) SELECT 'posted', 'x', 'old', {at}, {at}, {at}, {at}, {at} FROM numbers
"""


def fill(execute: Callable[[str], object], table: str, at: str) -> None:
    execute(_FILL.format(rows=POSTED, table=table, at=at))


@pytest.fixture(params=["sqlite", "sqlite analyzed", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Storage, Watch]]:
    if request.param == "postgres":
        url, schema = request.getfixturevalue("database_url"), request.getfixturevalue("new_schema")()
        with Storage(PostgresBackend(url, pool_size=2, schema=schema), auto_prune=False) as storage:
            storage.ping()
            with psycopg.connect(url, autocommit=True) as connection:
                table = f'"{schema}".assistly_queue_jobs'
                fill(lambda text: connection.execute(text.encode()), table, f"timestamptz '{NOW - HOUR}'")
                some_of_each(storage)
                connection.execute(f"ANALYZE {table}".encode())
            yield storage, PostgresWatch()
        return
    path = tmp_path / "assistly.db"
    with Storage(SqliteBackend(path), auto_prune=False) as storage:
        storage.ping()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            microseconds = int((NOW - HOUR).timestamp()) * 1_000_000
            fill(connection.execute, "assistly_queue_jobs", str(microseconds))
            some_of_each(storage)
            if request.param == "sqlite analyzed":
                connection.execute("ANALYZE")
        yield storage, SqliteWatch()


def some_of_each(storage: Storage) -> None:
    """Five that are retrying, four that are being published, and eleven scheduled ones."""
    for number in range(20):
        storage.queue.schedule(f"platform {number % 2}", f"new {number}", NOW + number * HOUR)
    claimed = storage.queue.claim_due(worker_id="w", limit=9, now=NOW + 20 * HOUR, lease=1000 * HOUR)
    storage.queue.settle([Failed(job, "refused", NOW + 99 * HOUR) for job in claimed[:5]], now=NOW)


@pytest.mark.parametrize(("status", "count"), [("scheduled", 11), ("retrying", 5), ("processing", 4)])
def test_listing_those_that_are_not_done(place: tuple[Storage, Watch], status: str, count: int) -> None:
    storage, watch = place
    with watch.watching() as seen:
        jobs = storage.queue.list(status=status)
        pages = [storage.queue.list(status=status, limit=3)]
        while pages[-1]:
            pages.append(storage.queue.list(status=status, limit=3, after=pages[-1][-1]))
        even = storage.queue.list(status=status, platform="platform 0")
    assert len(jobs) == count
    assert {job.status for job in jobs} == {status}
    assert [job.id for job in jobs] == sorted(job.id for job in jobs)
    assert [job for page in pages for job in page] == jobs
    assert even == [job for job in jobs if job.platform == "platform 0"]
    for entry in seen:
        assert not entry.scans, str(entry)
        assert entry.work < POSTED / 4, str(entry)
