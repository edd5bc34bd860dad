"""Checkpoints: how far publishing is, for platforms that take several steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given

from ..engine.protocol import StorageBackend
from ..errors import ClaimLost, InvalidValue, StatusConflict
from ..records import Failed, Job, JobStatus, Json, NewJob, Posted, Released, Snoozed, Unknown
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    LEASE,
    MINUTE,
    SECOND,
    START,
    Contract,
    FakeClock,
    begun,
    cancelled,
    claim_one,
    dead,
    empty,
    examples,
    held,
    missed,
    posted,
    retrying,
    undone,
    unknown,
)
from .strategies import TRICKY_FLOATS, TRICKY_INTS, json_values, spelled, stored

_STEP: dict[str, Json] = {"step": 1, "container": "c-7", "at": 1.0, "parts": [{"id": 1e16}, None, True, ""]}


def noted(storage: Storage, data: Any = _STEP, **fields: Any) -> Job:
    """A job that is being published, with a checkpoint."""
    return storage.queue.checkpoint(begun(storage, **fields), data)


_LATER: dict[str, tuple[JobStatus, Callable[[Storage, Job], object]]] = {
    "failed": (JobStatus.RETRYING, lambda s, job: s.queue.mark_failed(job, "busy")),
    "failed for good": (
        JobStatus.DEAD_LETTER,
        lambda s, job: s.queue.mark_failed(job, "no", retryable=False),
    ),
    "unknown": (JobStatus.DEAD_LETTER, lambda s, job: s.queue.mark_unknown(job, "no answer")),
    "snoozed": (JobStatus.SCHEDULED, lambda s, job: s.queue.snooze(job, START + HOUR)),
    "released": (JobStatus.SCHEDULED, lambda s, job: s.queue.release(job)),
    "rescued": (JobStatus.DEAD_LETTER, lambda s, _: s.queue.rescue_expired(now=START + LEASE)),
    "extended": (JobStatus.PROCESSING, lambda s, job: s.queue.extend([job], lease=HOUR)),
    "begun again": (JobStatus.PROCESSING, lambda s, job: s.queue.begin_publish(job)),
    "settled: failed": (JobStatus.RETRYING, lambda s, job: s.queue.settle([Failed(job, "busy")])),
    "settled: unknown": (JobStatus.DEAD_LETTER, lambda s, job: s.queue.settle([Unknown(job, "?")])),
    "settled: snoozed": (JobStatus.SCHEDULED, lambda s, job: s.queue.settle([Snoozed(job, START + HOUR)])),
    "settled: released": (JobStatus.SCHEDULED, lambda s, job: s.queue.settle([Released(job)])),
}


def _rescued_before_publishing(storage: Storage) -> Job:
    """Its second attempt ended before publishing began, so that it is tried a third time."""
    job = storage.queue.mark_failed(noted(storage), "busy", retry_at=START)
    claim_one(storage, lease=MINUTE)
    (rescued,) = storage.queue.rescue_expired(now=START + MINUTE)
    assert (rescued.id, rescued.status) == (job.id, JobStatus.RETRYING)
    return rescued


def _missed(storage: Storage) -> Job:
    job = storage.queue.release(noted(storage, max_lateness=HOUR))
    assert storage.queue.claim_due(worker_id="w", now=START + DAY) == []
    letter = storage.queue.get(job.id)
    assert letter is not None
    assert letter.missed is True
    return letter


_WITH_ONE: dict[str, Callable[[Storage], Job]] = {
    "rescued before publishing": _rescued_before_publishing,
    "missed": _missed,
    "rescheduled": lambda s: s.queue.reschedule(s.queue.release(noted(s)).id, START + DAY, content="b"),
    "cancelled": lambda s: s.queue.cancel(s.queue.release(noted(s)).id),
    "not posted": lambda s: s.queue.resolve(s.queue.mark_unknown(noted(s), "?").id, posted=False),
}


class QueueCheckpointContract(Contract):
    def test_a_checkpoint(self, storage: Storage, clock: FakeClock) -> None:
        job = begun(storage)
        now = clock.advance(SECOND)
        after = storage.queue.checkpoint(job, _STEP)
        assert after == dataclasses.replace(job, checkpoint=_STEP, updated_at=now)
        assert storage.queue.get(job.id) == after
        assert storage.queue.list() == [after]
        assert storage.queue.mark_posted(after, "remote").remote_id == "remote"

    def test_a_job_has_none_at_first(self, storage: Storage) -> None:
        assert storage.queue.schedule("x", "a").checkpoint is None
        assert storage.queue.schedule_many([NewJob("x", "a")] * 2)[1].checkpoint is None
        assert {job.checkpoint for job in storage.queue.claim_due(worker_id="w")} == {None}

    def test_the_last_one_counts(self, storage: Storage) -> None:
        job = begun(storage)
        for data in ({"step": 1}, {"step": 2}, ["other"]):
            assert storage.queue.checkpoint(job, data).checkpoint == data
        found = storage.queue.get(job.id)
        assert found is not None
        assert found.checkpoint == ["other"]

    def test_none_deletes_it(self, storage: Storage) -> None:
        job = noted(storage)
        assert storage.queue.checkpoint(job, None) == dataclasses.replace(job, checkpoint=None)
        found = storage.queue.get(job.id)
        assert found is not None
        assert found.checkpoint is None
        assert storage.queue.checkpoint(job, None).checkpoint is None

    @pytest.mark.parametrize("data", [False, 0, 0.0, "", [], {}, [None], {"": None}])
    def test_what_is_empty_is_not_none(self, storage: Storage, data: Any) -> None:
        job = noted(storage, data)
        found = storage.queue.get(job.id)
        assert found is not None
        assert spelled(found.checkpoint) == spelled(job.checkpoint) == spelled(data)

    @pytest.mark.parametrize("value", [*TRICKY_FLOATS, *TRICKY_INTS])
    def test_numbers_of_a_checkpoint_keep_value_and_type(self, storage: Storage, value: Any) -> None:
        data = {"n": value, "list": [value]}
        job = noted(storage, data)
        (found,) = storage.queue.list()
        assert spelled(found.checkpoint) == spelled(job.checkpoint) == spelled(stored(data))

    @given(json_values())
    @examples(15)
    def test_any_checkpoint_comes_back_equal(
        self, backend: StorageBackend, storage: Storage, data: Any
    ) -> None:
        empty(backend)
        job = noted(storage, data)
        found = storage.queue.get(job.id)
        assert found is not None
        assert spelled(found.checkpoint) == spelled(job.checkpoint) == spelled(stored(data))
        released = storage.queue.release(job)
        assert spelled(released.checkpoint) == spelled(claim_one(storage).checkpoint) == spelled(stored(data))

    def test_it_comes_back_as_a_copy(self, storage: Storage) -> None:
        data: dict[str, Any] = {"parts": [1]}
        job = noted(storage, data)
        data["parts"].append(2)
        job.checkpoint["parts"].append(3)
        found = storage.queue.get(job.id)
        assert found is not None
        assert found.checkpoint == {"parts": [1]}
        found.checkpoint.clear()
        (listed,) = storage.queue.list()
        assert listed.checkpoint == {"parts": [1]}
        listed.checkpoint.clear()
        assert storage.queue.release(job).checkpoint == {"parts": [1]}

    @pytest.mark.parametrize("later", _LATER)
    def test_it_outlives_an_attempt(self, storage: Storage, later: str) -> None:
        job = noted(storage)
        status, happen = _LATER[later]
        happen(storage, job)
        found = storage.queue.get(job.id)
        assert found is not None
        assert found.status is status
        assert spelled(found.checkpoint) == spelled(_STEP)

    @pytest.mark.parametrize("way", _WITH_ONE)
    def test_a_checkpoint_stays(self, storage: Storage, way: str) -> None:
        job = _WITH_ONE[way](storage)
        assert spelled(job.checkpoint) == spelled(_STEP)
        assert storage.queue.get(job.id) == job

    def test_the_next_attempt_goes_on(self, storage: Storage) -> None:
        storage.queue.mark_failed(noted(storage), "busy", retry_at=START)
        job = claim_one(storage)
        assert job.checkpoint == _STEP
        job = storage.queue.begin_publish(job)
        assert job.checkpoint == _STEP
        second = storage.queue.checkpoint(job, {"step": 2})
        assert (second.checkpoint, second.retries, len(second.attempts)) == ({"step": 2}, 1, 1)

    def test_what_was_not_posted_goes_on(self, storage: Storage) -> None:
        letter = storage.queue.mark_unknown(noted(storage), "no answer")
        storage.queue.resolve(letter.id, posted=False)
        assert claim_one(storage).checkpoint == _STEP

    @pytest.mark.parametrize(
        "end",
        [
            lambda s, job: s.queue.mark_posted(job, "remote"),
            lambda s, job: s.queue.settle([Posted(job, "remote")]).jobs[0],
            lambda s, job: s.queue.resolve(s.queue.mark_unknown(job, "?").id, posted=True),
            lambda s, job: s.queue.replay(s.queue.mark_failed(job, "no", retryable=False).id),
            lambda s, job: s.queue.replay(s.queue.mark_unknown(job, "?").id),
            lambda s, job: s.queue.replay(s.queue.cancel(s.queue.release(job).id).id),
        ],
        ids=["posted", "settled", "resolved", "replayed", "replayed unknown", "replayed cancelled"],
    )
    def test_it_is_deleted_with_the_end(self, storage: Storage, end: Any) -> None:
        job = end(storage, noted(storage))
        assert job.checkpoint is None
        assert storage.queue.get(job.id) == job

    def test_replay_all_deletes_it(self, storage: Storage) -> None:
        storage.queue.mark_failed(noted(storage), "no", retryable=False)
        storage.queue.mark_unknown(noted(storage), "no answer")
        assert storage.queue.replay_all(unknown=True) == 2
        assert {job.checkpoint for job in storage.queue.list(status="scheduled")} == {None}

    @pytest.mark.parametrize("size", [2, 3])
    def test_a_batch_of_posted_jobs_deletes_it(self, storage: Storage, size: int) -> None:
        storage.queue.schedule_many(NewJob("x", "a") for _ in range(size))
        jobs = [
            storage.queue.checkpoint(storage.queue.begin_publish(job), _STEP)
            for job in storage.queue.claim_due(worker_id="w")
        ]
        settled = storage.queue.settle(Posted(job, f"remote {job.id}") for job in jobs)
        assert [job.checkpoint for job in settled.jobs] == [None] * size
        assert [storage.queue.get(job.id) for job in jobs] == settled.jobs

    def test_a_batch_deletes_it_only_in_posted_jobs(self, storage: Storage) -> None:
        """Also where the holder's records are from before the checkpoints."""
        storage.queue.schedule_many(NewJob("x", "a") for _ in range(6))
        jobs = storage.queue.claim_due(worker_id="w")
        for job in jobs:
            storage.queue.checkpoint(storage.queue.begin_publish(job), _STEP)
        first, second, *others = jobs
        failed, snoozed, released, unknown = others
        settled = storage.queue.settle(
            [
                *(Posted(first, "remote"), Failed(failed, "busy"), Snoozed(snoozed, START + HOUR)),
                *(Released(released), Unknown(unknown, "no answer"), Posted(second)),
            ]
        )
        assert [job.checkpoint for job in settled.jobs] == [None, *[_STEP] * 4, None]
        assert [storage.queue.get(job.id) for job in settled.jobs] == settled.jobs

    def test_it_needs_a_publish(self, storage: Storage) -> None:
        job = held(storage)
        with pytest.raises(StatusConflict, match="call begin_publish first") as caught:
            storage.queue.checkpoint(job, _STEP)
        assert caught.value.current == job
        assert storage.queue.get(job.id) == job
        storage.queue.begin_publish(job)
        assert storage.queue.checkpoint(job, _STEP).checkpoint == _STEP, "the record from before may be used"

    def test_a_second_attempt_needs_a_publish_of_its_own(self, storage: Storage) -> None:
        storage.queue.mark_failed(noted(storage), "busy", retry_at=START)
        job = claim_one(storage)
        with pytest.raises(StatusConflict):
            storage.queue.checkpoint(job, {"step": 2})
        assert storage.queue.get(job.id) == job

    def test_a_lease_that_ran_out_may_still_be_noted(self, storage: Storage, clock: FakeClock) -> None:
        job = begun(storage)
        now = clock.advance(LEASE)
        after = storage.queue.checkpoint(job, _STEP)
        assert (after.checkpoint, after.updated_at, after.lease_until) == (_STEP, now, now)
        (letter,) = storage.queue.rescue_expired()
        assert (letter.outcome_unknown, letter.checkpoint) == (True, _STEP)

    def test_a_claim_that_was_taken_back_notes_nothing(self, storage: Storage, clock: FakeClock) -> None:
        job = noted(storage, "first")
        clock.advance(LEASE)
        (letter,) = storage.queue.rescue_expired()
        with pytest.raises(ClaimLost):
            storage.queue.checkpoint(job, "late")
        assert storage.queue.get(job.id) == letter

    def test_another_claim_notes_nothing(self, storage: Storage) -> None:
        stale = noted(storage, "first")
        storage.queue.release(stale)
        current = storage.queue.begin_publish(claim_one(storage, worker_id="other"))
        with pytest.raises(ClaimLost, match=r"claimed again by 'other'"):
            storage.queue.checkpoint(stale, "late")
        with pytest.raises(ClaimLost):
            storage.queue.checkpoint(dataclasses.replace(current, claim=current.claim + 1), "early")
        assert storage.queue.get(current.id) == current

    @pytest.mark.parametrize(
        "make",
        [
            lambda s: s.queue.schedule("x", "a"),
            *(retrying, posted, dead, unknown, missed, cancelled),
            lambda s: s.queue.resolve(unknown(s).id, posted=True),
        ],
    )
    def test_only_a_held_job_has_it_noted(self, storage: Storage, make: Any) -> None:
        job = make(storage)
        with pytest.raises(ClaimLost):
            storage.queue.checkpoint(job, _STEP)
        assert storage.queue.get(job.id) == job

    def test_a_removed_job_is_lost(self, storage: Storage) -> None:
        job = noted(storage)
        storage.queue.remove(job.id)
        with pytest.raises(ClaimLost, match="it was removed"):
            storage.queue.checkpoint(job, _STEP)
        assert storage.queue.list() == []

    @pytest.mark.parametrize(
        "data", [float("nan"), {"a": float("inf")}, "\x00", "\ud800", (1,), {1: 2}, b"", object(), START]
    )
    def test_a_checkpoint_that_is_no_json(self, storage: Storage, data: Any) -> None:
        job = noted(storage)
        with pytest.raises(InvalidValue, match="data"):
            storage.queue.checkpoint(job, data)
        assert storage.queue.get(job.id) == job

    def test_the_largest(self, storage: Storage) -> None:
        job = begun(storage)
        largest = "x" * (1024 * 1024 - 2)
        storage.queue.checkpoint(job, largest)
        with pytest.raises(InvalidValue, match="data"):
            storage.queue.checkpoint(job, largest + "x")
        found = storage.queue.get(job.id)
        assert found is not None
        assert found.checkpoint == largest

    @pytest.mark.parametrize("job", [None, 1, "1", {}])
    def test_it_is_noted_in_a_job(self, storage: Storage, job: Any) -> None:
        with pytest.raises(InvalidValue, match="job"):
            storage.queue.checkpoint(job, _STEP)

    def test_its_time_may_be_given(self, storage: Storage) -> None:
        job = begun(storage)
        assert storage.queue.checkpoint(job, 1, now=START + MINUTE).updated_at == START + MINUTE
        with pytest.raises(InvalidValue, match="now"):
            storage.queue.checkpoint(job, 2, now=START.replace(tzinfo=None))

    def test_a_checkpoint_in_a_transaction(self, storage: Storage) -> None:
        job = noted(storage, "first")
        with undone(storage) as tx:
            assert tx.queue.checkpoint(job, "undone").checkpoint == "undone"
        assert storage.queue.get(job.id) == job
        with storage.transaction() as tx:
            after = tx.queue.checkpoint(job, "second")
        assert storage.queue.get(job.id) == after
