"""The events of a worker: for its hook, its log and its counts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from assistly.storage import InvalidValue, Job, JobStatus, MemoryBackend, Storage
from assistly.worker import EventKind, Permanent, Retry, Unknown, Worker, WorkerEvent, events
from waiting import until

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Clock:
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


def raising(error: BaseException) -> Any:
    def publish(_: Job) -> None:
        raise error

    return publish


def events_of(storage: Storage, clock: Clock, publisher: Any, **options: Any) -> list[WorkerEvent]:
    """The events while a worker publishes what is due."""
    seen: list[WorkerEvent] = []
    worker = Worker(
        storage, {"x": publisher}, worker_id="w", clock=clock.seconds, on_event=seen.append, **options
    )
    worker.run_until_idle()
    return seen


def test_a_job_that_is_published(storage: Storage, clock: Clock) -> None:
    id = storage.queue.schedule("x", "hello").id
    claimed, published = events_of(storage, clock, lambda _: "remote-1")
    assert (claimed.kind, claimed.platform, claimed.worker_id) == (EventKind.CLAIMED, "x", "w")
    assert claimed.job is not None
    assert (claimed.job.id, claimed.job.status) == (id, JobStatus.PROCESSING)
    assert published == WorkerEvent(EventKind.PUBLISHED, "w", "x", storage.queue.get(id), seconds=0.0)


@pytest.mark.parametrize(
    ("error", "kind", "why"),
    [
        (ValueError("no"), EventKind.FAILED, "ValueError: no"),
        (Permanent("never\nagain"), EventKind.DEAD, "never again"),
        (Unknown("no answer"), EventKind.UNKNOWN, "outcome unknown: no answer"),
    ],
)
def test_a_job_that_is_not(
    storage: Storage, clock: Clock, error: Exception, kind: EventKind, why: str
) -> None:
    id = storage.queue.schedule("x", "hello").id
    ended = events_of(storage, clock, raising(error))[-1]
    stored = storage.queue.get(id)
    assert stored is not None
    assert (ended.kind, ended.job, ended.error) == (kind, stored, why)
    assert ended.until == (stored.due_at if kind is EventKind.FAILED else None)


def test_a_rate_limit(storage: Storage, clock: Clock) -> None:
    storage.queue.schedule("x", "hello")
    _, paused, snoozed = events_of(storage, clock, raising(Retry("slow down", after=60)))
    end = START + timedelta(seconds=60)
    assert paused == WorkerEvent(EventKind.PAUSED, "w", "x", error="slow down", until=end, seconds=60.0)
    assert (snoozed.kind, snoozed.until) == (EventKind.SNOOZED, end)


def test_jobs_of_others_that_a_claim_meets(storage: Storage, clock: Clock) -> None:
    late = storage.queue.schedule("x", "late", START - HOUR, max_lateness=timedelta(minutes=1))
    for content in ("not begun", "begun"):
        storage.queue.schedule("y", content)
    not_begun, begun = storage.queue.claim_due(worker_id="gone", platforms=["y"], lease=HOUR)
    storage.queue.begin_publish(begun)
    clock.now += 2 * HOUR
    seen = events_of(storage, clock, lambda _: None)
    found = {event.job.id: event for event in seen if event.job is not None}
    assert {id: event.kind for id, event in found.items()} == {
        late.id: EventKind.MISSED,
        not_begun.id: EventKind.FAILED,
        begun.id: EventKind.UNKNOWN,
    }
    assert (found[late.id].error or "").startswith("missed: ")
    assert (found[not_begun.id].error or "").startswith("lease expired: ")


def test_counts_are_of_this_worker_alone(storage: Storage, clock: Clock) -> None:
    storage.queue.schedule("x", "late", START - HOUR, max_lateness=timedelta(minutes=1))
    storage.queue.schedule("x", "hello")
    worker = Worker(storage, {"x": lambda _: None}, clock=clock.seconds)
    worker.run_until_idle()
    assert worker.counts == {"posted": 1}


def test_the_log_says_the_same(storage: Storage, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "assistly.worker")
    storage.queue.schedule("x", "hello")
    seen = events_of(storage, clock, lambda _: "remote-1")
    lines = [record.message for record in caplog.records]
    assert lines == [events.described(event) for event in seen]
    assert lines[-1] == "job 1 on x is posted as remote-1 (0.000 s)"


def test_a_hook_that_raises_harms_nothing(
    storage: Storage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[EventKind] = []

    def hook(event: WorkerEvent) -> None:
        seen.append(event.kind)
        raise SystemExit(3)

    storage.queue.schedule("x", "hello")
    worker = Worker(storage, {"x": lambda _: None}, clock=clock.seconds, on_event=hook)
    worker.run_until_idle()
    assert (worker.counts, seen) == ({"posted": 1}, [EventKind.CLAIMED, EventKind.PUBLISHED])
    assert "on_event failed for the event 'claimed'" in caplog.text


def test_a_hook_that_hangs_holds_nothing_up(
    storage: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "MOST_WAITING", 3)
    monkeypatch.setattr("assistly.worker.loop._JOIN_SECONDS", 0.05)
    release, seen = threading.Event(), []

    def hook(event: WorkerEvent) -> None:
        assert release.wait(60)
        seen.append(event)

    for _ in range(5):
        storage.queue.schedule("x", "hello")
    worker = Worker(storage, {"x": lambda _: None}, clock=clock.seconds, on_event=hook)
    worker.run_until_idle()
    assert worker.counts == {"posted": 5}
    release.set()
    until(lambda: len(seen) == 3)
    until(lambda: "on_event is too slow: 7 events were dropped" in caplog.text)


@pytest.mark.parametrize("hook", [3, "print", object()])
def test_what_is_no_hook(storage: Storage, hook: Any) -> None:
    with pytest.raises(InvalidValue, match="on_event must be a function"):
        Worker(storage, {"x": lambda _: None}, on_event=hook)


def test_a_coroutine_function_is_no_hook(storage: Storage) -> None:
    async def hook(_: WorkerEvent) -> None: ...

    with pytest.raises(InvalidValue, match="call_soon_threadsafe"):
        Worker(storage, {"x": lambda _: None}, on_event=hook)
