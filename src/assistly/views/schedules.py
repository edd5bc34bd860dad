"""Schedules: when each is due next, and how its times are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .text import span

if TYPE_CHECKING:
    from datetime import datetime

    from assistly.storage import Schedule, Storage


def existing(storage: Storage, id: str) -> Schedule:
    """Return the schedule of this id. Raises NotFound if there is none."""
    from assistly.storage import NotFound

    schedule = storage.schedules.get(id)
    if schedule is None:
        raise NotFound(f"there is no schedule {id!r}")
    return schedule


def next_time(storage: Storage, schedule: Schedule) -> datetime | str:
    """Return the next time of a schedule in UTC, or a text that says why there is none."""
    from assistly.storage import InvalidValue, NotFound

    if not schedule.enabled:
        return "disabled"
    try:
        found = storage.schedules.preview(schedule.id, 1)
    except NotFound:
        return "removed"
    except InvalidValue as error:
        return str(error)
    return found[0] if found else "ended"


def times(schedule: Schedule) -> str:
    """Return when a schedule is due, as a text: its cron expression and zone, or every 6 h."""
    if schedule.cron:
        return f"{schedule.cron} {schedule.zone}"
    return f"every {span(schedule.every, exact=True)}"
