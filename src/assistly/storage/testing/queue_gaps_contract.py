"""`min_gap`, the least time between two jobs of a platform."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue, ScheduleConflict
from ..records import Job, JobStatus
from ..storage import Storage
from .fixtures import (
    DAY,
    END_OF_TIME,
    HOUR,
    START,
    START_OF_TIME,
    TICK,
    Contract,
    dead,
    empty,
    examples,
    held,
    posted,
    retrying,
)

_ACTIVE = {JobStatus.SCHEDULED, JobStatus.RETRYING, JobStatus.PROCESSING}


class QueueGapsContract(Contract):
    @pytest.mark.parametrize("side", [1, -1])
    def test_just_inside_the_gap_conflicts(self, storage: Storage, side: int) -> None:
        other = storage.queue.schedule("x", "a", START)
        wanted = START + side * (HOUR - TICK)
        assert storage.queue.find_conflict("x", wanted, HOUR) == other
        with pytest.raises(ScheduleConflict) as caught:
            storage.queue.schedule("x", "b", wanted, min_gap=HOUR)
        assert caught.value.job == other
        assert "." not in caught.value.args[0], "people read no microseconds"
        assert storage.queue.list() == [other]

    @pytest.mark.parametrize("side", [1, -1])
    def test_exactly_the_gap_is_enough(self, storage: Storage, side: int) -> None:
        storage.queue.schedule("x", "a", START)
        assert storage.queue.find_conflict("x", START + side * HOUR, HOUR) is None
        assert (
            storage.queue.schedule("x", "b", START + side * HOUR, min_gap=HOUR).due_at == START + side * HOUR
        )

    def test_a_zero_gap_never_conflicts(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START)
        assert storage.queue.find_conflict("x", START, timedelta(0)) is None
        storage.queue.schedule("x", "b", START, min_gap=timedelta(0))

    def test_the_least_gap_conflicts_at_the_same_time_only(self, storage: Storage) -> None:
        other = storage.queue.schedule("x", "a", START)
        assert storage.queue.find_conflict("x", START, TICK) == other
        assert storage.queue.find_conflict("x", START + TICK, TICK) is None
        assert storage.queue.find_conflict("x", START - TICK, TICK) is None

    def test_without_a_gap_nothing_is_checked(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START, min_gap=HOUR)
        assert storage.queue.schedule("x", "b", START).due_at == START

    def test_other_platforms_do_not_count(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START)
        assert storage.queue.find_conflict("X", START, HOUR) is None
        storage.queue.schedule("y", "b", START, min_gap=HOUR)

    @pytest.mark.parametrize("make", [posted, dead])
    def test_finished_jobs_do_not_count(self, storage: Storage, make: Any) -> None:
        make(storage)
        assert storage.queue.find_conflict("x", START, HOUR) is None
        storage.queue.schedule("x", "b", START, min_gap=HOUR)

    @pytest.mark.parametrize("make", [held, retrying])
    def test_active_jobs_count_by_their_scheduled_time(self, storage: Storage, make: Any) -> None:
        job = make(storage)
        assert storage.queue.find_conflict("x", START + HOUR - TICK, HOUR) == job
        with pytest.raises(ScheduleConflict):
            storage.queue.schedule("x", "b", START + HOUR - TICK, min_gap=HOUR)

    def test_a_retry_time_does_not_count(self, storage: Storage) -> None:
        retrying(storage, retry_at=START + DAY)
        assert storage.queue.find_conflict("x", START + DAY, HOUR) is None

    def test_the_earliest_is_reported_and_the_first_of_equals(self, storage: Storage) -> None:
        storage.queue.schedule("x", "late", START + 30 * TICK)
        early = storage.queue.schedule("x", "early", START + 10 * TICK)
        storage.queue.schedule("x", "early too", START + 10 * TICK)
        assert storage.queue.find_conflict("x", START + 20 * TICK, HOUR) == early

    @pytest.mark.parametrize("time", [START_OF_TIME, START, END_OF_TIME])
    def test_a_gap_beyond_the_calendar(self, storage: Storage, time: datetime) -> None:
        assert storage.queue.find_conflict("x", time, timedelta.max) is None
        job = storage.queue.schedule("x", "a", time, min_gap=timedelta.max)
        assert storage.queue.find_conflict("x", START, timedelta.max) == job
        assert storage.queue.find_conflict("y", START, timedelta.max) is None

    @pytest.mark.parametrize("min_gap", [-TICK, 60, 1.5, "1h", True])
    def test_a_gap_is_a_timedelta_from_zero(self, storage: Storage, min_gap: Any) -> None:
        with pytest.raises(InvalidValue, match="min_gap"):
            storage.queue.schedule("x", "a", min_gap=min_gap)
        with pytest.raises(InvalidValue, match="min_gap"):
            storage.queue.find_conflict("x", START, min_gap)
        assert storage.queue.list() == []

    def test_find_conflict_needs_a_gap(self, storage: Storage) -> None:
        missing: Any = None
        with pytest.raises(InvalidValue, match="min_gap"):
            storage.queue.find_conflict("x", START, missing)

    @given(
        st.lists(st.tuples(st.integers(0, 12), st.sampled_from("xy"), st.integers(0, 4)), max_size=8),
        st.integers(-3, 15),
        st.integers(0, 9),
    )
    @examples(40)
    def test_conflicts_are_those_of_a_naive_search(
        self,
        backend: StorageBackend,
        storage: Storage,
        others: list[tuple[int, str, int]],
        wanted: int,
        gap: int,
    ) -> None:
        empty(backend)
        for ticks, platform, fate in others:
            _with_fate(storage, storage.queue.schedule(platform, "a", START + ticks * TICK), fate)
        near = [
            job
            for job in storage.queue.list(platform="x")
            if job.status in _ACTIVE and abs(job.scheduled_at - (START + wanted * TICK)) < gap * TICK
        ]
        first = min(near, key=lambda job: (job.scheduled_at, job.id), default=None)
        assert storage.queue.find_conflict("x", START + wanted * TICK, gap * TICK) == first
        before = storage.queue.list()
        if first is None:
            job = storage.queue.schedule("x", "new", START + wanted * TICK, min_gap=gap * TICK)
            assert storage.queue.list() == [*before, job]
            return
        with pytest.raises(ScheduleConflict) as caught:
            storage.queue.schedule("x", "new", START + wanted * TICK, min_gap=gap * TICK)
        assert caught.value.job == first
        assert storage.queue.list() == before


def _with_fate(storage: Storage, scheduled: Job, fate: int) -> None:
    """Fates 1 to 4: in progress, posted, dead or retrying; 0 leaves the job as it is."""
    if fate == 0:
        return
    jobs = storage.queue.claim_due(worker_id="w", platforms=[scheduled.platform], now=scheduled.due_at + DAY)
    for job in jobs:
        if job.id != scheduled.id:
            storage.queue.release(job)
        elif fate == 2:
            storage.queue.mark_posted(job)
        elif fate == 3:
            storage.queue.mark_failed(job, "refused", retryable=False)
        elif fate == 4:
            storage.queue.mark_failed(job, "busy", retry_at=START + 2 * DAY)
