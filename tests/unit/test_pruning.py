"""Pruning by itself: when it runs, and what becomes of it when it fails."""

from __future__ import annotations

import gc
import logging
import os
import threading
import weakref
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from assistly.storage import (
    MemoryBackend,
    PrunableCount,
    Storage,
    StorageClosed,
    StorageUnavailable,
    open_storage,
    pruning,
)
from assistly.storage.engine.base import RetentionStoreBase, records
from assistly.storage.testing.forking import needs_fork

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PATIENCE = 10.0


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "_FIRST_RUN_SECONDS", 0.001)
    monkeypatch.setattr(pruning, "PRUNE_INTERVAL", timedelta(milliseconds=1))


def pruned(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set whenever a prune by itself has come to its end."""
    done = threading.Event()
    real = pruning.prune

    def spy(*args: object, **options: object) -> object:
        try:
            return real(*args, **options)  # type: ignore[arg-type]
        finally:
            done.set()

    monkeypatch.setattr("assistly.storage.storage.prune", spy)
    return done


def test_a_storage_in_use_prunes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = MemoryBackend()
    filling = Storage(backend, clock=lambda: NOW, auto_prune=False)
    filling.approvals.add("old", {}, created_at=NOW - timedelta(days=31))
    filling.approvals.add("young", {}, created_at=NOW - timedelta(days=29))
    with Storage(backend, clock=lambda: NOW) as storage:
        done = pruned(storage, monkeypatch)
        assert storage.approvals.get("young")
        assert done.wait(PATIENCE)
        assert [approval.id for approval in storage.approvals.list()] == ["young"]


def pruners() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "assistly-prune"}


def test_it_starts_with_the_first_use() -> None:
    before = pruners()
    with Storage(MemoryBackend()) as storage:
        assert not pruners() - before
        storage.nonces.seen("n")
        assert len(pruners() - before) == 1


def test_it_can_be_turned_off() -> None:
    before = pruners()
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        storage.nonces.register("n")
        assert not pruners() - before


def test_a_failure_is_logged_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    again = threading.Event()
    calls: list[int] = []

    def failing(*_: object, **__: object) -> None:
        calls.append(1)
        if len(calls) > 1:
            again.set()
        raise StorageUnavailable("the disk is full")

    monkeypatch.setattr("assistly.storage.storage.prune", failing)
    with caplog.at_level(logging.WARNING, "assistly.storage"), Storage(MemoryBackend()) as storage:
        while not again.wait(0.005):
            storage.nonces.seen("n")
    assert "pruning failed; will retry: the disk is full" in caplog.text


def test_a_prune_that_failed_leaves_the_minute_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = MemoryBackend()
    storage = Storage(backend, clock=lambda: NOW, auto_prune=False)
    storage.nonces.register("n", NOW - timedelta(days=2))
    with monkeypatch.context() as patch:

        def broken(*_: object, **__: object) -> int:
            raise StorageUnavailable("the disk is full")

        patch.setattr(type(backend.retention), "delete_older", broken)
        with pytest.raises(StorageUnavailable):
            storage.prune()
    assert storage.prune().nonces == 1


def test_a_forgotten_storage_goes_away() -> None:
    storage = Storage(MemoryBackend())
    storage.nonces.seen("n")
    trace = weakref.ref(storage)
    del storage
    gc.collect()
    assert trace() is None


def test_batches_pause_for_others() -> None:
    backend = MemoryBackend()
    storage = Storage(backend, clock=lambda: NOW, auto_prune=False)
    for number in range(pruning.BATCH + 1):
        storage.nonces.register(str(number), NOW - timedelta(days=2))
    pauses: list[int] = []
    report = pruning.prune(
        backend, storage._context.policies.retention, NOW, force=True, pause=lambda: pauses.append(1)
    )
    assert report.nonces == pruning.BATCH + 1
    assert len(pauses) == 1


def filled(storage: Storage) -> None:
    """Three approvals, of which two are too old, and two old nonces."""
    for days in (1, 40, 50):
        storage.approvals.add(str(days), {}, created_at=NOW - timedelta(days=days))
    for name in "ab":
        storage.nonces.register(name, NOW - timedelta(days=2))


@pytest.mark.parametrize(
    ("most", "approvals", "nonces"),
    [
        (4, PrunableCount(2, 1), PrunableCount(2)),
        (3, PrunableCount(2, 1, is_exact=False), PrunableCount(2)),
        (2, PrunableCount(2, 0, is_exact=False), PrunableCount(2, is_exact=False)),
        (1, PrunableCount(1, 0, is_exact=False), PrunableCount(1, is_exact=False)),
    ],
)
@pytest.mark.parametrize("counted", ["memory", "sqlite", "derived"])
def test_counting_stops_at_a_limit(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    counted: str,
    most: int,
    approvals: PrunableCount,
    nonces: PrunableCount,
) -> None:
    monkeypatch.setattr("assistly.storage.engine.keyvalue.retention.MOST_COUNTED", most)
    monkeypatch.setattr("assistly.storage.engines.sql.retention.MOST_COUNTED", most)
    monkeypatch.setattr(records, "MOST_DELETED", most)
    engine = "memory" if counted == "derived" else counted
    with open_storage(
        engine=engine,
        sqlite_path=tmp_path / "db",
        retention_max_approvals=0,
        clock=lambda: NOW,
        auto_prune=False,
    ) as storage:
        if counted == "derived":
            store = type(storage._backend.retention)
            monkeypatch.setattr(store, "count_prunable", RetentionStoreBase.count_prunable)
        filled(storage)
        found = storage.prunable()
        assert (found.approvals, found.nonces) == (approvals, nonces)
        assert storage.prune().total == 5


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_prunes_with_a_thread_of_its_own() -> None:
    before = pruners()
    with Storage(MemoryBackend()) as storage:
        storage.nonces.seen("n")
        child = os.fork()
        if not child:
            with suppress(BaseException):
                storage.nonces.seen("n")
                os._exit(0 if len({thread for thread in pruners() if thread.is_alive()} - before) == 1 else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_use_after_the_end_is_refused_however_many_came_before() -> None:
    storage = Storage(MemoryBackend(), auto_prune=False)
    storage.nonces.seen("n")
    storage.close()
    for _ in range(2):
        with pytest.raises(StorageClosed):
            storage.nonces.seen("n")


class Disk:
    """Deletes at a steady pace; its clock moves by nothing else."""

    def __init__(self, rows: int, seconds_each: float) -> None:
        self.rows = rows
        self.seconds_each = seconds_each
        self.seconds = 0.0
        self.batches: list[int] = []

    def delete(self, limit: int) -> int:
        deleted = min(limit, self.rows)
        self.rows -= deleted
        self.seconds += deleted * self.seconds_each
        self.batches.append(limit)
        return deleted

    def clock(self) -> float:
        return self.seconds


@pytest.mark.parametrize(("microseconds_each", "batch"), [(0.5, 10_000), (7, 2_000), (20, 1_000), (900, 500)])
def test_batches_are_as_large_as_can_be_deleted_soon(microseconds_each: float, batch: int) -> None:
    disk = Disk(100_000, microseconds_each / 1e6)
    assert pruning._Batches(lambda: None, disk.clock).drain(disk.delete) == 100_000
    assert disk.rows == 0
    assert disk.batches[0] == pruning.BATCH
    assert set(disk.batches[4:]) == {batch}
