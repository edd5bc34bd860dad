"""A storage or a publisher that hangs: the worker ends within its grace time, and goes on afterwards."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from time import monotonic

import pytest

from assistly.storage import Job, JobStatus, MemoryBackend, Storage
from assistly.storage.testing.faults import EngineCall, Fault, FaultyBackend, When
from assistly.worker import AsyncWorker, Worker, loop
from waiting import until
from worker.worker_harness import running

LONG = 30.0
GRACE = 0.1


class Hang:
    """Calls of the storage that hang until `release`."""

    def __init__(self, backend: FaultyBackend, method: str | None = None, when: When = "before") -> None:
        self._released = threading.Event()
        self.hanging = 0
        backend.inject(Fault(self._wait, when=when, method=method, lasting=True))

    def _wait(self, _: EngineCall) -> None:
        if not self._released.is_set():
            self.hanging += 1
            assert self._released.wait(LONG)

    def release(self) -> None:
        self._released.set()


@pytest.fixture
def backend() -> FaultyBackend:
    return FaultyBackend(MemoryBackend())


@pytest.fixture
def storage(backend: FaultyBackend) -> Iterator[Storage]:
    with Storage(backend, auto_prune=False) as storage:
        yield storage


@pytest.fixture(autouse=True)
def others() -> set[threading.Thread]:
    """The threads that are there before a test."""
    return {*threading.enumerate()}


def worker_threads(others: set[threading.Thread]) -> list[str]:
    """The threads of the test's own workers."""
    names = [each.name for each in threading.enumerate() if each not in others]
    return [name for name in names if name.startswith(("assistly-worker", "assistly-publisher"))]


def stored(storage: Storage, job: Job) -> Job:
    found = storage.queue.get(job.id)
    assert found is not None
    return found


LOST_CLAIM = "a claim of jobs, which are due again when their lease expires"
NOT_PUBLISHED = "waits for the storage, and was not published"
NOT_STORED = "waits for the storage, which has not stored its outcome: here it was published as remote-1"


@pytest.mark.parametrize(
    ("method", "when", "left", "status"),
    [
        ("jobs.claim", "before", LOST_CLAIM, JobStatus.SCHEDULED),
        ("jobs.claim", "after", LOST_CLAIM, JobStatus.SCHEDULED),
        ("lock.acquire", "before", LOST_CLAIM, JobStatus.SCHEDULED),
        ("jobs.begin_publish_many", "before", NOT_PUBLISHED, JobStatus.SCHEDULED),
        ("jobs.begin_publish_many", "after", NOT_PUBLISHED, JobStatus.SCHEDULED),
        ("jobs.settle", "before", NOT_STORED, JobStatus.POSTED),
        ("jobs.settle", "after", NOT_STORED, JobStatus.POSTED),
        ("lock.release", "before", "storage calls that have not returned", JobStatus.POSTED),
    ],
)
def test_a_call_that_hangs_is_left_behind(
    storage: Storage,
    backend: FaultyBackend,
    caplog: pytest.LogCaptureFixture,
    others: set[threading.Thread],
    method: str,
    when: When,
    left: str,
    status: JobStatus,
) -> None:
    job = storage.queue.schedule("x", "hello")
    hang = Hang(backend, method, when)
    worker = Worker(
        storage, {"x": lambda _: "remote-1"}, grace=GRACE, platform_concurrency={"x": 1}, poll=0.01
    )
    with running(worker) as thread:
        until(lambda: hang.hanging)
        began = monotonic()
        worker.stop()
        thread.join(LONG)
        assert not thread.is_alive()
        assert monotonic() - began < GRACE + 5  # a hang lasts for 30
    assert left in caplog.text
    assert "the worker stops after its grace time of 0.1 s with unfinished work: " in caplog.text
    hang.release()
    until(lambda: worker_threads(others) == [])
    assert stored(storage, job).status is status


@pytest.mark.parametrize(
    "method", ["jobs.extend", "lock.renew", "retention.begin_prune", "maintain", "jobs.wait"]
)
def test_upkeep_that_hangs_holds_nothing_up(
    storage: Storage,
    backend: FaultyBackend,
    caplog: pytest.LogCaptureFixture,
    others: set[threading.Thread],
    method: str,
) -> None:
    job = storage.queue.schedule("x", "hello")
    hang = Hang(backend, method)
    begun = threading.Event()

    def publisher(_: Job) -> None:
        begun.set()
        until(lambda: hang.hanging)

    worker = Worker(
        storage,
        {"x": publisher},
        lease=timedelta(seconds=0.3),
        heartbeat=timedelta(seconds=0.01),
        platform_concurrency={"x": 1},
        poll=0.01,
    )
    with running(worker):
        until(lambda: stored(storage, job).status is JobStatus.POSTED)
        until(lambda: hang.hanging)
    assert caplog.text == ""
    hang.release()
    until(lambda: worker_threads(others) == [])


def test_everything_hangs_and_then_nothing(storage: Storage, backend: FaultyBackend) -> None:
    """The worker goes on when the storage answers again."""
    begun, release = threading.Event(), threading.Event()
    job = storage.queue.schedule("x", "hello")

    def publisher(_: Job) -> str:
        begun.set()
        assert release.wait(LONG)
        return "remote-1"

    with running(Worker(storage, {"x": publisher}, poll=0.01, heartbeat=timedelta(seconds=0.01))):
        assert begun.wait(LONG)
        hang = Hang(backend)
        until(lambda: hang.hanging)
        release.set()
        until(lambda: hang.hanging >= 2)
        hang.release()
        until(lambda: stored(storage, job).remote_id == "remote-1")
        second = storage.queue.schedule("x", "hello again")
        until(lambda: stored(storage, second).status is JobStatus.POSTED)


def test_a_wait_that_hangs_does_not_keep_it_from_claiming(
    storage: Storage, backend: FaultyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LONGEST_WAIT_SECONDS", 0.02)
    hang = Hang(backend, "jobs.wait")
    with running(Worker(storage, {"x": lambda _: None}, poll=0.01)):
        until(lambda: hang.hanging)
        job = storage.queue.schedule("x", "hello")
        until(lambda: stored(storage, job).status is JobStatus.POSTED)
    assert hang.hanging == 1
    hang.release()


def test_until_idle_leaves_a_hang_behind_when_it_is_stopped(storage: Storage, backend: FaultyBackend) -> None:
    hang = Hang(backend, "jobs.claim")
    worker = Worker(storage, {"x": lambda _: None}, grace=GRACE)
    thread = threading.Thread(target=worker.run_until_idle, daemon=True)
    thread.start()
    until(lambda: hang.hanging)
    worker.stop()
    thread.join(LONG)
    assert not thread.is_alive()
    hang.release()


@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_an_async_worker_leaves_a_hang_behind(storage: Storage, backend: FaultyBackend, how: str) -> None:
    hang = Hang(backend, "jobs.claim")

    async def main() -> None:
        worker = AsyncWorker(storage, {"x": lambda _: None}, grace=GRACE)
        task = asyncio.create_task(worker.run())
        while not hang.hanging:
            await asyncio.sleep(0.002)
        if how == "stop":
            worker.stop()
            await asyncio.wait_for(task, LONG)
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, LONG)

    began = monotonic()
    asyncio.run(main())
    assert monotonic() - began < LONG / 2
    hang.release()


def test_an_idle_worker_without_a_grace_time_leaves_nothing_behind(
    storage: Storage, caplog: pytest.LogCaptureFixture, others: set[threading.Thread]
) -> None:
    worker = Worker(storage, {"x": lambda _: None}, grace=0, poll=0.01)
    job = storage.queue.schedule("x", "hello")
    with running(worker):
        until(lambda: stored(storage, job).status is JobStatus.POSTED)
    assert [record.levelname for record in caplog.records if record.levelname == "ERROR"] == []
    until(lambda: worker_threads(others) == [])


def test_a_clock_that_stands_still_does_not_prolong_the_grace_time(
    storage: Storage, backend: FaultyBackend
) -> None:
    hang = Hang(backend, "jobs.claim")
    with running(Worker(storage, {"x": lambda _: None}, grace=GRACE, clock=lambda: 0.0)):
        until(lambda: hang.hanging)
    hang.release()


@pytest.mark.parametrize("hangs", [True, False])
def test_an_exception_of_a_signal_handler_ends_the_run_after_the_grace_time(
    storage: Storage, backend: FaultyBackend, hangs: bool
) -> None:
    """As with Ctrl-C where the worker handles no signals."""
    main = threading.main_thread()
    assert threading.current_thread() is main
    job = storage.queue.schedule("x", "hello")
    hang = Hang(backend, "jobs.settle")
    if not hangs:
        hang.release()

    def publisher(_: Job) -> str:
        assert main.ident is not None
        signal.pthread_kill(main.ident, signal.SIGUSR1)
        return "remote"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        worker = Worker(storage, {"x": publisher}, grace=GRACE if hangs else LONG)
        with pytest.raises(KeyboardInterrupt):
            worker.run(handle_signals=False)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert worker.counts == ({} if hangs else {"posted": 1})
    hang.release()
    until(lambda: worker.counts == {"posted": 1})
    assert stored(storage, job).status is JobStatus.POSTED
    worker.run_until_idle()  # it was not stopped for good
    assert worker.counts == {"posted": 1}
