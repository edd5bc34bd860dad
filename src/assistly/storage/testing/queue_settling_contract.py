"""How claims end: posted, failed, snoozed, released, one by one and in batches."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue
from ..records import (
    Attempt,
    Failed,
    Job,
    JobStatus,
    NewJob,
    Outcome,
    Posted,
    Released,
    Settled,
    Snoozed,
)
from ..retry import ExponentialRetry, RetryPolicy
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    LEASE,
    MINUTE,
    RETRY_DELAY,
    SECOND,
    START,
    TICK,
    Contract,
    FakeClock,
    census,
    claim_one,
    empty,
    examples,
    held,
    open_for_test,
    retrying,
)
from .strategies import contents

_ENDS: dict[str, Callable[[Storage, Job, datetime], Job]] = {
    "posted": lambda storage, job, now: storage.queue.mark_posted(job, now=now),
    "failed": lambda storage, job, now: storage.queue.mark_failed(job, "busy", now=now),
    "snoozed": lambda storage, job, now: storage.queue.snooze(job, START + HOUR, now=now),
    "released": lambda storage, job, now: storage.queue.release(job, now=now),
    "unknown": lambda storage, job, now: storage.queue.mark_unknown(job, "no answer", now=now),
    "settled": lambda storage, job, now: storage.queue.settle([Released(job)], now=now).jobs[0],
}


class QueueSettlingContract(Contract):
    def test_posted(self, storage: Storage, clock: FakeClock) -> None:
        job = storage.queue.begin_publish(held(storage))
        clock.advance(SECOND)
        done = storage.queue.mark_posted(job, "remote-7")
        assert done.status is JobStatus.POSTED
        assert done.posted_at == done.updated_at == START + SECOND
        assert done.remote_id == "remote-7"
        assert (done.worker_id, done.lease_until, done.next_retry_at) == (None, None, None)
        assert (done.retries, done.attempts, done.due_at) == (0, (), START)
        assert storage.queue.get(job.id) == done

    def test_posted_after_a_retry(self, storage: Storage) -> None:
        retrying(storage, retry_at=START + HOUR)
        (job,) = storage.queue.claim_due(worker_id="w", now=START + HOUR)
        done = storage.queue.mark_posted(job, now=START + DAY)
        assert (done.posted_at, done.remote_id) == (START + DAY, None)
        assert (done.next_retry_at, done.due_at, done.retries) == (None, START, 1)

    @pytest.mark.parametrize("size", [1, 2])
    def test_what_comes_back_is_what_is_stored(self, storage: Storage, clock: FakeClock, size: int) -> None:
        """Also where the caller's record is from before the publish, and was tampered with."""
        for number in range(size):
            storage.queue.schedule(
                "x",
                "post",
                idempotency_key=f"key {number}",
                metadata={"tags": ["a"]},
                max_retries=1,
                max_lateness=DAY,
            )
        for job in storage.queue.claim_due(worker_id="w"):
            storage.queue.mark_failed(job, "refused")
        storage.queue.replay_all()
        clock.advance(MINUTE)
        jobs = storage.queue.claim_due(worker_id="w")
        begun = [storage.queue.begin_publish(job) for job in jobs]
        storage.queue.extend(begun, lease=HOUR)
        for job in jobs:
            job.metadata["tags"].append("b")
            job.metadata["more"] = True
        clock.advance(SECOND)
        settled = storage.queue.settle([Posted(job, f"remote {job.id}") for job in jobs])
        assert settled.jobs == [storage.queue.get(job.id) for job in jobs]
        assert [job.metadata for job in settled.jobs] == [{"tags": ["a"]}] * size
        assert [job.publish_started_at for job in settled.jobs] == [job.publish_started_at for job in begun]
        assert [job.attempts for job in settled.jobs] == [job.attempts for job in jobs]
        assert len(jobs[0].attempts) == 1

    @pytest.mark.parametrize("size", [1, 2])
    def test_a_record_that_was_emptied(self, storage: Storage, size: int) -> None:
        for _ in range(size):
            storage.queue.schedule("x", "post", metadata={"a": 1})
        jobs = storage.queue.claim_due(worker_id="w")
        for job in jobs:
            job.metadata.clear()
        settled = storage.queue.settle(map(Posted, jobs))
        assert settled.jobs == [storage.queue.get(job.id) for job in jobs]

    @pytest.mark.parametrize("size", [1, 2])
    def test_a_record_from_before_the_publish(self, storage: Storage, size: int) -> None:
        storage.queue.schedule_many(NewJob("x", "post") for _ in range(size))
        jobs = storage.queue.claim_due(worker_id="w")
        begun = storage.queue.begin_publish(jobs[-1])
        settled = storage.queue.settle(map(Posted, jobs))
        assert settled.jobs == [storage.queue.get(job.id) for job in jobs]
        assert settled.jobs[-1].publish_started_at == begun.publish_started_at

    @pytest.mark.parametrize("remote_id", [1, "", "\x00", "\ud800", "x" * 513])
    def test_a_bad_remote_id_leaves_the_claim(self, storage: Storage, remote_id: Any) -> None:
        job = held(storage)
        with pytest.raises(InvalidValue, match="remote_id"):
            storage.queue.mark_posted(job, remote_id)
        assert storage.queue.get(job.id) == job

    def test_snoozed(self, storage: Storage, clock: FakeClock) -> None:
        job = storage.queue.begin_publish(held(storage))
        clock.advance(SECOND)
        back = storage.queue.snooze(job, START + HOUR)
        assert back.status is JobStatus.SCHEDULED
        assert back.next_retry_at == back.due_at == START + HOUR
        assert (back.scheduled_at, back.updated_at) == (START, START + SECOND)
        assert (back.retries, back.attempts, back.last_error) == (0, (), None)
        assert (back.worker_id, back.lease_until, back.publish_started_at) == (None, None, None)
        assert storage.queue.get(job.id) == back
        assert storage.queue.claim_due(worker_id="w", now=START + HOUR - TICK) == []
        (again,) = storage.queue.claim_due(worker_id="w", now=START + HOUR)
        assert again.claim > job.claim

    def test_released(self, storage: Storage, clock: FakeClock) -> None:
        job = storage.queue.begin_publish(held(storage))
        clock.advance(SECOND)
        back = storage.queue.release(job)
        assert back.status is JobStatus.SCHEDULED
        assert (back.next_retry_at, back.due_at, back.updated_at) == (None, START, START + SECOND)
        assert (back.retries, back.attempts) == (0, ())
        assert (back.worker_id, back.lease_until, back.publish_started_at) == (None, None, None)
        assert storage.queue.get(job.id) == back
        assert claim_one(storage).id == job.id

    def test_a_retry_stays_a_retry(self, storage: Storage) -> None:
        retrying(storage, retry_at=START)
        back = storage.queue.release(claim_one(storage))
        assert (back.status, back.retries, back.next_retry_at) == (JobStatus.RETRYING, 1, START)
        snoozed = storage.queue.snooze(claim_one(storage), START + HOUR)
        assert (snoozed.status, snoozed.retries, snoozed.due_at) == (JobStatus.RETRYING, 1, START + HOUR)

    def test_release_keeps_the_snooze(self, storage: Storage, clock: FakeClock) -> None:
        storage.queue.snooze(held(storage), START + HOUR)
        clock.advance(HOUR)
        back = storage.queue.release(claim_one(storage))
        assert (back.next_retry_at, back.due_at) == (START + HOUR, START + HOUR)

    def test_a_snooze_into_the_past_is_due_at_once(self, storage: Storage) -> None:
        back = storage.queue.snooze(held(storage), START - DAY)
        assert back.due_at == START - DAY
        assert claim_one(storage).id == back.id

    def test_neither_uses_attempts_up(self, storage: Storage) -> None:
        job = held(storage, max_retries=1)
        for _ in range(3):
            storage.queue.snooze(job, START)
            storage.queue.release(claim_one(storage))
            job = claim_one(storage)
        assert (job.retries, job.attempts) == (0, ())

    @pytest.mark.parametrize("end", _ENDS)
    def test_the_time_of_an_end_may_be_given(self, storage: Storage, end: str) -> None:
        job = held(storage)
        with pytest.raises(InvalidValue, match="now"):
            _ENDS[end](storage, job, START.replace(tzinfo=None))
        assert storage.queue.get(job.id) == job
        assert _ENDS[end](storage, job, START + SECOND).updated_at == START + SECOND

    @pytest.mark.parametrize("until", [None, START.replace(tzinfo=None), HOUR, 60, "later"])
    def test_a_snooze_needs_a_time(self, storage: Storage, until: Any) -> None:
        job = held(storage)
        with pytest.raises(InvalidValue, match="until"):
            storage.queue.snooze(job, until)
        assert storage.queue.get(job.id) == job


class QueueFailuresContract(Contract):
    def test_a_first_failure(self, storage: Storage, clock: FakeClock) -> None:
        job = storage.queue.begin_publish(held(storage))
        now = clock.advance(SECOND)
        failed = storage.queue.mark_failed(job, "busy")
        assert failed.status is JobStatus.RETRYING
        assert failed.retries == 1
        assert failed.next_retry_at == failed.due_at == now + RETRY_DELAY
        assert (failed.last_error, failed.updated_at, failed.scheduled_at) == ("busy", now, START)
        assert failed.attempts == (Attempt(1, now, "worker-1", "busy"),)
        assert (failed.worker_id, failed.lease_until, failed.publish_started_at) == (None, None, None)
        assert (failed.dead_letter_at, failed.dead_letter_reason) == (None, None)
        assert storage.queue.get(job.id) == failed

    def test_the_last_failure(self, storage: Storage, clock: FakeClock) -> None:
        job = held(storage)
        for number in range(1, 3):
            failed = storage.queue.mark_failed(job, f"error {number}", retry_at=START)
            assert (failed.status, failed.retries) == (JobStatus.RETRYING, number)
            job = claim_one(storage, worker_id=f"worker-{number + 1}")
        now = clock.advance(SECOND)
        buried = storage.queue.mark_failed(job, "error 3")
        assert buried.status is JobStatus.DEAD_LETTER
        assert (buried.retries, buried.last_error) == (3, "error 3")
        assert (buried.dead_letter_at, buried.dead_letter_reason) == (now, "error 3")
        assert (buried.next_retry_at, buried.worker_id, buried.lease_until) == (None, None, None)
        assert buried.attempts == (
            Attempt(1, START, "worker-1", "error 1"),
            Attempt(2, START, "worker-2", "error 2"),
            Attempt(3, now, "worker-3", "error 3"),
        )
        assert storage.queue.get(job.id) == buried
        assert storage.queue.claim_due(worker_id="w", now=START + 999 * DAY) == []

    def test_the_last_failure_ignores_the_retry_time(self, storage: Storage) -> None:
        buried = storage.queue.mark_failed(held(storage, max_retries=1), "no", retry_at=START + HOUR)
        assert (buried.status, buried.next_retry_at, buried.due_at) == (JobStatus.DEAD_LETTER, None, START)

    def test_a_failure_that_is_final(self, storage: Storage) -> None:
        buried = storage.queue.mark_failed(held(storage), "gone", retryable=False)
        assert (buried.status, buried.retries) == (JobStatus.DEAD_LETTER, 1)
        assert buried.dead_letter_reason == buried.last_error == "gone"
        assert buried.attempts == (Attempt(1, START, "worker-1", "gone"),)

    def test_the_job_says_how_often(self, storage: Storage) -> None:
        job = held(storage, max_retries=2)
        assert storage.queue.mark_failed(job, "a", retry_at=START).status is JobStatus.RETRYING
        assert storage.queue.mark_failed(claim_one(storage), "b").status is JobStatus.DEAD_LETTER

    def test_the_policy_says_how_often_and_when(self, backend: StorageBackend, clock: FakeClock) -> None:
        empty(backend)
        storage = open_for_test(
            backend, clock, retry=RetryPolicy(max_retries=2, delay=timedelta(seconds=1.5))
        )
        assert storage.queue.mark_failed(held(storage), "a").due_at == START + timedelta(seconds=1.5)
        clock.advance(2 * SECOND)
        assert storage.queue.mark_failed(claim_one(storage), "b").status is JobStatus.DEAD_LETTER

    def test_the_policy_knows_which_attempt_it_was(self, backend: StorageBackend, clock: FakeClock) -> None:
        empty(backend)
        storage = open_for_test(
            backend, clock, retry=ExponentialRetry(max_retries=5, delay=MINUTE, factor=3, jitter=0)
        )
        job = held(storage)
        for delay in (MINUTE, 3 * MINUTE, 9 * MINUTE):
            assert storage.queue.mark_failed(job, "busy").due_at == clock() + delay
            clock.advance(delay)
            job = claim_one(storage)

    def test_the_bound_is_fixed_when_the_job_is_scheduled(
        self, backend: StorageBackend, storage: Storage, clock: FakeClock
    ) -> None:
        job = held(storage)
        strict = open_for_test(backend, clock, retry=RetryPolicy(max_retries=1))
        assert strict.queue.mark_failed(job, "busy").status is JobStatus.RETRYING

    def test_a_retry_time_in_the_past(self, storage: Storage) -> None:
        failed = storage.queue.mark_failed(held(storage), "busy", retry_at=START - DAY)
        assert failed.next_retry_at == START - DAY
        assert claim_one(storage).retries == 1

    def test_an_attempt_keeps_the_beginning_of_a_long_error(self, storage: Storage) -> None:
        error = "é😀" * 3000
        failed = storage.queue.mark_failed(held(storage), error)
        assert failed.last_error == error
        assert failed.attempts[0].error == error[:4096]

    def test_the_longest_error(self, storage: Storage) -> None:
        job = held(storage, max_retries=1)
        with pytest.raises(InvalidValue, match="error"):
            storage.queue.mark_failed(job, "x" * (1024 * 1024 + 1))
        assert storage.queue.get(job.id) == job
        buried = storage.queue.mark_failed(job, "x" * (1024 * 1024))
        assert buried.dead_letter_reason == "x" * (1024 * 1024)

    def test_the_last_twenty_attempts_are_kept(self, storage: Storage, clock: FakeClock) -> None:
        job = held(storage, max_retries=30)
        for number in range(1, 24):
            storage.queue.mark_failed(job, f"error {number}", retry_at=START)
            clock.advance(SECOND)
            job = claim_one(storage)
        assert job.retries == 23
        assert [attempt.number for attempt in job.attempts] == list(range(4, 24))
        assert [attempt.error for attempt in job.attempts] == [f"error {n}" for n in range(4, 24)]
        assert [attempt.at for attempt in job.attempts] == [START + n * SECOND for n in range(3, 23)]

    @pytest.mark.parametrize(
        "bad",
        [
            {"error": None},
            {"error": b"bytes"},
            {"error": ValueError("text")},
            {"error": "a\x00b"},
            {"error": "\udfff"},
            {"retry_at": START.replace(tzinfo=None)},
            {"retry_at": MINUTE},
            {"retryable": 1},
            {"retryable": None},
            {"now": START.replace(tzinfo=None)},
        ],
    )
    def test_bad_arguments_leave_the_claim(self, storage: Storage, bad: dict[str, Any]) -> None:
        job = held(storage)
        arguments: dict[str, Any] = {"error": "busy", **bad}
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.queue.mark_failed(job, **arguments)
        assert storage.queue.get(job.id) == job

    @given(contents)
    @examples(25)
    def test_every_error_text_is_kept(self, backend: StorageBackend, storage: Storage, error: str) -> None:
        empty(backend)
        failed = storage.queue.mark_failed(held(storage, max_retries=2), error, retry_at=START)
        assert (failed.last_error, failed.attempts[0].error) == (error, error)
        buried = storage.queue.mark_failed(claim_one(storage), error)
        assert (buried.dead_letter_reason, buried.attempts[1].error) == (error, error)


class QueueBatchSettlingContract(Contract):
    def _claimed(self, storage: Storage, count: int) -> list[Job]:
        storage.queue.schedule_many(NewJob("x", f"job {n}", START + n * TICK) for n in range(count))
        return storage.queue.claim_due(worker_id="worker-1", limit=1000, now=START + SECOND)

    def test_every_kind_at_once(self, storage: Storage) -> None:
        posted, failed, final, snoozed, released, lost = self._claimed(storage, 6)
        storage.queue.mark_posted(lost)
        now = START + MINUTE
        settled = storage.queue.settle(
            [
                Released(released),
                Failed(failed, "busy"),
                Posted(lost, "again"),
                Posted(posted, "remote"),
                Failed(final, "gone", retryable=False),
                Snoozed(snoozed, START + HOUR),
            ],
            now=now,
        )
        assert settled.lost == [lost.id]
        assert [job.id for job in settled.jobs] == [released.id, failed.id, posted.id, final.id, snoozed.id]
        assert [job.status for job in settled.jobs] == [
            JobStatus.SCHEDULED,
            JobStatus.RETRYING,
            JobStatus.POSTED,
            JobStatus.DEAD_LETTER,
            JobStatus.SCHEDULED,
        ]
        assert [job.updated_at for job in settled.jobs] == [now] * 5
        assert settled.jobs[1].next_retry_at == now + RETRY_DELAY
        assert settled.jobs[1].attempts == (Attempt(1, now, "worker-1", "busy"),)
        assert (settled.jobs[2].remote_id, settled.jobs[2].posted_at) == ("remote", now)
        assert settled.jobs[3].dead_letter_reason == "gone"
        assert settled.jobs[4].due_at == START + HOUR
        for job in settled.jobs:
            assert storage.queue.get(job.id) == job

    def test_a_batch_does_what_single_calls_do(self, storage: Storage) -> None:
        first, second = self._claimed(storage, 2)
        single = storage.queue.mark_failed(first, "busy", retry_at=START + HOUR)
        (batched,) = storage.queue.settle([Failed(second, "busy", retry_at=START + HOUR)]).jobs
        differing = {"id", "content", "scheduled_at"}
        for field in set(Job.__dataclass_fields__) - differing:
            assert getattr(single, field) == getattr(batched, field), field

    def test_nothing_to_settle(self, storage: Storage) -> None:
        assert storage.queue.settle([]) == Settled([], [])

    def test_the_second_end_of_one_claim_is_lost(self, storage: Storage) -> None:
        first, second = self._claimed(storage, 2)
        settled = storage.queue.settle(
            [Posted(first, "a"), Failed(first, "busy"), Posted(second), Posted(first, "b")]
        )
        assert [job.remote_id for job in settled.jobs] == ["a", None]
        assert settled.lost == [first.id, first.id]
        assert [storage.queue.get(job.id) for job in settled.jobs] == settled.jobs

    def test_a_stale_claim_and_the_current_one(self, storage: Storage) -> None:
        stale = held(storage)
        storage.queue.release(stale)
        current = claim_one(storage, worker_id="other")
        settled = storage.queue.settle([Failed(stale, "late"), Posted(current, "remote")])
        assert [job.remote_id for job in settled.jobs] == ["remote"]
        assert settled.lost == [stale.id]

    def test_a_batch_settles_a_lease_that_ran_out(self, storage: Storage) -> None:
        (job,) = self._claimed(storage, 1)
        settled = storage.queue.settle([Posted(job)], now=START + DAY)
        assert [done.status for done in settled.jobs] == [JobStatus.POSTED]

    def test_large_batches_keep_their_order(self, storage: Storage) -> None:
        jobs = self._claimed(storage, 150)
        settled = storage.queue.settle(Posted(job, f"remote {job.content}") for job in reversed(jobs))
        assert [job.id for job in settled.jobs] == [job.id for job in reversed(jobs)]
        assert all(job.remote_id == f"remote {job.content}" for job in settled.jobs)

    @pytest.mark.parametrize("kind", ["error", "surrogate", "remote", "until", "other", "job"])
    def test_one_bad_outcome_and_nothing_is_written(self, storage: Storage, kind: str) -> None:
        first, second = self._claimed(storage, 2)
        wrong: Any = {
            "error": Failed(second, "a\x00"),
            "surrogate": Failed(second, "\ud800"),
            "remote": Posted(second, ""),
            "until": Snoozed(second, START.replace(tzinfo=None)),
            "other": second,
            "job": Posted(second.id),  # type: ignore[arg-type]
        }[kind]
        before = census(storage)
        with pytest.raises(InvalidValue):
            storage.queue.settle([Posted(first), wrong])
        assert census(storage) == before

    @pytest.mark.parametrize("outcomes", [None, 1, "posted"])
    def test_only_outcomes_are_taken(self, storage: Storage, outcomes: Any) -> None:
        with pytest.raises(InvalidValue):
            storage.queue.settle(outcomes)

    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
    @examples(25)
    def test_lost_and_settled_make_up_the_batch(
        self, backend: StorageBackend, storage: Storage, picks: list[tuple[int, int]]
    ) -> None:
        empty(backend)
        jobs = self._claimed(storage, 5)
        storage.queue.release(jobs[4])
        ends: list[Callable[[Job], Outcome]] = [
            lambda job: Posted(job, "remote"),
            lambda job: Failed(job, "busy"),
            lambda job: Failed(job, "gone", retryable=False),
            lambda job: Snoozed(job, START + LEASE),
            Released,
        ]
        settled = storage.queue.settle(ends[end](jobs[index]) for index, end in picks)
        order: list[int] = []
        for index, _ in picks:
            if index != 4 and jobs[index].id not in order:
                order.append(jobs[index].id)
        assert [job.id for job in settled.jobs] == order
        assert [storage.queue.get(id) for id in order] == settled.jobs
        assert len(settled.lost) == len(picks) - len(order)
        still = {job.id for job in storage.queue.list(status=JobStatus.PROCESSING)}
        assert still == {job.id for job in jobs[:4]} - set(order)
