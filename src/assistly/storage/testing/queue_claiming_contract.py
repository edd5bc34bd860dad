"""Claims: which jobs, in which order, for how long, and what the fence refuses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..errors import ClaimLost, InvalidValue
from ..records import Failed, Job, JobStatus, NewJob, Posted, Released, Settled, Snoozed
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    LEASE,
    MINUTE,
    SECOND,
    START,
    TICK,
    Contract,
    FakeClock,
    census,
    claim_one,
    dead,
    empty,
    examples,
    held,
    posted,
    retrying,
    together,
)


class QueueClaimingContract(Contract):
    def test_a_claimed_job(self, storage: Storage, clock: FakeClock) -> None:
        scheduled = storage.queue.schedule("x", "hello", metadata={"n": 1}, idempotency_key="key")
        clock.advance(SECOND)
        (job,) = storage.queue.claim_due(worker_id="worker-1")
        assert job.status is JobStatus.PROCESSING
        assert job.worker_id == "worker-1"
        assert job.lease_until == START + SECOND + LEASE
        assert job.updated_at == START + SECOND
        assert job.claim > scheduled.claim
        assert job.publish_started_at is None
        assert (job.platform, job.content, job.metadata) == ("x", "hello", {"n": 1})
        assert (job.scheduled_at, job.due_at, job.created_at) == (START, START, START)
        assert (job.retries, job.attempts, job.idempotency_key) == (0, (), "key")
        assert storage.queue.get(job.id) == job

    def test_due_means_not_later_than_now(self, storage: Storage, clock: FakeClock) -> None:
        storage.queue.schedule("x", "a", START + HOUR)
        assert storage.queue.claim_due(worker_id="w") == []
        clock.advance(HOUR - TICK)
        assert storage.queue.claim_due(worker_id="w") == []
        clock.advance(TICK)
        assert len(storage.queue.claim_due(worker_id="w")) == 1

    def test_the_time_of_a_claim_may_be_given(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START + HOUR)
        assert storage.queue.claim_due(worker_id="w", now=START + HOUR - TICK) == []
        (job,) = storage.queue.claim_due(worker_id="w", lease=MINUTE, now=START + HOUR)
        assert job.lease_until == START + HOUR + MINUTE

    def test_nothing_due_is_an_empty_list(self, storage: Storage) -> None:
        assert storage.queue.claim_due(worker_id="w") == []

    def test_a_held_job_is_not_handed_out(self, storage: Storage, clock: FakeClock) -> None:
        held(storage)
        assert storage.queue.claim_due(worker_id="other") == []
        clock.advance(LEASE - TICK)
        assert storage.queue.claim_due(worker_id="other") == []
        assert storage.queue.claim_due(worker_id="worker-1") == []

    @pytest.mark.parametrize("make", [posted, dead])
    def test_a_finished_job_is_not_handed_out(self, storage: Storage, make: Any) -> None:
        make(storage)
        assert storage.queue.claim_due(worker_id="w", now=START + 999 * DAY) == []

    def test_a_retry_counts_from_its_retry_time(self, storage: Storage) -> None:
        retrying(storage, retry_at=START + HOUR)
        assert storage.queue.claim_due(worker_id="w", now=START + HOUR - TICK) == []
        (job,) = storage.queue.claim_due(worker_id="w", now=START + HOUR)
        assert (job.retries, job.next_retry_at, job.due_at) == (1, START + HOUR, START + HOUR)

    def test_a_retry_time_may_be_before_the_scheduled_time(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a", START + HOUR)
        (claimed,) = storage.queue.claim_due(worker_id="w", now=START + HOUR)
        failed = storage.queue.mark_failed(claimed, "busy", retry_at=START)
        assert failed.due_at == START
        assert claim_one(storage).id == job.id

    def test_the_order_is_by_due_time_and_id(self, storage: Storage) -> None:
        late = storage.queue.schedule("x", "a", START)
        first, second = (storage.queue.schedule("x", "a", START - HOUR) for _ in range(2))
        jobs = storage.queue.claim_due(worker_id="w")
        assert [job.id for job in jobs] == [first.id, second.id, late.id]

    def test_a_retry_takes_its_place_by_due_time(self, storage: Storage) -> None:
        retry = retrying(storage, scheduled_at=START - DAY, retry_at=START - MINUTE)
        before = storage.queue.schedule("x", "a", START - 2 * MINUTE)
        after = storage.queue.schedule("x", "a", START)
        jobs = storage.queue.claim_due(worker_id="w")
        assert [job.id for job in jobs] == [before.id, retry.id, after.id]

    def test_the_limit_takes_the_first(self, storage: Storage) -> None:
        jobs = storage.queue.schedule_many(NewJob("x", "a", START - n * SECOND) for n in range(5))
        taken = storage.queue.claim_due(worker_id="w", limit=2)
        assert [job.id for job in taken] == [jobs[4].id, jobs[3].id]
        assert [job.id for job in storage.queue.claim_due(worker_id="w", limit=1000)] == [
            jobs[2].id,
            jobs[1].id,
            jobs[0].id,
        ]

    def test_the_default_limit_is_a_hundred(self, storage: Storage) -> None:
        storage.queue.schedule_many(NewJob("x", "a") for _ in range(101))
        assert len(storage.queue.claim_due(worker_id="w")) == 100
        assert len(storage.queue.claim_due(worker_id="w")) == 1

    def test_platforms_narrow_the_choice(self, storage: Storage) -> None:
        jobs = storage.queue.schedule_many(NewJob(platform, "a") for platform in ["x", "y", "z", "X"])
        taken = storage.queue.claim_due(worker_id="w", platforms=["z", "x", "z", "none"])
        assert [job.id for job in taken] == [jobs[0].id, jobs[2].id]
        assert storage.queue.claim_due(worker_id="w", platforms=["x"]) == []
        assert len(storage.queue.claim_due(worker_id="w")) == 2

    def test_the_limit_counts_the_chosen_platforms(self, storage: Storage) -> None:
        storage.queue.schedule_many(NewJob("x", "a", START - DAY) for _ in range(5))
        wanted = storage.queue.schedule("y", "a")
        assert [job.id for job in storage.queue.claim_due(worker_id="w", limit=1, platforms={"y"})] == [
            wanted.id
        ]

    def test_the_claim_number_grows_with_each_claim(self, storage: Storage) -> None:
        claims = [held(storage).claim]
        for _ in range(3):
            (job,) = storage.queue.list()
            storage.queue.release(job)
            claims.append(claim_one(storage).claim)
        assert claims == sorted(set(claims))

    @pytest.mark.parametrize(
        "bad",
        [
            {"worker_id": ""},
            {"worker_id": None},
            {"worker_id": 7},
            {"limit": 0},
            {"limit": 1001},
            {"limit": True},
            {"limit": 1.0},
            {"limit": None},
            {"lease": timedelta(0)},
            {"lease": -TICK},
            {"lease": 60},
            {"lease": None},
            {"platforms": "x"},
            {"platforms": [1]},
            {"platforms": [""]},
            {"platforms": 1},
            {"now": START.replace(tzinfo=None)},
            {"now": "now"},
        ],
    )
    def test_bad_arguments_claim_nothing(self, storage: Storage, bad: dict[str, Any]) -> None:
        job = storage.queue.schedule("x", "a")
        arguments: dict[str, Any] = {"worker_id": "w", **bad}
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.queue.claim_due(**arguments)
        assert storage.queue.get(job.id) == job

    def test_a_lease_beyond_the_calendar(self, storage: Storage) -> None:
        job = held(storage, lease=timedelta.max)
        assert job.lease_until is not None
        assert job.lease_until > START + 1000 * DAY
        assert storage.queue.mark_posted(job).status is JobStatus.POSTED

    def test_every_job_goes_to_one_worker(self, storage: Storage) -> None:
        jobs = storage.queue.schedule_many(NewJob("x", "a", START - n % 3 * SECOND) for n in range(40))

        def work(worker: int) -> list[int]:
            taken: list[int] = []
            while batch := storage.queue.claim_due(worker_id=f"w{worker}", limit=3):
                taken += [job.id for job in batch]
            return taken

        taken = [id for ids in together(4, work) for id in ids]
        taken += [job.id for job in storage.queue.claim_due(worker_id="last")]
        assert sorted(taken) == [job.id for job in jobs]

    @given(
        st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["x", "y", "é"])), max_size=10),
        st.integers(0, 5),
        st.integers(1, 6),
        st.none() | st.lists(st.sampled_from(["x", "y", "é", "none"]), min_size=1, max_size=3),
    )
    @examples(40)
    def test_claims_are_those_of_a_naive_sort(
        self,
        backend: StorageBackend,
        storage: Storage,
        drafts: list[tuple[int, str]],
        now: int,
        limit: int,
        platforms: list[str] | None,
    ) -> None:
        empty(backend)
        jobs = storage.queue.schedule_many(
            NewJob(platform, "a", START + ticks * TICK) for ticks, platform in drafts
        )
        due = [
            job
            for job in sorted(jobs, key=lambda job: (job.scheduled_at, job.id))
            if job.scheduled_at <= START + now * TICK and (platforms is None or job.platform in platforms)
        ]
        taken = storage.queue.claim_due(
            worker_id="w", limit=limit, platforms=platforms, now=START + now * TICK
        )
        assert [job.id for job in taken] == [job.id for job in due[:limit]]
        left = {job.id for job in storage.queue.list(status=JobStatus.SCHEDULED)}
        assert left == {job.id for job in jobs} - {job.id for job in taken}


class QueueLeasesContract(Contract):
    def test_extend_moves_the_end(self, storage: Storage, clock: FakeClock) -> None:
        job = held(storage)
        clock.advance(MINUTE)
        (extended,) = storage.queue.extend([job], lease=HOUR)
        assert extended.lease_until == START + MINUTE + HOUR
        assert (extended.claim, extended.worker_id, extended.status) == (
            job.claim,
            "worker-1",
            JobStatus.PROCESSING,
        )
        assert storage.queue.get(job.id) == extended
        clock.advance(HOUR - TICK)
        assert storage.queue.rescue_expired() == []
        assert storage.queue.mark_posted(job).status is JobStatus.POSTED

    def test_extend_may_shorten(self, storage: Storage) -> None:
        (job,) = storage.queue.extend([held(storage)], lease=SECOND)
        assert job.lease_until == START + SECOND

    def test_extend_refuses_a_lease_that_ran_out(self, storage: Storage, clock: FakeClock) -> None:
        job = held(storage)
        clock.advance(LEASE)
        assert storage.queue.extend([job], lease=HOUR) == []
        assert storage.queue.get(job.id) == job
        assert len(storage.queue.extend([job], lease=HOUR, now=START + LEASE - TICK)) == 1

    def test_extend_leaves_the_lost_ones_out(self, storage: Storage) -> None:
        jobs = storage.queue.schedule_many(NewJob("x", "a") for _ in range(5))
        claimed = storage.queue.claim_due(worker_id="w")
        storage.queue.mark_posted(claimed[0])
        storage.queue.remove(claimed[1].id)
        storage.queue.release(claimed[2])
        (again,) = storage.queue.claim_due(worker_id="other")
        extended = storage.queue.extend(claimed, lease=HOUR)
        assert [job.id for job in extended] == [jobs[3].id, jobs[4].id]
        assert storage.queue.get(again.id) == again

    def test_extend_nothing(self, storage: Storage) -> None:
        assert storage.queue.extend([], lease=HOUR) == []
        assert storage.queue.extend([storage.queue.schedule("x", "a")], lease=HOUR) == []

    @pytest.mark.parametrize("lease", [timedelta(0), -TICK, 60, None])
    def test_extend_needs_a_lease(self, storage: Storage, lease: Any) -> None:
        job = held(storage)
        with pytest.raises(InvalidValue, match="lease"):
            storage.queue.extend([job], lease=lease)
        assert storage.queue.get(job.id) == job

    @pytest.mark.parametrize("jobs", [None, 1, [1], ["job"], [None]])
    def test_extend_needs_jobs(self, storage: Storage, jobs: Any) -> None:
        with pytest.raises(InvalidValue):
            storage.queue.extend(jobs, lease=HOUR)

    def test_begin_publish_is_recorded_once(self, storage: Storage, clock: FakeClock) -> None:
        job = held(storage)
        clock.advance(SECOND)
        begun = storage.queue.begin_publish(job)
        assert begun.publish_started_at == START + SECOND
        assert (begun.status, begun.claim, begun.lease_until) == (job.status, job.claim, job.lease_until)
        assert storage.queue.get(job.id) == begun
        clock.advance(SECOND)
        assert storage.queue.begin_publish(job).publish_started_at == START + SECOND

    def test_begin_publish_refuses_a_lease_that_ran_out(self, storage: Storage, clock: FakeClock) -> None:
        job = held(storage)
        clock.advance(LEASE)
        with pytest.raises(ClaimLost):
            storage.queue.begin_publish(job)
        assert storage.queue.get(job.id) == job
        begun = storage.queue.begin_publish(job, now=START + LEASE - TICK)
        assert begun.publish_started_at == START + LEASE - TICK

    def test_several_jobs_begin_to_be_published(self, storage: Storage, clock: FakeClock) -> None:
        storage.queue.schedule_many(NewJob("x", str(number)) for number in range(4))
        first, *others = storage.queue.claim_due(worker_id="w")
        before = storage.queue.begin_publish(first)
        clock.advance(SECOND)
        given = [others[1], first, others[0], others[1]]
        begun = storage.queue.begin_publish_many(iter(given))
        assert [job.id for job in begun] == [others[1].id, first.id, others[0].id]
        assert [job.publish_started_at for job in begun] == [
            START + SECOND,
            before.publish_started_at,
            START + SECOND,
        ]
        assert {job.updated_at for job in begun} == {START + SECOND}
        for job in begun:
            assert storage.queue.get(job.id) == job
        assert storage.queue.get(others[2].id) == others[2]

    def test_jobs_that_may_not_be_published_are_left_out(self, storage: Storage, clock: FakeClock) -> None:
        storage.queue.schedule_many(NewJob("x", str(number)) for number in range(5))
        settled, removed, cancelled, kept = storage.queue.claim_due(worker_id="w", limit=4, lease=HOUR)
        (lapsed,) = storage.queue.claim_due(worker_id="w", lease=SECOND)
        storage.queue.release(settled)
        (again,) = storage.queue.claim_due(worker_id="other")
        storage.queue.remove(removed.id)
        storage.queue.cancel(cancelled.id)
        clock.advance(SECOND)
        given = [settled, removed, cancelled, lapsed, kept]
        assert [job.id for job in storage.queue.begin_publish_many(given)] == [kept.id]
        assert storage.queue.get(again.id) == again
        assert storage.queue.get(lapsed.id) == lapsed
        assert storage.queue.begin_publish_many(given[:-1]) == []
        assert len(storage.queue.begin_publish_many([lapsed], now=START)) == 1

    def test_an_old_claim_and_a_new_one_in_a_call(self, storage: Storage) -> None:
        stale = held(storage)
        storage.queue.release(stale)
        current = claim_one(storage)
        (begun,) = storage.queue.begin_publish_many([stale, current])
        assert begun.claim == current.claim
        assert storage.queue.begin_publish_many([]) == []

    @pytest.mark.parametrize("jobs", [None, 1, [1], ["job"], [None]])
    def test_begin_publish_many_needs_jobs(self, storage: Storage, jobs: Any) -> None:
        job = held(storage)
        with pytest.raises(InvalidValue, match="jobs"):
            storage.queue.begin_publish_many(jobs)
        assert storage.queue.get(job.id) == job


_ENDINGS: dict[str, Callable[[Storage, Job], Any]] = {
    "begin_publish": lambda storage, job: storage.queue.begin_publish(job),
    "mark_posted": lambda storage, job: storage.queue.mark_posted(job, "remote"),
    "mark_failed": lambda storage, job: storage.queue.mark_failed(job, "late"),
    "snooze": lambda storage, job: storage.queue.snooze(job, START + DAY),
    "release": lambda storage, job: storage.queue.release(job),
}
_SETTLED: dict[str, Callable[[Job], Any]] = {
    "posted": lambda job: Posted(job, "remote"),
    "failed": lambda job: Failed(job, "late"),
    "snoozed": lambda job: Snoozed(job, START + DAY),
    "released": lambda job: Released(job),
}
_LOSSES: dict[str, Callable[[Storage, Job], Any]] = {
    "posted": lambda storage, job: storage.queue.mark_posted(job),
    "failed": lambda storage, job: storage.queue.mark_failed(job, "busy"),
    "dead": lambda storage, job: storage.queue.mark_failed(job, "no", retryable=False),
    "snoozed": lambda storage, job: storage.queue.snooze(job, START),
    "released": lambda storage, job: storage.queue.release(job),
    "removed": lambda storage, job: storage.queue.remove(job.id),
    "rescued": lambda storage, _: storage.queue.rescue_expired(now=START + LEASE),
    "claimed again": lambda storage, job: (
        storage.queue.release(job),
        claim_one(storage, worker_id="other"),
    ),
    "claimed again by itself": lambda storage, job: (storage.queue.release(job), claim_one(storage)),
    "claimed after the rescue": lambda storage, _: (
        storage.queue.rescue_expired(now=START + LEASE),
        storage.queue.claim_due(worker_id="other", now=START + 2 * LEASE),
    ),
    "replayed": lambda storage, job: (
        storage.queue.mark_failed(job, "no", retryable=False),
        storage.queue.replay(job.id),
        claim_one(storage, worker_id="other"),
    ),
}


class QueueFenceContract(Contract):
    @pytest.mark.parametrize("loss", _LOSSES)
    @pytest.mark.parametrize("ending", _ENDINGS)
    def test_a_lost_claim_changes_nothing(self, storage: Storage, loss: str, ending: str) -> None:
        job = held(storage)
        _LOSSES[loss](storage, job)
        before = census(storage)
        with pytest.raises(ClaimLost):
            _ENDINGS[ending](storage, job)
        assert census(storage) == before

    @pytest.mark.parametrize("loss", _LOSSES)
    @pytest.mark.parametrize("outcome", _SETTLED)
    def test_settle_lists_a_lost_claim(self, storage: Storage, loss: str, outcome: str) -> None:
        job = held(storage)
        _LOSSES[loss](storage, job)
        before = census(storage)
        assert storage.queue.settle([_SETTLED[outcome](job)]) == Settled([], [job.id])
        assert census(storage) == before

    @pytest.mark.parametrize("loss", _LOSSES)
    @pytest.mark.parametrize("outcome", _SETTLED)
    def test_settle_lists_a_lost_claim_among_others(self, storage: Storage, loss: str, outcome: str) -> None:
        job = held(storage)
        _LOSSES[loss](storage, job)
        lost = storage.queue.get(job.id)
        storage.queue.schedule_many([NewJob("y", "a")] * 2)
        others = storage.queue.claim_due(worker_id="w", platforms=["y"])
        settled = storage.queue.settle([_SETTLED[outcome](one) for one in (others[0], job, others[1])])
        assert settled.lost == [job.id]
        assert [one.id for one in settled.jobs] == [other.id for other in others]
        assert storage.queue.get(job.id) == lost

    @pytest.mark.parametrize("ending", _ENDINGS)
    def test_a_job_that_was_never_claimed(self, storage: Storage, ending: str) -> None:
        job = storage.queue.schedule("x", "a")
        with pytest.raises(ClaimLost):
            _ENDINGS[ending](storage, job)
        assert storage.queue.get(job.id) == job

    @pytest.mark.parametrize("ending", ["mark_posted", "mark_failed", "snooze", "release"])
    def test_a_lease_that_ran_out_can_be_settled(
        self, storage: Storage, clock: FakeClock, ending: str
    ) -> None:
        job = held(storage)
        clock.advance(HOUR)
        settled = _ENDINGS[ending](storage, job)
        assert settled.status is not JobStatus.PROCESSING
        assert storage.queue.get(job.id) == settled

    @pytest.mark.parametrize("ending", _ENDINGS)
    def test_an_older_copy_of_the_job_will_do(self, storage: Storage, ending: str) -> None:
        """What has changed since then is kept."""
        job = held(storage)
        storage.queue.begin_publish(job)
        storage.queue.extend([job], lease=HOUR)
        changed = _ENDINGS[ending](storage, job)
        assert storage.queue.get(job.id) == changed
        is_kept = ending in ("begin_publish", "mark_posted")
        assert changed.publish_started_at == (START if is_kept else None)
        assert changed.lease_until == (START + HOUR if ending == "begin_publish" else None)
        assert (changed.claim, changed.content, changed.attempts[1:]) == (job.claim, job.content, ())

    @pytest.mark.parametrize("outcome", _SETTLED)
    def test_older_copies_of_several_jobs_will_do(self, storage: Storage, outcome: str) -> None:
        jobs = [held(storage) for _ in range(2)]
        for job in jobs:
            storage.queue.begin_publish(job)
        settled = storage.queue.settle([_SETTLED[outcome](job) for job in jobs])
        assert settled.jobs == storage.queue.list()
        began = START if outcome == "posted" else None
        assert [job.publish_started_at for job in settled.jobs] == [began] * 2

    @pytest.mark.parametrize("ending", _ENDINGS)
    @pytest.mark.parametrize("job", [None, 1, "job", {"id": 1}])
    def test_only_a_job_is_taken(self, storage: Storage, ending: str, job: Any) -> None:
        with pytest.raises(InvalidValue):
            _ENDINGS[ending](storage, job)
