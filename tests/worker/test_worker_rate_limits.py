"""Platforms that accept nothing for a while, some of which say something strange about how long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import httpx
import pytest

from assistly.storage import Job, JobStatus, MemoryBackend, Storage
from assistly.worker import Retry, Worker
from assistly.worker.pauses import PlatformPauses
from assistly.worker.publishers.webhook import WebhookPublisher

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = 3600.0


class Time:
    """The clock of the storage and of the worker."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def storage(time: Time) -> Iterator[Storage]:
    with Storage(MemoryBackend(), clock=time, auto_prune=False) as storage:
        yield storage


def calls_within(
    storage: Storage, time: Time, publisher: Callable[[Job], object], seconds: float, **options: Any
) -> list[float]:
    """When a worker called the publisher, while it ran for so long."""
    calls: list[float] = []

    def noted(job: Job) -> Any:
        calls.append(time.seconds)
        return publisher(job)

    worker = Worker(storage, {"x": noted}, clock=time.monotonic, **options)
    end = time.seconds + seconds
    while time.seconds < end:
        worker.run_until_idle()
        due = storage.queue.next_due_at()
        if due is None:
            return calls
        # A worker's own pause may end a moment later than the job becomes due.
        time.seconds = max((due - START).total_seconds(), time.seconds + 0.1)
    return calls


STRANGE = [0, 0.0, -1, -1e300, timedelta(0), -timedelta(days=1), 1e-9, Decimal("-0.5"), -(10**400)]
NO_TIMES: list[Any] = [
    None,
    float("nan"),
    float("inf"),
    "0",
    "",
    "soon",
    True,
    b"1",
    START,
    [],
    Decimal("NaN"),
]


@pytest.mark.parametrize("after", STRANGE)
def test_the_pause_grows_with_each_rate_limit_in_a_row(storage: Storage, time: Time, after: Any) -> None:
    storage.queue.schedule("x", "hello")

    def limited(_: Job) -> None:
        raise Retry(after=after)

    calls = calls_within(storage, time, limited, HOUR)
    pauses = [later - earlier for earlier, later in pairwise(calls)]
    assert pauses[:6] == pytest.approx([1, 2, 4, 8, 16, 32], abs=0.2)
    assert pauses[6:] == pytest.approx([60.0] * len(pauses[6:]), abs=0.2)


@pytest.mark.parametrize("after", NO_TIMES)
def test_what_is_no_time_is_as_if_it_were_missing(storage: Storage, time: Time, after: Any) -> None:
    storage.queue.schedule("x", "hello")

    def limited(_: Job) -> None:
        raise Retry(after=after)

    assert len(calls_within(storage, time, limited, HOUR, pause=600)) == 6


@pytest.mark.parametrize("after", [-1, float("nan"), "soon", object()])
def test_a_subclass_may_hold_anything(storage: Storage, time: Time, after: Any) -> None:
    class Mine(Retry):
        def __init__(self) -> None:
            Exception.__init__(self, "mine")
            if not isinstance(after, str):
                self.after = after

    storage.queue.schedule("x", "hello")

    def limited(_: Job) -> None:
        raise Mine

    assert len(calls_within(storage, time, limited, HOUR, pause=600)) < 70


def test_a_subclass_may_have_a_property_that_raises(storage: Storage, time: Time) -> None:
    class Mine(Retry):
        @property
        def after(self) -> float:
            raise ValueError("no header")

        @after.setter
        def after(self, _: float | None) -> None:
            pass

    storage.queue.schedule("x", "hello")

    def limited(_: Job) -> None:
        raise Mine

    assert len(calls_within(storage, time, limited, HOUR, pause=600)) == 6


def test_a_worker_without_a_pause_keeps_to_the_floor(storage: Storage, time: Time) -> None:
    storage.queue.schedule("x", "hello")

    def limited(_: Job) -> None:
        raise Retry

    assert len(calls_within(storage, time, limited, 60, pause=0)) == 6


def test_a_success_ends_the_row(storage: Storage, time: Time) -> None:
    for _ in range(3):
        storage.queue.schedule("x", "hello")
    answers = iter([Retry(after=0), Retry(after=0), None, Retry(after=0), None, None])

    def limited(_: Job) -> None:
        answer = next(answers)
        if answer is not None:
            raise answer

    calls = calls_within(storage, time, limited, HOUR, concurrency=1)
    assert calls == pytest.approx([0, 1, 3, 3, 4, 4], abs=0.3)
    assert storage.queue.counts()[JobStatus.POSTED] == 3


def test_calls_at_the_same_time_are_one_step() -> None:
    now = [0.0]
    pauses = PlatformPauses(lambda: now[0])
    now[0] = 5.0
    assert [pauses.rate_limited("x", 0, began) for began in (0, 1, 2, 3)] == [1, 1, 1, 1]
    now[0] = 6.0
    pauses.succeeded("x", 4.0)  # it began before the last rate limit
    assert pauses.rate_limited("x", 0, 6.0) == 2
    assert pauses.rate_limited("y", 0, 6.0) == 1
    now[0] = 9.0
    pauses.succeeded("x", 8.0)
    assert pauses.rate_limited("x", 0, 9.0) == 1


def test_a_longer_pause_is_not_shortened() -> None:
    pauses = PlatformPauses(lambda: 0.0)
    assert pauses.rate_limited("x", 90, 0) == 90
    assert pauses.rate_limited("x", 1, 0) == 1
    assert pauses.remaining("x", 0) == 90


def test_a_very_long_row_does_not_overflow() -> None:
    now = [0.0]
    pauses = PlatformPauses(lambda: now[0])
    for _ in range(2000):
        now[0] += 100
        assert pauses.rate_limited("x", 0, now[0]) <= 60


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("header", ["0", "0.0", "Thu, 01 Jan 1970 00:00:00 GMT", "000"])
def test_a_receiver_that_always_says_at_once(storage: Storage, time: Time, status: int, header: str) -> None:
    storage.queue.schedule("x", "hello")
    answer = httpx.Response(status, headers={"Retry-After": header})
    publisher = WebhookPublisher("https://example.org", transport=httpx.MockTransport(lambda _: answer))
    assert 50 < len(calls_within(storage, time, publisher, HOUR)) < 70
    publisher.close()
