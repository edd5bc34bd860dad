"""Publishers that are objects, and what publishers are passed beside the job."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

import pytest

from assistly.storage import (
    ClaimLost,
    InvalidValue,
    Job,
    JobStatus,
    MemoryBackend,
    Storage,
    StorageUnavailable,
)
from assistly.storage.stores.queue import Queue
from assistly.worker import AsyncWorker, Permanent, Publication, Unknown, Worker
from assistly.worker.threads import Runtime
from waiting import until
from worker.worker_harness import running, stored

LONG = 30.0


@pytest.fixture
def storage() -> Iterator[Storage]:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        yield storage


def in_steps(job: Job, publication: Publication) -> str:
    assert publication.job is job
    return f"attempt-{publication.attempt}"


class InSteps:
    def publish(self, job: Job, publication: Publication) -> str:
        return in_steps(job, publication)


class Simple:
    def publish(self, job: Job) -> str:
        return f"attempt-{job.retries + 1}"


class CalledInSteps:
    def __call__(self, job: Job, publication: Publication) -> str:
        return in_steps(job, publication)

    def publish(self, job: Job) -> str:
        raise AssertionError("an object that can be called is called")


class InAsyncSteps:
    async def publish(self, job: Job, publication: Publication) -> str:
        return in_steps(job, publication)


def by_default(job: Job, publication: Publication | None = None) -> str:
    assert publication is not None
    return in_steps(job, publication)


def by_name(job: Job, *, publication: Publication) -> str:
    return in_steps(job, publication)


def with_a_default_of_its_own(job: Job, client: str = "mine") -> str:
    assert client == "mine"
    return "attempt-1"


def passed_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def filled_in(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args, "mine")

    return wrapper


def takes_all(*given: Any) -> str:
    (job,) = given
    return f"attempt-{job.retries + 1}"


PUBLISHERS: list[Any] = [
    in_steps,
    InSteps(),
    InSteps().publish,
    Simple(),
    CalledInSteps(),
    InAsyncSteps(),
    by_default,
    by_name,
    with_a_default_of_its_own,
    passed_on(in_steps),
    passed_on(by_name),
    filled_in(with_a_default_of_its_own),
    partial(by_name),
    takes_all,
    lambda job, seen=1: f"attempt-{seen}",
]


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_what_is_called_and_with_what(storage: Storage, publisher: Any) -> None:
    job = storage.queue.schedule("x", "hello")
    Worker(storage, {"x": publisher}).run_until_idle()
    assert stored(storage, job).remote_id == "attempt-1"


class Wrong:
    def __init__(self, check: object) -> None:
        self.check = check

    def publish(self, job: Job) -> None: ...


def generates(_: Job) -> Iterator[str]:
    yield "remote"


@pytest.mark.parametrize(
    ("publisher", "message"),
    [
        (object(), "an object with a method publish"),
        (InSteps, r"pass InSteps\(…\)"),
        (InSteps.publish, "must take the job, or the job and the publication"),
        (Wrong("yes"), "a check that must be a method or None"),
        (Wrong(lambda: None), "a check that must take the job as its only argument"),
        (Wrong(lambda job, publication: None), "a check that must take the job as its only argument"),
        (Wrong(generates), "a check that is a generator function"),
    ],
)
def test_what_is_none_is_refused(storage: Storage, publisher: Any, message: str) -> None:
    for kind in (Worker, AsyncWorker):
        with pytest.raises(InvalidValue, match=f"publishers\\['x'\\].*{message}"):
            kind(storage, {"x": publisher})


def test_the_next_attempt_finds_the_checkpoint(storage: Storage) -> None:
    job = storage.queue.schedule("x", "hello")
    seen: list[object] = []

    def publisher(job: Job, publication: Publication) -> str:
        seen.append((publication.attempt, job.checkpoint))
        if publication.attempt == 1:
            assert publication.checkpoint({"step": 1}).checkpoint == {"step": 1}
            assert publication.checkpoint({"step": 2}) == publication.job
            assert stored(storage, job).checkpoint == publication.job.checkpoint == {"step": 2}
            raise RuntimeError("not published")
        return "remote"

    worker = Worker(storage, {"x": publisher})
    worker.run_until_idle()
    storage.queue.reschedule(job.id, job.scheduled_at)
    worker.run_until_idle()
    assert seen == [(1, None), (2, {"step": 2})]
    assert stored(storage, job).status is JobStatus.POSTED


@pytest.mark.parametrize("is_async", [True, False])
def test_a_coroutine_awaits_it(storage: Storage, is_async: bool) -> None:
    job = storage.queue.schedule("x", "hello")

    async def publisher(job: Job, publication: Publication) -> str:
        with pytest.raises(RuntimeError, match="acheckpoint"):
            publication.checkpoint("blocks")
        noted = await publication.acheckpoint({"step": 1})
        with pytest.raises(InvalidValue):
            await publication.acheckpoint({1})  # type: ignore[arg-type]
        return f"{noted.checkpoint}"

    if is_async:
        asyncio.run(AsyncWorker(storage, {"x": publisher}).run_until_idle())
    else:
        Worker(storage, {"x": publisher}).run_until_idle()
    assert stored(storage, job).remote_id == "{'step': 1}"


@pytest.mark.parametrize("how", ["removed", "taken"])
def test_a_lost_claim_stops_the_second_step(storage: Storage, how: str) -> None:
    storage.queue.schedule("x", "hello")
    steps: list[int] = []
    raised: list[type[BaseException]] = []

    def publisher(job: Job, publication: Publication) -> None:
        steps.append(1)
        if how == "removed":
            storage.queue.remove(job.id)
        else:
            storage.queue.mark_unknown(job, "another did it")
        try:
            publication.checkpoint({"step": 1})
        except BaseException as error:
            raised.append(type(error))
            raise
        steps.append(2)

    worker = Worker(storage, {"x": publisher})
    worker.run_until_idle()
    assert (steps, raised) == ([1], [ClaimLost])
    assert worker.counts == {"lost": 1}


def test_after_the_time_limit_there_is_no_second_step(storage: Storage) -> None:
    job = storage.queue.schedule("x", "hello")
    go_on, raised = threading.Event(), threading.Event()

    def publisher(job: Job, publication: Publication) -> None:
        assert go_on.wait(LONG)
        try:
            publication.checkpoint({"step": 1})
        except ClaimLost:
            raised.set()
            raise

    Worker(storage, {"x": publisher}, timeout=0.05).run_until_idle()
    go_on.set()
    assert raised.wait(LONG)
    assert stored(storage, job).checkpoint is None
    assert stored(storage, job).outcome_unknown


def test_an_abandoned_publication_stores_nothing(storage: Storage) -> None:
    """Also in the moment before the storage knows that the attempt has ended."""
    storage.queue.schedule("x", "hello")
    (claimed,) = storage.queue.claim_due(worker_id="w")
    publication = Publication(Runtime(), storage.queue.begin_publish(claimed), storage.queue.checkpoint)
    publication.abandon()
    with pytest.raises(ClaimLost, match="time limit"):
        publication.checkpoint({"step": 1})
    assert stored(storage, claimed).checkpoint is None


def test_attempts_are_counted_not_claims(storage: Storage) -> None:
    job = storage.queue.schedule("x", "hello")
    storage.queue.release(*storage.queue.claim_due(worker_id="w"))
    Worker(storage, {"x": in_steps}).run_until_idle()
    assert (stored(storage, job).claim, stored(storage, job).remote_id) == (2, "attempt-1")


class Failing:
    """Calls of `Queue.checkpoint` that fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.failed = 0
        call = Queue.checkpoint

        def checkpoint(queue: Queue, *args: Any) -> Job:
            if self.failed == times:
                return call(queue, *args)
            self.failed += 1
            raise StorageUnavailable("the storage is away")

        monkeypatch.setattr(Queue, "checkpoint", checkpoint)


def publishes_in_two(job: Job, publication: Publication) -> str:
    publication.checkpoint({"step": 1})
    return "remote"


def test_a_checkpoint_waits_for_the_storage(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    job = storage.queue.schedule("x", "hello")
    failing = Failing(monkeypatch, 3)
    Worker(storage, {"x": publishes_in_two}).run_until_idle()
    assert (failing.failed, stored(storage, job).remote_id) == (3, "remote")


def test_one_that_is_not_stored_leaves_the_outcome_unknown(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing checkpoint must not be taken for a step that was not made."""
    job = storage.queue.schedule("x", "hello")
    failing = Failing(monkeypatch, -1)
    raised: list[BaseException] = []

    def publisher(job: Job, publication: Publication) -> str:
        try:
            return publishes_in_two(job, publication)
        except BaseException as error:
            raised.append(error)
            raise

    with running(Worker(storage, {"x": publisher}, grace=0.05)):
        until(lambda: failing.failed)
    until(lambda: raised)
    assert isinstance(raised[0], Unknown)
    until(lambda: stored(storage, job).outcome_unknown)


def test_an_unexpected_error_of_the_storage_is_unknown_at_once(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = storage.queue.schedule("x", "hello")

    def broken(*_: object) -> Job:
        raise KeyError("driver")

    monkeypatch.setattr(Queue, "checkpoint", broken)
    Worker(storage, {"x": publishes_in_two}).run_until_idle()
    reason = stored(storage, job).dead_letter_reason
    assert reason == "outcome unknown: the checkpoint could not be stored: KeyError: 'driver'"


def test_a_publisher_decides_what_a_failure_between_the_steps_means(storage: Storage) -> None:
    job = storage.queue.schedule("x", "hello")

    def publisher(job: Job, publication: Publication) -> str:
        publication.checkpoint({"step": 1})
        raise Permanent("no such account")

    Worker(storage, {"x": publisher}).run_until_idle()
    assert stored(storage, job).dead_letter_reason == "no such account"
    assert stored(storage, job).checkpoint == {"step": 1}
