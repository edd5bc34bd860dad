"""`Worker.health`: alive does not depend on the storage, ready does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from assistly.storage import MemoryBackend, Storage, StorageUnavailable
from assistly.worker import AsyncWorker, Worker, WorkerHealth
from assistly.worker.health import longest_step
from assistly.worker.threads import Runtime
from waiting import until
from worker.worker_harness import PATIENCE, running

HOURS = 3600.0


class SkippingRuntime(Runtime):
    """Its clock can be put ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Hanging:
    """A call of the storage that does not return until it is released."""

    def __init__(self) -> None:
        self.begun, self.release = threading.Event(), threading.Event()

    def __call__(self, *_: Any, **__: Any) -> Any:
        self.begun.set()
        assert self.release.wait(PATIENCE)
        raise StorageUnavailable("it took too long")


@pytest.fixture
def storage() -> Iterator[Storage]:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        yield storage


@pytest.fixture
def runtime() -> SkippingRuntime:
    return SkippingRuntime()


@pytest.fixture
def worker(storage: Storage, runtime: SkippingRuntime) -> Worker:
    worker = Worker(storage, {"x": lambda _: None}, poll=0.01, grace=0)
    worker._runtime = runtime
    return worker


def test_a_worker_that_runs_is_ready_until_it_is_told_to_stop(worker: Worker) -> None:
    assert worker.health == WorkerHealth(True, False, ["the worker is not running"])
    with running(worker):
        until(lambda: worker.health == WorkerHealth(True, True, []))
        worker.stop()
        assert worker.health == WorkerHealth(True, False, ["the worker was told to stop"])
    assert worker.health.alive


def test_an_idle_worker_is_alive_for_ever_and_its_storage_answers(
    storage: Storage, worker: Worker, runtime: SkippingRuntime
) -> None:
    assert worker.numbers.last_claim_age is None
    storage.queue.schedule("x", "hello")
    with running(worker):
        until(lambda: worker.counts and not worker.numbers.in_progress)
        until(lambda: worker._loop and not worker._loop._settler.progress.seconds)
        runtime.ahead += HOURS
        assert worker.health.alive
        until(lambda: (worker.numbers.last_claim_age or timedelta.max) < timedelta(seconds=PATIENCE))
    assert worker.numbers.last_claim_age is None


def test_a_worker_whose_publishers_take_hours_is_alive(
    storage: Storage, worker: Worker, runtime: SkippingRuntime
) -> None:
    begun, release = threading.Event(), threading.Event()

    def publish(_: object) -> None:
        begun.set()
        assert release.wait(PATIENCE)

    worker = Worker(storage, {"x": publish}, concurrency=1)
    worker._runtime = runtime
    storage.queue.schedule("x", "hello")
    with running(worker):
        assert begun.wait(PATIENCE)
        assert worker._loop is not None
        until(lambda: worker._loop is not None and not worker._loop._progress.seconds)
        runtime.ahead += HOURS
        assert worker.health == WorkerHealth(True, True, [])
        release.set()


@pytest.mark.parametrize("call", ["sweep_and_claim", "begin_publish_many", "settle"])
def test_a_call_that_hangs_beyond_all_limits_is_the_end(
    storage: Storage, worker: Worker, runtime: SkippingRuntime, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    hanging = Hanging()
    monkeypatch.setattr(storage.queue, call, hanging)
    storage.queue.schedule("x", "hello")
    with running(worker):
        assert hanging.begun.wait(PATIENCE)
        runtime.ahead += 300
        assert worker.health.alive  # the calls of one step may take so long
        runtime.ahead += 10
        health = worker.health
        assert not health.alive
        assert not health.ready
        assert "has made no progress for 31" in health.why[0]
        monkeypatch.undo()
        hanging.release.set()
        until(lambda: worker.health.alive)
        worker.stop()
        assert worker.health.alive


def test_a_storage_that_is_away_makes_it_not_ready(
    storage: Storage, worker: Worker, runtime: SkippingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(**_: object) -> None:
        raise StorageUnavailable("the server\nis away")

    monkeypatch.setattr(storage.queue, "sweep_and_claim", away)
    with running(worker):
        until(lambda: worker.health == WorkerHealth(True, False, ["cannot claim jobs: the server is away"]))
        runtime.ahead += HOURS
        assert worker.health.alive
        monkeypatch.undo()
        until(lambda: worker.health == WorkerHealth(True, True, []))


def test_outcomes_that_cannot_be_stored_for_hours_are_no_reason_to_restart(
    storage: Storage, worker: Worker, runtime: SkippingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []

    def away(_: object) -> None:
        attempts.append(0)
        raise StorageUnavailable("the server is away")

    monkeypatch.setattr(storage.queue, "settle", away)
    storage.queue.schedule("x", "hello")
    with running(worker):
        for _ in range(3):
            attempts.clear()
            runtime.ahead += HOURS
            until(lambda: attempts)
            until(lambda: worker.health.alive)
        monkeypatch.undo()
        until(lambda: worker.counts.get("posted") == 1)


def test_an_error_that_ends_the_worker(
    storage: Storage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(storage.queue, "sweep_and_claim", fail)
    with pytest.raises(ValueError, match="a fault"):
        worker.run(handle_signals=False)
    assert worker.health == WorkerHealth(False, False, ["the worker has ended: ValueError: a fault"])
    monkeypatch.undo()
    worker.run_until_idle()
    assert worker.health == WorkerHealth(True, False, ["the worker is not running"])


def test_a_run_until_idle_that_finds_no_storage_may_be_repeated(
    storage: Storage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(**_: object) -> None:
        raise StorageUnavailable("away")

    monkeypatch.setattr(storage.queue, "sweep_and_claim", away)
    with pytest.raises(StorageUnavailable):
        worker.run_until_idle()
    assert worker.health == WorkerHealth(True, False, ["the worker has ended: away"])


def test_the_limit_follows_that_of_the_engine(
    open_postgres: Callable[..., Storage], storage: Storage
) -> None:
    assert longest_step(storage, 5.0) == 305.0
    assert longest_step(open_postgres(timeout=timedelta(seconds=100)), 5.0) == 1005.0
    assert longest_step(open_postgres(timeout=timedelta(seconds=1)), 5.0) == 305.0


def test_an_async_worker_tells_the_same(storage: Storage) -> None:
    worker = AsyncWorker(storage, {"x": print})
    assert worker.health == WorkerHealth(True, False, ["the worker is not running"])
    assert worker.numbers.worker_id == worker.worker_id
