"""What is due, by day and platform."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

from assistly.storage.errors import InvalidValue, NotFound
from assistly.views.calendar import calendar, day_contents, day_exists, midnight

from .jobs import whole

if TYPE_CHECKING:
    from starlette.responses import Response

    from assistly.storage import Job

    from ..page import WebPage

_WEEKS = 4
_DAYS = 7 * _WEEKS
_JOBS = 100


def show(page: WebPage) -> Response:
    """Show four weeks, from the Monday of the current or the requested week."""
    today = page.now.astimezone(page.zone).date()
    asked = page.query("from")
    first = _date(asked) if asked else today
    first -= timedelta(days=first.weekday())
    try:
        earlier, later = first - timedelta(days=_DAYS), first + timedelta(days=_DAYS)
    except OverflowError:
        raise InvalidValue("there is no such week: the year must be 1 to 9999") from None
    found = calendar(page.storage, first, _DAYS, page.zone, now=page.now)
    by_date = {day.day: day for day in found.days}
    weeks = [
        [by_date.get(first + timedelta(days=number)) for number in range(start, start + 7)]
        for start in range(0, _DAYS, 7)
    ]
    return page.show(
        "calendar.html", calendar=found, weeks=weeks, today=today, first=first, earlier=earlier, later=later
    )


def show_day(page: WebPage) -> Response:
    """Show what is due on one day, what is planned, and what was posted or failed."""
    day = _date(page.request.path_params["day"])
    try:
        next_day, day_before = _neighbour(page, day, 1), _neighbour(page, day, -1)
    except OverflowError:
        raise InvalidValue("there is no such day: the year must be 1 to 9999") from None
    if not day_exists(day, page.zone):
        raise NotFound(f"{day.isoformat()} does not exist in this time zone, which skipped that day")
    platform = page.exact_query("platform")
    start, end = midnight(day, page.zone), midnight(next_day, page.zone)
    found = day_contents(
        page.storage, start, end, platform=platform, now=page.now, after=_last_job(page), limit=_JOBS
    )
    return page.show(
        "day.html", day=day, next_day=next_day, day_before=day_before, platform=platform, found=found
    )


def _neighbour(page: WebPage, day: date, step: int) -> date:
    """The nearest day in a direction that exists in the zone of the visitor."""
    day += timedelta(days=step)
    return day if day_exists(day, page.zone) else _neighbour(page, day, step)


def _last_job(page: WebPage) -> Job | None:
    """The last job of the previous page."""
    id = page.query("after")
    if id is None:
        return None
    job = page.storage.queue.get(whole(id))
    if job is None:
        raise NotFound(f"job {id} was removed: go back to the first page of this day")
    return job


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidValue(f"{text[:40]!r} is not a date: write it as 2026-03-01") from None
