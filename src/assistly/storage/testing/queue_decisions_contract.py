"""Unknown outcomes, and the answers to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from ..errors import ClaimLost, IdempotencyMismatch, InvalidValue, NotFound, StatusConflict
from ..records import Job, JobStatus
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
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


def _resolved(storage: Storage) -> Job:
    return storage.queue.resolve(unknown(storage).id, posted=True)


def _expired_while_publishing(storage: Storage) -> Job:
    job = storage.queue.begin_publish(held(storage, lease=MINUTE))
    (letter,) = storage.queue.rescue_expired(now=START + MINUTE)
    assert letter.id == job.id
    return letter


def _expired_before_publishing(storage: Storage) -> Job:
    held(storage, lease=MINUTE, max_retries=1)
    (letter,) = storage.queue.rescue_expired(now=START + MINUTE)
    return letter


def _failed_while_publishing(storage: Storage) -> Job:
    """Its publisher says that nothing was published."""
    return storage.queue.mark_failed(begun(storage), "refused", retryable=False)


def _unknown_without_a_publish(storage: Storage) -> Job:
    """Its publisher was called without `begin_publish`."""
    return storage.queue.mark_unknown(held(storage), "no answer")


_UNKNOWN: dict[str, Callable[[Storage], Job]] = {
    "said by the worker": unknown,
    "a lease that ran out": _expired_while_publishing,
    "said without begin_publish": _unknown_without_a_publish,
}
_KNOWN: dict[str, Callable[[Storage], Job]] = {
    "scheduled": _scheduled,
    "retrying": retrying,
    "held": held,
    "publishing": begun,
    "posted": posted,
    "refused": dead,
    "refused while publishing": _failed_while_publishing,
    "a lease that ran out before publishing": _expired_before_publishing,
    "missed": missed,
    "cancelled": cancelled,
    "resolved": _resolved,
}


class QueueResolvingContract(Contract):
    """`resolve`, and `Job.outcome_unknown`, which says for which jobs it is."""

    @pytest.mark.parametrize("how", _UNKNOWN)
    def test_it_was_posted(self, storage: Storage, clock: FakeClock, how: str) -> None:
        letter = _UNKNOWN[how](storage)
        assert letter.outcome_unknown is True
        now = clock.advance(HOUR)
        job = storage.queue.resolve(letter.id, posted=True, remote_id="remote-7")
        assert job == dataclasses.replace(
            letter,
            status=JobStatus.POSTED,
            posted_at=START,
            remote_id="remote-7",
            dead_letter_at=None,
            dead_letter_reason=None,
            updated_at=now,
        )
        assert (job.publish_started_at, job.last_error, len(job.attempts)) == (START, letter.last_error, 1)
        assert job.outcome_unknown is False
        assert storage.queue.get(job.id) == job
        assert storage.queue.list(status="posted") == [job]
        assert storage.queue.dead_letters() == []
        assert storage.queue.claim_due(worker_id="w", now=START + 99 * DAY) == []

    def test_it_was_posted_when_publishing_began(self, storage: Storage, clock: FakeClock) -> None:
        job = held(storage)
        began = clock.advance(SECOND)
        storage.queue.begin_publish(job)
        clock.advance(SECOND)
        storage.queue.mark_unknown(job, "no answer")
        clock.advance(DAY)
        assert storage.queue.resolve(job.id, posted=True).posted_at == began

    def test_its_remote_id_may_be_unknown(self, storage: Storage) -> None:
        job = storage.queue.resolve(unknown(storage).id, posted=True)
        assert (job.status, job.remote_id) == (JobStatus.POSTED, None)

    @pytest.mark.parametrize("how", _UNKNOWN)
    def test_it_was_not_posted(self, storage: Storage, clock: FakeClock, how: str) -> None:
        letter = _UNKNOWN[how](storage)
        now = clock.advance(HOUR)
        job = storage.queue.resolve(letter.id, posted=False)
        assert job == dataclasses.replace(
            letter,
            status=JobStatus.SCHEDULED,
            scheduled_at=now,
            due_at=now,
            replayed_at=now,
            updated_at=now,
            retries=0,
            last_error=None,
            dead_letter_at=None,
            dead_letter_reason=None,
            publish_started_at=None,
        )
        assert storage.queue.get(job.id) == job
        assert storage.queue.dead_letters() == []
        again = claim_one(storage)
        assert (again.id, again.claim, len(again.attempts)) == (letter.id, letter.claim + 1, 1)
        assert storage.queue.mark_posted(storage.queue.begin_publish(again), "second").remote_id == "second"

    def test_what_was_not_posted_has_all_its_attempts(self, storage: Storage) -> None:
        storage.queue.resolve(unknown(storage, max_retries=2).id, posted=False)
        assert storage.queue.mark_failed(claim_one(storage), "busy").status is JobStatus.RETRYING

    @pytest.mark.parametrize("posted", [True, False])
    def test_the_key_of_an_answered_job_holds(self, storage: Storage, posted: bool) -> None:
        letter = unknown(storage, idempotency_key="key")
        job = storage.queue.resolve(letter.id, posted=posted)
        assert storage.queue.schedule("x", "hello", idempotency_key="key") == job
        with pytest.raises(IdempotencyMismatch):
            storage.queue.schedule("x", "another", idempotency_key="key")
        assert storage.queue.list() == [job]

    @pytest.mark.parametrize("posted", [True, False])
    @pytest.mark.parametrize("state", _KNOWN)
    def test_a_known_outcome_is_not_answered(self, storage: Storage, state: str, posted: bool) -> None:
        job = _KNOWN[state](storage)
        assert job.outcome_unknown is False
        with pytest.raises(StatusConflict, match=f"job {job.id} is {job.status}") as caught:
            storage.queue.resolve(job.id, posted=posted)
        assert caught.value.current == job
        assert storage.queue.get(job.id) == job

    @pytest.mark.parametrize("second", [True, False])
    @pytest.mark.parametrize("first", [True, False])
    def test_the_second_answer_is_refused(self, storage: Storage, first: bool, second: bool) -> None:
        job = storage.queue.resolve(unknown(storage).id, posted=first)
        with pytest.raises(StatusConflict) as caught:
            storage.queue.resolve(job.id, posted=second)
        assert caught.value.current == job
        assert storage.queue.get(job.id) == job

    def test_each_unknown_outcome_is_answered_anew(self, storage: Storage) -> None:
        first = unknown(storage)
        storage.queue.resolve(first.id, posted=False)
        second = storage.queue.mark_unknown(storage.queue.begin_publish(claim_one(storage)), "no answer")
        assert second.outcome_unknown is True
        assert storage.queue.resolve(first.id, posted=True).status is JobStatus.POSTED

    @pytest.mark.parametrize("posted", [True, False])
    def test_an_answer_for_the_current_claim(self, storage: Storage, posted: bool) -> None:
        letter = unknown(storage)
        job = storage.queue.resolve(letter.id, posted=posted, claim=letter.claim)
        assert job.status is (JobStatus.POSTED if posted else JobStatus.SCHEDULED)
        assert storage.queue.get(letter.id) == job

    @pytest.mark.parametrize("posted", [True, False])
    @pytest.mark.parametrize("off", [-1, 1])
    def test_an_answer_for_another_claim_is_refused(self, storage: Storage, off: int, posted: bool) -> None:
        letter = unknown(storage)
        text = f"claim {letter.claim + off} of job {letter.id}, but its claim is {letter.claim}"
        with pytest.raises(StatusConflict, match=text) as caught:
            storage.queue.resolve(letter.id, posted=posted, claim=letter.claim + off)
        assert caught.value.current == letter
        assert storage.queue.get(letter.id) == letter

    @pytest.mark.parametrize("posted", [True, False])
    def test_an_answer_for_an_attempt_before_is_refused(self, storage: Storage, posted: bool) -> None:
        first = unknown(storage)
        storage.queue.replay(first.id)
        second = storage.queue.mark_unknown(storage.queue.begin_publish(claim_one(storage)), "no answer")
        with pytest.raises(StatusConflict) as caught:
            storage.queue.resolve(first.id, posted=posted, claim=first.claim)
        assert caught.value.current == second
        assert storage.queue.get(first.id) == second
        assert storage.queue.resolve(first.id, posted=posted, claim=second.claim).claim == second.claim

    def test_a_claim_from_before_is_lost(self, storage: Storage) -> None:
        stale = begun(storage)
        storage.queue.mark_unknown(stale, "no answer")
        job = storage.queue.resolve(stale.id, posted=False)
        with pytest.raises(ClaimLost):
            storage.queue.mark_posted(stale, "late")
        with pytest.raises(ClaimLost):
            storage.queue.begin_publish(stale)
        assert storage.queue.get(job.id) == job

    @pytest.mark.parametrize("posted", [True, False])
    @pytest.mark.parametrize("id", UNHEARD_OF)
    def test_an_unheard_of_job_is_not_answered(self, storage: Storage, id: int, posted: bool) -> None:
        with pytest.raises(NotFound):
            storage.queue.resolve(id, posted=posted)

    def test_a_removed_job_is_not_answered(self, storage: Storage) -> None:
        letter = unknown(storage)
        storage.queue.remove(letter.id)
        with pytest.raises(NotFound, match=str(letter.id)):
            storage.queue.resolve(letter.id, posted=True)

    @pytest.mark.parametrize(
        "bad",
        [
            {"id": "1"},
            {"id": True},
            {"id": None},
            {"posted": None},
            {"posted": 1},
            {"posted": "yes"},
            {"remote_id": ""},
            {"remote_id": 1},
            {"remote_id": "\x00"},
            {"remote_id": "x" * 513},
            {"remote_id": "remote-1", "posted": False},
            {"claim": "1"},
            {"claim": True},
            {"claim": 1.0},
            {"claim": -1},
            {"claim": 2**63},
            {"now": START.replace(tzinfo=None)},
        ],
    )
    def test_a_bad_answer_is_none(self, storage: Storage, bad: dict[str, Any]) -> None:
        letter = unknown(storage)
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.queue.resolve(**{"id": letter.id, "posted": True, **bad})
        assert storage.queue.get(letter.id) == letter

    @pytest.mark.parametrize("posted", [True, False])
    def test_the_time_of_the_answer_may_be_given(self, storage: Storage, posted: bool) -> None:
        job = storage.queue.resolve(unknown(storage).id, posted=posted, now=START + DAY)
        assert job.updated_at == START + DAY
        if not posted:
            assert job.scheduled_at == job.due_at == job.replayed_at == START + DAY

    @pytest.mark.parametrize("posted", [True, False])
    def test_answers_in_a_transaction(self, storage: Storage, posted: bool) -> None:
        letter = unknown(storage)
        with undone(storage) as tx:
            job = tx.queue.resolve(letter.id, posted=posted)
            assert tx.queue.get(letter.id) == job
            with pytest.raises(StatusConflict):
                tx.queue.resolve(letter.id, posted=posted)
        assert storage.queue.get(letter.id) == letter
        with storage.transaction() as tx:
            job = tx.queue.resolve(letter.id, posted=posted)
        assert storage.queue.get(letter.id) == job
