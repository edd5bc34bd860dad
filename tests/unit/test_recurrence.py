"""The times of schedules, compared with a search through every minute."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from assistly.storage import InvalidValue
from assistly.storage.recurrence import Times, checked_cron, zone_of
from assistly.storage.testing.fixtures import examples

TICK = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
FIRST = datetime.min.replace(tzinfo=UTC)

CHANGES = {
    "Europe/Berlin": ["2026-03-29", "2026-10-25"],
    "America/New_York": ["2026-03-08", "2026-11-01"],
    "Australia/Lord_Howe": ["2026-04-05", "2026-10-04"],  # by half an hour
    "Africa/Cairo": ["2026-04-24", "2026-10-30"],  # at midnight
    "America/Sao_Paulo": ["2017-10-15", "2018-02-18"],  # at midnight
    "Pacific/Apia": ["2011-12-30"],  # a day that does not exist
    "Asia/Kathmandu": ["2026-06-01"],
    "UTC": ["2026-06-01"],
}
"""Days on which clocks are changed, or not."""


def cron(expression: str, zone: str = "UTC", starts_at: datetime = FIRST) -> Times:
    return Times(expression, None, zone, starts_at, None)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def shown(times: Times, since: str, count: int) -> list[str]:
    """The next slots, in the zone of the times."""
    slots = islice(times.since(at(since)), count)
    return [slot.astimezone(ZoneInfo(times.zone)).isoformat()[5:16] for slot in slots]


@pytest.mark.parametrize(
    ("expression", "zone", "since", "expected"),
    [
        ("0 9 * * *", "Europe/Berlin", "2026-03-28T00:00+01:00", ["28T09:00", "29T09:00", "30T09:00"]),
        ("0 9 * * *", "Europe/Berlin", "2026-10-24T00:00+02:00", ["24T09:00", "25T09:00", "26T09:00"]),
        # It does not exist: the next time that does, once.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00+01:00", ["28T02:30", "29T03:00", "30T02:30"]),
        ("*/20 2-3 * * *", "Europe/Berlin", "2026-03-29T00:00+01:00", ["29T03:00", "29T03:20", "29T03:40"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00+10:30", ["03T02:15", "04T02:30", "05T02:15"]),
        ("0 0 * * *", "Africa/Cairo", "2026-04-23T00:00+02:00", ["23T00:00", "24T01:00", "25T00:00"]),
        ("0 0 * * *", "America/Sao_Paulo", "2017-10-14T00:00-03:00", ["14T00:00", "15T01:00", "16T00:00"]),
        ("0 9 * * *", "Pacific/Apia", "2011-12-29T00:00-10:00", ["29T09:00", "31T00:00", "31T09:00"]),
        # It exists twice: once.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T00:00+02:00", ["24T02:30", "25T02:30", "26T02:30"]),
        ("0 * * * *", "Europe/Berlin", "2026-10-25T01:00+02:00", ["25T01:00", "25T02:00", "25T03:00"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00+11:00", ["04T01:45", "05T01:45", "06T01:45"]),
        ("30 23 * * *", "Africa/Cairo", "2026-10-29T00:00+03:00", ["29T23:30", "30T23:30", "31T23:30"]),
        # Months and years
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00Z", ["29T00:00", "29T00:00", "29T00:00"]),
        ("0 0 31 * *", "UTC", "2026-01-01T00:00Z", ["31T00:00", "31T00:00", "31T00:00"]),
        ("0 0 L * *", "UTC", "2028-01-01T00:00Z", ["31T00:00", "29T00:00", "31T00:00"]),
        ("0 9 * * MON", "UTC", "2026-01-01T00:00Z", ["05T09:00", "12T09:00", "19T09:00"]),
        ("0 9 * * 7", "UTC", "2026-01-01T00:00Z", ["04T09:00", "11T09:00", "18T09:00"]),
        ("0 9 * * 1-5/2", "UTC", "2026-01-01T00:00Z", ["02T09:00", "05T09:00", "07T09:00"]),
        ("0 9 * * MON#2", "UTC", "2026-01-01T00:00Z", ["12T09:00", "09T09:00", "09T09:00"]),
        ("0 9 13 * FRI", "UTC", "2026-01-01T00:00Z", ["02T09:00", "09T09:00", "13T09:00"]),
        ("50/5 23 31 dec *", "UTC", "2026-01-01T00:00Z", ["31T23:50", "31T23:55", "31T23:50"]),
    ],
)
def test_wall_clock_times(expression: str, zone: str, since: str, expected: list[str]) -> None:
    assert [text[3:] for text in shown(cron(expression, zone), since, 3)] == expected


def test_a_time_that_exists_twice_is_the_first() -> None:
    times = cron("30 2 25 10 *", "Europe/Berlin")
    assert times.first_since(at("2026-01-01T00:00Z")) == at("2026-10-25T02:30+02:00")
    assert times.last_before(at("2026-10-25T02:30+01:00")) == at("2026-10-25T02:30+02:00")
    assert times.first_since(at("2026-10-25T02:29+01:00")) == at("2027-10-25T02:30+02:00")


def test_the_29th_of_february_comes_every_four_years() -> None:
    years = [slot.year for slot in islice(cron("0 0 29 2 *").since(at("2089-01-01T00:00Z")), 3)]
    assert years == [2092, 2096, 2104]


@cache
def walls(zone: str, day: str) -> list[tuple[datetime, datetime]]:
    """Each minute of the days around this one: the moment, and its wall-clock time."""
    start = at(f"{day}T12:00Z") - 36 * HOUR
    moments = [start + number * MINUTE for number in range(3 * 24 * 60)]
    return [(moment, moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)) for moment in moments]


def expected_slots(
    minutes: set[int], hours: set[int], weekdays: set[int], zone: str, day: str
) -> list[datetime]:
    """By going through all minutes, with the last wall-clock time that was reached."""
    found = []
    _, reached = walls(zone, day)[0]
    for moment, wall in walls(zone, day)[1:]:
        # All times between what was reached and now come due now: more than one where clocks skip some.
        is_due = False
        while reached < wall:
            reached += MINUTE
            is_due |= reached.minute in minutes and reached.hour in hours and reached.weekday() in weekdays
        if is_due:
            found.append(moment)
    return found


def field(least: int, most: int) -> st.SearchStrategy[set[int]]:
    return st.just({*range(least, most + 1)}) | st.sets(st.integers(least, most), min_size=1, max_size=4)


def written(values: set[int], least: int, most: int) -> str:
    return "*" if values == {*range(least, most + 1)} else ",".join(map(str, sorted(values)))


cases = st.sampled_from([(zone, day) for zone, days in CHANGES.items() for day in days])


@given(cases, field(0, 59), field(0, 3) | field(0, 23), field(0, 6), st.data())
@examples(60)
def test_all_times_by_search(
    case: tuple[str, str], minutes: set[int], hours: set[int], weekdays: set[int], data: st.DataObject
) -> None:
    zone, day = case
    sundays = {(number + 1) % 7 for number in weekdays}
    times = cron(f"{written(minutes, 0, 59)} {written(hours, 0, 23)} * * {written(sundays, 0, 6)}", zone)
    expected = expected_slots(minutes, hours, weekdays, zone, day)
    first, last = walls(zone, day)[1][0], walls(zone, day)[-1][0]
    assert [*_until(times.since(first), last)] == expected
    moment = data.draw(st.sampled_from(walls(zone, day)[1:]))[0] + data.draw(
        st.sampled_from([timedelta(0), TICK, -TICK, 30 * timedelta(seconds=1)])
    )
    later = [slot for slot in expected if slot >= moment]
    earlier = [slot for slot in expected if slot < moment]
    if later:
        assert times.first_since(moment) == later[0]
        assert times.has(later[0])
        assert times.has(moment) == (moment in expected)
    if earlier:
        assert times.last_before(moment) == earlier[-1]


def _until(slots: Iterator[datetime], last: datetime) -> Iterator[datetime]:
    for slot in slots:
        if slot > last:
            return
        yield slot


moments = st.datetimes(datetime(1950, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
distances = st.timedeltas(timedelta(seconds=1), 40 * DAY)
ends = st.none() | moments


@given(moments, distances, ends, moments)
@examples(100)
@example(at("2026-01-01T00:00Z"), HOUR, None, at("2026-01-01T00:00Z"))
def test_fixed_distances(
    starts_at: datetime, every: timedelta, ends_at: datetime | None, moment: datetime
) -> None:
    times = Times(None, every, "UTC", starts_at, ends_at)
    slots = [*islice(times.since(moment), 5)]
    for slot in slots:
        assert (slot - starts_at) % every == timedelta(0)
        assert slot >= max(moment, starts_at)
        assert ends_at is None or slot <= ends_at
    assert all(second - first == every for first, second in pairwise(slots))
    if slots:
        assert slots[0] == starts_at or slots[0] - every < moment
    elif ends_at is not None:
        assert max(moment, starts_at) + every > ends_at
    last = times.last_before(moment)
    if last is None:
        assert starts_at >= min(moment, (ends_at or moment) + TICK)
    else:
        assert (last - starts_at) % every == timedelta(0)
        assert starts_at <= last < moment
        assert last + every >= moment or (ends_at is not None and last <= ends_at < last + every)


@given(st.sampled_from(["*/7 * * * *", "0 9 * * MON", "30 2 * * *"]), moments, ends, moments)
@examples(60)
def test_the_bounds_of_times(
    expression: str, starts_at: datetime, ends_at: datetime | None, moment: datetime
) -> None:
    whole = cron(expression, "Europe/Berlin")
    times = Times(expression, None, "Europe/Berlin", starts_at, ends_at)
    within = [
        slot for slot in islice(whole.since(max(moment, starts_at)), 4) if ends_at is None or slot <= ends_at
    ]
    assert [*islice(times.since(moment), 4)] == within
    last = whole.last_before(moment if ends_at is None else min(moment, ends_at + TICK))
    assert times.last_before(moment) == (last if last is not None and last >= starts_at else None)


@given(st.text(max_size=20) | st.text("0123456789*/,-#LW MONSUJA", max_size=20))
@examples(300)
def test_any_text_is_a_cron_expression_or_an_invalid_value(text: str) -> None:
    try:
        checked_cron(text)
    except InvalidValue:
        return
    times = cron(text, "Europe/Berlin")
    first = times.first_since(at("2026-01-01T00:00Z"))
    assert first is None or times.has(first)


@given(st.text(max_size=20))
@examples(100)
def test_any_text_is_a_zone_or_an_invalid_value(text: str) -> None:
    with suppress(InvalidValue):
        assert datetime(2026, 1, 1, tzinfo=zone_of(text)).utcoffset() is not None


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Niue"])
def test_times_end_with_the_calendar(zone: str) -> None:
    last = datetime.max.replace(tzinfo=UTC)
    for times in (cron("0 9 * * *", zone), Times(None, DAY, zone, FIRST, None)):
        assert 2 <= len([*times.since(last - 4 * DAY)]) <= 5
        assert times.first_since(FIRST) is not None
        assert times.last_before(FIRST + TICK) in (None, FIRST)
        before = times.last_before(last)
        assert before is None or last - before < 4 * DAY


def test_importing_the_storage_loads_neither_zones_nor_cron() -> None:
    code = "import sys, assistly.storage.storage; print({'zoneinfo', 'cronsim'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
