"""A worker whose storage fails for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from assistly.storage import (
    ConfigurationError,
    InvalidValue,
    Job,
    JobStatus,
    MemoryBackend,
    MigrationError,
    NewJob,
    NotFound,
    OutcomeUnknown,
    Posted,
    Storage,
    StorageClosed,
    StorageCorrupt,
    StorageUnavailable,
)
from assistly.worker import Worker
from assistly.worker.storage_calls import Backoff, NotSettled, RetriedCalls
from waiting import until

Patch = Callable[..., list[str]]


@pytest.fixture
def storage() -> Iterator[Storage]:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        yield storage


@pytest.fixture
def fail(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Makes the first calls of a method of the queue fail, before or after they did their work."""

    def patch(method: str, *errors: Exception, landed: bool = False) -> list[str]:
        whole = getattr(storage.queue, method)
        left, calls = [*errors], []

        def failing(*arguments: Any, **options: Any) -> Any:
            calls.append(method)
            if not left:
                return whole(*arguments, **options)
            if landed:
                whole(*arguments, **options)
            raise left.pop(0)

        monkeypatch.setattr(storage.queue, method, failing)
        return calls

    return patch


def published(storage: Storage) -> tuple[list[int], dict[str, int]]:
    calls: list[int] = []

    def publisher(job: Job) -> str:
        calls.append(job.id)
        return f"remote-{job.id}"

    worker = Worker(storage, {"x": publisher})
    worker.run_until_idle()
    return calls, worker.counts


def test_a_result_waits_for_the_storage_and_is_stored_once(storage: Storage, fail: Patch) -> None:
    job = storage.queue.schedule("x", "hello")
    calls = fail("settle", StorageUnavailable("away"), StorageUnavailable("still away"))
    assert published(storage) == ([job.id], {"posted": 1})
    assert len(calls) == 3


@pytest.mark.parametrize("landed", [False, True])
@pytest.mark.parametrize("error", [OutcomeUnknown("no reply"), StorageUnavailable("away"), TypeError("oops")])
def test_outcomes_that_cannot_be_stored_together_are_stored_one_by_one(
    storage: Storage, fail: Patch, error: Exception, landed: bool
) -> None:
    storage.queue.schedule_many(NewJob("x", str(number)) for number in range(8))
    gate = threading.Barrier(4)
    together, settle = [0], storage.queue.settle

    def failing(outcomes: list[Posted]) -> Any:
        if len(outcomes) == 1:
            return settle(outcomes)
        together[0] += 1
        if landed and not isinstance(error, StorageUnavailable):
            settle(outcomes)
        raise error

    storage.queue.settle = failing  # type: ignore[method-assign, assignment]

    def publisher(job: Job) -> str:
        gate.wait(30)
        return f"remote-{job.id}"

    worker = Worker(storage, {"x": publisher}, concurrency=4)
    worker.run_until_idle()
    assert worker.counts == {"posted": 8}
    assert {job.remote_id for job in storage.queue.list()} == {f"remote-{n}" for n in range(1, 9)}


@pytest.mark.parametrize("landed", [False, True])
def test_a_lost_reply_to_the_settlement_is_looked_up(storage: Storage, fail: Patch, landed: bool) -> None:
    job = storage.queue.schedule("x", "hello")
    calls = fail("settle", OutcomeUnknown("no reply"), landed=landed)
    assert published(storage) == ([job.id], {"posted": 1})
    assert len(calls) == (1 if landed else 2)
    stored = storage.queue.get(job.id)
    assert stored is not None
    assert (stored.status, stored.remote_id) == (JobStatus.POSTED, f"remote-{job.id}")


def test_a_lost_reply_that_cannot_be_looked_up_at_once(storage: Storage, fail: Patch) -> None:
    job = storage.queue.schedule("x", "hello")
    fail("get", StorageUnavailable("away"))
    fail("settle", OutcomeUnknown("no reply"), OutcomeUnknown("no reply again"), landed=True)
    assert published(storage) == ([job.id], {"posted": 1})


def test_a_lost_reply_that_can_only_be_looked_up_after_another_try(storage: Storage, fail: Patch) -> None:
    job = storage.queue.schedule("x", "hello")
    fail("get", StorageUnavailable("away"))
    calls = fail("settle", OutcomeUnknown("no reply"), landed=True)
    assert published(storage) == ([job.id], {"posted": 1})
    assert len(calls) == 2


def test_a_result_that_came_too_late_is_reported_as_such(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever decides about the dead letter must learn that it was published."""
    job = storage.queue.schedule("x", "hello")
    settle = storage.queue.settle

    def rescue_first(*arguments: Any, **options: Any) -> Any:
        storage.queue.settle = settle  # type: ignore[method-assign]
        assert storage.queue.rescue_expired(now=datetime.max.replace(tzinfo=UTC))
        raise OutcomeUnknown("no reply")

    storage.queue.settle = rescue_first  # type: ignore[method-assign]
    assert published(storage) == ([job.id], {"lost": 1})
    assert f"job {job.id} on x: its claim is lost; here it was published as remote-{job.id}" in caplog.text


@pytest.mark.parametrize("landed", [False, True])
@pytest.mark.parametrize("error", [OutcomeUnknown("no reply"), StorageUnavailable("away")])
def test_publishing_begins_when_that_is_stored(
    storage: Storage, fail: Patch, error: Exception, landed: bool
) -> None:
    job = storage.queue.schedule("x", "hello")
    fail("begin_publish_many", error, landed=landed)
    fail("begin_publish", error, landed=landed)
    assert published(storage) == ([job.id], {"posted": 1})


def test_jobs_that_cannot_begin_together_begin_one_by_one(
    storage: Storage, fail: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = storage.queue.schedule_many(NewJob("x", str(number)) for number in range(3))
    together = fail("begin_publish_many", StorageUnavailable("away"))
    singly = fail("begin_publish")
    calls, counts = published(storage)
    assert (sorted(calls), counts) == ([job.id for job in jobs], {"posted": 3})
    assert (len(together), len(singly)) == (1, 3)
    assert "cannot begin to publish 3 jobs; will retry: away" in caplog.text


@pytest.mark.parametrize("stop", [True, False])
def test_a_job_that_has_begun_is_put_back_if_it_may_not_be_published_now(
    storage: Storage, stop: bool
) -> None:
    """The worker was stopped, or the platform paused, between the beginning and the publisher's call."""
    job = storage.queue.schedule("x", "hello")
    calls: list[int] = []
    worker = Worker(storage, {"x": lambda job: calls.append(job.id)})
    begin = storage.queue.begin_publish_many

    def begin_and_interrupt(jobs: list[Job]) -> list[Job]:
        begun = begin(jobs)
        if stop:
            worker.stop()
        else:
            worker._pauses.rate_limited("x", 60.0, 0.0)
        return begun

    storage.queue.begin_publish_many = begin_and_interrupt  # type: ignore[method-assign, assignment]
    worker.run_until_idle()
    stored = storage.queue.get(job.id)
    assert stored is not None
    assert (calls, worker.counts) == ([], {"put back": 1})
    assert (stored.status, stored.publish_started_at, stored.retries) == (JobStatus.SCHEDULED, None, 0)


def test_a_worker_that_gives_up_to_begin_hands_the_job_back(storage: Storage, fail: Patch) -> None:
    job = storage.queue.schedule("x", "hello")
    fail("begin_publish_many", StorageUnavailable("away"))
    calls: list[int] = []
    worker = Worker(storage, {"x": lambda job: calls.append(job.id)})
    begin = storage.queue.begin_publish

    def stop_and_fail(job: Job) -> Job:
        begin(job)
        worker.stop()
        raise OutcomeUnknown("no reply")

    storage.queue.begin_publish = stop_and_fail  # type: ignore[method-assign, assignment]
    worker.run_until_idle()
    assert calls == []
    stored = storage.queue.get(job.id)
    assert stored is not None
    assert (stored.status, stored.publish_started_at, stored.retries) == (JobStatus.SCHEDULED, None, 0)


def test_nothing_is_taken_back_while_a_result_waits(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage was away for longer than the lease."""
    now = [datetime(2030, 1, 1, tzinfo=UTC)]
    settle, calls = storage.queue.settle, [0]

    def failing(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            now[0] += timedelta(hours=1)
            storage.queue.schedule("x", "next")
        if calls[0] <= 3:
            raise StorageUnavailable("away")
        return settle(*arguments, **options)

    monkeypatch.setattr(storage._context, "clock", lambda: now[0])
    monkeypatch.setattr(storage.queue, "settle", failing)
    done = threading.Event()
    late = storage.queue.schedule("x", "late")
    worker = Worker(storage, {"x": lambda job: done.set() if job.content == "next" else None}, concurrency=2)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    assert done.wait(30)
    worker.stop()
    thread.join(30)
    stored = storage.queue.get(late.id)
    assert stored is not None
    assert stored.status is JobStatus.POSTED


STAYING = [
    ConfigurationError("permission denied for table assistly_queue_jobs"),
    MigrationError("a newer schema"),
    StorageCorrupt("a value that nobody has written"),
    NotFound("no such thing"),
    TypeError("an engine's own mistake"),
]


@pytest.mark.parametrize("method", ["begin_publish", "settle"])
@pytest.mark.parametrize("error", STAYING)
def test_a_call_is_repeated_after_any_error_but_a_final_one(
    storage: Storage, fail: Patch, caplog: pytest.LogCaptureFixture, method: str, error: Exception
) -> None:
    job = storage.queue.schedule("x", "hello")
    fail("begin_publish_many", error)
    calls = fail(method, error, error)
    assert published(storage) == ([job.id], {"posted": 1})
    assert len(calls) == 3
    assert str(error) in caplog.text
    assert "claim is lost" not in caplog.text


@pytest.mark.parametrize("error", [StorageClosed("closed"), InvalidValue("no such outcome")])
def test_an_outcome_that_cannot_be_stored_is_not_said_to_be_lost(
    storage: Storage, fail: Patch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    job = storage.queue.schedule("x", "hello")
    calls = fail("settle", error)
    assert published(storage) == ([job.id], {"not stored": 1})
    assert len(calls) == 1
    assert f"cannot settle job {job.id}: {error}" in caplog.text
    here = f"job {job.id} on x: its outcome is not stored; here it was published as remote-{job.id}"
    assert here in caplog.text
    assert "claim is lost" not in caplog.text


@pytest.mark.parametrize("error", [StorageClosed("closed"), InvalidValue("no such job")])
def test_nothing_is_published_after_a_final_error(storage: Storage, fail: Patch, error: Exception) -> None:
    job = storage.queue.schedule("x", "hello")
    fail("begin_publish_many", error)
    fail("begin_publish", error)
    fail("settle", error)
    assert published(storage)[0] == []
    stored = storage.queue.get(job.id)
    assert stored is not None
    assert stored.publish_started_at is None


def test_an_error_that_stays_is_repeated_until_the_grace_time_ends(
    storage: Storage, fail: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    job = storage.queue.schedule("x", "hello")
    fail("settle", *[ConfigurationError("permission denied")] * 1000)
    worker: Worker = Worker(storage, {"x": lambda _: worker.stop()}, grace=0.1)
    worker.run()
    assert worker.counts == {"not stored": 1}
    assert f"job {job.id} on x: its outcome is not stored; here it was published" in caplog.text
    assert "claim is lost" not in caplog.text


def test_a_worker_waits_an_error_out_while_a_result_has_to_be_stored(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker would end with this error if it had nothing to store."""
    denied = ConfigurationError("permission denied")
    settle, settles, raised = storage.queue.settle, [0], threading.Event()

    def failing_settle(*arguments: Any, **options: Any) -> Any:
        settles[0] += 1
        if not raised.is_set():
            raise denied
        return settle(*arguments, **options)

    def failing_wait(timeout: float, **_: object) -> bool:
        until(lambda: settles[0] >= 2)
        if raised.is_set():
            return bool(storage.queue.next_due_at())
        raised.set()
        raise denied

    monkeypatch.setattr(storage.queue, "settle", failing_settle)
    monkeypatch.setattr(storage.queue, "wait", failing_wait)
    storage.queue.schedule("x", "first")
    worker = Worker(storage, {"x": lambda _: None}, poll=0.01)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    until(lambda: worker.counts == {"posted": 1})
    storage.queue.schedule("x", "second")
    until(lambda: worker.counts == {"posted": 2})
    worker.stop()
    thread.join(30)
    assert not thread.is_alive()


def test_a_worker_that_cannot_claim_goes_on_trying(storage: Storage, fail: Patch) -> None:
    fail("sweep_and_claim", StorageUnavailable("away"), OutcomeUnknown("no reply"))
    fail("wait", StorageUnavailable("away"))
    done = threading.Event()
    storage.queue.schedule("x", "hello")
    worker = Worker(storage, {"x": lambda _: done.set()})
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    assert done.wait(30)
    worker.stop()
    thread.join(30)
    assert not thread.is_alive()


def test_a_worker_ends_with_an_error_that_stays(storage: Storage, fail: Patch) -> None:
    fail("sweep_and_claim", MigrationError("a newer schema"))
    with pytest.raises(MigrationError):
        Worker(storage, {"x": lambda _: None}).run()


def test_a_heartbeat_that_fails_goes_on(storage: Storage, fail: Patch) -> None:
    calls = fail("extend", StorageUnavailable("away"))
    storage.queue.schedule("x", "hello")
    beaten = threading.Event()

    def slow(_: Job) -> None:
        while len(calls) < 3:
            beaten.wait(0.005)

    worker = Worker(storage, {"x": slow}, heartbeat=timedelta(milliseconds=5))
    worker.run_until_idle()
    assert worker.counts == {"posted": 1}


def test_delays_double_up_to_a_bound() -> None:
    backoff = Backoff(1, 5)
    assert [backoff.next() for _ in range(4)] == [1, 2, 4, 5]
    backoff.reset()
    assert backoff.next() == 1


def test_nothing_is_tried_for_ever(storage: Storage, fail: Patch) -> None:

    job = storage.queue.schedule("x", "hello")
    fail("settle", *[StorageUnavailable("away")] * 9)
    delays: list[float] = []

    def pause(seconds: float) -> bool:
        delays.append(seconds)
        return len(delays) == 4

    assert [*RetriedCalls(storage, pause).settle([Posted(job)])] == [NotSettled.NOT_STORED]
    assert delays == [0.05, 0.1, 0.2, 0.4]
