"""Schedules: what is stored, and which slots become jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue, NotFound
from ..records import Job, JobStatus, Schedule
from ..storage import Storage
from .fixtures import (
    DAY,
    END_OF_TIME,
    HOUR,
    MINUTE,
    SECOND,
    START,
    START_OF_TIME,
    TICK,
    Contract,
    FakeClock,
    census,
    open_for_test,
    undone,
)

DAILY = "0 9 * * *"
NINE = START.replace(hour=9)
"""Three hours before START."""


def slots(jobs: Sequence[Job]) -> list[datetime]:
    return [job.scheduled_at for job in jobs]


def waiting(storage: Storage) -> list[Job]:
    return storage.queue.upcoming(limit=1000)


def put_daily(storage: Storage, **fields: Any) -> Schedule:
    """One with a slot each day at nine."""
    return storage.schedules.put(**{"id": "s", "platform": "x", "content": "hello", "cron": DAILY, **fields})


def days(first: int, last: int) -> list[datetime]:
    return [NINE + number * DAY for number in range(first, last + 1)]


class SchedulesContract(Contract):
    """What is stored."""

    def test_a_new_schedule(self, storage: Storage) -> None:
        schedule = put_daily(storage)
        assert schedule == Schedule(
            "s",
            "x",
            "hello",
            {},
            cron=DAILY,
            every=None,
            zone="UTC",
            starts_at=START,
            ends_at=None,
            max_lateness=None,
            max_retries=None,
            catch_up="none",
            enabled=True,
            updated_at=START,
            made_until=START - TICK,
        )
        assert storage.schedules.get("s") == schedule
        assert storage.schedules.list() == [schedule]
        assert storage.schedules.get("S") is None
        assert storage.queue.list() == []

    def test_all_that_a_schedule_has(self, storage: Storage) -> None:
        given = {
            "every": 6 * HOUR + TICK,
            "zone": "Europe/Berlin",
            "starts_at": START - DAY + TICK,
            "ends_at": START + DAY,
            "metadata": {"tags": ["a", 1, True, 1.0, None]},
            "max_lateness": HOUR,
            "max_retries": 7,
            "catch_up": "last",
            "enabled": False,
        }
        schedule = storage.schedules.put("é", "mastodon", "", **given, now=START + SECOND)  # type: ignore[arg-type]
        for name, value in given.items():
            assert getattr(schedule, name) == value, name
        assert (schedule.platform, schedule.content, schedule.cron) == ("mastodon", "", None)
        assert schedule.updated_at == START + SECOND
        assert storage.schedules.get("é") == schedule

    def test_the_metadata_of_a_schedule_is_a_copy(self, storage: Storage) -> None:
        metadata: dict[str, Any] = {"list": [1]}
        schedule = put_daily(storage, metadata=metadata)
        metadata["list"].append(2)
        schedule.metadata["list"].append(3)
        read = storage.schedules.get("s")
        assert read is not None
        assert read.metadata == {"list": [1]}

    def test_the_same_again_changes_nothing(self, storage: Storage, clock: FakeClock) -> None:
        schedule = put_daily(storage, every=HOUR, cron=None)
        before = census(storage)
        clock.advance(MINUTE)
        assert put_daily(storage, every=HOUR, cron=None) == schedule
        assert census(storage) == before

    def test_the_anchor_stays_unless_another_is_given(self, storage: Storage, clock: FakeClock) -> None:
        put_daily(storage, every=HOUR, cron=None)
        clock.advance(10 * MINUTE)
        changed = put_daily(storage, every=2 * HOUR, cron=None)
        assert (changed.starts_at, changed.updated_at) == (START, START + 10 * MINUTE)
        assert storage.schedules.preview("s", 2) == [START + 2 * HOUR, START + 4 * HOUR]
        assert put_daily(storage, every=2 * HOUR, cron=None, starts_at=START + HOUR).starts_at == START + HOUR

    def test_lists_schedules_by_id(self, storage: Storage) -> None:
        made = {id: put_daily(storage, id=id, enabled=id != "b") for id in ("b", "é", "a", "a:b", "Z")}
        ordered = [made[id] for id in ("Z", "a", "a:b", "b", "é")]
        assert storage.schedules.list() == ordered
        assert storage.schedules.list(limit=2) == ordered[:2]
        assert storage.schedules.list(after=ordered[1]) == ordered[2:]
        assert storage.schedules.list(after="a", limit=1) == ordered[2:3]
        assert storage.schedules.list(after="z") == [made["é"]]

    def test_a_schedule_that_is_not_there(self, storage: Storage) -> None:
        assert storage.schedules.get("s") is None
        assert storage.schedules.remove("s") is False
        assert storage.schedules.list() == []
        for call in (storage.schedules.enable, storage.schedules.disable):
            with pytest.raises(NotFound, match="'s'"):
                call("s")
        with pytest.raises(NotFound, match="'s'"):
            storage.schedules.preview("s", 1)

    def test_a_schedule_is_put_in_a_transaction(self, storage: Storage) -> None:
        with undone(storage) as tx:
            put_daily(tx)
            assert len(tx.schedules.run(ahead=3 * DAY)) == 3
        assert storage.schedules.list() == []
        assert storage.schedules.run(ahead=3 * DAY) == []
        with storage.transaction() as tx:
            put_daily(tx)
        assert len(storage.schedules.run(ahead=3 * DAY)) == 3

    def test_preview(self, storage: Storage, clock: FakeClock) -> None:
        put_daily(storage, ends_at=NINE + 3 * DAY)
        assert storage.schedules.preview("s", 2) == days(1, 2)
        assert storage.schedules.preview("s", 1000) == days(1, 3)
        assert storage.schedules.preview("s", 9, now=NINE + 2 * DAY) == days(2, 3)
        assert storage.schedules.preview("s", 9, now=NINE + 2 * DAY + TICK) == days(3, 3)
        storage.schedules.run(ahead=2 * DAY)
        storage.schedules.disable("s")
        clock.advance(DAY)
        assert storage.schedules.preview("s", 2) == days(2, 3)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"id": ""}, "id"),
            ({"id": 1}, "id"),
            ({"id": "k" * 471}, "470"),
            ({"id": "é" * 236}, "470"),
            ({"platform": ""}, "platform"),
            ({"content": None}, "content"),
            ({"content": "x" * 524_287}, "524288"),
            ({"metadata": [1]}, "metadata"),
            ({"metadata": {"a": object()}}, "metadata"),
            ({"cron": None}, "either cron"),
            ({"every": HOUR}, "either cron"),
            ({"cron": 9}, "cron"),
            ({"cron": "* * * *"}, "has 4 fields.*0 9 \\* \\* MON"),
            ({"cron": "0 0 9 * * *"}, "has 6 fields"),
            ({"cron": "@daily"}, "fields"),
            ({"cron": "60 9 * * *"}, "bad minute.*0 9 \\* \\* MON"),
            ({"cron": "0 9 * * MOON"}, "bad day-of-week"),
            ({"cron": "0 9 30 2 *"}, "bad day-of-month"),
            ({"cron": "0 9 */40 * MON#5"}, "50 years"),
            ({"cron": None, "every": timedelta(0)}, "every"),
            ({"cron": None, "every": SECOND - TICK}, "one second"),
            ({"cron": None, "every": 60}, "every"),
            ({"zone": "Europe/Bärlin"}, "zone.*'Europe/Berlin'"),
            ({"zone": "../UTC"}, "zone"),
            ({"zone": "Europe"}, "zone"),
            ({"zone": ""}, "zone"),
            ({"zone": None}, "zone"),
            ({"starts_at": START.replace(tzinfo=None)}, "starts_at"),
            ({"ends_at": "tomorrow"}, "ends_at"),
            ({"starts_at": START, "ends_at": START - TICK}, "before starts_at"),
            ({"max_lateness": -HOUR}, "max_lateness"),
            ({"max_retries": 0}, "max_retries"),
            ({"catch_up": "some"}, "catch_up must be one of none, last, all"),
            ({"catch_up": None}, "catch_up"),
            ({"enabled": 1}, "enabled"),
        ],
    )
    def test_wrong_schedules(self, storage: Storage, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidValue, match=message):
            put_daily(storage, **fields)
        assert storage.schedules.list() == []

    @pytest.mark.parametrize("fields", [{"ahead": -TICK}, {"ahead": 1}, {"now": "noon"}])
    def test_wrong_runs(self, storage: Storage, fields: dict[str, Any]) -> None:
        with pytest.raises(InvalidValue):
            storage.schedules.run(**fields)

    def test_wrong_questions(self, storage: Storage) -> None:
        put_daily(storage)
        wrong: list[Any] = [0, 1001, True, "1", None]
        for count in wrong:
            with pytest.raises(InvalidValue, match="count"):
                storage.schedules.preview("s", count)
            with pytest.raises(InvalidValue, match="limit"):
                storage.schedules.list(limit=count)

    def test_the_longest_id(self, storage: Storage) -> None:
        id = "\U0001f600" * 117
        put_daily(storage, id=id, starts_at=START + TICK, cron=None, every=DAY)
        (job,) = storage.schedules.run(ahead=HOUR)
        assert job.idempotency_key == f"schedule:{id}:{(START + TICK).isoformat()}"
        assert storage.schedules.remove(id) is True


class ScheduleRunsContract(Contract):
    """Which slots become jobs, once each."""

    def test_a_slot_becomes_a_job(self, storage: Storage) -> None:
        put_daily(storage, metadata={"a": [1]}, max_retries=7, max_lateness=HOUR)
        (job,) = storage.schedules.run()
        assert job == storage.queue.get(job.id)
        assert (job.status, job.platform, job.content) == (JobStatus.SCHEDULED, "x", "hello")
        assert job.metadata == {"a": [1]}
        assert job.scheduled_at == job.due_at == NINE + DAY
        assert (job.max_retries, job.max_lateness) == (7, HOUR)
        assert job.idempotency_key == "schedule:s:2026-01-16T09:00:00+00:00"
        assert job.created_at == START

    def test_defaults_are_those_of_the_queue(self, storage: Storage) -> None:
        put_daily(storage)
        (job,) = storage.schedules.run()
        other = storage.queue.schedule("x", "hello")
        assert (job.max_retries, job.max_lateness) == (other.max_retries, None)

    def test_a_second_run_makes_nothing(self, storage: Storage, clock: FakeClock) -> None:
        put_daily(storage)
        put_daily(storage, id="t", cron=None, every=HOUR)
        assert len(storage.schedules.run()) == 1 + 25
        before = census(storage)
        assert storage.schedules.run() == []
        clock.advance(HOUR - TICK)
        assert storage.schedules.run() == []
        assert storage.schedules.run(ahead=timedelta(0)) == []
        assert census(storage) == before

    def test_each_run_goes_on(self, storage: Storage) -> None:
        put_daily(storage)
        assert slots(storage.schedules.run(ahead=2 * DAY)) == days(1, 2)
        assert slots(storage.schedules.run(ahead=2 * DAY, now=START + DAY)) == days(3, 3)
        assert slots(storage.schedules.run(ahead=4 * DAY)) == days(4, 4)
        assert slots(storage.schedules.run(ahead=2 * DAY, now=START + 2 * DAY)) == []
        assert slots(storage.schedules.run(ahead=2 * DAY, now=START + 3 * DAY)) == days(5, 5)

    def test_the_edges_of_a_run(self, storage: Storage) -> None:
        put_daily(storage, starts_at=NINE)
        assert slots(storage.schedules.run(ahead=timedelta(0), now=NINE)) == days(0, 0)
        assert storage.schedules.run(ahead=DAY - TICK, now=NINE) == []
        assert slots(storage.schedules.run(ahead=DAY, now=NINE)) == days(1, 1)

    def test_the_first_and_the_last_slot(self, storage: Storage) -> None:
        put_daily(storage, starts_at=NINE + DAY, ends_at=NINE + 3 * DAY)
        put_daily(storage, id="t", starts_at=NINE + DAY + TICK, ends_at=NINE + 3 * DAY - TICK)
        jobs = storage.schedules.run(ahead=9 * DAY)
        assert sorted(slots(jobs)) == sorted([*days(1, 3), *days(2, 2)])
        assert storage.schedules.run(ahead=99 * DAY) == []

    def test_every_is_anchored(self, storage: Storage, clock: FakeClock) -> None:
        """At starts_at, whenever it is run."""
        put_daily(storage, cron=None, every=7 * HOUR, starts_at=START + 30 * MINUTE)
        expected = [START + 30 * MINUTE + number * 7 * HOUR for number in range(7)]
        assert slots(storage.schedules.run(ahead=DAY)) == expected[:4]
        clock.advance(13 * HOUR + 17 * MINUTE)
        storage.schedules.run(ahead=timedelta(0))
        assert slots(storage.schedules.run(ahead=DAY)) == expected[4:6]

    def test_every_second(self, storage: Storage) -> None:
        put_daily(storage, cron=None, every=SECOND)
        assert slots(storage.schedules.run(ahead=3 * SECOND)) == [START + n * SECOND for n in range(4)]

    def test_nine_stays_nine_over_a_change_of_clocks(self, storage: Storage) -> None:
        put_daily(storage, zone="America/New_York", starts_at=START.replace(month=3, day=7))
        jobs = storage.schedules.run(ahead=2 * DAY, now=START.replace(month=3, day=7))
        assert [job.scheduled_at.hour for job in jobs] == [14, 13]

    @pytest.mark.parametrize("end", ["removed", "cancelled", "posted", "failed"])
    def test_what_became_a_job_does_not_come_back(self, storage: Storage, clock: FakeClock, end: str) -> None:
        put_daily(storage)
        (job,) = storage.schedules.run()
        if end == "removed":
            storage.queue.remove(job.id)
        elif end == "cancelled":
            storage.queue.cancel(job.id)
        else:
            (claimed,) = storage.queue.claim_due(worker_id="w", now=NINE + DAY)
            if end == "posted":
                storage.queue.mark_posted(claimed, now=NINE + DAY)
                storage.queue.remove(job.id)
            else:
                storage.queue.mark_failed(claimed, "no", retryable=False, now=NINE + DAY)
        for now in (START, START + HOUR, NINE + DAY, START + DAY, START):
            assert slots(storage.schedules.run(ahead=NINE + DAY - START, now=now))[:1] != days(1, 1)
        assert all(job.scheduled_at > NINE + DAY for job in waiting(storage))

    def test_a_job_of_the_same_key_stays(self, storage: Storage) -> None:
        key = f"schedule:s:{(NINE + DAY).isoformat()}"
        own = storage.queue.schedule("y", "my own", START + DAY, idempotency_key=key)
        put_daily(storage)
        assert slots(storage.schedules.run(ahead=2 * DAY)) == days(2, 2)
        assert storage.queue.get(own.id) == own

    @pytest.mark.parametrize("change", ["put", "disable", "remove"])
    @pytest.mark.parametrize("made_first", [False, True])
    def test_no_change_touches_a_users_job_of_the_same_key(
        self, storage: Storage, change: str, made_first: bool
    ) -> None:
        key = f"schedule:s:{(NINE + DAY).isoformat()}"
        put_daily(storage)
        if made_first:  # by the schedule, and then the user has put a job of their own in its place
            (made,) = (job for job in storage.schedules.run(ahead=2 * DAY) if job.idempotency_key == key)
            storage.queue.remove(made.id)
        own = storage.queue.schedule("y", "my own", START + DAY, idempotency_key=key)
        assert own.content == "my own"
        storage.schedules.run(ahead=2 * DAY)
        if change == "put":
            put_daily(storage, content="other")
        elif change == "disable":
            storage.schedules.disable("s")
        else:
            storage.schedules.remove("s")
        assert storage.queue.get(own.id) == own

    def test_a_passed_slot_does_not_come_back_after_a_removal(
        self, storage: Storage, clock: FakeClock
    ) -> None:
        def put() -> None:
            storage.schedules.put("s", "x", "hello", every=7 * HOUR, starts_at=START, catch_up="all")

        put()
        made = slots(storage.schedules.run(ahead=DAY))
        clock.advance(12 * HOUR)
        storage.schedules.remove("s")
        put()
        assert slots(storage.schedules.run(ahead=DAY))[:2] == made[2:]

    def test_ended_and_disabled_schedules_make_no_jobs(self, storage: Storage) -> None:
        put_daily(storage, id="a", enabled=False)
        put_daily(storage, id="b", ends_at=START)
        put_daily(storage, id="c", starts_at=END_OF_TIME)
        put_daily(storage, id="d", cron="0 9 29 2 *")
        assert storage.schedules.run(ahead=9 * DAY) == []

    @pytest.mark.parametrize(
        ("catch_up", "missed"), [("none", []), ("last", days(7, 7)), ("all", days(2, 7))]
    )
    def test_after_a_week_off(
        self, storage: Storage, clock: FakeClock, catch_up: str, missed: list[datetime]
    ) -> None:
        put_daily(storage, catch_up=catch_up)
        assert slots(storage.schedules.run()) == days(1, 1)
        clock.advance(7 * DAY)
        assert slots(storage.schedules.run()) == [*missed, *days(8, 8)]
        assert storage.schedules.run() == []
        assert slots(storage.schedules.run(ahead=2 * DAY)) == days(9, 9)

    @pytest.mark.parametrize(("catch_up", "missed"), [("last", days(7, 7)), ("all", days(6, 7))])
    def test_what_is_too_late_is_not_made_up_for(
        self, storage: Storage, clock: FakeClock, catch_up: str, missed: list[datetime]
    ) -> None:
        put_daily(storage, catch_up=catch_up, max_lateness=DAY + 3 * HOUR)
        put_daily(storage, id="t", catch_up=catch_up, max_lateness=3 * HOUR - TICK)
        clock.advance(7 * DAY)
        assert slots(storage.schedules.run(ahead=timedelta(0))) == missed
        assert len(storage.queue.claim_due(worker_id="w")) == len(missed)
        assert storage.queue.dead_letters() == []

    @pytest.mark.parametrize("catch_up", ["last", "all"])
    def test_a_single_missed_slot(self, storage: Storage, clock: FakeClock, catch_up: str) -> None:
        put_daily(storage, catch_up=catch_up)
        clock.time = NINE + DAY + TICK
        assert slots(storage.schedules.run(ahead=timedelta(0))) == days(1, 1)
        assert storage.schedules.run(ahead=timedelta(0)) == []

    def test_the_last_slot_that_was_made_in_time_is_not_missed(
        self, storage: Storage, clock: FakeClock
    ) -> None:
        put_daily(storage, catch_up="last")
        storage.schedules.run(ahead=9 * DAY)
        clock.advance(7 * DAY)
        assert storage.schedules.run(ahead=2 * DAY) == []

    @pytest.mark.parametrize(("catch_up", "count"), [("none", 1), ("last", 2), ("all", 8)])
    def test_slots_before_the_first_put_are_missed(self, storage: Storage, catch_up: str, count: int) -> None:
        put_daily(storage, cron=None, every=DAY, starts_at=START - 7 * DAY, catch_up=catch_up)
        made = slots(storage.schedules.run(ahead=timedelta(0)))
        assert made == [START - number * DAY for number in reversed(range(count))]

    def test_a_slot_at_now_is_not_missed(self, storage: Storage) -> None:
        put_daily(storage, starts_at=NINE)
        assert storage.schedules.run(ahead=timedelta(0), now=NINE - TICK) == []
        assert slots(storage.schedules.run(ahead=timedelta(0), now=NINE)) == days(0, 0)
        assert storage.schedules.run(ahead=timedelta(0), now=NINE + DAY + TICK) == []

    def test_a_clock_that_goes_back_makes_nothing_again(self, storage: Storage) -> None:
        put_daily(storage, catch_up="all")
        for job in storage.schedules.run(ahead=3 * DAY, now=START + 3 * DAY):
            storage.queue.remove(job.id)
        for now in (START, START - 9 * DAY, START + DAY):
            assert storage.schedules.run(ahead=2 * DAY, now=now) == []
        assert slots(storage.schedules.run(ahead=4 * DAY, now=START + 3 * DAY)) == days(7, 7)
        assert slots(storage.schedules.run(ahead=8 * DAY, now=START)) == days(8, 8)
        put_daily(storage, catch_up="all", content="other", now=START)
        put_daily(storage, catch_up="all", cron="0 9,10 * * *", now=START)
        assert not {*slots(storage.schedules.run(ahead=8 * DAY))} & {*days(1, 8)}

    def test_many_schedules(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("assistly.storage.stores.schedules._PAGE", 10)
        for number in range(23):
            put_daily(storage, id=f"s{number}", content=f"post {number}")
        jobs = storage.schedules.run()
        assert {job.content for job in jobs} == {f"post {number}" for number in range(23)}
        assert len(jobs) == len(waiting(storage)) == 23
        assert storage.schedules.run() == []
        assert len(storage.schedules.run(now=START + DAY)) == 23

    def test_a_schedule_that_cannot_be_read_here_stops_no_other(
        self, backend: StorageBackend, storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        put_daily(storage, id="a", zone="Europe/Berlin")
        put_daily(storage, id="b")

        def unknown(name: str) -> Any:
            if name == "UTC":
                return START.tzinfo
            raise InvalidValue(f"zone {name} is unknown here")

        with monkeypatch.context() as patch:
            patch.setattr("assistly.storage.recurrence.zone_of", unknown)
            assert slots(storage.schedules.run()) == days(1, 1)
        assert "'a'" in caplog.text
        assert "Europe/Berlin" in caplog.text
        assert len(open_for_test(backend, lambda: START).schedules.run()) == 1

    def test_slots_at_the_ends_of_time(self, storage: Storage) -> None:
        put_daily(storage, id="a", cron=None, every=DAY, starts_at=END_OF_TIME - HOUR)
        put_daily(storage, id="b", starts_at=START_OF_TIME + DAY)
        put_daily(storage, id="c", cron=None, every=timedelta.max)
        put_daily(storage, id="d", ends_at=END_OF_TIME, zone="Pacific/Auckland")
        jobs = storage.schedules.run(ahead=timedelta(0), now=END_OF_TIME)
        assert slots(jobs) == []
        storage.schedules.preview("a", 9)
        assert len(storage.schedules.preview("d", 9, now=END_OF_TIME - 3 * DAY)) in (2, 3)
