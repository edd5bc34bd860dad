"""Workers in threads and in processes: what the tests of workers share."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from assistly.storage import Job, JobStatus, Storage
from assistly.worker import Worker

ENGINES = ("sqlite", "postgres")
PATIENCE = 60.0
HANDLES_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


@contextmanager
def running(worker: Worker) -> Iterator[threading.Thread]:
    """The thread of a worker that runs inside the block."""
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        worker.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def use_engine(request: pytest.FixtureRequest, publishers: str) -> str:
    """Work in a folder that has the publishers, on the engine that is the fixture's parameter."""
    folder: Path = request.getfixturevalue("tmp_path")
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    monkeypatch.chdir(folder)
    (folder / "publishers.py").write_text(publishers)
    monkeypatch.setenv("STORAGE_ENGINE", request.param)
    monkeypatch.setenv("SCHEDULE_RETRY_MINUTES", "0")
    if request.param == "sqlite":
        monkeypatch.setenv("SQLITE_PATH", "worker.db")
    else:
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("database_url"))
        monkeypatch.setenv("STORAGE_SCHEMA", request.getfixturevalue("schema"))
    return str(request.param)


def start_worker(
    publisher: str,
    *options: str,
    before: str = "pass",
    log: int | IO[str] = subprocess.PIPE,
    prefix: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """`assistly worker`, for the platform x. `before` is run first in its process, `prefix` runs it.

    It handles SIGINT also where the tests were started to ignore it.
    """
    program = f"{HANDLES_SIGINT}\n{before}\nfrom assistly.cli import main\nmain()"
    command = [*prefix, sys.executable, "-c", program, "worker", "--publish", f"x={publisher}", *options]
    return subprocess.Popen(command, stderr=log, text=True)


@contextmanager
def worker(publisher: str, *options: str, before: str = "pass") -> Iterator[subprocess.Popen[str]]:
    process = start_worker(publisher, *options, before=before)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended_by_another(process: subprocess.Popen[str]) -> bool:
    """Signals that come too soon after one another are one: until it is gone, there is another."""
    process.send_signal(signal.SIGTERM)
    return process.poll() is not None


def stored(storage: Storage, job: Job) -> Job:
    found = storage.queue.get(job.id)
    assert found is not None
    return found


def ended(storage: Storage) -> int:
    counts = storage.queue.counts()
    return counts[JobStatus.POSTED] + counts[JobStatus.DEAD_LETTER]


def accounted(storage: Storage, record: Sequence[int]) -> tuple[set[int], set[int]]:
    """The jobs that are posted and the ones of an unknown outcome: there may be no others.

    `record` is what the publisher wrote down before it returned. It has no job twice, each job
    that is posted, and none that is neither.
    """
    jobs = every_job(storage)
    posted = {job.id for job in jobs if job.status is JobStatus.POSTED}
    unknown = {job.id for job in jobs if (job.dead_letter_reason or "").startswith("outcome unknown: ")}
    assert [job for job, times in Counter(record).items() if times > 1] == []
    assert [job for job in jobs if (job.id in posted) == (job.id in unknown)] == []
    assert posted - {*record} == set()
    assert {*record} - posted - unknown == set()
    assert [job for job in jobs if job.id in posted and job.remote_id != f"remote-{job.id}"] == []
    return posted, unknown


def every_job(storage: Storage) -> list[Job]:
    jobs: list[Job] = []
    while page := storage.queue.list(after=jobs[-1] if jobs else None, limit=1_000):
        jobs += page
    return jobs
