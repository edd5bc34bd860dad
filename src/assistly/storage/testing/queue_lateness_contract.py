"""Jobs that are later than their `max_lateness`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from ..errors import InvalidValue
from ..records import Failed, Job, JobStatus, NewJob, Released, Snoozed
from ..storage import Storage
from .fixtures import (
    DAY,
    END_OF_TIME,
    HOUR,
    LEASE,
    MINUTE,
    START,
    TICK,
    Contract,
    FakeClock,
    claim_one,
    held,
    retrying,
)

SECOND = timedelta(seconds=1)


_HANDED_BACK: dict[str, Callable[[Storage, list[Job]], Any]] = {
    "failed": lambda s, jobs: s.queue.settle([Failed(job, "busy", retry_at=START) for job in jobs]),
    "snoozed": lambda s, jobs: s.queue.settle([Snoozed(job, START) for job in jobs]),
    "released": lambda s, jobs: s.queue.settle([Released(job) for job in jobs]),
    "rescued": lambda s, _: s.queue.rescue_expired(now=START + LEASE),
    "replayed": lambda s, jobs: (
        s.queue.settle([Failed(job, "refused", retryable=False) for job in jobs]),
        s.queue.replay_all(now=START),
    ),
}


class QueueLatenessContract(Contract):
    @pytest.mark.parametrize("way", _HANDED_BACK)
    @pytest.mark.parametrize("size", [1, 2])
    def test_a_job_that_was_claimed_before_is_late_as_any_other(
        self, storage: Storage, way: str, size: int
    ) -> None:
        kinds = [("in time", HOUR), ("late", HOUR - TICK), ("without a limit", None)]
        for content, max_lateness in kinds:
            storage.queue.schedule_many([NewJob("x", content, START, max_lateness=max_lateness)] * size)
            _HANDED_BACK[way](storage, storage.queue.claim_due(worker_id="w", lease=LEASE))
            for job in storage.queue.claim_due(worker_id="w", now=START + HOUR):
                assert job.content != "late"
                storage.queue.mark_posted(job)
        missed = storage.queue.dead_letters()
        assert [job.content for job in missed] == ["late"] * size
        assert all((job.dead_letter_reason or "").startswith("missed: ") for job in missed)
        assert storage.queue.counts()[JobStatus.POSTED] == 2 * size

    def test_later_than_allowed_is_never_handed_out(self, storage: Storage, clock: FakeClock) -> None:
        job = storage.queue.schedule("x", "a", START, max_lateness=HOUR)
        late = clock.advance(HOUR + TICK)
        assert storage.queue.claim_due(worker_id="w") == []
        missed = storage.queue.get(job.id)
        assert missed is not None
        assert missed.status is JobStatus.DEAD_LETTER
        assert missed.dead_letter_reason is not None
        assert missed.dead_letter_reason.startswith("missed: ")
        assert missed.dead_letter_at == missed.updated_at == late
        assert (missed.retries, missed.attempts, missed.last_error) == (0, (), None)
        assert (missed.worker_id, missed.lease_until, missed.next_retry_at) == (None, None, None)
        assert storage.queue.dead_letters() == [missed]

    def test_exactly_as_late_as_allowed_is_handed_out(self, storage: Storage, clock: FakeClock) -> None:
        job = storage.queue.schedule("x", "a", START, max_lateness=HOUR)
        clock.advance(HOUR)
        assert claim_one(storage).id == job.id

    def test_no_lateness_at_all(self, storage: Storage) -> None:
        jobs = [
            storage.queue.schedule("x", "a", START + n * TICK, max_lateness=timedelta(0)) for n in range(2)
        ]
        assert [job.id for job in storage.queue.claim_due(worker_id="w", now=START + TICK)] == [jobs[1].id]
        assert [job.id for job in storage.queue.dead_letters()] == [jobs[0].id]

    def test_lateness_counts_from_the_scheduled_time(self, storage: Storage) -> None:
        failed = retrying(storage, retry_at=START + HOUR, max_lateness=HOUR - TICK)
        assert storage.queue.claim_due(worker_id="w", now=START + HOUR) == []
        missed = storage.queue.get(failed.id)
        assert missed is not None
        assert missed.status is JobStatus.DEAD_LETTER
        assert (missed.retries, missed.last_error, missed.attempts) == (1, "busy", failed.attempts)

    def test_a_job_that_is_not_due_is_not_missed(self, storage: Storage) -> None:
        failed = retrying(storage, retry_at=START + DAY, max_lateness=HOUR)
        assert storage.queue.claim_due(worker_id="w", now=START + DAY - TICK) == []
        assert storage.queue.get(failed.id) == failed

    def test_without_a_bound_nothing_is_missed(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a", START - 9999 * DAY)
        assert claim_one(storage).id == job.id

    def test_a_bound_beyond_the_calendar(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a", END_OF_TIME, max_lateness=9999 * 365 * DAY)
        (claimed,) = storage.queue.claim_due(worker_id="w", now=END_OF_TIME)
        assert (claimed.id, claimed.max_lateness) == (job.id, job.max_lateness)

    def test_the_longest_timedelta_is_kept_or_refused(self, storage: Storage) -> None:
        try:
            job = storage.queue.schedule("x", "a", max_lateness=timedelta.max)
        except InvalidValue:
            assert storage.queue.list() == []
        else:
            assert job.max_lateness == timedelta.max
            assert claim_one(storage).id == job.id

    def test_a_held_job_is_not_missed(self, storage: Storage) -> None:
        job = held(storage, max_lateness=MINUTE)
        assert storage.queue.claim_due(worker_id="w", now=START + 2 * MINUTE) == []
        assert storage.queue.get(job.id) == job
        assert storage.queue.mark_posted(job, now=START + 2 * MINUTE).status is JobStatus.POSTED

    def test_missed_jobs_do_not_use_the_limit_up(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START - DAY, max_lateness=HOUR)
        job = storage.queue.schedule("x", "b", START)
        assert [claimed.id for claimed in storage.queue.claim_due(worker_id="w", limit=1)] == [job.id]

    def test_only_the_chosen_platforms_are_looked_at(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a", START - DAY, max_lateness=HOUR)
        assert storage.queue.claim_due(worker_id="w", platforms=["y"]) == []
        assert storage.queue.get(job.id) == job

    def test_each_claim_moves_a_bounded_number_of_late_jobs(self, storage: Storage) -> None:
        storage.queue.schedule_many(NewJob("x", "a", START - DAY, max_lateness=HOUR) for _ in range(101))
        assert storage.queue.claim_due(worker_id="w", limit=1000) == []
        assert len(storage.queue.dead_letters(limit=1000)) == 100
        assert storage.queue.claim_due(worker_id="w", limit=1000) == []
        assert len(storage.queue.dead_letters(limit=1000)) == 101

    def test_a_missed_job_can_be_replayed(self, storage: Storage, clock: FakeClock) -> None:
        job = storage.queue.schedule("x", "a", START, max_lateness=HOUR)
        clock.advance(DAY)
        assert storage.queue.claim_due(worker_id="w") == []
        assert storage.queue.replay(job.id) is not None
        assert claim_one(storage).id == job.id

    def test_those_whose_time_ran_out_first_are_moved_first(self, storage: Storage) -> None:
        """By (scheduled_at + max_lateness, id), also if some wait for a retry that fell due since."""
        new = [
            NewJob(
                "xy"[n % 2],
                "a",
                START - DAY + n * 7 % 50 * SECOND,
                max_lateness=HOUR + n * 11 % 90 * SECOND,
                max_retries=9,
            )
            for n in range(240)
        ]
        jobs = storage.queue.schedule_many(new, now=START - 2 * DAY)
        attempt = START - DAY + 50 * SECOND
        failed = storage.queue.claim_due(worker_id="w", limit=120, now=attempt)
        outcomes = [Failed(job, "busy", START + (job.id * 13 % 40 - 30) * SECOND) for job in failed]
        storage.queue.settle(outcomes, now=attempt)
        due = [job for job in storage.queue.list(limit=1000) if job.due_at <= START]
        assert len(jobs) > len(due) > 200
        order = sorted(due, key=lambda job: (job.scheduled_at + (job.max_lateness or HOUR), job.id))
        for last in (100, 200, len(order)):
            assert storage.queue.claim_due(worker_id="w", now=START) == []
            moved = [job.id for job in storage.queue.dead_letters(limit=1000)]
            assert moved == sorted(job.id for job in order[:last])
