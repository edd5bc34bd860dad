"""The time limit of a publisher."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import pytest

from assistly.storage import InvalidValue, Job, JobStatus, MemoryBackend, Storage
from assistly.worker import AsyncWorker, Permanent, Worker, invocation
from waiting import until

LONG = 30.0
LIMIT = 0.05
REASON = "outcome unknown: the publisher took longer than the time limit of 0.05 s"


@pytest.fixture
def storage() -> Iterator[Storage]:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        yield storage


def stored(storage: Storage, job: Job) -> Job:
    found = storage.queue.get(job.id)
    assert found is not None
    return found


def call_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("assistly-publisher-call")}


class Hanging:
    def __init__(self, result: object = None) -> None:
        self.released = threading.Event()
        self.hanging = 0
        self._result = result

    def __call__(self, job: Job) -> Any:
        if job.content != "hangs":
            return None
        self.hanging += 1
        assert self.released.wait(LONG)
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


def test_a_publisher_that_hangs_is_left_alone(storage: Storage) -> None:
    """It does not keep its thread of the worker."""
    hang, others = Hanging(), call_threads()
    hanging = [storage.queue.schedule("x", "hangs") for _ in range(3)]
    fast = storage.queue.schedule("x", "fast")
    worker = Worker(storage, {"x": hang}, concurrency=1, timeout=LIMIT)
    worker.run_until_idle()
    assert worker.counts == {"unknown": 3, "posted": 1}
    assert [stored(storage, job).dead_letter_reason for job in hanging] == [REASON] * 3
    assert stored(storage, fast).status is JobStatus.POSTED
    until(lambda: len(call_threads() - others) == 3)  # the idle one ends with the run
    hang.released.set()
    until(lambda: not call_threads() - others)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            "re'1",
            """it was published as re'1: `assistly jobs resolve {id} --posted --remote-id 're'"'"'1'`""",
        ),
        (None, "it was published: `assistly jobs resolve {id} --posted`"),
        (Permanent("no such account"), "it raised Permanent: no such account"),
    ],
)
def test_the_log_says_how_it_ended_later(
    storage: Storage, caplog: pytest.LogCaptureFixture, result: object, message: str
) -> None:
    hang = Hanging(result)
    job = storage.queue.schedule("x", "hangs")
    Worker(storage, {"x": hang}, timeout=LIMIT).run_until_idle()
    assert f"job {job.id} on x is a dead letter: {REASON}" in caplog.text
    hang.released.set()
    expected = f"job {job.id} on x: the publisher ended after its time limit: {message.format(id=job.id)}"
    until(lambda: expected in caplog.text)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_coroutine_is_cancelled(storage: Storage, is_async: bool) -> None:
    cancelled = threading.Event()
    job = storage.queue.schedule("x", "hello")

    async def publisher(_: Job) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def main() -> None:
        await AsyncWorker(storage, {"x": publisher}, timeout=LIMIT).run_until_idle()
        assert await asyncio.to_thread(cancelled.wait, LONG)

    if is_async:
        asyncio.run(main())
    else:
        Worker(storage, {"x": publisher}, timeout=timedelta(seconds=LIMIT)).run_until_idle()
        assert cancelled.wait(LONG)
    assert stored(storage, job).dead_letter_reason == REASON


def test_a_future_is_cancelled(storage: Storage) -> None:
    future: Future[str] = Future()
    job = storage.queue.schedule("x", "hello")
    Worker(storage, {"x": lambda _: future}, timeout=LIMIT).run_until_idle()
    assert stored(storage, job).dead_letter_reason == REASON
    until(future.cancelled)


def test_threads_are_used_again_within_the_limit(storage: Storage) -> None:
    names: set[str] = set()
    others = call_threads()
    for _ in range(20):
        storage.queue.schedule("x", "hello")

    def publisher(_: Job) -> str:
        names.add(threading.current_thread().name)
        return "remote"

    worker = Worker(storage, {"x": publisher}, concurrency=2, timeout=LONG)
    worker.run_until_idle()
    assert worker.counts == {"posted": 20}
    assert names <= {"assistly-publisher-call-1", "assistly-publisher-call-2"}
    until(lambda: not call_threads() - others)


@pytest.mark.parametrize(
    ("error", "counts"),
    [(Permanent("no"), {"dead": 1}), (ValueError("no"), {"failed": 1}), (SystemExit(1), {"unknown": 1})],
)
def test_exceptions_mean_the_same(storage: Storage, error: BaseException, counts: dict[str, int]) -> None:
    storage.queue.schedule("x", "hello")

    def publisher(_: Job) -> None:
        raise error

    worker = Worker(storage, {"x": publisher}, timeout=LONG)
    worker.run_until_idle()
    assert worker.counts == counts


def test_no_more_is_published_where_too_many_hang(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invocation, "MOST_ABANDONED", 3)
    hang, others = Hanging(), call_threads()
    for _ in range(10):
        storage.queue.schedule("x", "hangs")
    other = storage.queue.schedule("y", "fast")
    worker = Worker(storage, {"x": hang, "y": hang}, concurrency=2, timeout=LIMIT)
    worker.run_until_idle()
    assert worker.counts == {"unknown": 3, "posted": 1}
    assert stored(storage, other).status is JobStatus.POSTED
    hang.released.set()
    until(lambda: not call_threads() - others)
    worker.run_until_idle()
    assert worker.counts == {"unknown": 3, "posted": 8}


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True, timedelta(0)])
def test_the_limit_is_checked(storage: Storage, timeout: Any) -> None:
    with pytest.raises(InvalidValue, match="timeout"):
        Worker(storage, {"x": lambda _: None}, timeout=timeout)
