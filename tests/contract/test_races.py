"""Races for one thing: exactly one racer wins, the others hear of it, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import chain
from typing import TypeVar, cast

import pytest

from assistly.storage import (
    AlreadyExists,
    ClaimLost,
    ClaimState,
    IdempotencyClaim,
    Job,
    JobStatus,
    MemoryBackend,
    NewJob,
    PruneReport,
    ScheduleConflict,
    StatusConflict,
    Storage,
    StorageError,
    VersionConflict,
    WorkerLock,
)
from assistly.storage.testing import empty
from assistly.storage.testing.fixtures import fresh_name
from contract.racing import event_moves, queue_moves, record_moves
from contract.racing.crews import Crew, Pool, Processes, Threads
from contract.racing.racer import START, Place

T = TypeVar("T")
E = TypeVar("E", bound=StorageError)

THREADS = 8
PROCESSES = 4

TICK = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
LEASE = 5 * MINUTE


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(PROCESSES)
    yield pool
    pool.stop()


@pytest.fixture(scope="module")
def sqlite_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(str(tmp_path_factory.mktemp("races") / "races.db"))


@pytest.fixture(scope="module")
def postgres_place(database_url: str, new_schema: Callable[[], str]) -> Place:
    return Place(database_url, new_schema())


@pytest.fixture(
    scope="module",
    params=["memory-threads", "sqlite-threads", "sqlite-processes", "postgres-threads", "postgres-processes"],
)
def shared_crew(request: pytest.FixtureRequest) -> Iterator[Crew]:
    engine, kind = request.param.split("-")
    if kind == "processes":
        crew: Crew = Processes(request.getfixturevalue("pool"), request.getfixturevalue(f"{engine}_place"))
    elif engine == "memory":
        crew = Threads(MemoryBackend(), THREADS)
    else:
        place: Place = request.getfixturevalue(f"{engine}_place")
        crew = Threads(place.open(connections=THREADS), THREADS)
    with crew.storage:
        yield crew


@pytest.fixture
def crew(shared_crew: Crew) -> Crew:
    empty(shared_crew.backend)
    return shared_crew


def rounds(answers: Sequence[Sequence[T]]) -> list[tuple[T, ...]]:
    """For each round, what each racer answered."""
    return [*zip(*answers, strict=True)]


def one_winner(answers: Sequence[T | E], error: type[E]) -> tuple[T, list[E]]:
    """What the only one got that was not refused, and the errors of the others."""
    refused = [answer for answer in answers if isinstance(answer, error)]
    won = [answer for answer in answers if not isinstance(answer, error)]
    assert len(won) == 1, f"{len(won)} won, one should"
    return cast("T", won[0]), refused


def flat(batches: Sequence[Sequence[T]]) -> list[T]:
    return [*chain.from_iterable(batches)]


def held_jobs(storage: Storage, count: int) -> list[Job]:
    """Claimed ones, whose leases run out one after the other."""
    jobs: list[Job] = []
    for number in range(count):
        storage.queue.schedule("x", f"job {number}")
        jobs += storage.queue.claim_due(worker_id="holder", lease=LEASE + number * SECOND)
    return jobs


class TestClaims:
    def test_each_job_goes_to_one_claimer_in_order(self, crew: Crew) -> None:
        now = START + HOUR
        due_in = [START + (number * 7 % 10) * MINUTE for number in range(150)]
        due = crew.storage.queue.schedule_many(NewJob("x", "hello", at) for at in due_in)
        late = crew.storage.queue.schedule("x", "not due", now + TICK)
        answers = crew.race(queue_moves.claim_until_none_is_due, 4, now)
        for batches in answers:
            places = [(job.due_at, job.id) for job in flat(batches)]
            assert places == sorted(places)
        claimed = {job.id: job for job in flat(flat(answers))}
        assert sorted(job.id for job in flat(flat(answers))) == sorted(job.id for job in due)
        assert all(crew.storage.queue.get(id) == job for id, job in claimed.items())
        assert crew.storage.queue.get(late.id) == late

    def test_a_single_due_job_goes_to_one(self, crew: Crew) -> None:
        moments = [START + number * SECOND for number in range(20)]
        jobs = crew.storage.queue.schedule_many(NewJob("x", "hello", at) for at in moments)
        for job, batches in zip(jobs, rounds(crew.race(queue_moves.claim_at, moments)), strict=True):
            (claimed,) = flat(batches)
            assert claimed.id == job.id
            assert crew.storage.queue.get(job.id) == claimed

    def test_claims_only_grow(self, crew: Crew) -> None:
        jobs = crew.storage.queue.schedule_many(NewJob("x", "hello") for _ in range(crew.size))
        claims = flat(crew.race(queue_moves.claim_and_release, 20))
        for job in jobs:
            stored = crew.storage.queue.get(job.id)
            assert stored is not None
            mine = sorted(claim for id, claim in claims if id == job.id)
            assert mine == [*range(1, stored.claim + 1)]

    def test_a_lease_that_ran_out_is_settled_or_taken_back(self, crew: Crew) -> None:
        held = held_jobs(crew.storage, 30)
        answers = rounds(crew.race(queue_moves.settle_or_rescue, held, START))
        for job, (outcome, *rescues) in zip(held, answers, strict=True):
            taken = [one for batch in rescues if isinstance(batch, list) for one in batch if one.id == job.id]
            stored = crew.storage.queue.get(job.id)
            if isinstance(outcome, ClaimLost):
                assert [stored] == taken
                assert (taken[0].status, taken[0].retries) == ("retrying", 1)
            else:
                assert taken == []
                assert stored == outcome
                assert (stored.status, stored.retries) == ("posted", 0)

    def test_what_is_published_is_never_taken_back_to_be_retried(self, crew: Crew) -> None:
        held = held_jobs(crew.storage, 30)
        answers = rounds(crew.race(queue_moves.begin_or_rescue, held, START))
        crew.storage.queue.rescue_expired(now=START + HOUR)
        for job, (outcome, *_) in zip(held, answers, strict=True):
            stored = crew.storage.queue.get(job.id)
            assert stored is not None
            assert stored.retries == 1
            if isinstance(outcome, ClaimLost):
                assert (stored.status, stored.publish_started_at) == ("retrying", None)
            else:
                assert (stored.status, stored.publish_started_at) == ("dead_letter", START)
                assert (stored.dead_letter_reason or "").startswith("outcome unknown: ")

    def test_a_claim_is_settled_once(self, crew: Crew) -> None:
        batches = []
        for _ in range(5):
            crew.storage.queue.schedule_many(NewJob("x", "hello") for _ in range(20))
            batches.append(crew.storage.queue.claim_due(worker_id="holder"))
        for held, answers in zip(batches, rounds(crew.race(queue_moves.settle_all, batches)), strict=True):
            ids = sorted(job.id for job in held)
            settled = flat([answer.jobs for answer in answers])
            assert sorted(job.id for job in settled) == ids
            assert all(crew.storage.queue.get(job.id) == job for job in settled)
            for answer in answers:
                assert sorted([*(job.id for job in answer.jobs), *answer.lost]) == ids

    def test_an_expired_claim_is_taken_back_once(self, crew: Crew) -> None:
        moments = [START + LEASE + number * HOUR for number in range(5)]
        for lease_until in moments:
            crew.storage.queue.schedule_many(NewJob("x", "hello") for _ in range(20))
            crew.storage.queue.claim_due(worker_id="holder", lease=lease_until - START)
        answers = rounds(crew.race(queue_moves.rescue, moments))
        for batches in answers:
            ids = [job.id for job in flat(batches)]
            assert len(ids) == len(set(ids)) == 20
        assert {job.retries for job in crew.storage.queue.list()} == {1}

    def test_a_dead_letter_is_replayed_once(self, crew: Crew) -> None:
        for job in held_jobs(crew.storage, 20):
            crew.storage.queue.mark_failed(job, "refused", retryable=False)
        ids = [job.id for job in crew.storage.queue.dead_letters()]
        for answers in rounds(crew.race(queue_moves.replay, ids[:10])):
            assert sum(job is not None for job in answers) == 1
        assert sum(crew.race(queue_moves.replay_all)) == 10
        assert crew.storage.queue.dead_letters() == []


class TestSchedules:
    def test_a_slot_goes_to_one(self, crew: Crew) -> None:
        slots = [START + number * HOUR for number in range(12)]
        for answers in rounds(crew.race(queue_moves.schedule_near, "x", slots, MINUTE)):
            job, conflicts = one_winner(answers, ScheduleConflict)
            assert [conflict.job for conflict in conflicts] == [job] * (crew.size - 1)
        assert len(crew.storage.queue.list()) == len(slots)

    def test_slots_on_several_platforms_go_to_one(self, crew: Crew) -> None:
        platforms = ["x", "y", "z"]
        slots = [START + number * HOUR for number in range(8)]
        for answers in rounds(crew.race(queue_moves.schedule_on_all, platforms, slots, MINUTE)):
            jobs, conflicts = one_winner(answers, ScheduleConflict)
            assert all(conflict.job in jobs for conflict in conflicts)
        assert len(crew.storage.queue.list()) == len(slots) * len(platforms)

    def test_one_moves_into_a_slot(self, crew: Crew) -> None:
        queue = crew.storage.queue
        jobs = [[queue.schedule("x", "hello") for _ in range(crew.size)] for _ in range(8)]
        slot = START + HOUR
        answers = rounds(crew.race(queue_moves.reschedule_own, jobs, slot, MINUTE))
        for number, answer in enumerate(answers):
            moved, conflicts = one_winner(answer, ScheduleConflict)
            assert moved.scheduled_at == slot + number * MINUTE
            assert [conflict.job for conflict in conflicts] == [moved] * (crew.size - 1)
        assert sum(job.scheduled_at == START for job in queue.list()) == len(jobs) * (crew.size - 1)

    def test_a_key_has_one_job(self, crew: Crew) -> None:
        keys = [f"key {number}" for number in range(20)]
        for answers in rounds(crew.race(queue_moves.schedule_with_key, keys)):
            assert [*answers] == [answers[0]] * crew.size
        assert [job.idempotency_key for job in crew.storage.queue.list()] == keys

    @pytest.mark.parametrize("size", [2, 20])
    def test_batches_with_the_same_keys_in_opposite_orders(self, crew: Crew, size: int) -> None:
        """Few rounds: where this is a deadlock, the server takes a second to see it."""
        batches = [[f"batch {number}, key {key}" for key in range(size)] for number in range(2)]
        for answers in rounds(crew.race(queue_moves.schedule_batches, batches)):
            assert [*answers] == [answers[0]] * crew.size
        assert crew.storage.queue.counts()[JobStatus.SCHEDULED] == len(batches) * size


class TestRecords:
    def test_a_nonce_is_new_to_one(self, crew: Crew) -> None:
        nonces = [f"nonce {number}" for number in range(30)]
        for answers in rounds(crew.race(record_moves.register, nonces)):
            assert sum(answers) == 1

    def test_an_approval_is_added_by_one(self, crew: Crew) -> None:
        ids = [f"approval {number}" for number in range(15)]
        for id, answers in zip(ids, rounds(crew.race(record_moves.add_approval, ids)), strict=True):
            approval, _ = one_winner(answers, AlreadyExists)
            assert crew.storage.approvals.get(id) == approval

    def test_an_approval_is_decided_by_one(self, crew: Crew) -> None:
        ids = [f"approval {number}" for number in range(15)]
        for id in ids:
            crew.storage.approvals.add(id, {"post": "hello"})
        for id, answers in zip(ids, rounds(crew.race(record_moves.decide, ids)), strict=True):
            approval, conflicts = one_winner(answers, StatusConflict)
            assert [conflict.current for conflict in conflicts] == [approval] * (crew.size - 1)
            assert approval.status == f"as {approval.payload['by']} says"
            assert crew.storage.approvals.get(id) == approval

    def test_no_update_of_a_session_is_lost(self, crew: Crew) -> None:
        """Also where the first ones create it."""
        user_ids = [f"user {number}" for number in range(5)]
        times = 4
        for user_id, answers in zip(
            user_ids, rounds(crew.race(record_moves.count_up, user_ids, times)), strict=True
        ):
            updates = sorted(flat(answers), key=lambda session: session.version)
            assert [session.version for session in updates] == [*range(1, crew.size * times + 1)]
            assert all(session.data["count"] == session.version for session in updates)
            for number in range(crew.size):
                assert updates[-1].data["by"].count(number) == times
            assert crew.storage.sessions.get(user_id) == updates[-1]

    @pytest.mark.parametrize("version", [0, 1])
    def test_a_version_of_a_session_is_put_by_one(self, crew: Crew, version: int) -> None:
        user_ids = [f"user {number}" for number in range(15)]
        if version:
            for user_id in user_ids:
                crew.storage.sessions.put(user_id, "the first")
        for answers in rounds(crew.race(record_moves.put_at_version, user_ids, version)):
            session, conflicts = one_winner(answers, VersionConflict)
            assert session.version == version + 1
            assert [conflict.current for conflict in conflicts] == [session] * (crew.size - 1)

    def test_a_lock_has_one_owner(self, crew: Crew) -> None:
        name, times = fresh_name("lock"), 20
        answers = rounds(crew.race(record_moves.acquire, name, START, MINUTE, times))
        fences = [one_holder(locks).fence for locks in answers]
        assert fences == [*range(fences[0], fences[0] + times)]

    def test_nothing_is_counted_twice_or_not_at_all(self, crew: Crew) -> None:
        counters, times = [fresh_name("counter") for _ in range(2)], 20
        before = crew.storage.metrics.read().latency
        crew.race(record_moves.measure, counters, times)
        after = crew.storage.metrics.read()
        expected = times // 2 * sum(range(1, crew.size + 1))
        assert [after.counters[counter] for counter in counters] == [expected] * 2
        assert after.latency.count - before.count == crew.size * times
        total = times * sum(number + 0.5 for number in range(crew.size))
        assert after.latency.total_ms - before.total_ms == total
        assert after.latency.max_ms >= crew.size - 0.5

    def test_one_prunes_in_a_minute(self, crew: Crew) -> None:
        start = START + timedelta(days=2)
        moments = [start + number * MINUTE for number in range(10)]
        for number in range(10):
            crew.storage.nonces.register(f"nonce {number}", START)
        answers = rounds(crew.race(record_moves.prune_at, moments))
        assert [sum(report.ran for report in reports) for reports in answers] == [1] * len(moments)
        assert sum(report.nonces for report in answers[0]) == 10
        assert (
            crew.race(record_moves.prune_at, [moments[-1] + MINUTE - TICK])
            == [[PruneReport(ran=False)]] * crew.size
        )


class TestIdempotency:
    def test_a_key_is_acquired_by_one(self, crew: Crew) -> None:
        keys = [f"key {number}" for number in range(20)]
        for answers in rounds(crew.race(record_moves.claim_keys, keys, START)):
            assert sorted(claim.state for claim in answers) == states(acquired=1, of=crew.size)

    def test_an_expired_lease_is_taken_over_by_one(self, crew: Crew) -> None:
        idempotency = crew.storage.idempotency
        stale = [idempotency.claim(f"key {number}", lease=LEASE) for number in range(20)]
        answers = rounds(crew.race(record_moves.claim_keys, [claim.key for claim in stale], START + LEASE))
        for overtaken, claims in zip(stale, answers, strict=True):
            assert sorted(claim.state for claim in claims) == states(acquired=1, of=crew.size)
            with pytest.raises(ClaimLost):
                idempotency.complete(overtaken, "too late")
            (holder,) = (claim for claim in claims if claim.state is ClaimState.ACQUIRED)
            idempotency.complete(holder, "done")
            assert idempotency.claim(holder.key).value == "done"

    def test_a_lease_that_ran_out_is_completed_or_taken_over(self, crew: Crew) -> None:
        idempotency = crew.storage.idempotency
        stale = [idempotency.claim(f"key {number}", lease=LEASE) for number in range(20)]
        answers = rounds(crew.race(record_moves.complete_or_take_over, stale, START + LEASE))
        for claim, (outcome, *others) in zip(stale, answers, strict=True):
            claims = [other for other in others if isinstance(other, IdempotencyClaim)]
            acquired = [other for other in claims if other.state is ClaimState.ACQUIRED]
            record = idempotency.get(claim.key)
            if isinstance(outcome, ClaimLost):
                assert len(acquired) == 1
                assert record is None
            else:
                assert {(other.state, other.value) for other in claims} == {("completed", "by the first")}
                assert record is not None

    def test_a_function_runs_once(self, crew: Crew) -> None:
        keys = [f"key {number}" for number in range(10)]
        for answers in rounds(crew.race(record_moves.run_once, keys)):
            (first,) = (number for number, _ in answers if number is not None)
            assert [replayed for _, replayed in answers] == [first] * crew.size


class TestEvents:
    def test_a_reader_that_follows_misses_none(self, crew: Crew) -> None:
        followed = [None, event_moves.SINGLE]
        answers = crew.race(event_moves.write_or_follow, followed, 80, 7)
        written = flat([answer.events for answer in answers if isinstance(answer, event_moves.Written)])
        committed = sorted(written, key=lambda event: event.id)
        for answer in answers:
            if isinstance(answer, event_moves.Read):
                kind = answer.event_type
                assert answer.events == [event for event in committed if kind in (None, event.event_type)]


def states(*, acquired: int, of: int) -> list[ClaimState]:
    return [ClaimState.ACQUIRED] * acquired + [ClaimState.IN_PROGRESS] * (of - acquired)


def one_holder(locks: Sequence[WorkerLock | None]) -> WorkerLock:
    (lock,) = (lock for lock in locks if lock is not None)
    return lock
