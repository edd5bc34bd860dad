"""How soon an idle worker publishes: from `schedule` returning in one process to the publisher being called
in another.

    python -m benchmarks.worker_pickup [--jobs 200] [--database-url postgresql://…]

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
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

from assistly.storage import Job, open_storage
from assistly.worker import Worker

from .model import Surroundings
from .pickup import PATIENCE, Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--database-url", default=os.environ.get("DATABASE_URL"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        at = Surroundings(options.database_url, Path(folder), "full")
        report("sqlite", {"engine": "sqlite", "sqlite_path": str(at.new_path())}, options.jobs)
        if at.url:
            with at.new_schema() as schema:
                settings = {"engine": "postgres", "database_url": at.url, "schema": schema}
                report("postgres", settings, options.jobs)


def report(name: str, settings: Settings, jobs: int) -> None:
    delays = sorted(measure(settings, jobs))
    median, p99 = statistics.median(delays), delays[min(jobs - 1, jobs * 99 // 100)]
    sys.stdout.write(f"{name:10} median {median:6.2f} ms   p99 {p99:6.2f} ms   jobs {jobs}\n")


def measure(settings: Settings, jobs: int) -> list[float]:
    """In milliseconds. The processes share the monotonic clock."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    scheduler = context.Process(target=schedule_on_demand, args=(theirs, settings), daemon=True)
    scheduler.start()
    published: SimpleQueue[float] = SimpleQueue()

    def publish(_: Job) -> None:
        published.put(time.monotonic())

    with open_storage(**settings) as storage:
        worker = Worker(storage, {"pickup": publish})
        running = threading.Thread(target=worker.run)
        running.start()
        try:
            return [delay(published, ours) for _ in range(jobs)]
        finally:
            worker.stop()
            running.join()
            ours.send(None)
            scheduler.join(PATIENCE)
            ours.close()


def delay(published: SimpleQueue[float], scheduler: Connection) -> float:
    scheduler.send(random.uniform(0.02, 0.06))
    called = published.get(timeout=PATIENCE)
    scheduled: float = scheduler.recv()
    return (called - scheduled) * 1e3


def schedule_on_demand(requests: Connection, settings: Settings) -> None:
    with open_storage(**settings) as storage:
        while (pause := requests.recv()) is not None:
            time.sleep(pause)
            storage.queue.schedule("pickup", "content")
            requests.send(time.monotonic())


if __name__ == "__main__":
    main()
