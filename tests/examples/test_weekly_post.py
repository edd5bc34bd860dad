"""examples/weekly_post.py: put, put again, changed, and published by a worker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from assistly.storage import Storage, open_storage
from assistly.worker import Worker
from examples import weekly_post
from examples.weekly_post import WEEK, Weekly

MONDAY = datetime(2031, 3, 24, tzinfo=UTC)
"""The last one before clocks are set forward in London."""

DAYS = timedelta(days=14)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, storage: Storage) -> list[datetime]:
    """The time of the storage."""
    moment = [MONDAY]
    monkeypatch.setattr(storage._context, "clock", lambda: moment[0])
    return moment


def test_bread_is_out_at_nine_on_the_clock(storage: Storage, at: list[datetime]) -> None:
    weekly_post.put_all(storage)
    jobs = storage.schedules.run(ahead=DAYS)
    bread = [job.scheduled_at for job in jobs if job.content == WEEK[0].content]
    assert [(time.day, time.hour) for time in bread] == [
        *((day, 9) for day in range(24, 29)),
        *((day, 8) for day in (31, 1, 2, 3, 4)),
    ]
    assert len(jobs) == 10 + 2 + 1
    assert {job.max_lateness for job in jobs} == {timedelta(hours=2)}


def test_a_second_start_changes_nothing(storage: Storage, at: list[datetime]) -> None:
    weekly_post.put_all(storage)
    storage.schedules.run(ahead=DAYS)
    cancelled = storage.queue.cancel(storage.queue.upcoming()[0].id)
    before = storage.queue.list(), storage.schedules.list()
    at[0] += timedelta(hours=1)
    weekly_post.put_all(storage)
    assert storage.schedules.run(ahead=DAYS - timedelta(hours=1)) == []
    assert (storage.queue.list(), storage.schedules.list()) == before
    assert storage.queue.get(cancelled.id) == cancelled


def test_another_week(storage: Storage, at: list[datetime]) -> None:
    storage.schedules.put("of others", "x", "hello", cron="0 9 * * *")
    storage.schedules.put("bakery", "x", "hello", cron="0 9 * * *")
    weekly_post.put_all(storage)
    storage.schedules.run(ahead=DAYS)
    storage.schedules.disable("bakery/closing")
    weekly_post.put_all(storage, [Weekly("bread", WEEK[0].cron, "Rye bread!"), WEEK[2]])
    contents = {job.content for job in storage.queue.upcoming() if job.platform == "mastodon"}
    assert contents == {"Rye bread!"}
    assert [schedule.id for schedule in storage.schedules.list()] == [
        "bakery",
        "bakery/bread",
        "bakery/closing",
        "of others",
    ]
    assert [content for _, content in weekly_post.upcoming(storage, 2)] == ["Rye bread!"] * 2


def test_a_worker_publishes_them(storage: Storage, at: list[datetime]) -> None:
    weekly_post.put_all(storage)
    storage.schedules.run(ahead=DAYS)
    published = []
    worker = Worker(storage, {"mastodon": lambda job: published.append(job.content)})
    at[0] = MONDAY.replace(hour=9)
    worker.run_until_idle()
    assert published == [WEEK[0].content]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_script_shows_what_comes_next(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    weekly_post.main()
    assert len(capsys.readouterr().out.splitlines()) == 5
    with open_storage() as storage:
        assert len(storage.schedules.list()) == len(WEEK)
