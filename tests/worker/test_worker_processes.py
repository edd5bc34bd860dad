"""Workers as processes: signals, crashes, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from assistly.storage import JobStatus, Storage, open_storage
from waiting import until
from worker.worker_harness import ENGINES, PATIENCE, ended_by_another, stored, use_engine, worker

PUBLISHERS = """
import ctypes, os, threading
from pathlib import Path

def record(job):
    with open("published", "a") as file:
        file.write(f"{job.id}\\n")

def quick(job):
    record(job)
    return f"remote-{job.id}"

def slow(job):
    record(job)
    tick = threading.Event()
    while not Path("release").exists():
        tick.wait(0.005)
    return f"remote-{job.id}"

def deadly(job):
    record(job)
    if job.content == "exit":
        os._exit(9)
    if job.content == "crash":
        ctypes.string_at(0)
    if job.content == "raise":
        raise RuntimeError("poison")
"""
# A worker that is gone before publishing has begun.
NEVER_BEGINS = """
import os
from assistly.storage.stores.queue import Queue

begin_publish_many = Queue.begin_publish_many

def begin_or_die(self, jobs, *, now=None):
    if any(job.content == "poison" for job in jobs):
        os._exit(9)
    return begin_publish_many(self, jobs, now=now)

Queue.begin_publish_many = begin_or_die
"""
SQLITE_ONLY = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return use_engine(request, PUBLISHERS)


@pytest.fixture
def storage(engine: str) -> Iterator[Storage]:
    with open_storage(auto_prune=False) as storage:
        yield storage


def published() -> list[int]:
    record = Path("published")
    return [int(line) for line in record.read_text().split()] if record.exists() else []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_running_jobs_end(storage: Storage, number: signal.Signals) -> None:
    running = storage.queue.schedule("x", "running")
    with worker("publishers:slow", "--concurrency", "1") as process:
        until(published)
        waiting = storage.queue.schedule("x", "comes too late")
        process.send_signal(number)
        Path("release").touch()
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, log
    assert stored(storage, running).remote_id == f"remote-{running.id}"
    assert stored(storage, waiting) == waiting
    assert f"job {running.id} on x is posted" in log
    assert "Traceback" not in log


def test_an_idle_worker_stops_at_once(storage: Storage) -> None:
    done = storage.queue.schedule("x", "before")
    with worker("publishers:quick", "--poll", "60") as process:
        until(lambda: stored(storage, done).status is JobStatus.POSTED)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE / 2)
    assert process.returncode == 0


def test_a_second_signal_ends_it_on_the_spot(storage: Storage) -> None:
    job = storage.queue.schedule("x", "running")
    with worker("publishers:slow", "--lease", "1") as process:
        until(published)
        process.send_signal(signal.SIGTERM)
        until(lambda: ended_by_another(process))
    assert process.returncode == -signal.SIGTERM
    until(storage.queue.rescue_expired)
    assert (stored(storage, job).dead_letter_reason or "").startswith("outcome unknown: ")
    assert published() == [job.id]


def test_the_grace_time_ends(storage: Storage) -> None:
    job = storage.queue.schedule("x", "never ends")
    with worker("publishers:slow", "--grace", "0.1") as process:
        until(published)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert f"job {job.id} on x is still being published" in log
    assert stored(storage, job).publish_started_at is not None


@pytest.mark.parametrize("death", ["exit", "crash"])
def test_a_job_that_kills_its_worker_is_published_once(storage: Storage, death: str) -> None:
    poison = storage.queue.schedule("x", death)
    fine = [storage.queue.schedule("x", "fine") for _ in range(3)]
    options = ("--lease", "1", "--concurrency", "1")
    with worker("publishers:deadly", *options) as process:
        assert process.wait(PATIENCE) in (9, -signal.SIGSEGV)
    with worker("publishers:deadly", *options):
        until(lambda: storage.queue.counts()[JobStatus.POSTED] == len(fine))
        until(lambda: stored(storage, poison).status is JobStatus.DEAD_LETTER)
    assert (stored(storage, poison).dead_letter_reason or "").startswith("outcome unknown: ")
    assert sorted(published()) == [poison.id, *(job.id for job in fine)]


def test_a_job_that_always_fails_leaves_the_others_alone(storage: Storage) -> None:
    poison = storage.queue.schedule("x", "raise")
    fine = storage.queue.schedule("x", "fine")
    with worker("publishers:deadly", "--drain") as process:
        assert process.wait(PATIENCE) == 0
    assert stored(storage, poison).dead_letter_reason == "RuntimeError: poison"
    assert stored(storage, fine).status is JobStatus.POSTED
    assert sorted(published()) == [poison.id] * 3 + [fine.id]


def test_a_job_that_is_never_begun_wears_its_attempts_out(storage: Storage) -> None:
    poison = storage.queue.schedule("x", "poison", max_retries=2)
    fine = storage.queue.schedule("x", "fine")
    options = ("--lease", "1", "--concurrency", "1")
    for crashes in range(1, 3):
        with worker("publishers:quick", *options, before=NEVER_BEGINS) as process:
            assert process.wait(PATIENCE) == 9
        until(storage.queue.rescue_expired)
        assert stored(storage, poison).retries == crashes
    assert (stored(storage, poison).dead_letter_reason or "").startswith("lease expired: ")
    assert stored(storage, fine).status is JobStatus.POSTED
    assert published() == [fine.id]


def test_a_worker_that_was_stopped_for_too_long_settles_nothing(storage: Storage) -> None:
    job = storage.queue.schedule("x", "slow")
    with worker("publishers:slow", "--lease", "1") as process:
        until(published)
        os.kill(process.pid, signal.SIGSTOP)
        until(storage.queue.rescue_expired)
        Path("release").touch()
        os.kill(process.pid, signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE)
    assert f"job {job.id} on x: its claim is lost; here it was published as remote-{job.id}" in log
    assert (stored(storage, job).dead_letter_reason or "").startswith("outcome unknown: ")
    assert published() == [job.id]


@SQLITE_ONLY
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 2, "--publish"),
        (("--publish", "x"), 2, "PLATFORM=PUBLISHER"),
        (("--publish", "x=stdout", "--publish", "x=stdout"), 2, "twice"),
        (("--publish", "x=stdout", "--limit", "x=many"), 2, "PLATFORM=N"),
        (("--publish", "x=stdout", "--limit", "y=1"), 2, "but no --publish does"),
        (
            ("--publish", "x=nothing"),
            1,
            "a publisher must be stdout, file:PATH, webhook:URL or MODULE:ATTRIBUTE",
        ),
        (("--publish", "x=no_such_module:publish"), 1, "cannot load the publisher"),
        (("--publish", "x=webhook:example.org"), 1, "needs a URL"),
    ],
)
@pytest.mark.usefixtures("engine")
def test_mistakes_are_one_line(options: tuple[str, ...], code: int, message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from assistly.cli import main; main()", "worker", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
