"""How soon an idle worker publishes: from `schedule` returning in one process to the publisher being called
in another.

    python -m benchmarks.worker_pickup [--jobs 200] [--database-url postgresql://…]

Postgres is measured where --database-url or DATABASE_URL names a database; a schema is made there,
and dropped at the end.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import sys
import threading
import time
from multiprocessing.connection import Connection
from queue import SimpleQueue

from assistly.storage import Job, open_storage
from assistly.worker import Worker

from .pickup import PATIENCE, Settings, on_each_engine


def main() -> None:
    on_each_engine(__doc__, report)


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
