"""How soon an idle waiter knows of a job: from `schedule` returning in one process to `wait` in another.

    python -m benchmarks.pickup [--jobs 200] [--database-url postgresql://…]

Postgres is measured where --database-url or DATABASE_URL names a database; a schema is made there,
and dropped at the end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
import uuid
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from assistly.storage import Storage, open_storage

PATIENCE = 10.0
Settings = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--database-url", default=os.environ.get("DATABASE_URL"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report("sqlite", {"engine": "sqlite", "sqlite_path": str(Path(folder) / "pickup.db")}, options.jobs)
    if options.database_url:
        measure_postgres(options.database_url, options.jobs)


def measure_postgres(url: str, jobs: int) -> None:
    import psycopg

    schema = f"pickup_{uuid.uuid4().hex[:12]}"
    try:
        report("postgres", {"engine": "postgres", "database_url": url, "schema": schema}, jobs)
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


def report(name: str, settings: Settings, jobs: int) -> None:
    delays = sorted(measure(settings, jobs))
    median = statistics.median(delays)
    p99 = delays[min(len(delays) - 1, len(delays) * 99 // 100)]
    sys.stdout.write(
        f"{name:10} median {median * 1e3:6.2f} ms   p99 {p99 * 1e3:6.2f} ms   jobs {len(delays)}\n"
    )


def measure(settings: Settings, jobs: int) -> list[float]:
    """In seconds. The processes share the system's monotonic clock."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    scheduler = context.Process(target=schedule_on_demand, args=(theirs, settings), daemon=True)
    scheduler.start()
    with closing(ours), open_storage(**settings) as storage:
        storage.queue.wait(0.5)
        delays = [pick_up(storage, ours) for _ in range(jobs)]
        ours.send(None)
        scheduler.join(PATIENCE)
    return delays


def pick_up(storage: Storage, scheduler: Connection) -> float:
    scheduler.send(random.uniform(0.02, 0.06))
    if not storage.queue.wait(PATIENCE):
        raise TimeoutError("no job came")
    woken = time.monotonic()
    (job,) = storage.queue.claim_due(worker_id="pickup", limit=1)
    storage.queue.mark_posted(job)
    scheduled: float = scheduler.recv()
    return woken - scheduled


def schedule_on_demand(requests: Connection, settings: Settings) -> None:
    with open_storage(**settings) as storage:
        while (pause := requests.recv()) is not None:
            time.sleep(pause)
            storage.queue.schedule("pickup", "content")
            requests.send(time.monotonic())


if __name__ == "__main__":
    main()
