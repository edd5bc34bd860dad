"""Adds jobs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from . import audit
from .applying import atomically

if TYPE_CHECKING:
    from assistly.storage import Job, Storage
    from assistly.storage.records import Json

    from .audit import Person


def add(
    storage: Storage,
    platform: str,
    content: str,
    person: Person,
    *,
    at: datetime | None = None,
    key: str | None = None,
    metadata: dict[str, Json] | None = None,
    max_retries: int | None = None,
    max_lateness: timedelta | None = None,
    min_gap: timedelta | None = None,
) -> tuple[Job, bool]:
    """Add a job, due now or `at` a time. Return it, and whether it already existed under its `key`.

    An existing job is not changed, and no event is recorded. The options and errors are those of
    `storage.queue.schedule`; `key` is the idempotency key.
    """

    def work(tx: Storage) -> tuple[Job, bool]:
        existed = key is not None and tx.queue.find_by_key(key) is not None
        job = tx.queue.schedule(
            platform,
            content,
            at,
            idempotency_key=key,
            metadata=metadata,
            max_retries=max_retries,
            max_lateness=max_lateness,
            min_gap=min_gap,
        )
        if not existed:
            audit.record(tx, "jobs.add", person, job=job.id, platform=platform)
        return job, existed

    return atomically(storage, work)
