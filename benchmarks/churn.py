"""Whether a small table stays fast while many jobs go through it, on Postgres.

    python -m benchmarks.churn [--jobs 1000000] [--hold 0.3 0.6] [--set fillfactor=70 …]

Jobs are scheduled, claimed, settled and pruned as they go, so that about ten thousand are stored at
any time, and the storage is told to maintain its table, as a worker tells it. "beside new" compares the
table with one that was just made, in turns, whatever else the machine does. With --hold another session
keeps a transaction open from one part of the run to another. --set changes storage parameters of the
table, to see what they do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.pq import TransactionStatus

from assistly.storage import NewJob, Posted, Storage, open_storage

from .server import temporary_server
from .workload import BATCH, PLATFORM, WORKER, content

LIVE = 10_000
WINDOWS = 20
_POSTED_SECONDS = 0.5
_STEP = 1_000
_STEPS_TO_PRUNE = 4
_PAIRS = 5


@dataclass(frozen=True, slots=True)
class Window:
    jobs_per_second: float
    beside_new: float
    slowest_claim: float
    table_bytes: int
    dead_rows: int
    vacuums: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--hold", type=float, nargs=2, metavar=("FROM", "TO"))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", dest="changed")
    parser.add_argument("--database-url", default=os.environ.get("DATABASE_URL"))
    options = parser.parse_args()
    url = options.database_url
    with temporary_server() if url is None else nullcontext(url) as url:
        run(url, options)


def run(url: str, options: argparse.Namespace) -> None:
    with new_table(url) as table, psycopg.connect(url) as other:
        table.alter(f"SET ({', '.join(options.changed)})" if options.changed else None)
        size = options.jobs // WINDOWS
        sys.stdout.write(
            f"{'jobs':>12}{'jobs/s':>10}{'beside new':>12}{'slowest claim':>16}{'table':>10}{'dead':>10}"
            f"{'vacuums':>10}\n"
        )
        windows = []
        for number in range(WINDOWS):
            hold = options.hold is not None and options.hold[0] <= number / WINDOWS < options.hold[1]
            _hold(other) if hold else other.rollback()
            windows.append(measure(table, url, size))
            _report((number + 1) * size, windows[-1], beside=" beside an open transaction" if hold else "")
    worst = min(window.beside_new for window in windows)
    end = statistics.median(window.beside_new for window in windows[-WINDOWS // 4 :])
    sys.stdout.write(f"beside a new table: {end:.2f} at the end, {worst:.2f} at worst\n")


def _hold(connection: psycopg.Connection[Any]) -> None:
    """A snapshot of its beginning, as a report or a backup has it."""
    if connection.info.transaction_status == TransactionStatus.IDLE:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT 1 FROM pg_class LIMIT 1")


@dataclass(frozen=True, slots=True)
class QueueTable:
    storage: Storage
    connection: psycopg.Connection[Any]
    name: str

    def alter(self, change: str | None) -> None:
        if change is not None:
            self.connection.execute(f"ALTER TABLE {self.name} {change}".encode())

    def statistics(self) -> tuple[int, int, int]:
        """Bytes of the table, dead rows, vacuums so far."""
        row = self.connection.execute(
            "SELECT pg_table_size(relid), n_dead_tup, vacuum_count + autovacuum_count "
            "FROM pg_stat_user_tables WHERE relid = %s::regclass",
            [self.name],
        ).fetchone()
        if row is None:
            raise AssertionError(f"{self.name} has no statistics")
        return row[0], row[1], row[2]


@contextmanager
def new_table(url: str) -> Iterator[QueueTable]:
    """With as many jobs as it will always have."""
    schema = f"assistly_churn_{uuid4().hex[:8]}"
    with psycopg.connect(url, autocommit=True) as connection:
        try:
            with open_storage(
                engine="postgres",
                database_url=url,
                schema=schema,
                retention_posted_days=_POSTED_SECONDS / 86_400,
                auto_prune=False,
            ) as storage:
                storage.queue.schedule_many(_new(LIVE // 2))
                step(storage)
                yield QueueTable(storage, connection, f'"{schema}".assistly_queue_jobs')
        finally:
            connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE'.encode())


def measure(table: QueueTable, url: str, jobs: int) -> Window:
    slowest = 0.0
    began = time.perf_counter()
    for number in range(jobs // _STEP):
        slowest = max(slowest, step(table.storage))
        if number % _STEPS_TO_PRUNE == 0:
            table.storage.prune(force=True)
        table.storage.maintain()
    seconds = time.perf_counter() - began
    return Window(jobs / seconds, beside_new(table, url), slowest, *table.statistics())


def beside_new(table: QueueTable, url: str) -> float:
    """How fast jobs go through it, as a ratio to a table that was just made. In turns."""
    with new_table(url) as new:
        step(new.storage)
        pairs = [(_seconds(new.storage), _seconds(table.storage)) for _ in range(_PAIRS)]
    return statistics.median(fresh / used for fresh, used in pairs)


def _seconds(storage: Storage) -> float:
    began = time.perf_counter()
    step(storage)
    return time.perf_counter() - began


def step(storage: Storage) -> float:
    """As many jobs come in as go out; the seconds of the slowest claim."""
    queue = storage.queue
    queue.schedule_many(_new(_STEP))
    slowest = 0.0
    for _ in range(_STEP // BATCH):
        began = time.perf_counter()
        claimed = queue.claim_due(worker_id=WORKER, limit=BATCH)
        slowest = max(slowest, time.perf_counter() - began)
        if len(claimed) != BATCH:
            raise AssertionError(f"{len(claimed)} jobs were due instead of {BATCH}")
        queue.settle([Posted(job, f"remote-{job.id}") for job in claimed])
    return slowest


def _new(count: int) -> Sequence[NewJob]:
    return [NewJob(PLATFORM, content(number), idempotency_key=uuid4().hex) for number in range(count)]


def _report(jobs: int, window: Window, *, beside: str) -> None:
    sys.stdout.write(
        f"{jobs:12,}{window.jobs_per_second:10,.0f}{window.beside_new:12.2f}"
        f"{window.slowest_claim * 1000:13.1f} ms{window.table_bytes / 2**20:7.0f} MB{window.dead_rows:10,}"
        f"{window.vacuums:10}{beside}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
