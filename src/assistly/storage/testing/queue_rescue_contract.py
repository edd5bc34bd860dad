"""Expired leases, dead letters and replays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue
from ..records import Failed, Job, JobStatus, NewJob
from ..retry import RetryPolicy
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
    claim_one,
    dead,
    empty,
    held,
    open_for_test,
    posted,
    retrying,
)


class QueueRescueContract(Contract):
    def test_a_lease_that_ran_out_counts_as_a_failure(self, storage: Storage, clock: FakeClock) -> None:
        job = held(storage)
        now = clock.advance(LEASE)
        (rescued,) = storage.queue.rescue_expired()
        assert rescued.id == job.id
        assert (rescued.status, rescued.retries) == (JobStatus.RETRYING, 1)
        assert rescued.next_retry_at == rescued.due_at == now + RETRY_DELAY
        assert rescued.updated_at == now
        assert rescued.last_error is not None
        assert rescued.last_error.startswith("lease expired: ")
        (attempt,) = rescued.attempts
        assert (attempt.number, attempt.at, attempt.worker_id) == (1, now, "worker-1")
        assert attempt.error == rescued.last_error
        assert (rescued.worker_id, rescued.lease_until, rescued.publish_started_at) == (None, None, None)
        assert (rescued.dead_letter_at, rescued.dead_letter_reason) == (None, None)
        assert storage.queue.get(job.id) == rescued
        assert storage.queue.rescue_expired() == []

    def test_a_lease_that_still_runs_is_left_alone(self, storage: Storage, clock: FakeClock) -> None:
        job = held(storage)
        clock.advance(LEASE - TICK)
        assert storage.queue.rescue_expired() == []
        assert storage.queue.get(job.id) == job

    def test_the_last_attempt_leads_to_the_dead_letters(self, storage: Storage, clock: FakeClock) -> None:
        held(storage, max_retries=1)
        now = clock.advance(LEASE)
        (rescued,) = storage.queue.rescue_expired()
        assert (rescued.status, rescued.retries, rescued.next_retry_at) == (JobStatus.DEAD_LETTER, 1, None)
        assert rescued.dead_letter_at == now
        assert rescued.dead_letter_reason is not None
        assert rescued.dead_letter_reason.startswith("lease expired: ")

    def test_after_the_publish_began_the_outcome_is_unknown(self, storage: Storage, clock: FakeClock) -> None:
        begun = storage.queue.begin_publish(held(storage))
        now = clock.advance(LEASE)
        (rescued,) = storage.queue.rescue_expired()
        assert (rescued.status, rescued.retries) == (JobStatus.DEAD_LETTER, 1)
        assert (rescued.dead_letter_at, rescued.next_retry_at) == (now, None)
        assert rescued.dead_letter_reason is not None
        assert rescued.dead_letter_reason.startswith("outcome unknown: ")
        assert rescued.publish_started_at == begun.publish_started_at == START
        assert (rescued.worker_id, rescued.lease_until) == (None, None)
        assert [attempt.number for attempt in rescued.attempts] == [1]
        assert storage.queue.claim_due(worker_id="w", now=now + 999 * DAY) == []

    def test_a_publish_that_was_called_off_is_forgotten(self, storage: Storage, clock: FakeClock) -> None:
        storage.queue.snooze(storage.queue.begin_publish(held(storage)), START)
        storage.queue.release(storage.queue.begin_publish(claim_one(storage)))
        storage.queue.mark_failed(storage.queue.begin_publish(claim_one(storage)), "busy", retry_at=START)
        claim_one(storage)
        clock.advance(LEASE)
        (rescued,) = storage.queue.rescue_expired()
        assert (rescued.status, rescued.retries) == (JobStatus.RETRYING, 2)

    def test_the_earliest_lease_comes_first(self, storage: Storage, clock: FakeClock) -> None:
        leases = [3 * MINUTE, MINUTE, 2 * MINUTE, MINUTE]
        jobs = [held(storage, platform="x", lease=lease) for lease in leases]
        clock.advance(HOUR)
        rescued = [storage.queue.rescue_expired(limit=1)[0].id for _ in range(4)]
        assert rescued == [jobs[1].id, jobs[3].id, jobs[2].id, jobs[0].id]
        assert storage.queue.rescue_expired(limit=1) == []

    @pytest.mark.parametrize("limit", [0, 1001, True, "1", None])
    def test_the_limit(self, storage: Storage, limit: Any) -> None:
        with pytest.raises(InvalidValue, match="limit"):
            storage.queue.rescue_expired(limit=limit)

    def test_a_claim_takes_expired_leases_back(self, storage: Storage, clock: FakeClock) -> None:
        job = held(storage)
        now = clock.advance(LEASE)
        assert storage.queue.claim_due(worker_id="other") == []
        rescued = storage.queue.get(job.id)
        assert rescued is not None
        assert (rescued.status, rescued.retries, rescued.due_at) == (JobStatus.RETRYING, 1, now + RETRY_DELAY)
        clock.advance(RETRY_DELAY)
        again = claim_one(storage, worker_id="other")
        assert (again.id, again.worker_id, again.retries) == (job.id, "other", 1)
        assert again.claim > job.claim

    def test_a_claim_hands_out_what_it_took_back(self, backend: StorageBackend, clock: FakeClock) -> None:
        empty(backend)
        storage = open_for_test(backend, clock, retry=RetryPolicy(delay=timedelta(0)))
        job = held(storage)
        clock.advance(LEASE)
        again = claim_one(storage, worker_id="other")
        assert (again.id, again.retries) == (job.id, 1)

    def test_a_claim_gives_up_what_may_have_been_published(self, storage: Storage, clock: FakeClock) -> None:
        job = storage.queue.begin_publish(held(storage))
        clock.advance(LEASE)
        assert storage.queue.claim_due(worker_id="w") == []
        assert [letter.id for letter in storage.queue.dead_letters()] == [job.id]

    def test_each_claim_rescues_a_bounded_number(self, storage: Storage, clock: FakeClock) -> None:
        storage.queue.schedule_many(NewJob("x", "a") for _ in range(101))
        assert len(storage.queue.claim_due(worker_id="w", limit=1000)) == 101
        clock.advance(LEASE)
        storage.queue.claim_due(worker_id="w")
        assert storage.queue.counts()[JobStatus.PROCESSING] == 1
        storage.queue.claim_due(worker_id="w")
        assert storage.queue.counts()[JobStatus.PROCESSING] == 0

    def test_a_rescued_job_that_is_late_is_missed(self, storage: Storage, clock: FakeClock) -> None:
        job = held(storage, max_lateness=MINUTE)
        clock.advance(LEASE)
        storage.queue.rescue_expired()
        clock.advance(RETRY_DELAY)
        assert storage.queue.claim_due(worker_id="w") == []
        missed = storage.queue.get(job.id)
        assert missed is not None
        assert missed.dead_letter_reason is not None
        assert missed.dead_letter_reason.startswith("missed: ")
        assert missed.retries == 1

    def test_a_publish_that_begins_during_the_rescue(
        self, backend: StorageBackend, storage: Storage, clock: FakeClock
    ) -> None:
        job = held(storage)
        clock.advance(LEASE)

        def publish() -> None:
            storage.queue.begin_publish(job, now=START + LEASE - TICK)

        open_for_test(_AfterLooking(backend, publish), clock).queue.rescue_expired()
        storage.queue.rescue_expired()
        rescued = storage.queue.get(job.id)
        assert rescued is not None
        assert rescued.status is JobStatus.DEAD_LETTER
        assert rescued.dead_letter_reason is not None
        assert rescued.dead_letter_reason.startswith("outcome unknown: ")

    def test_a_lease_that_is_extended_during_the_rescue(
        self, backend: StorageBackend, storage: Storage, clock: FakeClock
    ) -> None:
        job = held(storage)
        clock.advance(LEASE)

        def extend() -> None:
            assert storage.queue.extend([job], lease=HOUR, now=START + LEASE - TICK)

        assert open_for_test(_AfterLooking(backend, extend), clock).queue.rescue_expired() == []
        kept = storage.queue.get(job.id)
        assert kept is not None
        assert (kept.status, kept.retries) == (JobStatus.PROCESSING, 0)
        assert storage.queue.mark_posted(job).status is JobStatus.POSTED


class _AfterLooking:
    """An engine on which something happens right after the expired jobs were read."""

    def __init__(self, backend: StorageBackend, happens: Callable[[], None]) -> None:
        self._backend = backend
        self.jobs = _JobsAfterLooking(backend, happens)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class _JobsAfterLooking:
    def __init__(self, backend: StorageBackend, happens: Callable[[], None]) -> None:
        self._jobs = backend.jobs
        self._happens = happens

    def expired(self, **arguments: Any) -> Sequence[Job]:
        jobs = self._jobs.expired(**arguments)
        self._happens()
        return jobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)


class QueueDeadLettersContract(Contract):
    def test_only_dead_letters_are_listed(self, storage: Storage) -> None:
        first, second = dead(storage), dead(storage, platform="y")
        posted(storage)
        held(storage)
        storage.queue.schedule("x", "a")
        assert storage.queue.dead_letters() == [first, second]
        assert storage.queue.dead_letters(platform="y") == [second]
        assert storage.queue.dead_letters(platform="z") == []
        assert storage.queue.dead_letters(limit=1) == [first]
        assert (
            storage.queue.dead_letters(after=first) == storage.queue.dead_letters(after=first.id) == [second]
        )
        assert storage.queue.dead_letters(after=second) == []

    @pytest.mark.parametrize("bad", [{"limit": 0}, {"limit": 1001}, {"platform": ""}, {"after": "1"}])
    def test_bad_arguments(self, storage: Storage, bad: dict[str, Any]) -> None:
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.queue.dead_letters(**bad)

    def test_a_replay_starts_afresh(self, storage: Storage, clock: FakeClock) -> None:
        letter = dead(storage, idempotency_key="key", metadata={"n": 1}, max_retries=2)
        now = clock.advance(HOUR)
        job = storage.queue.replay(letter.id)
        assert job is not None
        assert (job.status, job.retries) == (JobStatus.SCHEDULED, 0)
        assert job.scheduled_at == job.due_at == job.replayed_at == job.updated_at == now
        assert (job.next_retry_at, job.last_error) == (None, None)
        assert (job.dead_letter_at, job.dead_letter_reason, job.publish_started_at) == (None, None, None)
        assert (job.idempotency_key, job.metadata, job.max_retries) == ("key", {"n": 1}, 2)
        assert (job.id, job.created_at, job.content) == (letter.id, START, "hello")
        assert storage.queue.get(job.id) == job
        assert storage.queue.dead_letters() == []

    def test_a_replay_at_a_time(self, storage: Storage) -> None:
        letter = dead(storage)
        job = storage.queue.replay(letter.id, scheduled_at=START + DAY, now=START + HOUR)
        assert job is not None
        assert (job.scheduled_at, job.due_at, job.replayed_at) == (START + DAY, START + DAY, START + HOUR)
        assert storage.queue.claim_due(worker_id="w", now=START + DAY - TICK) == []
        assert len(storage.queue.claim_due(worker_id="w", now=START + DAY)) == 1

    def test_a_replayed_job_has_all_its_attempts(self, storage: Storage) -> None:
        letter = dead(storage, max_retries=2)
        storage.queue.replay(letter.id)
        job = claim_one(storage)
        assert job.claim > letter.claim
        failed = storage.queue.mark_failed(job, "busy", retry_at=START)
        assert (failed.status, failed.retries) == (JobStatus.RETRYING, 1)
        assert failed.attempts[-1].number == 1
        assert storage.queue.mark_failed(claim_one(storage), "busy").status is JobStatus.DEAD_LETTER

    def test_the_publish_of_a_replayed_job_is_its_own(self, storage: Storage, clock: FakeClock) -> None:
        job = storage.queue.begin_publish(held(storage))
        clock.advance(LEASE)
        storage.queue.rescue_expired()
        replayed = storage.queue.replay(job.id)
        assert replayed is not None
        assert replayed.publish_started_at is None
        claim_one(storage)
        clock.advance(LEASE)
        (rescued,) = storage.queue.rescue_expired()
        assert rescued.status is JobStatus.RETRYING

    def test_a_replay_measures_lateness_anew(self, storage: Storage, clock: FakeClock) -> None:
        letter = dead(storage, max_lateness=MINUTE)
        clock.advance(DAY)
        storage.queue.replay(letter.id)
        clock.advance(MINUTE)
        assert claim_one(storage).id == letter.id

    @pytest.mark.parametrize("make", [held, posted, retrying])
    def test_only_a_dead_letter_is_replayed(self, storage: Storage, make: Any) -> None:
        job = make(storage)
        assert storage.queue.replay(job.id) is None
        assert storage.queue.get(job.id) == job

    def test_an_unknown_job_is_not_replayed(self, storage: Storage) -> None:
        letter = dead(storage)
        storage.queue.remove(letter.id)
        assert storage.queue.replay(letter.id) is None
        assert storage.queue.list() == []

    @pytest.mark.parametrize(
        "bad", [{"id": "1"}, {"id": True}, {"scheduled_at": START.replace(tzinfo=None)}, {"now": 1}]
    )
    def test_bad_arguments_replay_nothing(self, storage: Storage, bad: dict[str, Any]) -> None:
        letter = dead(storage)
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.queue.replay(**{"id": letter.id, **bad})
        assert storage.queue.get(letter.id) == letter

    def test_replay_all(self, storage: Storage, clock: FakeClock) -> None:
        letters = [dead(storage, platform=platform) for platform in "xyx"]
        kept = posted(storage)
        now = clock.advance(SECOND)
        assert storage.queue.replay_all() == 3
        jobs = storage.queue.list(status=JobStatus.SCHEDULED)
        assert [job.id for job in jobs] == [letter.id for letter in letters]
        assert all(job.scheduled_at == job.due_at == job.replayed_at == now for job in jobs)
        assert all((job.retries, job.last_error, job.dead_letter_reason) == (0, None, None) for job in jobs)
        assert storage.queue.get(kept.id) == kept
        assert storage.queue.replay_all() == 0

    def test_replay_all_of_a_platform(self, storage: Storage) -> None:
        letters = [dead(storage, platform=platform) for platform in "xyx"]
        assert storage.queue.replay_all(platform="x") == 2
        assert storage.queue.dead_letters() == [letters[1]]

    @pytest.mark.parametrize(("limit", "replayed"), [(None, 203), (202, 202)])
    def test_replay_all_of_many(self, storage: Storage, limit: int | None, replayed: int) -> None:
        storage.queue.schedule_many(NewJob("x", "a") for _ in range(203))
        jobs = storage.queue.claim_due(worker_id="w", limit=1000)
        storage.queue.settle([Failed(job, "refused", retryable=False) for job in jobs])
        assert storage.queue.replay_all(limit=limit) == replayed
        assert storage.queue.counts()[JobStatus.DEAD_LETTER] == 203 - replayed

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
    def test_replay_all_takes_the_first(self, storage: Storage, order: Sequence[int]) -> None:
        """By id, in whatever order they died."""
        storage.queue.schedule_many(NewJob("x", "a", START - n * SECOND) for n in range(3))
        jobs = sorted(storage.queue.claim_due(worker_id="w"), key=lambda job: job.id)
        for place in order:
            storage.queue.mark_failed(jobs[place], "refused", retryable=False)
        for count in (2, 1):
            assert storage.queue.replay_all(limit=count) == count
            assert [job.id for job in storage.queue.dead_letters()] == [jobs[2].id][: count - 1]

    @pytest.mark.parametrize("bad", [{"limit": 0}, {"limit": True}, {"limit": "1"}, {"platform": 1}])
    def test_replay_all_checks_its_arguments(self, storage: Storage, bad: dict[str, Any]) -> None:
        letter = dead(storage)
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.queue.replay_all(**bad)
        assert storage.queue.get(letter.id) == letter
