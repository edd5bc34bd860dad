"""The benchmarks of scale and memory run, on databases of a few thousand rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from assistly.storage import JobStatus, MemoryBackend, Storage, open_storage
from benchmarks import churn, memory
from benchmarks.scale import Result, table
from benchmarks.scale_fill import History, fill_sqlite, this_second
from benchmarks.scale_operations import OPERATIONS, POSTED_AGE, PRUNED, FilledStorage, Operation

FINISHED = 2 * PRUNED


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilledStorage]:
    path = tmp_path_factory.mktemp("scale") / "scale.db"
    fill_sqlite(path, History(FINISHED, this_second(), dead=20, future=50))
    with open_storage(
        engine="sqlite", sqlite_path=str(path), retention_posted_days=POSTED_AGE.days, auto_prune=False
    ) as storage:
        yield FilledStorage(storage, FINISHED, middle=FINISHED // 2)


def test_the_history_is_as_long_as_it_should_be(filled: FilledStorage) -> None:
    counts = filled.storage.queue.counts()
    assert counts[JobStatus.POSTED] == FINISHED
    assert counts[JobStatus.DEAD_LETTER] == 20
    assert counts[JobStatus.SCHEDULED] == 50
    assert len(filled.storage.events.read_after(FINISHED - 10)) == 10


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_operations_run(operation: Operation, filled: FilledStorage) -> None:
    assert operation.measure(filled) > 0


def test_growth_above_the_goal_is_named() -> None:
    steady = Result("sqlite", "claim 1", True, {10: 0.001, 20: 0.001}, 1.0)
    growing = Result("sqlite", "schedule", True, {10: 0.001, 20: 0.002}, 2.0)
    counting = Result("sqlite", "counts", False, {10: 0.001, 20: 0.002}, 2.0)
    lines = table([steady, growing, counting]).splitlines()
    assert ["above" in line for line in lines] == [False, False, True, False]


@pytest.mark.parametrize("number", range(len(memory.CASES)), ids=lambda number: memory.CASES[number].title)
def test_the_cases_of_memory_run(number: int) -> None:
    case = memory.CASES[number]
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        if case.run in (memory.list_all, memory.work, memory.drain):
            memory.schedule_in_chunks(storage, 100)
        records = case.run(storage, 100)
    assert (records == 0) == (case.run is memory.nothing or case.run is memory.copy)


def test_as_many_jobs_leave_as_come() -> None:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        assert churn.step(storage) > 0
        assert storage.queue.counts() == dict.fromkeys(JobStatus, 0) | {JobStatus.POSTED: 1000}
