"""What engines inherit, where every engine of this package has its own."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assistly.storage import ConfigurationError, NewJob, Posted, SqliteBackend, Storage
from assistly.storage.engine.base import POLL_SECONDS, BackendBase, LockStoreBase, jobs, records
from assistly.storage.engines.memory import MemoryBackend
from assistly.storage.testing.fixtures import MINUTE, START, TICK
from contract.mutants.stores import NaiveEngine


@pytest.mark.parametrize(("timeout", "slept"), [(30.0, POLL_SECONDS), (POLL_SECONDS / 2, POLL_SECONDS / 2)])
def test_a_wait_that_cannot_notice_changes_is_short(
    monkeypatch: pytest.MonkeyPatch, timeout: float, slept: float
) -> None:
    store: Any = MemoryBackend().jobs
    sleeps: list[float] = []
    monkeypatch.setattr(jobs, "time", SimpleNamespace(sleep=sleeps.append))
    jobs.JobStoreBase.wait(store, timeout)
    assert sleeps == [slept]


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
def test_locks_are_listed_from_the_rows_that_move(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str
) -> None:
    monkeypatch.setattr(records, "_PAGE", 2)
    backend: BackendBase = MemoryBackend() if engine == "memory" else SqliteBackend(tmp_path / "locks.db")
    with closing(backend):
        storage = Storage(backend, clock=lambda: START, auto_prune=False)
        for number, name in enumerate(["b", "a", "\U0001f600", "\uffff", "B"], 1):
            storage.lock.acquire("me", name=name, ttl=number * MINUTE)
        released = storage.lock.acquire("me", name="released")
        assert released is not None
        storage.lock.release(released)
        for now in (START, START + MINUTE - TICK, START + MINUTE, START + 4 * MINUTE, START + 5 * MINUTE):
            expected = storage.lock.list(now=now)
            assert LockStoreBase.list(backend.lock, now=now) == expected  # type: ignore[arg-type]
        assert [lock.name for lock in storage.lock.list()] == ["B", "a", "b", "\uffff", "\U0001f600"]
        assert storage.lock.list(now=START + 5 * MINUTE) == []


def test_an_engine_whose_rows_do_not_move_says_that_it_lists_no_locks() -> None:
    backend = NaiveEngine()
    with pytest.raises(ConfigurationError, match="NaiveEngine cannot list its locks"):
        LockStoreBase.list(backend.lock, now=START)  # type: ignore[arg-type]


class _WithoutCounts:
    """A store of jobs that has no optional members."""

    def __init__(self, jobs: Any) -> None:
        self._jobs = jobs

    def __getattr__(self, name: str) -> Any:
        if name in ("depths", "timeline"):
            raise AttributeError(name)
        return getattr(self._jobs, name)


def _filled(storage: Storage) -> None:
    for status in ("posted", "dead", "held", "waiting"):
        storage.queue.schedule_many(NewJob(f"x{n % 3}", "a", START - n * MINUTE) for n in range(12))
        jobs = [] if status == "waiting" else storage.queue.claim_due(worker_id="w")
        if status == "posted":
            storage.queue.settle(map(Posted, jobs))
        elif status == "dead":
            for job in jobs:
                storage.queue.mark_failed(job, "refused", retryable=False)


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
def test_an_engine_without_counts_gets_those_that_are_derived(tmp_path: Path, engine: str) -> None:
    backend: BackendBase = MemoryBackend() if engine == "memory" else SqliteBackend(tmp_path / "counts.db")
    edges = [START + n * 5 * MINUTE for n in range(-3, 2)]
    with closing(backend):
        storage = Storage(backend, clock=lambda: START, auto_prune=False)
        _filled(storage)
        expected = [
            (storage.queue.depths(limit=limit), storage.queue.timeline(edges, limit=limit))
            for limit in (12, 100)
        ]
        backend.jobs = _WithoutCounts(backend.jobs)
        found = [
            (storage.queue.depths(limit=limit), storage.queue.timeline(edges, limit=limit))
            for limit in (12, 100)
        ]
        assert found == expected
        assert sum(depth.count for depth in found[0][0]) == 48


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
def test_of_many_dead_letters_the_timeline_has_the_newest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str
) -> None:
    for module in ("engine.counting", "engine.keyvalue.counts"):
        monkeypatch.setattr(f"assistly.storage.{module}.DEAD_LETTERS", 10)
    backend: BackendBase = MemoryBackend() if engine == "memory" else SqliteBackend(tmp_path / "counts.db")
    with closing(backend):
        storage = Storage(backend, clock=lambda: START, auto_prune=False)
        _filled(storage)
        if engine == "sqlite":
            backend.jobs = _WithoutCounts(backend.jobs)
        found = storage.queue.timeline([START, START + MINUTE])
        dead = [count for count in found if count.status == "dead_letter"]
        assert (sum(count.count for count in dead), {count.exact for count in dead}) == (10, {False})
        assert all(count.exact for count in found if count not in dead)
