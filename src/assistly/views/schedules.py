"""Schedules: when each is due next, and how its times are shown."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from .text import span

if TYPE_CHECKING:
    from datetime import datetime

    from assistly.storage import Job, Schedule, Storage


@dataclass(frozen=True, slots=True)
class NextTime:
    """A future time of a schedule, and the `job` that exists for it.

    If it is `planned`, it will become a job. With neither, it will not: its job was removed, another job has
    its idempotency key, or the schedule is disabled.
    """

    at: datetime
    job: Job | None
    planned: bool


def next_times(storage: Storage, id: str, count: int, *, now: datetime) -> list[NextTime]:
    """Return the next `count` times of a schedule after `now`, even of a disabled one. Raises NotFound."""
    from assistly.storage import NotFound
    from assistly.storage.stores.recurring import times_of
    from assistly.storage.stores.schedules import plan_of

    plan = plan_of(storage.schedules, id)
    if plan is None:
        raise NotFound(f"there is no schedule {id!r}")
    found = []
    for at in islice(times_of(plan.schedule).since(now), count):
        made = plan.slots.get(at)
        job = None if made is None else storage.queue.get(made)
        planned = at not in plan.slots and plan.next_slot is not None and at >= plan.next_slot
        found.append(NextTime(at, job, planned))
    return found


def existing(storage: Storage, id: str) -> Schedule:
    """Return the schedule with this id. Raises NotFound if there is none."""
    from assistly.storage import NotFound

    schedule = storage.schedules.get(id)
    if schedule is None:
        raise NotFound(f"there is no schedule {id!r}")
    return schedule


def next_time(storage: Storage, schedule: Schedule) -> datetime | str:
    """Return the next time of a schedule in UTC, or a string that says why there is none."""
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
    """Describe when a schedule is due: its cron expression and zone, or "every 6 h"."""
    if schedule.cron:
        return f"{schedule.cron} {schedule.zone}"
    return f"every {span(schedule.every, exact=True)}"
