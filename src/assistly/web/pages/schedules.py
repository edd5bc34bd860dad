"""Schedules: recurring posts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistly.operations import schedules as operations
from assistly.storage.errors import InvalidValue, NotFound
from assistly.views.schedules import next_time, next_times, times

from .jobs import require_sure

if TYPE_CHECKING:
    from starlette.responses import Response

    from assistly.storage import Schedule
    from assistly.views.schedules import NextTime

    from ..page import WebPage

_LIMIT = 50
_PREVIEWED = 10


def listed(page: WebPage) -> Response:
    """List the schedules by id, with the next time of each."""
    found = page.storage.schedules.list(after=page.exact_query("after"), limit=_LIMIT)
    entries = [(each, times(each), _next(page, each)) for each in found]
    following = found[-1].id if len(found) == _LIMIT else None
    return page.show("schedules.html", entries=entries, following=following)


def show(page: WebPage) -> Response:
    """Show a schedule with its next times and its waiting jobs."""
    id = page.exact_query("id") or ""
    schedule = page.storage.schedules.get(id)
    if schedule is None:
        raise NotFound(f"there is no schedule {id!r}")
    return page.show(
        "schedule.html",
        schedule=schedule,
        times=times(schedule),
        next=next_times(page.storage, id, _PREVIEWED, now=page.now),
        jobs=page.storage.schedules.waiting(id),
    )


def _next(page: WebPage, schedule: Schedule) -> NextTime | str:
    """The next time, or why there is none."""
    found = next_time(page.storage, schedule)
    if isinstance(found, str):
        return found
    return next(iter(next_times(page.storage, schedule.id, 1, now=page.now)), "ended")


def change(page: WebPage) -> Response:
    """Enable, disable or remove a schedule."""
    verb, id = page.request.path_params["verb"], page.required_exact("id", "the schedule")
    match verb:
        case "enable":
            operations.enable(page.storage, id, page.person)
            notice = f"Schedule {id} is enabled: its times become jobs from now on."
        case "disable":
            _, removed = operations.disable(page.storage, id, page.person)
            notice = f"Schedule {id} is disabled; {_were_removed(removed)}."
        case "remove":
            require_sure(page)
            removed = operations.remove(page.storage, id, page.person)
            return page.go(page.url("/schedules"), f"Schedule {id} is removed; {_were_removed(removed)}.")
        case _:
            raise InvalidValue("a schedule can be enabled, disabled or removed")
    return page.go(page.url("/schedule", id=id), notice)


def _were_removed(jobs: int) -> str:
    return f"{jobs} waiting job{' was' if jobs == 1 else 's were'} removed"
