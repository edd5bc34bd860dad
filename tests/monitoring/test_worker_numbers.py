"""`Worker.numbers`: what a worker counts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from math import inf
from typing import Any

import pytest

from assistly.storage import Job, MemoryBackend, Storage
from assistly.worker import Permanent, Retry, Unknown, Worker, WorkerNumbers
from assistly.worker.counts import BOUNDS, JobCounts
from waiting import until
from worker.worker_harness import PATIENCE, running


@pytest.fixture
def storage() -> Iterator[Storage]:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        yield storage


def counted(numbers: WorkerNumbers) -> dict[tuple[str, str], int]:
    return {(one.platform, one.outcome): one.count for one in numbers.ended if one.count}


def raising(error: Exception) -> Callable[[Job], None]:
    def publish(_: Job) -> None:
        raise error

    return publish


def test_jobs_are_counted_by_platform_and_outcome(storage: Storage) -> None:
    publishers: dict[str, Any] = {
        "good": lambda _: None,
        "bad": raising(Permanent("no")),
        "dark": raising(Unknown("no answer")),
        "flaky": raising(ValueError("no")),
        "slow": raising(Retry(after=60)),
    }
    for platform in (*publishers, "good"):
        storage.queue.schedule(platform, "hello")
    worker = Worker(storage, publishers)
    worker.run_until_idle()
    assert counted(worker.numbers) == {
        ("good", "posted"): 2,
        ("bad", "dead"): 1,
        ("dark", "unknown"): 1,
        ("flaky", "failed"): 1,
        ("slow", "snoozed"): 1,
    }
    assert worker.counts == {"posted": 2, "dead": 1, "unknown": 1, "failed": 1, "snoozed": 1}
    assert (worker.numbers.in_progress, worker.numbers.concurrency) == (0, 4)


def test_every_outcome_is_there_from_the_beginning(storage: Storage) -> None:
    worker = Worker(storage, {"x": print, "y": print})
    assert len({(one.platform, one.outcome) for one in worker.numbers.ended}) == 2 * 8
    assert {(one.count, one.durations) for one in worker.numbers.ended} == {(0, None)}
    assert worker.counts == {}


def test_how_long_publishers_took(storage: Storage) -> None:
    now = 0.0

    def publish(job: Job) -> None:
        nonlocal now
        now += float(job.content)

    for seconds in ("0.2", "7", "9000"):
        storage.queue.schedule("x", seconds)
    worker = Worker(storage, {"x": publish}, concurrency=1, clock=lambda: now)
    worker.run_until_idle()
    (durations,) = [one.durations for one in worker.numbers.ended if one.durations is not None]
    assert durations.count == 3
    assert durations.seconds == pytest.approx(9007.2)
    assert [bound for bound, _ in durations.buckets] == [*BOUNDS, inf]
    found = dict(durations.buckets)
    assert [found[bound] for bound in (0.1, 0.25, 5.0, 10.0, 600.0, inf)] == [0, 1, 1, 2, 2, 3]


def test_a_duration_at_a_bound_is_in_its_bucket() -> None:
    counts = JobCounts()
    counts.add("posted", "x", 1.0)
    (one,) = counts.ended()
    assert one.durations is not None
    assert next(bound for bound, count in one.durations.buckets if count) == 1.0


def test_jobs_in_progress_and_lost_claims(storage: Storage) -> None:
    begun, release = threading.Event(), threading.Event()

    def publish(job: Job) -> None:
        storage.queue.rescue_expired(now=storage._context.now(None) + timedelta(hours=1))
        begun.set()
        assert release.wait(PATIENCE)

    storage.queue.schedule("x", "hello")
    worker = Worker(storage, {"x": publish}, concurrency=3)
    with running(worker):
        assert begun.wait(PATIENCE)
        assert (worker.numbers.in_progress, worker.numbers.claims_lost) == (1, 0)
        release.set()
        until(lambda: worker.numbers.claims_lost == 1)
        until(lambda: worker.numbers.in_progress == 0)
    assert counted(worker.numbers) == {("x", "lost"): 1}
