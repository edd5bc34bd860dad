"""Workers make the jobs of schedules."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from assistly.storage import MemoryBackend, Storage, StorageUnavailable
from assistly.worker import Worker
from waiting import until


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    monkeypatch.setattr("assistly.worker.loop._UPKEEP_SECONDS", 0.1)
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        yield storage


@contextmanager
def working(storage: Storage, published: list[str]) -> Iterator[None]:
    worker = Worker(storage, {"x": lambda job: published.append(job.content)}, poll=0.02)
    thread = threading.Thread(target=worker.run, kwargs={"handle_signals": False})
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(30)


def put(storage: Storage) -> None:
    start = datetime.now(UTC) - timedelta(hours=1)
    storage.schedules.put("s", "x", "hello", every=timedelta(minutes=40), starts_at=start, catch_up="all")


def test_a_worker_makes_the_jobs_and_publishes_them(storage: Storage) -> None:
    published: list[str] = []
    with working(storage, published):
        put(storage)
        until(lambda: len(published) == 2)
    assert len(storage.queue.upcoming()) == 36
    assert storage.schedules.run() == []


def test_workers_make_them_once(storage: Storage) -> None:
    published: list[str] = []
    with working(storage, published), working(storage, published), working(storage, published):
        put(storage)
        until(lambda: len(published) == 2)
        storage.schedules.put(
            "t", "x", "bye", every=timedelta(days=9), starts_at=datetime.now(UTC), catch_up="all"
        )
        until(lambda: "bye" in published)
    assert published == ["hello", "hello", "bye"]


def test_a_run_that_fails_is_tried_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, failed = storage.schedules.run, threading.Event()

    def fails_once() -> object:
        if not failed.is_set():
            failed.set()
            raise StorageUnavailable("the server is away")
        return run()

    monkeypatch.setattr(storage.schedules, "run", fails_once)
    published: list[str] = []
    put(storage)
    with working(storage, published):
        until(lambda: len(published) == 2)
    assert failed.is_set()
    assert "the server is away" in caplog.text


def test_the_first_jobs_are_made_when_a_worker_starts(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assistly.worker.loop._UPKEEP_SECONDS", 3600.0)
    published: list[str] = []
    put(storage)
    with working(storage, published):
        until(lambda: len(published) == 2)


def test_a_worker_that_runs_until_idle_makes_the_jobs_first(storage: Storage) -> None:
    published: list[str] = []
    put(storage)
    Worker(storage, {"x": lambda job: published.append(job.content)}).run_until_idle()
    assert published == ["hello", "hello"]
    assert len(storage.queue.upcoming()) == 36


def test_a_worker_that_runs_until_idle_raises_what_hinders_it(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> object:
        raise StorageUnavailable("the server is away")

    monkeypatch.setattr(storage.schedules, "run", fails)
    with pytest.raises(StorageUnavailable, match="the server is away"):
        Worker(storage, {"x": lambda _: None}).run_until_idle()
