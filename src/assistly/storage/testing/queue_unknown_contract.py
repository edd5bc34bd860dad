"""Unknown outcomes, which wait for a person's decision."""

from __future__ import annotations

from typing import Any

import pytest

from ..errors import ClaimLost, InvalidValue
from ..records import (
    Attempt,
    JobStatus,
    Settled,
    Unknown,
)
from ..storage import Storage
from .fixtures import (
    DAY,
    SECOND,
    START,
    Contract,
    FakeClock,
    claim_one,
    held,
)


class QueueUnknownContract(Contract):
    def test_an_unknown_outcome_waits_for_a_person(self, storage: Storage, clock: FakeClock) -> None:
        job = storage.queue.begin_publish(held(storage))
        now = clock.advance(SECOND)
        letter = storage.queue.mark_unknown(job, "no answer")
        assert letter.status is JobStatus.DEAD_LETTER
        assert letter.dead_letter_reason == letter.last_error == "outcome unknown: no answer"
        assert (letter.dead_letter_at, letter.publish_started_at, letter.retries) == (now, START, 1)
        assert (letter.worker_id, letter.lease_until, letter.next_retry_at) == (None, None, None)
        assert letter.attempts == (Attempt(1, now, "worker-1", "outcome unknown: no answer"),)
        assert storage.queue.get(job.id) == letter

    def test_without_begin_publish_it_is_unknown_as_well(self, storage: Storage, clock: FakeClock) -> None:
        job = held(storage)
        now = clock.advance(SECOND)
        letter = storage.queue.mark_unknown(job, "no answer")
        assert (letter.outcome_unknown, letter.publish_started_at) == (True, now)
        assert storage.queue.replay_all() == 0
        assert storage.queue.resolve(job.id, posted=True).posted_at == now

    def test_some_of_a_batch_have_begun(self, storage: Storage, clock: FakeClock) -> None:
        jobs = [storage.queue.schedule("x", content) for content in "ab"]
        begun, not_begun = storage.queue.claim_due(worker_id="w")
        storage.queue.begin_publish(begun)
        now = clock.advance(SECOND)
        settled = storage.queue.settle([Unknown(begun, "?"), Unknown(not_begun, "?")]).jobs
        assert [(job.id, job.publish_started_at) for job in settled] == [
            (jobs[0].id, START),
            (jobs[1].id, now),
        ]

    def test_an_unknown_outcome_is_never_tried_again(self, storage: Storage) -> None:
        job = storage.queue.begin_publish(held(storage, max_retries=99))
        storage.queue.mark_unknown(job, "no answer")
        assert storage.queue.claim_due(worker_id="w", now=START + 999 * DAY) == []

    def test_a_person_may_replay_it(self, storage: Storage) -> None:
        letter = storage.queue.mark_unknown(storage.queue.begin_publish(held(storage)), "no answer")
        again = storage.queue.replay(letter.id)
        assert again is not None
        assert (again.status, again.publish_started_at, again.retries) == (JobStatus.SCHEDULED, None, 0)

    def test_an_unknown_outcome_is_fenced(self, storage: Storage) -> None:
        stale = held(storage)
        storage.queue.release(stale)
        current = claim_one(storage, worker_id="other")
        with pytest.raises(ClaimLost):
            storage.queue.mark_unknown(stale, "late")
        assert storage.queue.settle([Unknown(stale, "late")]) == Settled([], [stale.id])
        assert storage.queue.get(current.id) == current

    def test_unknown_ones_in_a_batch(self, storage: Storage) -> None:
        job = storage.queue.begin_publish(held(storage))
        (letter,) = storage.queue.settle([Unknown(job, "")]).jobs
        assert (letter.dead_letter_reason, letter.publish_started_at) == ("outcome unknown: ", START)

    @pytest.mark.parametrize("error", [None, 1, "a\x00b", "\ud800", "x" * (1024 * 1024 + 1)])
    def test_a_bad_error_leaves_the_claim(self, storage: Storage, error: Any) -> None:
        job = held(storage)
        with pytest.raises(InvalidValue, match="error"):
            storage.queue.mark_unknown(job, error)
        assert storage.queue.get(job.id) == job
