"""SQLite with cached statements in autocommit, which is one commit without a sync. Times are microseconds.

WAL, synchronous = NORMAL. The id of a job is known without RETURNING. Claim and end of a batch are two
statements, with the ids as one JSON array: one UPDATE per id takes longer, a list of a hundred parameters
as long.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..model import Environment, Measure, Numbers, throughput, times
from ..workload import BATCH, PLATFORM, WORKER, content, in_batches, nonce, now_ms, until_empty
from .migrations import schema_script

if TYPE_CHECKING:
    import sqlite3
else:
    # The same library as the engine: `pysqlite3` where that is installed.
    from sqlite_utils.utils import sqlite3

_LEASE_US = 300_000_000


Values = tuple[Any, ...]


@dataclass(frozen=True)
class JobsTable:
    """A table of jobs, the statements on it, and their parameters. A claim returns the fence last."""

    name: str
    create: str
    insert: str
    insert_values: Callable[[str, int], Values]
    """Of a text and the time."""
    claim: str
    claim_values: Callable[[int], Values]
    settle: str
    settle_values: Callable[[int, str, int], Values]
    """Of the time, the ids and the fence."""


CONTRACT = JobsTable(
    name="assistly_queue_jobs",
    create=schema_script("sqlite"),
    insert="""
INSERT INTO assistly_queue_jobs (
    status, platform, content, scheduled_at, due_at, created_at, updated_at
) VALUES ('scheduled', ?, ?, ?, ?, ?, ?)
""",
    insert_values=lambda text, now: (PLATFORM, text, now, now, now, now),
    claim=f"""
UPDATE assistly_queue_jobs SET status = 'processing', claim = claim + 1, worker_id = ?, lease_until = ?,
    attention_at = ?, updated_at = ?
WHERE id IN (
    SELECT id FROM assistly_queue_jobs
    WHERE status IN ('scheduled', 'retrying') AND due_at <= ? AND (attention_at IS NULL OR attention_at >= ?)
    ORDER BY due_at, id LIMIT {BATCH}
)
RETURNING id, platform, content, metadata, scheduled_at, retries, max_retries, claim
""",
    claim_values=lambda now: (WORKER, now + _LEASE_US, now + _LEASE_US, now, now, now),
    settle="""
UPDATE assistly_queue_jobs SET status = 'posted', posted_at = ?, remote_id = NULL, next_retry_at = NULL,
    due_at = scheduled_at, attention_at = NULL, worker_id = NULL, lease_until = NULL, updated_at = ?
WHERE id IN (SELECT value FROM json_each(?)) AND claim = ? AND status = 'processing'
""",
    settle_values=lambda now, ids, fence: (now, now, ids, fence),
)

LEAN = JobsTable(
    name="jobs",
    create="""
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    status TEXT NOT NULL DEFAULT 'scheduled',
    platform TEXT NOT NULL,
    content TEXT NOT NULL,
    due_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    worker_id TEXT,
    lease_until INTEGER,
    finished_at INTEGER
) STRICT;
CREATE INDEX jobs_due ON jobs (due_at) WHERE status IN ('scheduled', 'retrying');
""",
    insert="INSERT INTO jobs (platform, content, due_at, created_at) VALUES (?, ?, ?, ?)",
    insert_values=lambda text, now: (PLATFORM, text, now, now),
    claim=f"""
UPDATE jobs SET status = 'processing', attempts = attempts + 1, worker_id = ?, lease_until = ?
WHERE id IN (
    SELECT id FROM jobs WHERE status IN ('scheduled', 'retrying') AND due_at <= ?
    ORDER BY due_at, id LIMIT {BATCH}
)
RETURNING id, platform, content, attempts
""",
    claim_values=lambda now: (WORKER, now + _LEASE_US, now),
    settle="""
UPDATE jobs SET status = 'posted', finished_at = ?, worker_id = NULL, lease_until = NULL
WHERE id IN (SELECT value FROM json_each(?)) AND attempts = ? AND status = 'processing'
""",
    settle_values=lambda now, ids, fence: (now, ids, fence),
)

_BEGIN = """
UPDATE assistly_queue_jobs SET publish_started_at = ?, updated_at = ?
WHERE id IN (SELECT value FROM json_each(?)) AND claim = ? AND status = 'processing' AND lease_until > ?
"""
_NONCE = "INSERT OR IGNORE INTO assistly_nonces VALUES (?, ?)"
_NONCES = """
INSERT INTO assistly_nonces SELECT value, ? FROM json_each(?) WHERE true
ON CONFLICT DO NOTHING RETURNING nonce
"""


def connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(str(path), isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


@contextmanager
def _new_file(environment: Environment, script: str) -> Iterator[sqlite3.Connection]:
    with closing(connected(environment.new_path())) as connection:
        connection.executescript(script)
        yield connection


def _now_us() -> int:
    return time.time_ns() // 1000


@contextmanager
def enqueue(environment: Environment, table: JobsTable) -> Iterator[Measure]:
    with _new_file(environment, table.create) as connection:
        cursor = connection.cursor()

        def enqueue_one(number: int) -> int | None:
            return cursor.execute(table.insert, table.insert_values(content(number), _now_us())).lastrowid

        yield throughput(times(enqueue_one), Numbers())


class RawWorker:
    """Claims, begins and settles batches."""

    def __init__(self, connection: sqlite3.Connection, table: JobsTable) -> None:
        self._cursor = connection.cursor()
        self._table = table

    def step(self) -> int:
        """How many jobs were claimed and settled."""
        jobs = self._claim()
        return self._settle(jobs) if jobs else 0

    def step_with_begin(self) -> int:
        jobs = self._claim()
        return self._settle(jobs) if jobs and self._begin(jobs) else 0

    def _claim(self) -> dict[int, list[int]]:
        """Ids by their fence."""
        rows = self._cursor.execute(self._table.claim, self._table.claim_values(_now_us())).fetchall()
        ids: dict[int, list[int]] = {}
        for row in rows:
            ids.setdefault(row[-1], []).append(row[0])
        return ids

    def _begin(self, jobs: dict[int, list[int]]) -> int:
        now = _now_us()
        return sum(
            self._cursor.execute(_BEGIN, (now, now, json.dumps(ids), fence, now)).rowcount
            for fence, ids in jobs.items()
        )

    def _settle(self, jobs: dict[int, list[int]]) -> int:
        table, now = self._table, _now_us()
        return sum(
            self._cursor.execute(table.settle, table.settle_values(now, json.dumps(ids), fence)).rowcount
            for fence, ids in jobs.items()
        )


@contextmanager
def drain(environment: Environment, table: JobsTable) -> Iterator[Measure]:
    with _new_file(environment, table.create) as connection:
        worker = RawWorker(connection, table)
        yield throughput(until_empty(worker.step), _filler(connection, table))


@contextmanager
def work(environment: Environment) -> Iterator[Measure]:
    """What a worker has to store."""
    with _new_file(environment, CONTRACT.create) as connection:
        worker = RawWorker(connection, CONTRACT)
        yield throughput(until_empty(worker.step_with_begin), _filler(connection, CONTRACT))


def _filler(connection: sqlite3.Connection, table: JobsTable) -> Callable[[int], int]:
    def fill(count: int) -> int:
        now = _now_us()
        connection.execute(f"DELETE FROM {table.name}")
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            table.insert, [table.insert_values(content(number), now) for number in range(count)]
        )
        connection.execute("COMMIT")
        return count

    return fill


@contextmanager
def put_nonce(environment: Environment) -> Iterator[Measure]:
    with _new_file(environment, CONTRACT.create) as connection:
        cursor = connection.cursor()

        def put(number: int) -> bool:
            return cursor.execute(_NONCE, (nonce(number), now_ms())).rowcount > 0

        yield throughput(times(put), Numbers())


@contextmanager
def put_nonces(environment: Environment) -> Iterator[Measure]:
    with _new_file(environment, CONTRACT.create) as connection:
        cursor = connection.cursor()
        numbers = Numbers()

        def put(batch: list[str]) -> int:
            new = {row[0] for row in cursor.execute(_NONCES, (now_ms(), json.dumps(batch)))}
            return [name in new for name in batch].count(True)

        yield throughput(
            lambda batches: sum(map(put, batches)), lambda count: in_batches(map(nonce, numbers(count)))
        )
