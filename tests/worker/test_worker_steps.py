"""Workers that are killed before and after each step of a publisher that takes two.

The platform is two files, which are written whole: the containers that were created, and the posts that were
made of them. It makes a post as often as it is told to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest

from assistly.storage import JobStatus, NewJob, Storage, open_storage
from waiting import until
from worker.worker_harness import ENGINES, every_job, use_engine

POINTS = (
    "claimed",
    "begun",
    "before create",
    "after create",
    "after checkpoint",
    "after publish",
    "before settle",
    "after settle",
)
PUBLISHER = """
import os, signal, time
from datetime import timedelta
from pathlib import Path

from assistly.storage import open_storage
from assistly.storage.stores.queue import Queue
from assistly.worker import NotPosted, WasPosted, Worker

CREATE, APPEND = os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600

def note(file, line):
    os.write(os.open(file, CREATE, APPEND), f"{line}\\n".encode())

def lines(file):
    return Path(file).read_text().splitlines() if Path(file).exists() else []

def reach(point, job):
    # The content names the points at which its first, second, … worker dies.
    points = job.content.split(", ")
    deaths = lines(f"deaths-{job.id}")
    if len(deaths) < len(points) and points[len(deaths)] == point:
        note(f"deaths-{job.id}", point)
        os.kill(os.getpid(), signal.SIGKILL)

class InTwoSteps:
    def publish(self, job, publication):
        reach("begun", job)
        container = job.checkpoint
        if container is None:
            container = f"{job.id}-{publication.attempt}-{os.getpid()}"
            reach("before create", job)
            note("containers", container)
            reach("after create", job)
            publication.checkpoint(container)
        reach("after checkpoint", job)
        note("posts", container)
        reach("after publish", job)
        return container

    def check(self, job):
        note("asked", f"{job.id}-{job.claim}")
        if job.checkpoint in lines("posts"):
            return WasPosted(job.checkpoint)
        return NotPosted()

def at_begin(begin):
    def wrapper(queue, jobs, **kwargs):
        for job in jobs:
            reach("claimed", job)
        return begin(queue, jobs, **kwargs)
    return wrapper

def at_settle(settle):
    def wrapper(queue, outcomes, **kwargs):
        outcomes = [*outcomes]
        for outcome in outcomes:
            reach("before settle", outcome.job)
        settled = settle(queue, outcomes, **kwargs)
        for outcome in outcomes:
            reach("after settle", outcome.job)
        return settled
    return wrapper

def work():
    Queue.begin_publish_many = at_begin(Queue.begin_publish_many)
    Queue.settle = at_settle(Queue.settle)
    with open_storage(auto_prune=False) as storage:
        Worker(
            storage, {"x": InTwoSteps()}, concurrency=1, batch=1,
            lease=timedelta(seconds=0.6), poll=0.3, check_pause=0.3,
            timeout=5,  # also for how long a worker that dies while it asks keeps others from asking
        ).run()

def crew(size):
    # Each worker is a fork of this process, which has imported all: a new one takes milliseconds.
    def start():
        if not os.fork():
            work()
            os._exit(0)
    for _ in range(size):
        start()
    while True:
        _, status = os.wait()
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            raise SystemExit(f"a worker has ended by itself: {status}")
        start()
"""
WORKERS = 3
SHORT = [*((point,) for point in POINTS), ("after checkpoint", "after publish")]
# Each point 100 times and more, before and after each other one.
FULL = [*product(POINTS, POINTS)] * 7


@pytest.fixture(params=ENGINES)
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    use_engine(request, PUBLISHER)
    # A job whose worker dies before it begins has failed: here that shall not end in the dead letters.
    monkeypatch.setenv("SCHEDULE_MAX_RETRIES", "1000")
    with open_storage(auto_prune=False) as storage:
        yield storage


@contextmanager
def crew() -> Iterator[subprocess.Popen[bytes]]:
    with Path("log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", f"import publishers; publishers.crew({WORKERS})"],
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines()


@pytest.mark.parametrize(
    "plans",
    [
        pytest.param(SHORT, id="short"),
        pytest.param(FULL, id="full", marks=[pytest.mark.soak, pytest.mark.timeout(1_800)]),
    ],
)
def test_no_step_is_made_twice_and_no_post_is_lost(storage: Storage, plans: list[tuple[str, ...]]) -> None:
    jobs = storage.queue.schedule_many(NewJob("x", ", ".join(plan)) for plan in plans)
    with crew() as process:

        def all_posted() -> bool:
            assert process.poll() is None, Path("log").read_text()[-5_000:]
            return storage.queue.counts()[JobStatus.POSTED] == len(jobs)

        until(all_posted, 60 + 3 * len(plans))
    posts = Counter(line.split("-")[0] for line in lines("posts"))
    assert posts == {str(job.id): 1 for job in jobs}
    assert {job.remote_id for job in every_job(storage)} == {*lines("posts")}
    containers = Counter(line.split("-")[0] for line in lines("containers"))
    deaths = {str(job.id): lines(f"deaths-{job.id}") for job in jobs}
    # Of a container that was created right before, nobody knows; it is never published.
    assert containers == {job: 1 + points.count("after create") for job, points in deaths.items()}
    assert all(points for points in deaths.values())
    asked, killed = Counter(lines("asked")), sum(map(len, deaths.values()))
    # The first answer is sure, but the worker that got it may be one that is killed.
    assert asked.total() - len(asked) <= killed
    print(f"{killed} workers were killed, {len(asked)} outcomes were unknown")
