"""What is replayed unless more is asked for, and what a batch of new jobs returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ..errors import IdempotencyMismatch, InvalidValue, ScheduleConflict
from ..records import Job, JobStatus, NewJob
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    SECOND,
    START,
    TICK,
    Contract,
    FakeClock,
    begun,
    cancelled,
    dead,
    held,
    missed,
    posted,
    retrying,
    undone,
    unknown,
)

_CHUNK = "assistly.storage.stores.scheduling._CHUNK"


def _of_each_kind(storage: Storage) -> list[Job]:
    """Refused, unknown, missed, and the same again on another platform."""
    return [make(storage, platform=platform) for platform in "xy" for make in (dead, unknown, missed)]


class QueueMissedContract(Contract):
    """`Job.missed`, and what is like it."""

    def test_a_job_that_was_met_too_late(self, storage: Storage) -> None:
        job = missed(storage)
        assert (job.missed, job.outcome_unknown) == (True, False)

    def test_a_late_retry_is_missed(self, storage: Storage) -> None:
        retrying(storage, retry_at=START + DAY, max_lateness=HOUR)
        storage.queue.claim_due(worker_id="w", now=START + DAY)
        (job,) = storage.queue.dead_letters()
        assert (job.missed, job.retries, job.last_error) == (True, 1, "busy")

    def test_a_late_retry_of_a_publisher_that_says_missed(self, storage: Storage) -> None:
        job = held(storage, max_lateness=HOUR)
        storage.queue.mark_failed(job, "missed: the train", retry_at=START + DAY)
        storage.queue.claim_due(worker_id="w", now=START + DAY)
        (letter,) = storage.queue.dead_letters()
        assert (letter.missed, letter.last_error) == (True, "missed: the train")

    @pytest.mark.parametrize("error", ["missed: the train", "missed: ", "missed", "outcome unknown: really"])
    def test_the_error_of_a_publisher_is_only_a_text(self, storage: Storage, error: str) -> None:
        for make in (held, begun):
            job = storage.queue.mark_failed(make(storage), error, retryable=False)
            assert job.dead_letter_reason == error
            assert (job.missed, job.outcome_unknown) == (False, False)
        assert storage.queue.replay_all() == 2

    def test_an_unknown_outcome_is_not_missed(self, storage: Storage) -> None:
        job = unknown(storage, error="missed: the train")
        assert (job.missed, job.outcome_unknown) == (False, True)

    @pytest.mark.parametrize("make", [held, begun, posted, retrying, cancelled, dead])
    def test_neither_missed_nor_unknown(self, storage: Storage, make: Any) -> None:
        job = make(storage)
        assert (job.missed, job.outcome_unknown) == (False, False)

    def test_a_replay_ends_it(self, storage: Storage) -> None:
        job = storage.queue.replay(missed(storage).id)
        assert job is not None
        assert job.missed is False
        again = storage.queue.mark_failed(
            storage.queue.claim_due(worker_id="w")[0], "missed: ", retryable=False
        )
        assert again.missed is False


class QueueReplayChoicesContract(Contract):
    """`replay_all` takes what failed; the rest only if it is asked for."""

    @pytest.mark.parametrize(
        ("options", "taken"),
        [
            ({}, [0, 3]),
            ({"unknown": True}, [0, 1, 3, 4]),
            ({"missed": True}, [0, 2, 3, 5]),
            ({"unknown": True, "missed": True}, [0, 1, 2, 3, 4, 5]),
            ({"platform": "y"}, [3]),
            ({"platform": "y", "unknown": True}, [3, 4]),
            ({"platform": "y", "missed": True}, [3, 5]),
            ({"limit": 1}, [0]),
            ({"limit": 2}, [0, 3]),
            ({"limit": 3}, [0, 3]),
            ({"limit": 3, "unknown": True}, [0, 1, 3]),
            ({"limit": 3, "missed": True}, [0, 2, 3]),
            ({"limit": 4, "unknown": True, "missed": True}, [0, 1, 2, 3]),
            ({"limit": 1, "platform": "y", "unknown": True}, [3]),
            ({"platform": "z", "unknown": True, "missed": True}, []),
        ],
    )
    def test_what_is_asked_for(
        self, storage: Storage, clock: FakeClock, options: dict[str, Any], taken: Sequence[int]
    ) -> None:
        letters = _of_each_kind(storage)
        now = clock.advance(SECOND)
        assert storage.queue.replay_all(**options) == len(taken)
        scheduled = storage.queue.list(status=JobStatus.SCHEDULED)
        assert [job.id for job in scheduled] == [letters[place].id for place in taken]
        assert {(job.replayed_at, job.due_at) for job in scheduled} <= {(now, now)}
        left = [letter for place, letter in enumerate(letters) if place not in taken]
        assert storage.queue.dead_letters() == left

    def test_a_limit_reaches_past_those_that_are_left_out(self, storage: Storage) -> None:
        for _ in range(3):
            unknown(storage)
            missed(storage)
        failed = [dead(storage) for _ in range(3)]
        assert storage.queue.replay_all(limit=2) == 2
        assert [job.id for job in storage.queue.list(status="scheduled")] == [job.id for job in failed[:2]]

    def test_more_than_a_page_of_those_that_are_left_out(self, storage: Storage) -> None:
        storage.queue.schedule_many(NewJob("x", "late", START - DAY, max_lateness=HOUR) for _ in range(120))
        while storage.queue.upcoming(limit=1):
            storage.queue.claim_due(worker_id="w")
        failed = dead(storage)
        assert storage.queue.replay_all(limit=5) == 1
        assert [job.id for job in storage.queue.list(status="scheduled")] == [failed.id]
        assert storage.queue.replay_all(missed=True) == 120

    @pytest.mark.parametrize("options", [{}, {"unknown": True, "missed": True}, {"platform": "x"}])
    def test_only_dead_letters_are_taken(self, storage: Storage, options: dict[str, Any]) -> None:
        for make in (cancelled, posted, retrying, begun):
            make(storage)
        cancelled(storage, scheduled_at=START - DAY, max_lateness=HOUR)
        storage.queue.resolve(unknown(storage).id, posted=True)
        before = storage.queue.list()
        assert storage.queue.replay_all(**options) == 0
        assert storage.queue.list() == before

    @pytest.mark.parametrize("bad", [{"unknown": 1}, {"unknown": None}, {"missed": "yes"}, {"missed": None}])
    def test_choices_are_bools(self, storage: Storage, bad: dict[str, Any]) -> None:
        letter = dead(storage)
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.queue.replay_all(**bad)
        assert storage.queue.get(letter.id) == letter

    def test_replay_all_in_a_transaction(self, storage: Storage) -> None:
        letters = _of_each_kind(storage)
        with undone(storage) as tx:
            assert tx.queue.replay_all(unknown=True) == 4
            assert len(tx.queue.dead_letters()) == 2
        assert storage.queue.dead_letters() == letters


class QueueReturningContract(Contract):
    """`schedule_many(returning=…)`."""

    def test_ids_in_input_order(self, storage: Storage) -> None:
        there = storage.queue.schedule("x", "b", idempotency_key="b")
        new = [
            NewJob("x", "a", START + DAY),
            NewJob("x", "b", idempotency_key="b"),
            NewJob("y", "c", idempotency_key="c"),
            NewJob("y", "c", idempotency_key="c"),
            NewJob("x", "d", START - DAY),
        ]
        ids = storage.queue.schedule_many(new, returning="ids")
        assert [type(id) for id in ids] == [int] * 5
        first, second, third, fourth, fifth = ids
        assert (second, third) == (there.id, fourth)
        found = [storage.queue.get(id) for id in ids]
        assert [job and job.content for job in found] == ["a", "b", "c", "c", "d"]
        assert [job.id for job in storage.queue.list()] == [second, first, third, fifth]

    @pytest.mark.parametrize("size", [0, 1, 2, 150])
    def test_jobs_ids_or_none(self, storage: Storage, size: int) -> None:
        new = [NewJob("x", str(n), metadata={"n": n}) for n in range(size)]
        jobs = storage.queue.schedule_many(new, returning="jobs")
        assert [job.content for job in jobs] == [str(n) for n in range(size)]
        ids = storage.queue.schedule_many(new, returning="ids")
        assert storage.queue.schedule_many(iter(new), returning="none") == []
        stored = storage.queue.list(limit=1000)
        assert stored[:size] == jobs
        assert [job.id for job in stored[size : 2 * size]] == ids
        assert [job.metadata for job in stored] == [{"n": n} for n in range(size)] * 3

    @pytest.mark.parametrize("returning", ["jobs", "ids", "none"])
    @pytest.mark.parametrize("size", [1, 2])
    def test_the_time_may_be_given(self, storage: Storage, returning: Any, size: int) -> None:
        storage.queue.schedule_many([NewJob("x", "a")] * size, returning=returning, now=START + HOUR)
        stored = storage.queue.list()
        assert [(job.created_at, job.due_at) for job in stored] == [(START + HOUR, START + HOUR)] * size

    @pytest.mark.parametrize("returning", ["ids", "none"])
    @pytest.mark.parametrize("keyed", [False, True])
    def test_a_batch_of_several_chunks(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch, returning: Any, keyed: bool
    ) -> None:
        monkeypatch.setattr(_CHUNK, 3)
        there = storage.queue.schedule("x", "4", idempotency_key="4")
        new = [NewJob("x", str(n), idempotency_key=str(n) if keyed else None) for n in range(8)]
        again = [*new, *new[2:5]] if keyed else new
        answer = storage.queue.schedule_many(again, returning=returning)
        stored = storage.queue.list()
        by_content = {job.content: job.id for job in stored}
        expected = [by_content[job.content] for job in again]
        assert answer == ([] if returning == "none" else expected)
        assert len(stored) == (8 if keyed else 9)
        assert not keyed or by_content["4"] == there.id

    @pytest.mark.parametrize("returning", ["jobs", "ids", "none"])
    def test_all_or_nothing_over_chunks(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch, returning: Any
    ) -> None:
        monkeypatch.setattr(_CHUNK, 2)
        there = storage.queue.schedule("x", "there", idempotency_key="there")
        good = [NewJob("x", str(n)) for n in range(7)]
        with pytest.raises(IdempotencyMismatch):
            storage.queue.schedule_many(
                [*good, NewJob("x", "another", idempotency_key="there")], returning=returning
            )
        with pytest.raises(ScheduleConflict):
            storage.queue.schedule_many([*good, NewJob("x", "a", START, min_gap=HOUR)], returning=returning)
        with pytest.raises(InvalidValue, match=r"jobs\[7\]"):
            storage.queue.schedule_many([*good, NewJob("x", "\x00")], returning=returning)
        assert storage.queue.list() == [there]

    @pytest.mark.parametrize("returning", ["ids", "none"])
    def test_gaps_over_chunks(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch, returning: Any
    ) -> None:
        monkeypatch.setattr(_CHUNK, 2)
        new = [NewJob("x", str(n), START + n * HOUR, min_gap=HOUR) for n in range(5)]
        answer = storage.queue.schedule_many(new, returning=returning)
        stored = storage.queue.list()
        assert [job.content for job in stored] == ["0", "1", "2", "3", "4"]
        assert answer == ([] if returning == "none" else [job.id for job in stored])
        near = NewJob("y", "near", START + HOUR - TICK, min_gap=HOUR)
        with pytest.raises(ScheduleConflict) as caught:
            storage.queue.schedule_many(
                [NewJob("y", "first", START), NewJob("y", "second", START + DAY), near], returning=returning
            )
        assert caught.value.job.content == "first"
        assert storage.queue.list() == stored

    def test_a_batch_of_chunks_is_undone_with_its_transaction(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_CHUNK, 2)
        with undone(storage) as tx:
            ids = tx.queue.schedule_many([NewJob("x", "a")] * 5, returning="ids")
            assert [job.id for job in tx.queue.list()] == ids
        assert storage.queue.list() == []
        with storage.transaction() as tx:
            ids = tx.queue.schedule_many([NewJob("x", "a")] * 5, returning="ids")
        assert [job.id for job in storage.queue.list()] == ids

    @pytest.mark.parametrize("bad", [None, "", "Jobs", "id", True, 1, ["ids"], b"ids"])
    def test_returning_is_one_of_three(self, storage: Storage, bad: Any) -> None:
        with pytest.raises(InvalidValue, match="returning must be one of jobs, ids, none"):
            storage.queue.schedule_many([NewJob("x", "a")], returning=bad)
        with pytest.raises(InvalidValue, match="returning"):
            storage.queue.schedule_many([], returning=bad)
        assert storage.queue.list() == []
