"""How soon an idle worker has a job: from before `schedule` in one process to after `claim_due` in another.

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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from assistly.storage import open_storage

from .model import Round, Surroundings

PATIENCE = 10.0
Settings = dict[str, Any]
Enqueuer = Callable[..., AbstractContextManager[Callable[[], object]]]


def main() -> None:
    on_each_engine(__doc__, report)


def on_each_engine(description: str | None, report: Callable[[str, Settings, int], None]) -> None:
    """The command line of a benchmark that runs on SQLite and, where there is one, on Postgres."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
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
    with storage_picks_up(settings) as measure:
        median, p99 = measure(jobs)
    sys.stdout.write(f"{name:10} median {median:6.2f} ms   p99 {p99:6.2f} ms   jobs {jobs}\n")


@contextmanager
def storage_picks_up(settings: Settings) -> Iterator[Round]:
    with open_storage(**settings) as storage:

        def receive() -> float:
            if not storage.queue.wait(PATIENCE):
                raise TimeoutError("no job came")
            (job,) = storage.queue.claim_due(worker_id="pickup", limit=1)
            received = time.monotonic()
            storage.queue.mark_posted(job)
            return received

        with picked_up(receive, storage_enqueuer, (settings,)) as measure:
            yield measure


@contextmanager
def storage_enqueuer(settings: Settings) -> Iterator[Callable[[], object]]:
    with open_storage(**settings) as storage:
        yield lambda: storage.queue.schedule("pickup", "content")


@contextmanager
def picked_up(
    receive: Callable[[], float], open_enqueuer: Enqueuer, arguments: tuple[Any, ...]
) -> Iterator[Round]:
    """Median and 99th percentile in milliseconds.

    `receive` waits for a job and returns when it had it, by the monotonic clock, which the
    processes share. The enqueuer works in a process of its own, after a random pause.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=enqueue_on_demand, args=(theirs, open_enqueuer, arguments), daemon=True)
    process.start()
    theirs.close()

    def delay() -> float:
        ours.send(random.uniform(0.02, 0.06))
        received = receive()
        began: float = ours.recv()
        return (received - began) * 1e3

    def measure(count: int) -> tuple[float, float]:
        delays = sorted(delay() for _ in range(count))
        return statistics.median(delays), delays[min(count - 1, count * 99 // 100)]

    try:
        yield measure
    finally:
        ours.send(None)
        process.join(PATIENCE)
        ours.close()


def enqueue_on_demand(requests: Connection, open_enqueuer: Enqueuer, arguments: tuple[Any, ...]) -> None:
    with open_enqueuer(*arguments) as enqueue:
        while (pause := requests.recv()) is not None:
            time.sleep(pause)
            began = time.monotonic()
            enqueue()
            requests.send(began)


if __name__ == "__main__":
    main()
