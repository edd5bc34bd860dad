"""Jobs that are not to be published any more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from ..errors import (
    ClaimLost,
    IdempotencyMismatch,
    InvalidValue,
    NotFound,
    ScheduleConflict,
    StatusConflict,
)
from ..records import (
    Failed,
    Job,
    JobStatus,
    NewJob,
    Outcome,
    Posted,
    Released,
    Settled,
    Snoozed,
    Unknown,
)
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    LEASE,
    MINUTE,
    SECOND,
    START,
    UNHEARD_OF,
    Contract,
    FakeClock,
    begun,
    cancelled,
    claim_one,
    dead,
    held,
    missed,
    posted,
    retrying,
    undone,
    unknown,
)


def _scheduled(storage: Storage) -> Job:
    return storage.queue.schedule("x", "a", START + DAY)


def _held_again(storage: Storage) -> Job:
    retrying(storage, retry_at=START)
    return claim_one(storage)


_HOLDERS: dict[str, Callable[[Storage, Job], object]] = {
    "begin_publish": lambda s, job: s.queue.begin_publish(job),
    "mark_posted": lambda s, job: s.queue.mark_posted(job, "remote"),
    "mark_failed": lambda s, job: s.queue.mark_failed(job, "busy"),
    "mark_unknown": lambda s, job: s.queue.mark_unknown(job, "no answer"),
    "snooze": lambda s, job: s.queue.snooze(job, START + HOUR),
    "release": lambda s, job: s.queue.release(job),
    "checkpoint": lambda s, job: s.queue.checkpoint(job, {"step": 1}),
}
_OUTCOMES: dict[str, Callable[[Job], Outcome]] = {
    "posted": Posted,
    "failed": lambda job: Failed(job, "busy"),
    "snoozed": lambda job: Snoozed(job, START + HOUR),
    "released": Released,
    "unknown": lambda job: Unknown(job, "no answer"),
}
_CANCELLABLE: dict[str, Callable[[Storage], Job]] = {
    "scheduled": _scheduled,
    "retrying": retrying,
    "held": held,
    "held after a retry": _held_again,
    "a lease that ran out": lambda s: held(s, lease=SECOND),
}


class QueueCancellingContract(Contract):
    @pytest.mark.parametrize("state", _CANCELLABLE)
    def test_a_job_is_cancelled(self, storage: Storage, clock: FakeClock, state: str) -> None:
        job = _CANCELLABLE[state](storage)
        now = clock.advance(MINUTE)
        gone = storage.queue.cancel(job.id)
        assert gone == dataclasses.replace(
            job,
            status=JobStatus.CANCELLED,
            next_retry_at=None,
            due_at=job.scheduled_at,
            worker_id=None,
            lease_until=None,
            updated_at=now,
        )
        assert storage.queue.get(job.id) == gone
        assert storage.queue.list(status="cancelled") == [gone]
        assert storage.queue.list(status=JobStatus.CANCELLED, platform="y") == []
        assert storage.queue.counts() == {**dict.fromkeys(JobStatus, 0), JobStatus.CANCELLED: 1}
        assert storage.queue.counts(posted=False)[JobStatus.CANCELLED] == 1

    @pytest.mark.parametrize("state", _CANCELLABLE)
    def test_a_cancelled_job_is_never_handed_out(self, storage: Storage, state: str) -> None:
        gone = storage.queue.cancel(_CANCELLABLE[state](storage).id)
        later = START + 99 * DAY
        assert storage.queue.claim_due(worker_id="w", now=later) == []
        assert storage.queue.rescue_expired(now=later) == []
        assert storage.queue.next_due_at() is None
        assert storage.queue.upcoming() == []
        assert storage.queue.wait(0) is False
        assert storage.queue.dead_letters() == []
        assert storage.queue.get(gone.id) == gone

    def test_a_cancelled_job_is_never_late(self, storage: Storage) -> None:
        gone = cancelled(storage, scheduled_at=START - DAY, max_lateness=MINUTE)
        assert storage.queue.claim_due(worker_id="w") == []
        assert storage.queue.get(gone.id) == gone

    @pytest.mark.parametrize("make", [begun, posted, dead, unknown, missed, cancelled])
    def test_what_cannot_be_cancelled(self, storage: Storage, make: Any) -> None:
        job = make(storage)
        with pytest.raises(StatusConflict, match=f"job {job.id} is {job.status}") as caught:
            storage.queue.cancel(job.id)
        assert caught.value.current == job
        assert storage.queue.get(job.id) == job

    def test_what_is_being_published_is_settled_as_ever(self, storage: Storage) -> None:
        job = begun(storage)
        with pytest.raises(StatusConflict, match="publishing has begun"):
            storage.queue.cancel(job.id)
        assert storage.queue.mark_posted(job, "remote").remote_id == "remote"

    @pytest.mark.parametrize(
        "hand_back",
        [
            lambda s, job: s.queue.release(job),
            lambda s, job: s.queue.snooze(job, START + HOUR),
            lambda s, job: s.queue.mark_failed(job, "busy"),
        ],
        ids=["released", "snoozed", "failed"],
    )
    def test_a_publish_that_ended_does_not_stand_in_the_way(self, storage: Storage, hand_back: Any) -> None:
        job = hand_back(storage, begun(storage))
        assert storage.queue.cancel(job.id).status is JobStatus.CANCELLED

    @pytest.mark.parametrize("call", _HOLDERS)
    def test_its_holder_learns_of_it(self, storage: Storage, call: str) -> None:
        job = held(storage)
        gone = storage.queue.cancel(job.id)
        with pytest.raises(ClaimLost, match="cancelled"):
            _HOLDERS[call](storage, job)
        assert storage.queue.get(job.id) == gone

    def test_its_lease_is_not_extended(self, storage: Storage) -> None:
        storage.queue.schedule_many([NewJob("x", "a"), NewJob("x", "b")])
        first, second = storage.queue.claim_due(worker_id="w")
        gone = storage.queue.cancel(first.id)
        extended = storage.queue.extend([first, second], lease=HOUR)
        assert [job.id for job in extended] == [second.id]
        assert storage.queue.get(first.id) == gone

    @pytest.mark.parametrize("outcome", _OUTCOMES)
    @pytest.mark.parametrize("size", [1, 3])
    def test_a_batch_lists_it_as_lost(self, storage: Storage, outcome: str, size: int) -> None:
        storage.queue.schedule_many(NewJob("x", "a") for _ in range(size))
        jobs = storage.queue.claim_due(worker_id="w")
        gone = storage.queue.cancel(jobs[0].id)
        settled = storage.queue.settle(_OUTCOMES[outcome](job) for job in jobs)
        assert settled.lost == [gone.id]
        assert [job.id for job in settled.jobs] == [job.id for job in jobs[1:]]
        assert storage.queue.get(gone.id) == gone

    def test_the_key_of_a_cancelled_job_holds(self, storage: Storage) -> None:
        gone = cancelled(storage, idempotency_key="key")
        assert storage.queue.schedule("x", "hello", idempotency_key="key") == gone
        batch = [NewJob("x", "hello", idempotency_key="key"), NewJob("x", "b")]
        assert storage.queue.schedule_many(batch)[0] == gone
        with pytest.raises(IdempotencyMismatch):
            storage.queue.schedule("x", "another", idempotency_key="key")
        assert storage.queue.get(gone.id) == gone

    def test_to_remove_it_frees_its_key(self, storage: Storage) -> None:
        gone = cancelled(storage, idempotency_key="key")
        assert storage.queue.remove(gone.id) is True
        assert storage.queue.get(gone.id) is None
        assert storage.queue.list(status="cancelled") == []
        assert storage.queue.counts() == dict.fromkeys(JobStatus, 0)
        job = storage.queue.schedule("x", "hello", idempotency_key="key")
        assert (job.status, job.id > gone.id) == (JobStatus.SCHEDULED, True)

    @pytest.mark.parametrize("make", [_scheduled, held])
    def test_its_slot_is_free(self, storage: Storage, make: Any) -> None:
        job = make(storage)
        with pytest.raises(ScheduleConflict):
            storage.queue.schedule("x", "b", job.scheduled_at, min_gap=HOUR)
        storage.queue.cancel(job.id)
        assert storage.queue.find_conflict("x", job.scheduled_at, HOUR) is None
        other = storage.queue.schedule("x", "b", job.scheduled_at, min_gap=HOUR)
        assert storage.queue.find_conflict("x", job.scheduled_at, HOUR) == other

    @pytest.mark.parametrize("make", [cancelled, lambda s: s.queue.cancel(retrying(s).id)])
    def test_it_may_be_replayed(self, storage: Storage, clock: FakeClock, make: Any) -> None:
        gone = make(storage)
        now = clock.advance(HOUR)
        job = storage.queue.replay(gone.id)
        assert job == dataclasses.replace(
            gone,
            status=JobStatus.SCHEDULED,
            scheduled_at=now,
            due_at=now,
            replayed_at=now,
            updated_at=now,
            retries=0,
            last_error=None,
        )
        assert storage.queue.get(gone.id) == job
        assert claim_one(storage).id == gone.id

    def test_a_held_job_that_was_cancelled_and_replayed(self, storage: Storage) -> None:
        """The claim from before does not fit the new one."""
        stale = held(storage)
        storage.queue.cancel(stale.id)
        storage.queue.replay(stale.id, scheduled_at=START)
        with pytest.raises(ClaimLost):
            storage.queue.begin_publish(stale)
        current = claim_one(storage, worker_id="other")
        assert current.claim > stale.claim
        with pytest.raises(ClaimLost):
            storage.queue.mark_posted(stale)
        assert storage.queue.settle([Posted(stale)]) == Settled([], [stale.id])
        assert storage.queue.get(current.id) == current

    def test_it_is_not_rescheduled(self, storage: Storage) -> None:
        gone = cancelled(storage)
        with pytest.raises(StatusConflict) as caught:
            storage.queue.reschedule(gone.id, START + DAY)
        assert caught.value.current == gone
        assert storage.queue.get(gone.id) == gone

    def test_pages_of_cancelled_jobs(self, storage: Storage) -> None:
        gone = [cancelled(storage, platform=platform) for platform in "xyxyx"]
        storage.queue.schedule("x", "a")
        queue = storage.queue
        assert queue.list(status="cancelled", limit=2) == gone[:2]
        assert queue.list(status="cancelled", after=gone[1]) == gone[2:]
        assert queue.list(status="cancelled", platform="x") == gone[::2]

    @pytest.mark.parametrize("id", UNHEARD_OF)
    def test_an_unheard_of_job_is_not_cancelled(self, storage: Storage, id: int) -> None:
        with pytest.raises(NotFound, match=f"no job {id}$"):
            storage.queue.cancel(id)

    @pytest.mark.parametrize(
        "bad", [{"id": "1"}, {"id": True}, {"id": None}, {"now": 1}, {"now": START.replace(tzinfo=None)}]
    )
    def test_a_bad_argument_cancels_nothing(self, storage: Storage, bad: dict[str, Any]) -> None:
        job = _scheduled(storage)
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.queue.cancel(**{"id": job.id, **bad})
        assert storage.queue.get(job.id) == job

    def test_the_time_of_a_cancellation_may_be_given(self, storage: Storage) -> None:
        job = storage.queue.cancel(_scheduled(storage).id, now=START + LEASE)
        assert (job.updated_at, job.scheduled_at) == (START + LEASE, START + DAY)

    def test_a_cancellation_in_a_transaction(self, storage: Storage) -> None:
        job = held(storage)
        with undone(storage) as tx:
            gone = tx.queue.cancel(job.id)
            assert tx.queue.list(status="cancelled") == [gone]
            with pytest.raises(ClaimLost):
                tx.queue.begin_publish(job)
        assert storage.queue.get(job.id) == job
        assert storage.queue.begin_publish(job).publish_started_at == START
        storage.queue.release(job)
        with storage.transaction() as tx:
            gone = tx.queue.cancel(job.id)
        assert storage.queue.get(job.id) == gone
