"""Stores, removes, enables and disables schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assistly.views.schedules import existing, times

from . import audit
from .applying import atomically

if TYPE_CHECKING:
    from assistly.storage import Schedule, Storage

    from .audit import Person

_EVENT_CHARACTERS = 1000


def put(storage: Storage, id: str, platform: str, content: str, person: Person, **options: Any) -> Schedule:
    """Store a schedule, or replace the one with this id, and return it. Updates its waiting jobs.

    `options` and errors are those of `storage.schedules.put`.
    """

    def work(tx: Storage) -> Schedule:
        schedule = tx.schedules.put(id, platform, content, **options)
        described = _described(schedule)
        audit.record(tx, "schedules.put", person, schedule=id, **described, enabled=schedule.enabled)
        return schedule

    return atomically(storage, work)


def remove(storage: Storage, id: str, person: Person) -> int:
    """Delete a schedule and its waiting jobs, and return the number of these. Raises NotFound."""

    def work(tx: Storage) -> int:
        schedule = existing(tx, id)
        jobs = len(tx.schedules.waiting(id))
        tx.schedules.remove(id)
        audit.record(tx, "schedules.remove", person, schedule=id, **_described(schedule), removed_jobs=jobs)
        return jobs

    return atomically(storage, work)


def enable(storage: Storage, id: str, person: Person) -> Schedule:
    """Enable a schedule, and return it. Its times become jobs from now on. Raises NotFound."""

    def work(tx: Storage) -> Schedule:
        schedule = tx.schedules.enable(id)
        audit.record(tx, "schedules.enable", person, schedule=id)
        return schedule

    return atomically(storage, work)


def disable(storage: Storage, id: str, person: Person) -> tuple[Schedule, int]:
    """Disable a schedule, and return it and the number of removed waiting jobs. Raises NotFound."""

    def work(tx: Storage) -> tuple[Schedule, int]:
        jobs = len(tx.schedules.waiting(id))
        schedule = tx.schedules.disable(id)
        audit.record(tx, "schedules.disable", person, schedule=id, removed_jobs=jobs)
        return schedule, jobs

    return atomically(storage, work)


def _described(schedule: Schedule) -> dict[str, str]:
    """The details of a schedule for an event: up to 1,000 characters of its content."""
    return {
        "platform": schedule.platform,
        "times": times(schedule),
        "content": schedule.content[:_EVENT_CHARACTERS],
    }
