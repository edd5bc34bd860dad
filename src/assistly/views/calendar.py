"""What is due, and what was posted, by day and platform."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from heapq import merge
from itertools import islice, pairwise, takewhile
from typing import TYPE_CHECKING

from .status import JobCount

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from assistly.storage import Job, Schedule, Storage, TimelineCount
    from assistly.storage.stores.recurring import Plan

MOST_DAYS = 62

_DAY_LIMIT = 1000
_MOST_SCHEDULES = 1000
_MOST_PLANNED = 2000


@dataclass(frozen=True, slots=True)
class Cell:
    """The jobs of a platform on one day.

    `waiting` are due on that day, `posted` were posted, and `dead` became dead letters. `planned` is the
    number of times of schedules that have no job yet.
    """

    waiting: JobCount
    posted: JobCount
    dead: JobCount
    planned: int


@dataclass(frozen=True, slots=True)
class Day:
    """A day of a calendar, from `start` until `end`. `cells` has the platforms that are not empty."""

    day: date
    start: datetime
    end: datetime
    cells: dict[str, Cell]


@dataclass(frozen=True, slots=True)
class Calendar:
    """Consecutive days, without days that the time zone skipped, as Samoa did in 2011.

    If `planned_complete` is False, later times of schedules are missing.
    """

    days: list[Day]
    platforms: list[str]
    planned_complete: bool


@dataclass(frozen=True, slots=True)
class PlannedPost:
    """A time of a schedule that has no job yet."""

    at: datetime
    schedule: Schedule


@dataclass(frozen=True, slots=True)
class DayContents:
    """The contents of one day, on one platform or on all.

    `jobs` wait and are due on that day, `planned` are the times of schedules that have no job yet, both the
    next one first, up to the requested limit. `cells` are those of the calendar.
    """

    jobs: list[Job]
    jobs_complete: bool
    planned: list[PlannedPost]
    planned_complete: bool
    cells: dict[str, Cell]


def calendar(
    storage: Storage, first: date, days: int, zone: tzinfo | None, *, now: datetime | None = None
) -> Calendar:
    """Return the days from `first` on in a time zone (None: the local one). Counting stops at 1,000 a day.

    Dead letters are counted among the newest 10,000. `now` is the time from which schedules are planned ahead
    (default: the time of this machine).
    """
    starts = {midnight(each, zone): each for each in (first + timedelta(days=n) for n in range(days + 1))}
    edges = [*starts]  # a skipped day starts when the next one does, which replaces it
    if len(edges) == 1:
        return Calendar([], [], planned_complete=True)
    posts, complete = _planned_posts(storage, edges[0], edges[-1], now, _MOST_PLANNED)
    planned = [
        _by_platform(post for post in posts if start <= post.at < end) for start, end in pairwise(edges)
    ]
    found = storage.queue.timeline(edges, limit=_DAY_LIMIT)
    of_day: dict[datetime, list[TimelineCount]] = {}
    for each in found:
        of_day.setdefault(each.start, []).append(each)
    result = [
        Day(
            starts[start],
            start,
            edges[number + 1],
            _cells(of_day.get(start, ()), planned[number]),
        )
        for number, start in enumerate(edges[:-1])
    ]
    platforms = sorted({name for day in result for name in day.cells})
    return Calendar(result, platforms, complete)


def day_contents(
    storage: Storage,
    start: datetime,
    end: datetime,
    *,
    platform: str | None = None,
    now: datetime | None = None,
    after: Job | None = None,
    limit: int = 500,
) -> DayContents:
    """Return the contents from `start` until before `end`: up to `limit` jobs, and as many planned times.

    `after` is the last job of the previous page. The numbers are those of `calendar`. `now` is the time from
    which schedules are planned ahead (default: the time of this machine).
    """
    tick = timedelta(microseconds=1)
    jobs = storage.queue.upcoming(since=start, until=end - tick, platform=platform, after=after, limit=limit)
    posts, complete = _planned_posts(storage, start, end, now, _MOST_PLANNED)
    cells = _cells(storage.queue.timeline([start, end], limit=_DAY_LIMIT), _by_platform(posts))
    shown = [post for post in posts if platform in (None, post.schedule.platform)]
    return DayContents(
        jobs,
        len(jobs) < limit,
        shown[:limit],
        complete and len(shown) <= limit,
        {name: cell for name, cell in cells.items() if platform in (None, name)},
    )


def midnight(day: date, zone: tzinfo | None) -> datetime:
    """When a day starts in a time zone (None: the local one), in UTC."""
    naive = datetime.combine(day, time.min)
    return (naive.astimezone() if zone is None else naive.replace(tzinfo=zone)).astimezone(UTC)


def day_exists(day: date, zone: tzinfo | None) -> bool:
    """Whether the day exists in a time zone (None: the local one)."""
    try:
        return midnight(day, zone) < midnight(day + timedelta(days=1), zone)
    except OverflowError:  # the first or the last day that a date can be
        return True


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


def _by_platform(posts: Iterable[PlannedPost]) -> dict[str, int]:
    return Counter(post.schedule.platform for post in posts)


def _planned_posts(
    storage: Storage, start: datetime, end: datetime, now: datetime | None, most: int
) -> tuple[list[PlannedPost], bool]:
    """The times of schedules in the interval that have no job yet, and whether the list is complete."""
    from assistly.storage.stores.schedules import plans

    begin = max(start, now or datetime.now(UTC))
    found = plans(storage.schedules, _MOST_SCHEDULES)
    posts = merge(*(_open_slots(plan, begin, end) for plan in found), key=lambda post: post.at)
    first = [*islice(posts, most + 1)]
    return first[:most], len(first) <= most and len(found) < _MOST_SCHEDULES


def _open_slots(plan: Plan, begin: datetime, end: datetime) -> Iterator[PlannedPost]:
    from assistly.storage.stores.recurring import times_of

    # The jobs of slots are created in order, except those of former times of the schedule.
    if plan.next_slot is None or plan.next_slot >= end:
        return
    for at in takewhile(lambda at: at < end, times_of(plan.schedule).since(max(begin, plan.next_slot))):
        if at not in plan.slots:
            yield PlannedPost(at, plan.schedule)
