"""What is due, and what was posted, by day and platform."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING

from .status import JobCount

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from assistly.storage import Job, Storage, TimelineCount

MOST_DAYS = 62

_DAY_LIMIT = 1000
_MOST_SCHEDULES = 1000
_MOST_PLANNED = 2000


@dataclass(frozen=True, slots=True)
class Cell:
    """The jobs of a platform on one day.

    `waiting` are due on that day, `posted` were posted then, and `dead` became dead letters. `planned` is how
    many times of schedules have no job yet.
    """

    waiting: JobCount
    posted: JobCount
    dead: JobCount
    planned: int


@dataclass(frozen=True, slots=True)
class Day:
    """A day of a calendar, from `start` until `end`. `cells` are by platform, where there is anything."""

    day: date
    start: datetime
    end: datetime
    cells: dict[str, Cell]


@dataclass(frozen=True, slots=True)
class Calendar:
    """Days one after the other. If `planned_complete` is False, later times of schedules are missing."""

    days: list[Day]
    platforms: list[str]
    planned_complete: bool


@dataclass(frozen=True, slots=True)
class DueJobsOfDay:
    """The waiting jobs of a day, the next one first, and whether these are all."""

    jobs: list[Job]
    complete: bool


def calendar(
    storage: Storage, first: date, days: int, zone: tzinfo | None, *, now: datetime | None = None
) -> Calendar:
    """Return the days from `first` on in a time zone (None: the local one). Counting stops at 1,000 a day.

    Of the newest 10,000 dead letters those of these days are counted. `now` is the time from which schedules
    are looked ahead (default: this machine's).
    """
    edges = [midnight(first + timedelta(days=number), zone) for number in range(days + 1)]
    planned, complete = _planned(storage, edges, now or datetime.now(UTC))
    found = storage.queue.timeline(edges, limit=_DAY_LIMIT)
    of_day: dict[datetime, list[TimelineCount]] = {}
    for each in found:
        of_day.setdefault(each.start, []).append(each)
    result = [
        Day(
            first + timedelta(days=number),
            start,
            edges[number + 1],
            _cells(of_day.get(start, ()), planned[number]),
        )
        for number, start in enumerate(edges[:-1])
    ]
    platforms = sorted({name for day in result for name in day.cells})
    return Calendar(result, platforms, complete)


def due_between(
    storage: Storage, start: datetime, end: datetime, *, platform: str | None = None, limit: int = 500
) -> DueJobsOfDay:
    """Return the waiting jobs that are due from `start` until before `end`."""
    until = end - timedelta(microseconds=1)
    jobs = storage.queue.upcoming(since=start, until=until, platform=platform, limit=limit)
    return DueJobsOfDay(jobs, len(jobs) < limit)


def midnight(day: date, zone: tzinfo | None) -> datetime:
    """When a day begins in a time zone (None: the local one), in UTC."""
    naive = datetime.combine(day, time.min)
    return (naive.astimezone() if zone is None else naive.replace(tzinfo=zone)).astimezone(UTC)


def _cells(counts: Iterable[TimelineCount], planned: dict[str, int]) -> dict[str, Cell]:
    groups: dict[tuple[str, str], list[TimelineCount]] = {}
    names = set(planned)
    for count in counts:
        kind = "waiting" if count.status in ("scheduled", "retrying") else str(count.status)
        groups.setdefault((count.platform, kind), []).append(count)
        names.add(count.platform)
    return {
        name: Cell(
            _sum(groups.get((name, "waiting"), ())),
            _sum(groups.get((name, "posted"), ())),
            _sum(groups.get((name, "dead_letter"), ())),
            planned.get(name, 0),
        )
        for name in sorted(names)
    }


def _sum(counts: Sequence[TimelineCount]) -> JobCount:
    return JobCount(sum(count.count for count in counts), all(count.exact for count in counts))


def _planned(storage: Storage, edges: list[datetime], now: datetime) -> tuple[list[dict[str, int]], bool]:
    """How many times of schedules have no job yet, by day and platform, and whether these are all."""
    from assistly.storage.stores.recurring import times_of
    from assistly.storage.stores.schedules import plans

    found: list[dict[str, int]] = [{} for _ in edges[:-1]]
    schedules = plans(storage.schedules, _MOST_SCHEDULES)
    left = _MOST_PLANNED
    for plan in schedules:
        # The jobs of slots are made in their order, but for those of former times of the schedule.
        if plan.next_slot is None or plan.next_slot >= edges[-1]:
            continue
        schedule, number = plan.schedule, 0
        for at in times_of(schedule).since(max(now, plan.next_slot, edges[0])):
            if at in plan.slots:
                continue
            if at >= edges[-1]:
                break
            while at >= edges[number + 1]:
                number += 1
            day = found[number]
            day[schedule.platform] = day.get(schedule.platform, 0) + 1
            left -= 1
            if left == 0:
                return found, False
    return found, len(schedules) < _MOST_SCHEDULES
