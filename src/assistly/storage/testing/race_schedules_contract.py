"""Races of those who run schedules, and of those who change them."""

from __future__ import annotations

from . import race_schedules
from .fixtures import DAY, HOUR, START
from .race_schedules import DAILY
from .races import Race
from .racing import RacingContract, flat, rounds
from .schedules_contract import NINE, days, slots, waiting


class RecurrenceRacesContract(RacingContract):
    """The history of jobs is not checked: it does not tell which ones schedules have made."""

    def test_a_slot_becomes_a_job_of_one_runner(self, race: Race) -> None:
        storage = race._unrecorded
        for number in range(15):
            storage.schedules.put(f"s{number}", "x", f"post {number}", cron=DAILY, catch_up="all")
        moments = [START + number * 31 * HOUR for number in range(4)]
        made = flat(flat(race.run(race_schedules.run_all, moments, DAY)))
        assert len({job.id for job in made}) == len(made)
        last = moments[-1] + DAY
        expected = [slot for slot in days(1, 9) if slot <= last]
        for number in range(15):
            assert sorted(slots([job for job in made if job.content == f"post {number}"])) == expected
        assert len(waiting(storage)) == len(made)

    def test_a_schedule_is_put_for_the_first_time_by_all(self, race: Race) -> None:
        ids = [f"s{number}" for number in range(10)]
        answers = rounds(race.run(race_schedules.put_and_run, ids, 2 * DAY))
        for id, given in zip(ids, answers, strict=True):
            assert {schedule.id for schedule, _ in given} == {id}
            assert race._unrecorded.schedules.get(id) is not None
            assert len({repr((schedule.starts_at, schedule.updated_at)) for schedule, _ in given}) == 1
        made = [job for given in answers for _, jobs in given for job in jobs]
        assert len(made) == len({job.idempotency_key for job in made}) == 2 * len(ids)

    def test_changes_and_runs(self, race: Race) -> None:
        storage = race._unrecorded
        ids = [f"s{number}" for number in range(6)]
        for id in ids:
            storage.schedules.put(id, "x", "hello", cron=DAILY)
        race.run(race_schedules.run_or_change, ids, 3 * DAY)
        storage.schedules.run(ahead=3 * DAY)
        jobs = waiting(storage)
        assert sorted((job.idempotency_key, job.content) for job in jobs) == sorted(
            (f"schedule:{id}:{(slot + HOUR).isoformat()}", "other") for id in ids for slot in days(1, 3)
        )
        assert all(job.scheduled_at > NINE for job in jobs)

    def test_a_removed_schedule_leaves_no_jobs(self, race: Race) -> None:
        storage = race._unrecorded
        ids = [f"s{number}" for number in range(6)]
        for id in ids:
            storage.schedules.put(id, "x", "hello", cron=DAILY)
        race.run(race_schedules.run_or_remove, ids, 3 * DAY)
        assert storage.schedules.list() == []
        assert waiting(storage) == []
