"""The most memory that a process needs for a million jobs: each case in a new process.

    python -m benchmarks.memory [--jobs 1000000] [--engines sqlite postgres] [--json FILE]

The figure is the whole resident memory of the process, interpreter and imports included. That of the
Postgres server is not in it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from assistly.storage import Job, NewJob, Storage

_CHUNK = 10_000
_PAGE = 1_000
_TIMEOUT = 7_200.0
Settings = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    title: str
    run: Callable[[Storage, int], int]
    """Returns how many records went through the process."""


@dataclass(frozen=True, slots=True)
class Result:
    engine: str
    case: str
    records: int
    mebibytes: float
    seconds: float


def new_jobs(count: int, key: str) -> Iterator[NewJob]:
    from assistly.storage import NewJob

    return (
        NewJob("mastodon", f"Fresh bread at seven, and rolls from batch {n}.", idempotency_key=f"{key}-{n}")
        for n in range(count)
    )


def nothing(storage: Storage, jobs: int) -> int:  # noqa: ARG001 - one signature for all cases
    return 0


def schedule_in_chunks(storage: Storage, jobs: int) -> int:
    """All or nothing: the transaction is one."""
    source = new_jobs(jobs, "chunked")
    done = 0
    with storage.transaction() as tx:
        while chunk := [*islice(source, _CHUNK)]:
            done += len(tx.queue.schedule_many(chunk))
    return done


def list_all(storage: Storage, jobs: int) -> int:  # noqa: ARG001
    done, page = 0, storage.queue.list(limit=_PAGE)
    while page:
        done += len(page)
        page = storage.queue.list(after=page[-1], limit=_PAGE)
    return done


def work(storage: Storage, jobs: int) -> int:
    """A worker publishes a fiftieth of what is due, and is told to stop."""
    from assistly.worker import Worker

    published = 0

    def publish(_: Job) -> None:
        nonlocal published
        published += 1
        if published >= jobs // 50:
            worker.stop()

    worker = Worker(storage, {"mastodon": publish})
    worker.run()
    return published


def drain(storage: Storage, jobs: int) -> int:
    """A tenth of what is due, in the largest batches there are."""
    from assistly.storage import Posted

    done = 0
    while done < jobs // 10:
        claimed = storage.queue.claim_due(worker_id="memory:1", limit=_PAGE)
        if not claimed:
            raise AssertionError("too few jobs are due")
        done += len(storage.queue.settle([Posted(job) for job in claimed]).jobs)
    return done


def append(storage: Storage, jobs: int) -> int:
    numbers = iter(range(jobs))
    while chunk := [*islice(numbers, _CHUNK)]:
        storage.events.append_many([("posted", {"job": number}) for number in chunk])
    return jobs


def copy(storage: Storage, jobs: int) -> int:  # noqa: ARG001
    from assistly.storage import mirror, open_storage

    with (
        tempfile.TemporaryDirectory() as folder,
        open_storage(engine="sqlite", sqlite_path=str(Path(folder) / "copy.db"), auto_prune=False) as target,
    ):
        return mirror(storage, target)


def schedule_whole(storage: Storage, jobs: int) -> int:
    return len(storage.queue.schedule_many(new_jobs(jobs, "whole")))


CASES = (
    Case("a storage that is open", nothing),
    Case("schedule_many in chunks, in one transaction", schedule_in_chunks),
    Case("list, page by page", list_all),
    Case("a worker, all jobs due", work),
    Case("claim_due and settle, batches of 1,000", drain),
    Case("append_many, in chunks", append),
    Case("mirror, with these events", copy),
    Case("schedule_many of a generator, as one list", schedule_whole),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--engines", nargs="+", default=["sqlite", "postgres"])
    parser.add_argument("--database-url", default=os.environ.get("DATABASE_URL"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    sys.stdout.write(f"{'':56}{'records':>10}{'MiB':>8}{'seconds':>9}\n")
    for engine in options.engines:
        with _settings(engine, options.database_url) as settings:
            for number, case in enumerate(CASES):
                results.append(_measured(engine, settings, number, options.jobs))
                _report(results[-1], case)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


@contextmanager
def _settings(engine: str, url: str | None) -> Iterator[Settings]:
    if engine == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield {"engine": engine, "sqlite_path": str(Path(folder) / "memory.db")}
    elif url is None:
        from .server import temporary_server

        with temporary_server() as own:
            yield {"engine": engine, "database_url": own}
    else:
        import psycopg

        schema = f"assistly_memory_{uuid4().hex[:8]}"
        try:
            yield {"engine": engine, "database_url": url, "schema": schema}
        finally:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE'.encode())


def _measured(engine: str, settings: Settings, number: int, jobs: int) -> Result:
    """Processes are spawned: a fork would start with the memory of this one."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs, settings, number, jobs))
    process.start()
    theirs.close()
    try:
        records, mebibytes, seconds = ours.recv()
    finally:
        process.join(_TIMEOUT)
    return Result(engine, CASES[number].title, records, mebibytes, seconds)


def _run(answer: Connection, settings: Settings, number: int, jobs: int) -> None:
    from assistly.storage import open_storage

    with open_storage(**settings, auto_prune=False) as storage:
        began = time.perf_counter()
        records = CASES[number].run(storage, jobs)
        seconds = time.perf_counter() - began
    answer.send((records, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, seconds))


def _report(result: Result, case: Case) -> None:
    sys.stdout.write(
        f"{result.engine + ': ' + case.title:56}{result.records:10,}{result.mebibytes:8.0f}"
        f"{result.seconds:9.1f}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
