"""The views that the page alone uses: searching backwards, the calendar, the hours and their chart."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import islice
from math import isfinite
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from assistly.storage import Event, Job, MemoryBackend, Storage
from assistly.storage.testing.fixtures import FakeClock
from assistly.views import events, search
from assistly.views.calendar import calendar, day_contents, day_exists, midnight
from assistly.views.events import EventFilter
from assistly.views.history import KINDS, History, Hour, history
from assistly.views.job_filter import JobFilter
from assistly.views.status import JobCount
from assistly.web import create_app
from assistly.web.chart import HEIGHT, WIDTH, chart
from web.browsing import Browser
from web.filling import HOUR, claim, dead_letter

DAY = timedelta(days=1)


class Ids:
    """A queue that only has ids, and lists them as the queue of a storage does."""

    def __init__(self, ids: set[int]) -> None:
        self.ids = sorted(ids)
        self.calls = 0

    def list(self, *, after: int = 0, limit: int, status: Any = None, platform: Any = None) -> list[Job]:
        self.calls += 1
        assert limit <= 1000
        found = (id for id in self.ids if id > after and (platform is None or str(id % 7) == platform))
        return [cast("Job", SimpleNamespace(id=id, platform=str(id % 7))) for id in islice(found, limit)]


class Multiples(JobFilter):
    """Accepts the multiples of a number, and of a platform."""

    def accepts(self, job: Job) -> bool:
        return job.id % 3 == 0 and self.platform in (None, job.platform)


def storage_of(ids: set[int]) -> Storage:
    return cast("Storage", SimpleNamespace(queue=Ids(ids)))


SPARSE = st.sets(st.integers(1, 10**9), max_size=30)
GAPS = st.sets(st.integers(0, 3000), max_size=50)
DENSE = st.builds(
    lambda first, length, gaps: {first + number for number in range(1, length + 1) if number not in gaps},
    st.integers(0, 10**6),
    st.integers(0, 3000),
    GAPS,
)


@settings(deadline=None)
@given(ids=SPARSE | DENSE | st.tuples(SPARSE, DENSE).map(lambda both: both[0] | both[1]))
@example(ids=set())
@example(ids={1})
@example(ids={2**53})
@example(ids={*range(1, 1001)})
@example(ids={*range(1, 1002)})
def test_the_highest_id(ids: set[int]) -> None:
    storage = storage_of(ids)
    assert search.highest_id(storage) == max(ids, default=0)
    assert cast("Ids", storage.queue).calls <= 130


@settings(deadline=None)
@given(
    ids=SPARSE | DENSE | st.tuples(SPARSE, DENSE).map(lambda both: both[0] | both[1]),
    limit=st.integers(1, 60),
    most=st.sampled_from([1, 50, 5000]),
    thirds=st.booleans(),
    platform=st.sampled_from([None, "3"]),
    before=st.none() | st.integers(0, 10**9),
)
@example(ids={*range(1, 5000)}, limit=50, most=5000, thirds=False, platform=None, before=None)
@example(ids={*range(1, 1100)}, limit=1, most=1, thirds=True, platform="3", before=1001)
@example(ids={1, 10**9}, limit=50, most=5000, thirds=False, platform=None, before=None)
def test_each_job_is_found_once(
    ids: set[int], limit: int, most: int, thirds: bool, platform: str | None, before: int | None
) -> None:
    wanted = (Multiples if thirds else JobFilter)(platform=platform)
    storage = storage_of(ids)
    seen: list[int] = []
    below = max(ids, default=0) + 1 if before is None else before
    for _ in range(len(ids) + 200):
        found = search.newest(storage, wanted, before=before, limit=limit, most=most)
        assert len(found.items) <= limit
        assert len(found.items) == limit or found.before is None or not found.searched_all
        seen += [job.id for job in found.items]
        if found.before is None:
            break
        assert before is None or found.before < before
        before = found.before
    else:
        pytest.fail("the search does not end")
    expected = [
        id
        for id in sorted(ids, reverse=True)
        if (not thirds or id % 3 == 0) and (platform is None or str(id % 7) == platform)
    ]
    assert seen == [id for id in expected if id < below]


def test_a_search_looks_at_a_bounded_number_of_jobs() -> None:
    storage = storage_of({*range(1, 60_001)})
    found = search.newest(storage, Nothing(platform="3"), limit=50, most=5000)
    assert (found.items, found.searched_all) == ([], False)
    assert cast("Ids", storage.queue).calls < 60


class Nothing(JobFilter):
    def accepts(self, job: Job) -> bool:
        return False


def test_searching_on_an_engine(storage: Storage) -> None:
    jobs = [storage.queue.schedule("x" if number % 3 else "y", f"post {number}") for number in range(130)]
    for job in jobs[10:90:2]:
        storage.queue.remove(job.id)
    stored = storage.queue.list(limit=1000)[::-1]
    for wanted in (JobFilter(), JobFilter(platform="y"), JobFilter(statuses=("scheduled",), platform="x")):
        before, seen = None, []
        while True:
            found = search.newest(storage, wanted, before=before, limit=17)
            seen += found.items
            before = found.before
            if before is None:
                break
        assert seen == [job for job in stored if wanted.accepts(job)]


@settings(deadline=None, max_examples=30)
@given(
    types=st.lists(st.sampled_from(["a.x", "a.y", "b"]), max_size=40),
    limit=st.integers(1, 10),
    most=st.sampled_from([1, 5000]),
    type=st.sampled_from([None, "a.*", "b", "none"]),
)
def test_events_are_found_once(types: list[str], limit: int, most: int, type: str | None) -> None:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        for number, name in enumerate(types):
            storage.events.append(name, {"by": "ann" if number % 2 else "bob"})
        wanted = EventFilter(type, "ann")
        seen: list[Event] = []
        before = None
        while True:
            found = events.search(storage, wanted, before=before, limit=limit, most=most)
            seen += found.items
            before = found.before
            if before is None:
                break
        assert seen == [event for event in storage.events.list(limit=1000) if wanted.accepts(event)]


# The calendar.


def one_day(storage: Storage, day: date, zone: str, **options: Any) -> dict[str, Any]:
    (found,) = calendar(storage, day, 1, ZoneInfo(zone), **options).days
    return found.cells


@pytest.mark.parametrize(
    ("day", "zone", "hours"),
    [
        (date(2026, 3, 29), "Europe/Berlin", 23),
        (date(2026, 10, 25), "Europe/Berlin", 25),
        (date(2026, 3, 8), "America/New_York", 23),
        (date(2026, 9, 6), "America/Santiago", 23),  # midnight does not exist
        (date(2026, 7, 1), "Asia/Kathmandu", 24),
    ],
)
def test_the_edges_of_a_day(storage: Storage, day: date, zone: str, hours: int) -> None:
    start, end = midnight(day, ZoneInfo(zone)), midnight(day + DAY, ZoneInfo(zone))
    assert end - start == timedelta(hours=hours)
    tick = timedelta(milliseconds=1)
    for at in (start - tick, start, end - tick, end):
        storage.queue.schedule("x", "a", at)
    assert one_day(storage, day, zone)["x"].waiting == JobCount(2)
    assert [job.due_at for job in day_contents(storage, start, end).jobs] == [start, end - tick]
    assert one_day(storage, day - DAY, zone)["x"].waiting == JobCount(1)
    assert one_day(storage, day + DAY, zone)["x"].waiting == JobCount(1)


def test_a_day_that_a_zone_skipped_is_left_out(storage: Storage) -> None:
    apia, skipped = ZoneInfo("Pacific/Apia"), date(2011, 12, 30)
    start = midnight(skipped, apia)
    assert start == midnight(skipped + DAY, apia)
    for at in (start - HOUR, start, start + HOUR):
        storage.queue.schedule("x", "a", at)
    days = calendar(storage, date(2011, 12, 26), 7, apia).days
    assert [day.day.day for day in days] == [26, 27, 28, 29, 31, 1]
    assert [day.end for day in days[:-1]] == [day.start for day in days[1:]]
    assert {day.day.day: day.cells["x"].waiting.count for day in days if day.cells} == {29: 1, 31: 2}
    assert [day.day.day for day in calendar(storage, skipped - DAY, 2, apia).days] == [29]
    assert calendar(storage, skipped, 1, apia).days == []
    assert [day_exists(skipped + number * DAY, apia) for number in (-1, 0, 1)] == [True, False, True]
    assert day_exists(date.max, apia)


def test_pages_of_a_day_that_a_zone_skipped(memory: Storage) -> None:
    browser = Browser(create_app(memory, zone="Pacific/Apia"))
    page = browser.open("/calendar?from=2011-12-26")
    (table,) = page.tables.values()
    assert {len(row) for row in table} == {7}
    assert table[1][4] == ""
    assert "/calendar/2011-12-30" not in page.links
    answer = browser.get("/calendar/2011-12-30")
    assert (answer.status_code, "skipped that day" in answer.text) == (404, True)
    assert "/calendar/2011-12-31" in browser.open("/calendar/2011-12-29").links
    assert "/calendar/2011-12-29" in browser.open("/calendar/2011-12-31").links
    for day in ("0001-01-02", "9999-12-30"):
        assert browser.get(f"/calendar/{day}").status_code in (200, 400)


def test_a_day_has_what_was_posted_and_what_failed(memory: Storage) -> None:
    today = datetime.now(UTC).date()
    memory.queue.mark_posted(memory.queue.begin_publish(claim(memory, "x")))
    dead_letter(memory, "x")
    memory.queue.cancel(memory.queue.schedule("x", "a").id)
    days = calendar(memory, today - DAY, 3, UTC).days
    cells = [day.cells["x"] for day in days if "x" in day.cells]
    assert sum(cell.posted.count for cell in cells) == 1
    assert sum(cell.dead.count for cell in cells) == 1
    assert sum(cell.waiting.count + cell.planned for cell in cells) == 0


@pytest.mark.parametrize("ahead", [timedelta(0), 5 * HOUR, 2 * DAY, 40 * DAY])
def test_a_time_of_a_schedule_is_counted_once(ahead: timedelta) -> None:
    """Whether it is a job already, or not yet."""
    start = datetime(2026, 3, 1, tzinfo=UTC)
    clock = FakeClock(start)
    with Storage(MemoryBackend(), clock=clock, auto_prune=False) as storage:
        storage.schedules.put("s", "x", "a", every=HOUR, starts_at=start)
        storage.schedules.put("off", "x", "a", every=HOUR, starts_at=start, enabled=False)
        storage.schedules.put("over", "x", "a", every=HOUR, starts_at=start, ends_at=start + 3 * HOUR)
        if ahead:
            storage.schedules.run(ahead=ahead)
        days = calendar(storage, start.date(), 4, UTC, now=clock()).days
    totals = [day.cells["x"].waiting.count + day.cells["x"].planned for day in days]
    assert totals == [24 + 4, 24, 24, 24]


@pytest.mark.parametrize("ahead", [timedelta(0), 5 * HOUR, 2 * DAY])
def test_a_day_has_the_numbers_of_the_calendar(ahead: timedelta) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    clock = FakeClock(start + 2 * HOUR)
    with Storage(MemoryBackend(), clock=clock, auto_prune=False) as storage:
        storage.schedules.put("b", "x", "of b", every=3 * HOUR, starts_at=start)
        storage.schedules.put("a", "y", "of a", every=2 * HOUR, starts_at=start)
        storage.schedules.put("off", "y", "off", every=2 * HOUR, starts_at=start, enabled=False)
        storage.queue.mark_posted(storage.queue.begin_publish(claim(storage, "x")))
        dead_letter(storage, "z")
        if ahead:
            storage.queue.cancel(storage.schedules.run(ahead=ahead)[0].id)
        for day in calendar(storage, start.date(), 3, UTC, now=clock()).days:
            found = day_contents(storage, day.start, day.end, now=clock())
            assert found.cells == day.cells
            assert (found.jobs_complete, found.planned_complete) == (True, True)
            assert len(found.jobs) == sum(cell.waiting.count for cell in day.cells.values())
            assert len(found.planned) == sum(cell.planned for cell in day.cells.values())
            assert all(day.start <= post.at < day.end for post in found.planned)
            assert found.planned == sorted(found.planned, key=lambda post: post.at)
            only = day_contents(storage, day.start, day.end, platform="y", now=clock(), limit=3)
            assert only.planned == [post for post in found.planned if post.schedule.id == "a"][:3]
            assert {*only.cells} == {"y"} & {*day.cells}
            assert only.planned_complete == (len(only.planned) == only.cells["y"].planned)


def test_a_plan_that_is_too_long_says_so(memory: Storage) -> None:
    memory.schedules.put("s", "x", "a", every=timedelta(seconds=1))
    found = calendar(memory, datetime.now(UTC).date(), 3, UTC)
    assert not found.planned_complete
    assert sum(day.cells["x"].planned for day in found.days if day.cells) == 2000


# The hours and their chart.


def test_the_hours(memory: Storage) -> None:
    now = datetime.now(UTC)
    memory.queue.schedule("x", "a", now + 2 * HOUR)
    memory.queue.schedule("y", "a", now + 2 * HOUR)
    memory.queue.schedule("y", "a", now + 30 * HOUR)
    memory.queue.mark_posted(memory.queue.begin_publish(claim(memory, "x")))
    for platform, waiting in ((None, 2), ("x", 1), ("none", 0)):
        found = history(memory, platform=platform, now=now)
        assert len(found.hours) == 48
        counts = [hour.counts.get("scheduled", JobCount(0)).count for hour in found.hours]
        assert sum(counts) == waiting
    middle = history(memory, now=now).hours[24]
    assert middle.start <= now < middle.start + HOUR
    posted = [hour.start for hour in history(memory, now=now).hours if "posted" in hour.counts]
    assert len(posted) == 1


@pytest.mark.parametrize("minutes", [0, 20, 59])
def test_the_line_of_now_is_at_the_minute(memory: Storage, minutes: int) -> None:
    now = datetime(2026, 3, 1, 12, minutes, tzinfo=UTC)
    drawn = chart(history(memory, now=now), UTC)
    step = (WIDTH - drawn.left) / 48
    assert drawn.now_x == pytest.approx(drawn.left + (24 + minutes / 60) * step, abs=0.06)


COUNTS = st.dictionaries(st.sampled_from(KINDS), st.builds(JobCount, st.integers(0, 1000), st.booleans()))


@given(st.lists(COUNTS, min_size=2, max_size=48), st.sampled_from(["UTC", "Asia/Kathmandu"]))
def test_the_chart(hours: list[dict[str, JobCount]], zone: str) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    made = History(start, [Hour(start + number * HOUR, counts) for number, counts in enumerate(hours)])
    drawn = chart(made, ZoneInfo(zone))
    level = int(drawn.levels[0].text.replace(",", ""))
    tall = drawn.base - 14
    shown = [(kind, counts[kind].count) for counts in hours for kind in KINDS if kind in counts]
    assert [bar.kind for bar in drawn.bars] == [kind for kind, count in shown if count]
    for bar, count in zip(drawn.bars, (count for _, count in shown if count), strict=True):
        assert all(isfinite(number) for number in (bar.x, bar.y, bar.width, bar.height))
        assert bar.height == pytest.approx(max(1.5, count / level * tall), abs=0.06)
        assert 0 <= bar.x < bar.x + bar.width <= WIDTH
        assert 0 <= bar.y < bar.y + bar.height <= drawn.base + 0.2 <= HEIGHT
    for x in {bar.x for bar in drawn.bars}:
        stack = sorted((bar for bar in drawn.bars if bar.x == x), key=lambda bar: -bar.y)
        for below, above in zip([None, *stack], stack, strict=False):
            bottom = drawn.base if below is None else below.y
            assert above.y + above.height == pytest.approx(bottom, abs=0.11)
    assert drawn.is_empty == (not drawn.bars)
    assert len(drawn.rows) == sum(1 for counts in hours if counts)
