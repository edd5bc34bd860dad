"""What workers share about platforms: pauses after rate limits, pauses of people, and limits."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from assistly.storage import Job, JobStatus, MemoryBackend, NewJob, Storage, StorageUnavailable
from assistly.worker import Publisher, Retry, Worker
from waiting import until
from worker.worker_harness import running

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


class Clock:
    """The clock of the storage and of the workers."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return (self.now - START).total_seconds()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def storage(clock: Clock) -> Iterator[Storage]:
    with Storage(MemoryBackend(), clock=clock, auto_prune=False) as storage:
        yield storage


def limited_once(published: list[str], after: float = 600) -> Publisher:
    """Asks for a pause at its first call."""
    calls: list[int] = []

    def publish(job: Job) -> None:
        calls.append(job.id)
        if len(calls) == 1:
            raise Retry("too many requests", after=after)
        published.append(job.content)

    return publish


def test_a_rate_limit_pauses_the_platform_for_all_workers(storage: Storage, clock: Clock) -> None:
    published: list[str] = []
    storage.queue.schedule("x", "first")
    Worker(storage, {"x": limited_once(published)}, worker_id="one", clock=clock.seconds).run_until_idle()
    platform = storage.platforms.get("x")
    assert platform is not None
    assert (platform.paused, platform.reason, platform.by) == (True, "too many requests", "one")
    assert platform.paused_until == START + timedelta(seconds=600)
    storage.queue.schedule("x", "second")
    storage.queue.schedule("y", "third")
    publishers: dict[str, Publisher] = dict.fromkeys("xy", lambda job: published.append(job.content))
    other = Worker(storage, publishers, clock=clock.seconds)
    other.run_until_idle()
    assert published == ["third"]
    clock.now += timedelta(seconds=600)
    other.run_until_idle()
    assert sorted(published) == ["first", "second", "third"]


def test_a_pause_outlives_its_worker(storage: Storage, clock: Clock) -> None:
    published: list[str] = []
    publisher = limited_once(published)
    storage.queue.schedule("x", "first")
    storage.queue.schedule("x", "second")
    for _ in range(3):
        Worker(storage, {"x": publisher}, concurrency=1, clock=clock.seconds).run_until_idle()
    assert published == []
    clock.now += timedelta(seconds=600)
    Worker(storage, {"x": publisher}, clock=clock.seconds).run_until_idle()
    assert sorted(published) == ["first", "second"]


def test_the_same_worker_goes_on_when_a_person_resumes(storage: Storage, clock: Clock) -> None:
    published: list[str] = []
    storage.queue.schedule("x", "first")
    worker = Worker(storage, {"x": limited_once(published)}, clock=clock.seconds)
    worker.run_until_idle()
    storage.platforms.resume("x")
    clock.now += timedelta(seconds=1)
    storage.queue.schedule("x", "second")
    worker.run_until_idle()
    assert published == ["second"]


def test_a_persons_pause_is_not_shortened(storage: Storage, clock: Clock) -> None:
    storage.queue.schedule("x", "first")

    def publish(_: Job) -> None:
        storage.platforms.pause("x", reason="they are down", by="ada")
        raise Retry(after=10)

    Worker(storage, {"x": publish}, clock=clock.seconds).run_until_idle()
    clock.now += HOUR
    platform = storage.platforms.get("x")
    assert platform is not None
    assert (platform.paused, platform.paused_until, platform.by) == (True, None, "ada")


def test_a_pause_of_a_person_holds_a_running_worker_and_resuming_wakes_it() -> None:
    published: list[str] = []
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        storage.platforms.pause("x")
        storage.queue.schedule("x", "paused")
        storage.queue.schedule("y", "other")
        publishers: dict[str, Publisher] = dict.fromkeys("xy", lambda job: published.append(job.content))
        with running(Worker(storage, publishers, poll=3600)):
            until(lambda: published == ["other"])
            storage.platforms.resume("x")
            until(lambda: published == ["other", "paused"])


def test_the_pause_is_stored_before_the_job_is_put_back(
    storage: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise another worker could claim the job at once, and ask the platform again."""
    job = storage.queue.schedule("x", "first")
    pause, seen = storage.platforms.pause_at_least, []

    def failing(*arguments: object, **options: object) -> object:
        stored = storage.queue.get(job.id)
        assert stored is not None
        seen.append(stored.status)
        if len(seen) < 3:
            raise StorageUnavailable("away")
        return pause(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(storage.platforms, "pause_at_least", failing)
    Worker(storage, {"x": limited_once([])}, clock=clock.seconds).run_until_idle()
    assert seen == [JobStatus.PROCESSING] * 3
    platform = storage.platforms.get("x")
    assert platform is not None
    assert platform.paused


def publish_all(storage: Storage, clock: Clock, minutes: int, workers: int, jobs: int) -> list[float]:
    """When jobs were published within so many minutes, by workers that look once in a second."""
    times: list[float] = []
    storage.queue.schedule_many([_new(number) for number in range(jobs)])
    made = [
        Worker(storage, {"x": lambda _: times.append(clock.seconds())}, clock=clock.seconds)
        for _ in range(workers)
    ]
    for second in range(60 * minutes):
        clock.now = START + timedelta(seconds=second)
        for worker in made:
            worker.run_until_idle()
    return times


def _new(number: int) -> NewJob:
    return NewJob("x", str(number))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_limit_is_for_all_workers_together(storage: Storage, clock: Clock, workers: int) -> None:
    storage.platforms.limit("x", 10, MINUTE)
    times = publish_all(storage, clock, 5, workers, 100)
    for begin in times:
        for width in (0, 6, 30, 60, 120):
            assert sum(begin <= time <= begin + width for time in times) <= 10 + width / 6
    assert len(times) >= 0.95 * (10 + 5 * 10)


def test_tokens_without_a_job_are_given_back(storage: Storage, clock: Clock) -> None:
    storage.platforms.limit("x", 10, HOUR)
    storage.queue.schedule("x", "only one")
    Worker(storage, {"x": lambda _: None}, concurrency=8, clock=clock.seconds).run_until_idle()
    assert storage.platforms.take("x", 100) == 9


def test_a_limit_beside_a_number_of_jobs_at_once(storage: Storage, clock: Clock) -> None:
    storage.platforms.limit("x", 3, HOUR)
    storage.queue.schedule_many([_new(number) for number in range(9)])
    worker = Worker(storage, {"x": lambda _: None}, platform_concurrency={"x": 2}, clock=clock.seconds)
    worker.run_until_idle()
    assert worker.counts == {"posted": 3}


def test_other_platforms_go_on_beside_one_at_its_limit(storage: Storage, clock: Clock) -> None:
    storage.platforms.limit("x", 1, HOUR)
    for platform in ("x", "x", "y", "y", "y"):
        storage.queue.schedule(platform, "hello")
    worker = Worker(storage, dict.fromkeys("xy", lambda _: None), clock=clock.seconds)
    worker.run_until_idle()
    assert worker.counts == {"posted": 4}


def test_a_new_limit_is_noticed(storage: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistly.worker.budgets.REFRESH_SECONDS", 0.0)
    worker = Worker(storage, {"x": lambda _: None}, clock=clock.seconds)
    storage.queue.schedule("x", "hello")
    worker.run_until_idle()
    storage.platforms.limit("x", 1, HOUR)
    storage.platforms.take("x", 1)
    storage.queue.schedule("x", "hello")
    worker.run_until_idle()
    assert worker.counts == {"posted": 1}
    storage.platforms.limit("x", None)
    worker.run_until_idle()
    assert worker.counts == {"posted": 2}
