"""Workers on machines whose clocks are wrong."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from assistly.storage import Job, JobStatus, NewJob, Storage, open_storage
from waiting import until
from worker.worker_harness import PATIENCE, accounted, ended, stored, use_engine, worker

HOUR = 3_600
# The engine knows the server's time to within half a round trip, which takes long on a busy machine.
SLACK = timedelta(seconds=1)
POSTGRES = pytest.mark.parametrize("storage", ["postgres"], indirect=True)
SQLITE = pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
# What Python code can ask for the time of day is ahead by as many seconds as the file says.
MACHINE = """
import datetime, time
from pathlib import Path

right, seconds, nanoseconds = datetime.datetime, time.time, time.time_ns

def follow(path):
    def ahead():
        return int(Path(path).read_text())

    class Kind(type):
        def __instancecheck__(cls, value):
            return isinstance(value, right)

    class Wrong(right, metaclass=Kind):
        def __new__(cls, *given, **named):
            return right(*given, **named)

        @classmethod
        def now(cls, tz=None):
            return right.now(tz) + datetime.timedelta(seconds=ahead())

    datetime.datetime = Wrong
    time.time = lambda: seconds() + ahead()
    time.time_ns = lambda: nanoseconds() + ahead() * 10**9
"""
PUBLISHER = """
import os, random, time
from datetime import UTC, datetime
from pathlib import Path
from assistly.worker import Retry

record = os.open("record", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def publish(job):
    line = f"{job.id} {job.worker_id} {datetime.now(UTC).isoformat()}\\n"
    os.write(record, line.encode())
    if job.content == "fails":
        raise RuntimeError("not published")
    if job.content == "too many":
        raise Retry(after=600)
    time.sleep(random.uniform(0.001, 0.004))
    while job.content == "slow" and not Path("release").exists():
        time.sleep(0.005)
    return f"remote-{job.id}"
"""


class Entry(NamedTuple):
    """What the publisher wrote down: `at` is by the clock of its machine."""

    job: int
    worker: str
    at: datetime


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> Iterator[Storage]:
    """On Postgres with the server's clock, on SQLite with that of the only machine there can be."""
    engine = use_engine(request, PUBLISHER)
    Path("machine.py").write_text(MACHINE)
    set_clock("here", 0)
    with open_storage(clock=here if engine == "sqlite" else None, auto_prune=False) as storage:
        yield storage


@pytest.fixture
def server_time(database_url: str) -> Iterator[Callable[[], datetime]]:
    with psycopg.connect(database_url, autocommit=True) as connection:

        def ask() -> datetime:
            row = connection.execute("SELECT clock_timestamp()").fetchone()
            assert row is not None
            time: datetime = row[0]
            return time

        yield ask


def set_clock(machine: str, ahead: int) -> None:
    new = Path(f"{machine}.new")
    new.write_text(str(ahead))
    new.rename(machine)


def here() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=int(Path("here").read_text()))


@contextmanager
def worker_on(machine: str, *options: str, ahead: int = 0) -> Iterator[subprocess.Popen[str]]:
    set_clock(machine, ahead)
    before = f"import machine; machine.follow({machine!r})"
    with worker("publishers:publish", "--worker-id", machine, *options, before=before) as process:
        yield process


def published() -> list[Entry]:
    record = Path("record")
    lines = record.read_text().splitlines() if record.exists() else []
    entries = [line.split() for line in lines]
    return [Entry(int(job), worker, datetime.fromisoformat(at)) for job, worker, at in entries]


def jobs_published() -> list[int]:
    return [entry.job for entry in published()]


def until_published(times: int) -> None:
    until(lambda: len(published()) >= times)


def until_posted(storage: Storage, job: Job) -> None:
    until(lambda: stored(storage, job).status is JobStatus.POSTED)


def holder_of(storage: Storage, job: Job) -> tuple[str | None, int, JobStatus]:
    current = stored(storage, job)
    return current.worker_id, current.claim, current.status


@POSTGRES
def test_a_fast_clock_publishes_nothing_early(storage: Storage, server_time: Callable[[], datetime]) -> None:
    with worker_on("fast", ahead=HOUR):
        storage.queue.schedule("x", "due")
        until(published)
        assert published()[0].at - server_time() > timedelta(minutes=59)
        later = storage.queue.schedule("x", "later", server_time() + timedelta(minutes=30))
        soon = storage.queue.schedule("x", "soon", server_time() + 2 * SLACK)
        until(lambda: soon.id in jobs_published())
        assert server_time() > soon.scheduled_at - SLACK
        assert stored(storage, later) == later


@POSTGRES
@pytest.mark.parametrize(("holder", "ahead"), [("slow", -HOUR), ("exact", 0)])
def test_a_fast_clock_takes_no_lease_and_no_place_away(storage: Storage, holder: str, ahead: int) -> None:
    one_at_a_time = ("--publish", "y=publishers:publish", "--limit", "x=1", "--concurrency", "1")
    held = storage.queue.schedule("x", "slow")
    with worker_on(holder, *one_at_a_time, ahead=ahead):
        until(published)
        hold, waiting = holder_of(storage, held), storage.queue.schedule("x", "quick")
        with worker_on("fast", *one_at_a_time, ahead=ahead + HOUR):
            for _ in range(3):
                until_posted(storage, storage.queue.schedule("y", "each claim looks for leases that ran out"))
            assert holder_of(storage, held) == hold
            assert stored(storage, waiting) == waiting
            Path("release").touch()
            until_posted(storage, held)
            until_posted(storage, waiting)
    assert [entry.worker for entry in published()[:4]] == [holder, "fast", "fast", "fast"]
    assert len(published()) == 5


@POSTGRES
def test_the_lease_of_a_fast_clock_is_no_longer_than_others(storage: Storage) -> None:
    held = storage.queue.schedule("x", "slow")
    with worker_on("fast", "--lease", "1", ahead=HOUR) as fast:
        until(published)
        fast.kill()
        with worker_on("slow", "--lease", "1"):
            until(lambda: stored(storage, held).status is JobStatus.DEAD_LETTER)
    assert (stored(storage, held).dead_letter_reason or "").startswith("outcome unknown: ")
    assert jobs_published() == [held.id]


@POSTGRES
@pytest.mark.parametrize("content", ["fails", "too many"])
def test_a_delay_counts_from_the_servers_time(
    storage: Storage,
    server_time: Callable[[], datetime],
    monkeypatch: pytest.MonkeyPatch,
    content: str,
) -> None:
    monkeypatch.setenv("SCHEDULE_RETRY_MINUTES", "10")
    delay = timedelta(minutes=10)
    before = server_time()
    job = storage.queue.schedule("x", content)
    with worker_on("fast", ahead=HOUR):
        until(lambda: stored(storage, job).next_retry_at)
    due_at = stored(storage, job).due_at
    assert before + delay - SLACK < due_at < server_time() + delay + SLACK


@POSTGRES
def test_clocks_an_hour_apart_publish_each_job_once(storage: Storage) -> None:
    both = {"slow", "fast"}
    with worker_on("slow", ahead=-HOUR // 2), worker_on("fast", ahead=HOUR // 2):
        until(lambda: storage.queue.schedule("x", "up?") and {entry.worker for entry in published()} == both)
        storage.queue.schedule_many(NewJob("x", f"job {number}") for number in range(200))
        until(lambda: ended(storage) == sum(storage.queue.counts().values()))
    _, unknown = accounted(storage, jobs_published())
    assert unknown == set()


@POSTGRES
@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_jump_of_the_machines_clock_costs_no_lease(storage: Storage, jump: int) -> None:
    held = storage.queue.schedule("x", "slow")
    with worker_on("machine"):
        until(published)
        set_clock("machine", jump)
        other = storage.queue.schedule("x", "quick")
        until_posted(storage, other)
        assert stored(storage, held).status is JobStatus.PROCESSING
        Path("release").touch()
        until_posted(storage, held)
    assert jobs_published() == [held.id, other.id]


@SQLITE
def test_on_sqlite_the_machines_clock_decides(storage: Storage) -> None:
    later = storage.queue.schedule("x", "later", here() + timedelta(minutes=30))
    with worker_on("here", ahead=HOUR):
        until_posted(storage, later)


@SQLITE
def test_a_clock_that_jumps_ahead_ends_the_leases(storage: Storage) -> None:
    held = storage.queue.schedule("x", "slow")
    with worker_on("here") as process:
        until(published)
        set_clock("here", HOUR)
        other = storage.queue.schedule("x", "quick")
        until_posted(storage, other)
        assert (stored(storage, held).dead_letter_reason or "").startswith("outcome unknown: ")
        taken_back = stored(storage, held)
        Path("release").touch()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert f"job {held.id} on x: its claim is lost; here it was published as remote-{held.id}" in log
    assert stored(storage, held) == taken_back
    assert jobs_published() == [held.id, other.id]


@SQLITE
def test_a_clock_that_jumps_back_costs_nothing(storage: Storage) -> None:
    held = storage.queue.schedule("x", "slow")
    with worker_on("here"):
        until(published)
        set_clock("here", -HOUR)
        other = storage.queue.schedule("x", "quick")
        until_posted(storage, other)
        Path("release").touch()
        until_posted(storage, held)
    assert jobs_published() == [held.id, other.id]


@SQLITE
def test_a_clock_that_jumps_under_load_publishes_nothing_twice(storage: Storage) -> None:
    storage.queue.schedule_many(NewJob("x", f"job {number}") for number in range(200))
    with worker_on("here"), worker_on("here", "--worker-id", "there"):
        for jumps in range(1, 4):
            until_published(40 * jumps)
            set_clock("here", jumps * HOUR)
        until(lambda: ended(storage) == 200)
    posted, _ = accounted(storage, jobs_published())
    assert len(posted) > 100
