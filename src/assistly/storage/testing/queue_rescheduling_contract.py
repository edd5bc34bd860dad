"""Jobs that are moved to another time."""

from __future__ import annotations

from concurrent.futures import wait
from datetime import timedelta, timezone
from typing import Any

import pytest

from ..errors import InvalidValue, NotFound, ScheduleConflict, StatusConflict
from ..records import JobStatus
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    MINUTE,
    START,
    TICK,
    Contract,
    FakeClock,
    census,
    dead,
    held,
    on_a_thread,
    posted,
    retrying,
)

_TIMEOUT = 30
"""Seconds within which a sweep ends once no transaction is in its way."""

_SOON = 0.2
"""Seconds in which a sweep comes as far as it can while a transaction is in its way."""


class QueueReschedulingContract(Contract):
    def test_a_new_time(self, storage: Storage, clock: FakeClock) -> None:
        job = storage.queue.schedule("x", "a", START, metadata={"n": 1}, max_lateness=HOUR)
        clock.advance(MINUTE)
        moved = storage.queue.reschedule(job.id, START + DAY)
        assert moved.scheduled_at == moved.due_at == START + DAY
        assert moved.updated_at == START + MINUTE
        assert (moved.content, moved.metadata, moved.max_lateness) == ("a", {"n": 1}, HOUR)
        assert (moved.created_at, moved.status) == (START, JobStatus.SCHEDULED)
        assert storage.queue.get(job.id) == moved

    def test_content_and_metadata_change_where_given(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a", metadata={"n": 1})
        assert storage.queue.reschedule(job.id, START, content="b").metadata == {"n": 1}
        moved = storage.queue.reschedule(job.id, START, metadata={}, now=START + HOUR)
        assert (moved.content, moved.metadata, moved.updated_at) == ("b", {}, START + HOUR)
        assert storage.queue.get(job.id) == moved
        moved = storage.queue.reschedule(job.id, START, content="", metadata={"n": [2]})
        assert (moved.content, moved.metadata) == ("", {"n": [2]})
        assert storage.queue.get(job.id) == moved

    def test_a_retrying_job_keeps_its_retries(self, storage: Storage) -> None:
        failed = retrying(storage, retry_at=START + DAY)
        moved = storage.queue.reschedule(failed.id, START + HOUR)
        assert (moved.status, moved.retries, moved.last_error) == (JobStatus.RETRYING, 1, "busy")
        assert (moved.next_retry_at, moved.due_at) == (None, START + HOUR)
        assert moved.attempts == failed.attempts

    def test_a_snoozed_job_is_due_at_the_new_time(self, storage: Storage) -> None:
        job = storage.queue.snooze(held(storage), START + DAY)
        moved = storage.queue.reschedule(job.id, START + HOUR)
        assert (moved.next_retry_at, moved.due_at) == (None, START + HOUR)

    def test_a_late_job_that_is_just_being_moved_is_not_missed(
        self, storage: Storage, clock: FakeClock
    ) -> None:
        job = storage.queue.schedule("x", "a", START, max_lateness=HOUR)
        now = clock.advance(DAY)
        with storage.transaction() as tx:
            tx.queue.reschedule(job.id, now + HOUR)
            sweep = on_a_thread(lambda: storage.queue.claim_due(worker_id="w"))
            wait([sweep], timeout=_SOON)
        assert sweep.result(_TIMEOUT) == []
        moved = storage.queue.get(job.id)
        assert moved is not None
        assert (moved.status, moved.due_at) == (JobStatus.SCHEDULED, now + HOUR)

    def test_an_unknown_job(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a")
        storage.queue.remove(job.id)
        with pytest.raises(NotFound):
            storage.queue.reschedule(job.id, START)

    @pytest.mark.parametrize("make", [held, posted, dead])
    def test_only_a_waiting_job_moves(self, storage: Storage, make: Any) -> None:
        job = make(storage)
        with pytest.raises(StatusConflict) as caught:
            storage.queue.reschedule(job.id, START + HOUR, content="other")
        assert caught.value.current == job
        assert storage.queue.get(job.id) == job

    def test_the_gap_to_other_jobs(self, storage: Storage) -> None:
        first = storage.queue.schedule("x", "a", START)
        second = storage.queue.schedule("x", "b", START + DAY)
        with pytest.raises(ScheduleConflict) as caught:
            storage.queue.reschedule(second.id, START + HOUR - TICK, content="c", min_gap=HOUR)
        assert caught.value.job == first
        assert storage.queue.get(second.id) == second
        assert storage.queue.reschedule(second.id, START + HOUR, min_gap=HOUR).due_at == START + HOUR

    def test_a_job_may_move_within_its_own_gap(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a", START)
        assert storage.queue.reschedule(job.id, START + TICK, min_gap=HOUR).due_at == START + TICK

    @pytest.mark.parametrize(
        "bad",
        [
            {"scheduled_at": START.replace(tzinfo=None)},
            {"scheduled_at": None},
            {"content": "\x00"},
            {"content": b"bytes"},
            {"metadata": ["list"]},
            {"metadata": {"n": float("inf")}},
            {"min_gap": -TICK},
            {"min_gap": 60},
            {"now": START.replace(tzinfo=None)},
            {"id": "1"},
            {"id": True},
        ],
    )
    def test_bad_arguments_change_nothing(self, storage: Storage, bad: dict[str, Any]) -> None:
        job = storage.queue.schedule("x", "a")
        before = census(storage)
        arguments: dict[str, Any] = {"id": job.id, "scheduled_at": START + DAY, "content": "b"}
        with pytest.raises(InvalidValue):
            storage.queue.reschedule(**{**arguments, **bad})
        assert census(storage) == before

    def test_times_come_back_in_utc(self, storage: Storage) -> None:
        odd = timezone(timedelta(hours=5, minutes=45, seconds=7))
        job = storage.queue.reschedule(storage.queue.schedule("x", "a").id, START.astimezone(odd))
        assert job.scheduled_at == START
        assert job.scheduled_at.utcoffset() == timedelta(0)
