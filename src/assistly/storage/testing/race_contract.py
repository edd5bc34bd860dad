"""Races between threads and processes: exactly one wins, the others get the right answer, nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from ..errors import AlreadyExists, ClaimLost, ScheduleConflict, StatusConflict, VersionConflict
from ..records import ClaimState, IdempotencyClaim, Job, JobStatus, NewJob, PruneReport, WorkerLock
from ..storage import Storage
from . import race_events, race_queue, race_records
from .fixtures import HOUR, LEASE, MINUTE, SECOND, START, TICK, fresh_name
from .race_platforms_contract import PlatformRacesContract
from .race_schedules_contract import RecurrenceRacesContract
from .races import Race
from .racing import RacingContract, flat, one_winner, rounds


def held_jobs(storage: Storage, count: int) -> list[Job]:
    """Claimed ones, whose leases run out one after the other."""
    jobs: list[Job] = []
    for number in range(count):
        storage.queue.schedule("x", f"job {number}")
        jobs += storage.queue.claim_due(worker_id="holder", lease=LEASE + number * SECOND)
    return jobs


class ClaimRacesContract(RacingContract):
    def test_each_job_goes_to_one_claimer_in_order(self, race: Race) -> None:
        now = START + HOUR
        due_in = [START + (number * 7 % 10) * MINUTE for number in range(150)]
        due = race.storage.queue.schedule_many(NewJob("x", "hello", at) for at in due_in)
        late = race.storage.queue.schedule("x", "not due", now + TICK)
        answers = race.run(race_queue.claim_until_none_is_due, 4, now)
        for batches in answers:
            places = [(job.due_at, job.id) for job in flat(batches)]
            assert places == sorted(places)
        claimed = {job.id: job for job in flat(flat(answers))}
        assert sorted(job.id for job in flat(flat(answers))) == sorted(job.id for job in due)
        assert all(race.storage.queue.get(id) == job for id, job in claimed.items())
        assert race.storage.queue.get(late.id) == late

    def test_a_single_due_job_goes_to_one(self, race: Race) -> None:
        moments = [START + number * SECOND for number in range(20)]
        jobs = race.storage.queue.schedule_many(NewJob("x", "hello", at) for at in moments)
        for job, batches in zip(jobs, rounds(race.run(race_queue.claim_at, moments)), strict=True):
            (claimed,) = flat(batches)
            assert claimed.id == job.id
            assert race.storage.queue.get(job.id) == claimed

    def test_claims_only_grow(self, race: Race) -> None:
        jobs = race.storage.queue.schedule_many(NewJob("x", "hello") for _ in range(race.size))
        claims = flat(race.run(race_queue.claim_and_release, 20))
        for job in jobs:
            stored = race.storage.queue.get(job.id)
            assert stored is not None
            mine = sorted(claim for id, claim in claims if id == job.id)
            assert mine == [*range(1, stored.claim + 1)]

    def test_a_lease_that_ran_out_is_settled_or_taken_back(self, race: Race) -> None:
        held = held_jobs(race.storage, 30)
        answers = rounds(race.run(race_queue.settle_or_rescue, held, START))
        for job, (outcome, *rescues) in zip(held, answers, strict=True):
            taken = [one for batch in rescues if isinstance(batch, list) for one in batch if one.id == job.id]
            stored = race.storage.queue.get(job.id)
            if isinstance(outcome, ClaimLost):
                assert [stored] == taken
                assert (taken[0].status, taken[0].retries) == ("retrying", 1)
            else:
                assert taken == []
                assert stored == outcome
                assert (stored.status, stored.retries) == ("posted", 0)

    def test_what_is_published_is_never_taken_back_to_be_retried(self, race: Race) -> None:
        held = held_jobs(race.storage, 30)
        answers = rounds(race.run(race_queue.begin_or_rescue, held, START))
        race.storage.queue.rescue_expired(now=START + HOUR)
        for job, (outcome, *_) in zip(held, answers, strict=True):
            stored = race.storage.queue.get(job.id)
            assert stored is not None
            assert stored.retries == 1
            if isinstance(outcome, ClaimLost):
                assert (stored.status, stored.publish_started_at) == ("retrying", None)
            else:
                assert (stored.status, stored.publish_started_at) == ("dead_letter", START)
                assert (stored.dead_letter_reason or "").startswith("outcome unknown: ")

    def test_a_claim_is_settled_once(self, race: Race) -> None:
        batches = []
        for _ in range(5):
            race.storage.queue.schedule_many(NewJob("x", "hello") for _ in range(20))
            batches.append(race.storage.queue.claim_due(worker_id="holder"))
        for held, answers in zip(batches, rounds(race.run(race_queue.settle_all, batches)), strict=True):
            ids = sorted(job.id for job in held)
            settled = flat([answer.jobs for answer in answers])
            assert sorted(job.id for job in settled) == ids
            assert all(race.storage.queue.get(job.id) == job for job in settled)
            for answer in answers:
                assert sorted([*(job.id for job in answer.jobs), *answer.lost]) == ids

    def test_an_expired_claim_is_taken_back_once(self, race: Race) -> None:
        moments = [START + LEASE + number * HOUR for number in range(5)]
        for lease_until in moments:
            race.storage.queue.schedule_many(NewJob("x", "hello") for _ in range(20))
            race.storage.queue.claim_due(worker_id="holder", lease=lease_until - START)
        answers = rounds(race.run(race_queue.rescue, moments))
        for batches in answers:
            ids = [job.id for job in flat(batches)]
            assert len(ids) == len(set(ids)) == 20
        assert {job.retries for job in race.storage.queue.list()} == {1}

    def test_a_dead_letter_is_replayed_once(self, race: Race) -> None:
        for job in held_jobs(race.storage, 20):
            race.storage.queue.mark_failed(job, "refused", retryable=False)
        ids = [job.id for job in race.storage.queue.dead_letters()]
        for answers in rounds(race.run(race_queue.replay, ids[:10])):
            assert sum(job is not None for job in answers) == 1
        assert sum(race.run(race_queue.replay_all)) == 10
        assert race.storage.queue.dead_letters() == []


class DecisionRacesContract(RacingContract):
    def _unknown_ones(self, race: Race, count: int) -> list[int]:
        queue = race.storage.queue
        for job in held_jobs(race.storage, count):
            queue.mark_unknown(queue.begin_publish(job), "no answer")
        return [job.id for job in queue.dead_letters()]

    def test_an_unknown_outcome_is_answered_by_one(self, race: Race) -> None:
        ids = self._unknown_ones(race, 20)
        for id, answers in zip(ids, rounds(race.run(race_queue.resolve, ids)), strict=True):
            job, conflicts = one_winner(answers, StatusConflict)
            assert [conflict.current for conflict in conflicts] == [job] * (race.size - 1)
            assert race.storage.queue.get(id) == job
            assert (job.status, job.remote_id is None) in (("posted", False), ("scheduled", True))

    def test_an_unknown_outcome_is_answered_or_replayed(self, race: Race) -> None:
        ids = self._unknown_ones(race, 20)
        for id, (answer, *replays) in zip(
            ids, rounds(race.run(race_queue.resolve_or_replay, ids)), strict=True
        ):
            replayed = [job for job in replays if job is not None]
            stored = race.storage.queue.get(id)
            if isinstance(answer, StatusConflict):
                assert replayed == [answer.current] == [stored]
            else:
                assert replayed == []
                assert answer == stored

    def test_what_is_cancelled_is_never_published(self, race: Race) -> None:
        held = held_jobs(race.storage, 30)
        for job, (outcome, *cancels) in zip(
            held, rounds(race.run(race_queue.begin_or_cancel, held)), strict=True
        ):
            stored = race.storage.queue.get(job.id)
            assert stored is not None
            conflicts = [cancel for cancel in cancels if isinstance(cancel, StatusConflict)]
            assert [conflict.current for conflict in conflicts] == [stored] * len(conflicts)
            if isinstance(outcome, ClaimLost):
                assert [cancel for cancel in cancels if cancel not in conflicts] == [stored]
                assert (stored.status, stored.publish_started_at) == ("cancelled", None)
            else:
                assert len(conflicts) == race.size - 1
                assert stored == outcome
                assert race.storage.queue.mark_posted(job).status == "posted"

    def test_a_job_is_cancelled_though_it_is_being_claimed(self, race: Race) -> None:
        moments = [START + number * SECOND for number in range(20)]
        jobs = race.storage.queue.schedule_many(NewJob("x", "hello", at) for at in moments)
        for job, ((gone,), *claims) in zip(
            jobs, rounds(race.run(race_queue.cancel_or_claim, jobs)), strict=True
        ):
            claimed = [one for batch in claims for one in batch]
            assert [one.id for one in claimed] in ([], [job.id])
            assert race.storage.queue.get(job.id) == gone
            assert (gone.status, gone.claim) == ("cancelled", len(claimed))
            for one in claimed:
                with pytest.raises(ClaimLost):
                    race.storage.queue.begin_publish(one)

    def test_a_checkpoint_is_noted_before_the_claim_is_taken_back_or_not_at_all(self, race: Race) -> None:
        begun = [race.storage.queue.begin_publish(job) for job in held_jobs(race.storage, 30)]
        answers = rounds(race.run(race_queue.note_or_rescue, begun, START))
        race.storage.queue.rescue_expired(now=START + HOUR)
        for job, (noted, *_) in zip(begun, answers, strict=True):
            stored = race.storage.queue.get(job.id)
            assert stored is not None
            assert stored.outcome_unknown is True
            assert stored.checkpoint == (None if isinstance(noted, ClaimLost) else {"step": 1})

    def test_a_stale_claim_notes_nothing(self, race: Race) -> None:
        queue = race.storage.queue
        claims: list[tuple[Job, Job]] = []
        for stale in held_jobs(race.storage, 20):
            queue.release(stale)
            (current,) = queue.claim_due(worker_id="another")
            claims.append((queue.begin_publish(current), stale))
        answers = rounds(race.run(race_queue.note, claims))
        for (current, _), notes in zip(claims, answers, strict=True):
            assert [isinstance(noted, ClaimLost) for noted in notes] == [
                number % 2 == 1 for number in range(race.size)
            ]
            stored = queue.get(current.id)
            assert stored in notes


class ScheduleRacesContract(RacingContract):
    def test_a_slot_goes_to_one(self, race: Race) -> None:
        slots = [START + number * HOUR for number in range(12)]
        for answers in rounds(race.run(race_queue.schedule_near, "x", slots, MINUTE)):
            job, conflicts = one_winner(answers, ScheduleConflict)
            assert [conflict.job for conflict in conflicts] == [job] * (race.size - 1)
        assert len(race.storage.queue.list()) == len(slots)

    def test_slots_on_several_platforms_go_to_one(self, race: Race) -> None:
        platforms = ["x", "y", "z"]
        slots = [START + number * HOUR for number in range(8)]
        for answers in rounds(race.run(race_queue.schedule_on_all, platforms, slots, MINUTE)):
            jobs, conflicts = one_winner(answers, ScheduleConflict)
            assert all(conflict.job in jobs for conflict in conflicts)
        assert len(race.storage.queue.list()) == len(slots) * len(platforms)

    def test_one_moves_into_a_slot(self, race: Race) -> None:
        queue = race.storage.queue
        jobs = [[queue.schedule("x", "hello") for _ in range(race.size)] for _ in range(8)]
        slot = START + HOUR
        answers = rounds(race.run(race_queue.reschedule_own, jobs, slot, MINUTE))
        for number, answer in enumerate(answers):
            moved, conflicts = one_winner(answer, ScheduleConflict)
            assert moved.scheduled_at == slot + number * MINUTE
            assert [conflict.job for conflict in conflicts] == [moved] * (race.size - 1)
        assert sum(job.scheduled_at == START for job in queue.list()) == len(jobs) * (race.size - 1)

    def test_a_key_has_one_job(self, race: Race) -> None:
        keys = [f"key {number}" for number in range(20)]
        for answers in rounds(race.run(race_queue.schedule_with_key, keys)):
            assert [*answers] == [answers[0]] * race.size
        assert [job.idempotency_key for job in race.storage.queue.list()] == keys

    @pytest.mark.parametrize("size", [2, 20])
    def test_batches_with_the_same_keys_in_opposite_orders(self, race: Race, size: int) -> None:
        """Few rounds: where this is a deadlock, the server takes a second to see it."""
        batches = [[f"batch {number}, key {key}" for key in range(size)] for number in range(2)]
        for answers in rounds(race.run(race_queue.schedule_batches, batches)):
            assert [*answers] == [answers[0]] * race.size
        assert race.storage.queue.counts()[JobStatus.SCHEDULED] == len(batches) * size


class RecordRacesContract(RacingContract):
    def test_a_nonce_is_new_to_one(self, race: Race) -> None:
        nonces = [f"nonce {number}" for number in range(30)]
        for answers in rounds(race.run(race_records.register, nonces)):
            assert sum(answers) == 1

    def test_an_approval_is_added_by_one(self, race: Race) -> None:
        ids = [f"approval {number}" for number in range(15)]
        for id, answers in zip(ids, rounds(race.run(race_records.add_approval, ids)), strict=True):
            approval, _ = one_winner(answers, AlreadyExists)
            assert race.storage.approvals.get(id) == approval

    def test_an_approval_is_decided_by_one(self, race: Race) -> None:
        ids = [f"approval {number}" for number in range(15)]
        for id in ids:
            race.storage.approvals.add(id, {"post": "hello"})
        for id, answers in zip(ids, rounds(race.run(race_records.decide, ids)), strict=True):
            approval, conflicts = one_winner(answers, StatusConflict)
            assert [conflict.current for conflict in conflicts] == [approval] * (race.size - 1)
            assert approval.status == f"as {approval.payload['by']} says"
            assert race.storage.approvals.get(id) == approval

    def test_no_update_of_a_session_is_lost(self, race: Race) -> None:
        """Also where the first ones create it."""
        user_ids = [f"user {number}" for number in range(5)]
        times = 4
        for user_id, answers in zip(
            user_ids, rounds(race.run(race_records.count_up, user_ids, times)), strict=True
        ):
            updates = sorted(flat(answers), key=lambda session: session.version)
            assert [session.version for session in updates] == [*range(1, race.size * times + 1)]
            assert all(session.data["count"] == session.version for session in updates)
            for number in range(race.size):
                assert updates[-1].data["by"].count(number) == times
            assert race.storage.sessions.get(user_id) == updates[-1]

    @pytest.mark.parametrize("version", [0, 1])
    def test_a_version_of_a_session_is_put_by_one(self, race: Race, version: int) -> None:
        user_ids = [f"user {number}" for number in range(15)]
        if version:
            for user_id in user_ids:
                race.storage.sessions.put(user_id, "the first")
        for answers in rounds(race.run(race_records.put_at_version, user_ids, version)):
            session, conflicts = one_winner(answers, VersionConflict)
            assert session.version == version + 1
            assert [conflict.current for conflict in conflicts] == [session] * (race.size - 1)

    def test_a_lock_has_one_owner(self, race: Race) -> None:
        name, times = fresh_name("lock"), 20
        answers = rounds(race.run(race_records.acquire, name, START, MINUTE, times))
        fences = [one_holder(locks).fence for locks in answers]
        assert fences == [*range(fences[0], fences[0] + times)]

    def test_nothing_is_counted_twice_or_not_at_all(self, race: Race) -> None:
        counters, times = [fresh_name("counter") for _ in range(2)], 20
        before = race.storage.metrics.read().latency
        race.run(race_records.measure, counters, times)
        after = race.storage.metrics.read()
        expected = times // 2 * sum(range(1, race.size + 1))
        assert [after.counters[counter] for counter in counters] == [expected] * 2
        assert after.latency.count - before.count == race.size * times
        total = times * sum(number + 0.5 for number in range(race.size))
        assert after.latency.total_ms - before.total_ms == total
        assert after.latency.max_ms >= race.size - 0.5

    def test_one_prunes_in_a_minute(self, race: Race) -> None:
        start = START + timedelta(days=2)
        moments = [start + number * MINUTE for number in range(10)]
        for number in range(10):
            race.storage.nonces.register(f"nonce {number}", START)
        answers = rounds(race.run(race_records.prune_at, moments))
        assert [sum(report.ran for report in reports) for reports in answers] == [1] * len(moments)
        assert sum(report.nonces for report in answers[0]) == 10
        assert (
            race.run(race_records.prune_at, [moments[-1] + MINUTE - TICK])
            == [[PruneReport(ran=False)]] * race.size
        )


class KeyRacesContract(RacingContract):
    def test_a_key_is_acquired_by_one(self, race: Race) -> None:
        keys = [f"key {number}" for number in range(20)]
        for answers in rounds(race.run(race_records.claim_keys, keys, START)):
            assert sorted(claim.state for claim in answers) == states(acquired=1, of=race.size)

    def test_an_expired_lease_is_taken_over_by_one(self, race: Race) -> None:
        idempotency = race.storage.idempotency
        stale = [idempotency.claim(f"key {number}", lease=LEASE) for number in range(20)]
        answers = rounds(race.run(race_records.claim_keys, [claim.key for claim in stale], START + LEASE))
        for overtaken, claims in zip(stale, answers, strict=True):
            assert sorted(claim.state for claim in claims) == states(acquired=1, of=race.size)
            with pytest.raises(ClaimLost):
                idempotency.complete(overtaken, "too late")
            (holder,) = (claim for claim in claims if claim.state is ClaimState.ACQUIRED)
            idempotency.complete(holder, "done")
            assert idempotency.claim(holder.key).value == "done"

    def test_a_lease_that_ran_out_is_completed_or_taken_over(self, race: Race) -> None:
        idempotency = race.storage.idempotency
        stale = [idempotency.claim(f"key {number}", lease=LEASE) for number in range(20)]
        answers = rounds(race.run(race_records.complete_or_take_over, stale, START + LEASE))
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

    def test_a_function_runs_once(self, race: Race) -> None:
        keys = [f"key {number}" for number in range(10)]
        for answers in rounds(race.run(race_records.run_once, keys)):
            (first,) = (number for number, _ in answers if number is not None)
            assert [replayed for _, replayed in answers] == [first] * race.size


class EventRacesContract(RacingContract):
    def test_a_reader_that_follows_misses_none(self, race: Race) -> None:
        followed = [None, race_events.SINGLE]
        answers = race.run(race_events.write_or_follow, followed, 80, 7)
        written = flat([answer.events for answer in answers if isinstance(answer, race_events.Written)])
        committed = sorted(written, key=lambda event: event.id)
        for answer in answers:
            if isinstance(answer, race_events.Read):
                kind = answer.event_type
                assert answer.events == [event for event in committed if kind in (None, event.event_type)]


def states(*, acquired: int, of: int) -> list[ClaimState]:
    return [ClaimState.ACQUIRED] * acquired + [ClaimState.IN_PROGRESS] * (of - acquired)


def one_holder(locks: Sequence[WorkerLock | None]) -> WorkerLock:
    (lock,) = (lock for lock in locks if lock is not None)
    return lock


class RaceContract(
    ClaimRacesContract,
    DecisionRacesContract,
    ScheduleRacesContract,
    RecordRacesContract,
    PlatformRacesContract,
    RecurrenceRacesContract,
    KeyRacesContract,
    EventRacesContract,
):
    """All races."""
