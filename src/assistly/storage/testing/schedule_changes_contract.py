"""Schedules: what a change of one does to its jobs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from ..errors import NotFound
from ..records import JobStatus
from ..storage import Storage
from .fixtures import DAY, HOUR, START, Contract, FakeClock, census, undone
from .schedules_contract import NINE, days, put_daily, slots, waiting

AHEAD = 4 * DAY


def tens(first: int, last: int) -> list[datetime]:
    return [slot + HOUR for slot in days(first, last)]


class ScheduleChangesContract(Contract):
    """Another content, platform or time."""

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("content", "good day"),
            ("platform", "mastodon"),
            ("metadata", {"a": True}),
            ("max_retries", 9),
            ("max_lateness", HOUR),
        ],
    )
    def test_waiting_jobs_get_the_new(
        self, storage: Storage, clock: FakeClock, field: str, value: Any
    ) -> None:
        put_daily(storage, metadata={"a": 1})
        before = storage.schedules.run(ahead=AHEAD)
        clock.advance(HOUR)
        put_daily(storage, **{"metadata": {"a": 1}, field: value})
        after = waiting(storage)
        assert [job.id for job in after] == [job.id for job in before]
        assert slots(after) == days(1, 4)
        for job in after:
            assert repr(getattr(job, field)) == repr(value)
            assert job.updated_at == START + HOUR
            assert (job.status, job.idempotency_key) == (
                JobStatus.SCHEDULED,
                f"schedule:s:{job.scheduled_at.isoformat()}",
            )
        assert storage.schedules.run(ahead=AHEAD - HOUR) == []
        (made,) = storage.schedules.run(ahead=AHEAD + DAY - HOUR)
        assert repr(getattr(made, field)) == repr(value)

    def test_defaults_come_back(self, storage: Storage) -> None:
        put_daily(storage, max_retries=9, max_lateness=HOUR)
        (job,) = storage.schedules.run()
        put_daily(storage)
        (changed,) = waiting(storage)
        default = storage.queue.schedule("x", "other").max_retries
        assert (changed.id, changed.max_retries, changed.max_lateness) == (job.id, default, None)

    def test_claimed_and_finished_jobs_stay(self, storage: Storage, clock: FakeClock) -> None:
        put_daily(storage)
        posted, held, cancelled, last = storage.schedules.run(ahead=AHEAD)
        clock.time = posted.scheduled_at
        storage.queue.mark_posted(storage.queue.claim_due(worker_id="w")[0])
        clock.time = held.scheduled_at
        (held,) = storage.queue.claim_due(worker_id="w")
        storage.queue.cancel(cancelled.id)
        before = {job.id: job for job in storage.queue.list()}
        put_daily(storage, content="other", platform="y")
        after = {job.id: job for job in storage.queue.list()}
        assert after.pop(last.id).content == "other"
        del before[last.id]
        assert after == before
        assert storage.queue.begin_publish(held).content == "hello"

    def test_a_due_job_and_a_retrying_one_are_waiting(self, storage: Storage, clock: FakeClock) -> None:
        put_daily(storage)
        storage.schedules.run(ahead=2 * DAY)
        clock.time = NINE + DAY
        (held,) = storage.queue.claim_due(worker_id="w")
        storage.queue.mark_failed(held, "busy", retry_at=START + 9 * DAY)
        clock.time = NINE + 2 * DAY + HOUR
        for _ in range(3):
            storage.schedules.run()
        put_daily(storage, content="other")
        due, later, retrying = waiting(storage)
        assert slots([due, later, retrying]) == [*days(2, 3), *days(1, 1)]
        assert {job.content for job in (due, later, retrying)} == {"other"}
        assert (retrying.status, retrying.due_at) == (JobStatus.RETRYING, START + 9 * DAY)
        assert retrying.retries == 1

    def test_a_claimed_job_may_come_back(self, storage: Storage, clock: FakeClock) -> None:
        """After a run, a change, or both."""
        put_daily(storage)
        storage.schedules.run(ahead=2 * DAY)
        clock.time = NINE + DAY + HOUR
        storage.schedules.run(ahead=2 * DAY)
        (held,) = storage.queue.claim_due(worker_id="w")
        clock.advance(DAY)
        storage.schedules.run(ahead=2 * DAY)
        put_daily(storage, content="other")
        storage.schedules.run(ahead=3 * DAY)
        released = storage.queue.release(held)
        assert released.content == "hello"
        put_daily(storage, content="third")
        assert {job.content for job in waiting(storage)} == {"third"}
        assert released.id in {job.id for job in waiting(storage)}

    @pytest.mark.parametrize("catch_up", ["last", "all"])
    def test_a_job_that_was_made_late_is_changed_too(
        self, storage: Storage, clock: FakeClock, catch_up: str
    ) -> None:
        put_daily(storage, catch_up=catch_up)
        clock.advance(3 * DAY)
        late = storage.schedules.run()
        put_daily(storage, catch_up=catch_up, content="other")
        assert {job.content for job in waiting(storage)} == {"other"}
        assert len(waiting(storage)) == len(late)
        storage.schedules.disable("s")
        assert waiting(storage) == []

    def test_a_change_at_the_very_moment_of_a_slot(self, storage: Storage, clock: FakeClock) -> None:
        """The slot is one to come."""
        put_daily(storage)
        storage.schedules.run(ahead=2 * DAY)
        clock.time = NINE + DAY
        put_daily(storage, cron="0 10 * * *")
        assert waiting(storage) == []
        put_daily(storage)
        assert slots(storage.schedules.run(ahead=DAY)) == days(1, 2)

    def test_a_job_that_a_person_moved_stays_there(self, storage: Storage) -> None:
        put_daily(storage)
        (job,) = storage.schedules.run()
        storage.queue.reschedule(job.id, START + HOUR)
        put_daily(storage, content="other")
        (moved,) = waiting(storage)
        assert (moved.content, moved.scheduled_at) == ("other", START + HOUR)

    def test_other_times(self, storage: Storage, clock: FakeClock) -> None:
        put_daily(storage)
        old = storage.schedules.run(ahead=AHEAD)
        clock.advance(DAY)
        put_daily(storage, cron="0 10 * * *")
        assert slots(waiting(storage)) == days(1, 1), "it is due, and no one has claimed it yet"
        assert slots(storage.schedules.run(ahead=3 * DAY)) == tens(2, 4)
        assert [storage.queue.get(job.id) for job in old[1:]] == [None] * 3
        assert storage.schedules.run(ahead=3 * DAY) == []

    def test_slots_that_stay_keep_their_jobs(self, storage: Storage) -> None:
        put_daily(storage)
        old = storage.schedules.run(ahead=AHEAD)
        put_daily(storage, cron="0 9,10 * * *")
        assert waiting(storage) == old
        assert slots(storage.schedules.run(ahead=AHEAD)) == tens(1, 4)
        put_daily(storage, cron="0 9 16,18 * *")
        assert waiting(storage) == [old[0], old[2]]
        assert storage.schedules.run(ahead=AHEAD) == []

    def test_another_zone(self, storage: Storage) -> None:
        put_daily(storage)
        storage.schedules.run(ahead=2 * DAY)
        put_daily(storage, zone="Europe/Berlin")
        storage.schedules.run(ahead=2 * DAY)
        assert slots(waiting(storage)) == [slot - HOUR for slot in days(1, 2)]

    def test_another_end(self, storage: Storage) -> None:
        put_daily(storage)
        storage.schedules.run(ahead=AHEAD)
        put_daily(storage, ends_at=NINE + 2 * DAY)
        assert slots(waiting(storage)) == days(1, 2)
        assert storage.schedules.run(ahead=AHEAD) == []
        put_daily(storage)
        assert slots(storage.schedules.run(ahead=AHEAD)) == days(3, 4)

    def test_what_a_person_removed_or_cancelled_does_not_come_back(self, storage: Storage) -> None:
        put_daily(storage)
        removed, cancelled, _, _ = storage.schedules.run(ahead=AHEAD)
        storage.queue.remove(removed.id)
        storage.queue.cancel(cancelled.id)
        for cron in ("0 10 * * *", "0 9 * * *", "0 11 * * *", "0 9,11 * * *"):
            put_daily(storage, cron=cron)
            storage.schedules.run(ahead=AHEAD)
            storage.schedules.run(ahead=AHEAD)
        assert [slot for slot in slots(waiting(storage)) if slot.hour == 9] == days(3, 4)

    @pytest.mark.parametrize("catch_up", ["last", "all"])
    def test_it_is_not_missed_either(self, storage: Storage, clock: FakeClock, catch_up: str) -> None:
        put_daily(storage, catch_up=catch_up)
        (job,) = storage.schedules.run()
        put_daily(storage, catch_up=catch_up, cron="0 9,15 * * *")
        storage.queue.remove(job.id)
        clock.time = job.scheduled_at + HOUR
        missed = slots(storage.schedules.run(ahead=timedelta(0)))
        assert missed == ([] if catch_up == "last" else [NINE + 6 * HOUR])

    def test_new_times_hold_from_the_change_on(self, storage: Storage, clock: FakeClock) -> None:
        """What was a slot before is not missed, and neither is what would have been one."""
        put_daily(storage, catch_up="all")
        clock.advance(3 * DAY)
        put_daily(storage, catch_up="all", cron="0 10 * * *")
        assert slots(storage.schedules.run(ahead=2 * DAY)) == tens(4, 5)

    def test_missed_slots_outlast_a_change_of_the_content(self, storage: Storage, clock: FakeClock) -> None:
        put_daily(storage, catch_up="all")
        clock.advance(3 * DAY)
        put_daily(storage, catch_up="all", content="other")
        jobs = storage.schedules.run(ahead=DAY)
        assert slots(jobs) == days(1, 4)
        assert {job.content for job in jobs} == {"other"}

    def test_a_change_is_all_or_nothing(self, storage: Storage) -> None:
        put_daily(storage)
        storage.schedules.run(ahead=AHEAD)
        before = census(storage)
        with undone(storage) as tx:
            put_daily(tx, content="other", cron="0 9,10 16 * *")
            tx.schedules.run(ahead=AHEAD)
            tx.schedules.remove("s")
        assert census(storage) == before
        assert storage.schedules.run(ahead=AHEAD) == []

    def test_other_schedules_are_not_touched(self, storage: Storage) -> None:
        for id in ("s", "s:", "s:2026-01-16T09:00:00+00:00", "t"):
            put_daily(storage, id=id)
        storage.schedules.run(ahead=AHEAD)
        put_daily(storage, content="other")
        assert sum(job.content == "other" for job in waiting(storage)) == 4
        storage.schedules.remove("s")
        assert {job.content for job in waiting(storage)} == {"hello"}
        assert len(waiting(storage)) == 12


class ScheduleSwitchesContract(Contract):
    """Enabling, disabling, removing."""

    def test_disabling_leaves_no_waiting_jobs(self, storage: Storage, clock: FakeClock) -> None:
        put_daily(storage)
        jobs = storage.schedules.run(ahead=AHEAD)
        clock.time = jobs[0].scheduled_at
        (held,) = storage.queue.claim_due(worker_id="w")
        schedule = storage.schedules.disable("s")
        assert (schedule.enabled, schedule.updated_at) == (False, clock.time)
        assert storage.schedules.get("s") == schedule
        assert waiting(storage) == []
        assert storage.queue.list() == [held]
        assert storage.schedules.run(ahead=AHEAD) == []
        assert storage.schedules.disable("s") == schedule

    def test_enabling_makes_them_anew(self, storage: Storage, clock: FakeClock) -> None:
        put_daily(storage)
        storage.schedules.run(ahead=AHEAD)
        storage.schedules.disable("s")
        clock.advance(HOUR)
        schedule = storage.schedules.enable("s")
        assert schedule.enabled is True
        assert slots(storage.schedules.run(ahead=AHEAD)) == days(1, 4)
        assert storage.schedules.enable("s") == storage.schedules.get("s")
        assert storage.schedules.run(ahead=AHEAD) == []

    @pytest.mark.parametrize("catch_up", ["none", "last", "all"])
    def test_what_passes_while_it_is_disabled_is_not_missed(
        self, storage: Storage, clock: FakeClock, catch_up: str
    ) -> None:
        put_daily(storage, catch_up=catch_up)
        storage.schedules.run()
        storage.schedules.disable("s")
        clock.advance(7 * DAY)
        storage.schedules.enable("s")
        assert slots(storage.schedules.run(ahead=2 * DAY)) == days(8, 9)

    def test_a_cancelled_job_outlasts_being_disabled(self, storage: Storage) -> None:
        put_daily(storage)
        removed, cancelled, _, _ = storage.schedules.run(ahead=AHEAD)
        storage.queue.remove(removed.id)
        storage.queue.cancel(cancelled.id)
        for _ in range(2):
            storage.schedules.disable("s")
            put_daily(storage, enabled=False, cron="0 10 * * *")
            put_daily(storage, enabled=False)
            storage.schedules.enable("s")
            assert slots(storage.schedules.run(ahead=AHEAD)) == days(3, 4)

    def test_put_enables_and_disables(self, storage: Storage) -> None:
        put_daily(storage)
        storage.schedules.run(ahead=AHEAD)
        assert put_daily(storage, enabled=False).enabled is False
        assert waiting(storage) == []
        put_daily(storage, enabled=False, content="other")
        assert storage.schedules.run(ahead=AHEAD) == []
        assert put_daily(storage, content="other").enabled is True
        assert {job.content for job in storage.schedules.run(ahead=AHEAD)} == {"other"}

    def test_removing_takes_the_waiting_jobs_along(self, storage: Storage, clock: FakeClock) -> None:
        put_daily(storage)
        jobs = storage.schedules.run(ahead=AHEAD)
        clock.time = jobs[1].scheduled_at
        held, other = storage.queue.claim_due(worker_id="w")
        storage.queue.mark_posted(held)
        assert storage.schedules.remove("s") is True
        assert [job.id for job in storage.queue.list()] == [held.id, other.id]
        assert storage.schedules.get("s") is None
        assert storage.schedules.list() == []
        assert storage.schedules.run(ahead=AHEAD) == []
        assert storage.schedules.remove("s") is False

    def test_the_waiting_jobs_are_those_that_go(self, storage: Storage, clock: FakeClock) -> None:
        """Also with another time, and among jobs of others; not one that has the key of a slot."""

        def key_of(slot: datetime) -> str:
            return f"schedule:s:{slot.isoformat()}"

        own = storage.queue.schedule("x", "own", idempotency_key=key_of(days(4, 4)[0]))
        put_daily(storage)
        posted, moved, cancelled = storage.schedules.run(ahead=AHEAD)
        put_daily(storage, id="other")
        storage.schedules.run()
        clock.time = posted.scheduled_at
        for job in storage.queue.claim_due(worker_id="w"):
            storage.queue.mark_posted(job)
        storage.queue.reschedule(moved.id, START + 9 * DAY)
        storage.queue.cancel(cancelled.id)
        storage.schedules.run(ahead=AHEAD)
        (later,) = [job for job in waiting(storage) if job.idempotency_key == key_of(days(5, 5)[0])]
        assert [job.id for job in storage.schedules.waiting("s")] == [moved.id, later.id]
        storage.schedules.disable("s")
        assert storage.schedules.waiting("s") == []
        assert {job.id for job in storage.queue.list(limit=100)} >= {own.id, posted.id, cancelled.id}
        with pytest.raises(NotFound):
            storage.schedules.waiting("no such")

    def test_a_schedule_that_was_removed_makes_nothing_again(
        self, storage: Storage, clock: FakeClock
    ) -> None:
        put_daily(storage)
        removed, cancelled, _, _ = storage.schedules.run(ahead=AHEAD)
        storage.queue.remove(removed.id)
        storage.queue.cancel(cancelled.id)
        storage.schedules.remove("s")
        assert put_daily(storage, starts_at=START - 9 * DAY, catch_up="all").updated_at == START
        assert slots(storage.schedules.run(ahead=AHEAD)) == days(3, 4)
        clock.advance(3 * DAY)
        storage.schedules.run(ahead=AHEAD)
        for job in waiting(storage):
            storage.queue.remove(job.id)
        storage.schedules.remove("s")
        put_daily(storage, starts_at=START - 9 * DAY, catch_up="all")
        assert slots(storage.schedules.run(ahead=AHEAD + DAY)) == days(8, 8)
