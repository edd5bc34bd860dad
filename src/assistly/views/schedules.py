"""The waiting jobs of a schedule."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from .job_filter import JobFilter, falling_due
from .jobs import COUNT_LIMIT

if TYPE_CHECKING:
    from assistly.storage import Job, Schedule, Storage


def waiting_jobs(storage: Storage, schedule: Schedule) -> list[Job]:
    """The jobs of a schedule that wait, among the first 10,000 that wait on its platform."""
    jobs = islice(falling_due(storage, JobFilter(platform=schedule.platform)), COUNT_LIMIT)
    return [job for job in jobs if _is_of(schedule.id, job.idempotency_key or "")]


def _is_of(id: str, key: str) -> bool:
    """Whether this is the key of a job that the schedule `id` has made: its end is the time of the slot."""
    prefix = f"schedule:{id}:"
    try:
        return key.startswith(prefix) and bool(datetime.fromisoformat(key.removeprefix(prefix)))
    except ValueError:
        return False
