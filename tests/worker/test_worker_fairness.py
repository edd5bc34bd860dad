"""How the platforms of a worker share its threads."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistly.storage import Claimed, Job, JobStatus, MemoryBackend, Storage
from assistly.worker import Worker
from assistly.worker.shares import ThreadShares
from waiting import until
from worker.worker_harness import running

LONG = 30.0


@pytest.fixture
def storage() -> Iterator[Storage]:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        yield storage


@pytest.fixture
def claims(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The platforms of each claim."""
    noted: list[list[str]] = []
    claim_due = storage.queue.sweep_and_claim

    def claim(**options: Any) -> Claimed:
        noted.append(options["platforms"])
        return claim_due(**options)

    monkeypatch.setattr(storage.queue, "sweep_and_claim", claim)
    return noted


class Hanging:
    """A publisher that hangs until `release`."""

    def __init__(self) -> None:
        self.hanging = 0
        self._released = threading.Event()

    def __call__(self, _: Job) -> None:
        self.hanging += 1
        assert self._released.wait(LONG)

    def release(self) -> None:
        self._released.set()


def posted(storage: Storage, jobs: list[Job]) -> bool:
    found = [storage.queue.get(job.id) for job in jobs]
    return all(job is not None and job.status is JobStatus.POSTED for job in found)


@pytest.mark.parametrize(
    ("concurrency", "platforms", "hanging", "most"),
    [
        (4, "xy", "x", 3),
        (2, "xy", "x", 1),
        (4, "xyz", "x", 2),
        (3, "xyz", "xy", 1),
        (4, "wxyz", "wxy", 1),
        (8, "wxyz", "wxy", 6),
        (4, "abcdefgh", "a", 2),
        (2, "abcdefgh", "a", 1),
    ],
)
def test_platforms_that_hang_leave_a_thread_to_the_others(
    storage: Storage, concurrency: int, platforms: str, hanging: str, most: int
) -> None:
    hang = Hanging()
    for platform in hanging:
        for _ in range(20):
            storage.queue.schedule(platform, "hangs")
    publishers: dict[str, Any] = {each: hang if each in hanging else lambda _: None for each in platforms}
    with running(Worker(storage, publishers, concurrency=concurrency)):
        until(lambda: hang.hanging >= len(hanging))
        jobs = [
            storage.queue.schedule(each, "fast") for each in platforms if each not in hanging for _ in "12"
        ]
        until(lambda: posted(storage, jobs))
        assert hang.hanging <= most + len(hanging) - 1
        hang.release()
        until(lambda: storage.queue.counts(posted=False)[JobStatus.PROCESSING] == 0)


@pytest.mark.parametrize("concurrency", [1, 2, 4])
def test_a_backlog_does_not_hold_up_other_platforms(storage: Storage, concurrency: int) -> None:
    """Its jobs are older, and a claim takes the oldest first."""
    order: list[str] = []
    for _ in range(60):
        storage.queue.schedule("backlog", "old")
    late = [storage.queue.schedule(platform, "new") for platform in ("y", "z") for _ in range(3)]

    def publisher(job: Job) -> None:
        order.append(job.platform)

    platforms = ("backlog", "y", "z")
    worker = Worker(storage, dict.fromkeys(platforms, publisher), concurrency=concurrency)
    worker.run_until_idle()
    assert posted(storage, late)
    last = max(number for number, platform in enumerate(order) if platform != "backlog")
    assert last < 30
    assert len(order) == 66


def test_one_platform_uses_all_threads_with_one_claim(storage: Storage, claims: list[list[str]]) -> None:
    meeting = threading.Barrier(4)
    for _ in range(4):
        storage.queue.schedule("x", "hello")

    def publisher(_: Job) -> None:
        meeting.wait(LONG)

    worker = Worker(storage, {"x": publisher})
    worker.run_until_idle()
    assert worker.counts == {"posted": 4}
    assert claims[0] == ["x"]
    # One that takes the four, and at most one after each of them that ends.
    assert len(claims) <= 5


def test_a_backlog_needs_few_claims(storage: Storage, claims: list[list[str]]) -> None:
    for _ in range(200):
        storage.queue.schedule("x", "hello")
    worker = Worker(storage, {"x": lambda _: None, "y": lambda _: None, "z": lambda _: None}, concurrency=4)
    worker.run_until_idle()
    assert worker.counts == {"posted": 200}
    assert len(claims) < 300


def test_an_idle_worker_claims_once_for_all_platforms(storage: Storage, claims: list[list[str]]) -> None:
    worker = Worker(storage, dict.fromkeys("abcdefgh", lambda _: None), concurrency=4)
    worker.run_until_idle()
    assert claims == [[*"abcdefgh"]]


def test_a_limited_platform_takes_its_turn(storage: Storage) -> None:
    for _ in range(40):
        storage.queue.schedule("x", "old")
    job = storage.queue.schedule("y", "new")
    order: list[str] = []

    def publisher(job: Job) -> None:
        order.append(job.platform)

    worker = Worker(
        storage, {"x": publisher, "y": publisher}, concurrency=1, platform_concurrency={"y": 1, "x": 5}
    )
    worker.run_until_idle()
    assert posted(storage, [job])
    assert order.index("y") < 10


SITUATIONS = st.tuples(st.integers(1, 6), st.integers(1, 6), st.randoms(use_true_random=False))


@settings(max_examples=50, deadline=None)
@given(SITUATIONS)
def test_shares(situation: tuple[int, int, random.Random]) -> None:
    """With enough threads, each platform without a running job always finds one; none is left unused."""
    concurrency, number, choose = situation
    platforms = [f"p{each}" for each in range(number)]
    shares = ThreadShares(platforms, concurrency)
    running: list[str] = []
    for _ in range(40):
        group, most = shares.next_group()
        assert most <= concurrency - len(running)
        assert (most > 0) == bool(group)
        for platform in choose.choices(group, k=choose.randint(0, most)) if group else []:
            shares.begin(platform)
            running.append(platform)
        assert len(running) <= concurrency
        if concurrency >= number:
            idle = {*platforms} - {*running}
            assert concurrency - len(running) >= len(idle)
        for platform in [each for each in running if choose.random() < 0.3]:
            shares.end(platform)
            running.remove(platform)
    for platform in running:
        shares.end(platform)
    assert shares.next_group()[1] >= 1


def test_every_platform_gets_its_turn() -> None:
    shares = ThreadShares("abcde", 1)
    order = []
    for _ in range(10):
        group, most = shares.next_group()
        assert most == 1
        order.append(group[0])
        shares.begin(group[0])
        assert shares.next_group() == ([], 0)
        shares.end(group[0])
    assert order == [*"abcdeabcde"]
