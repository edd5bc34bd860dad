"""The queue of the naive engine."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any

from assistly.storage import transitions
from assistly.storage.engine import JobDraft
from assistly.storage.engine.base import JobStoreBase
from assistly.storage.records import Job, JobStatus

from .engine import NaiveBackend, NaiveStore, reads, writes


class NaiveJobs(NaiveStore, JobStoreBase[NaiveBackend]):
    """What `JobStoreBase` requires, and `wait`."""

    active: tuple[JobStatus, ...] = transitions.ACTIVE
    waiting_statuses: tuple[JobStatus, ...] = transitions.WAITING

    def near(self, at: datetime, earliest: datetime, latest: datetime) -> bool:
        """Whether `at` is within the window."""
        return earliest <= at <= latest

    def kept(self, platform: str) -> str:
        """A platform as it is stored."""
        return platform

    def kept_key(self, key: str | None) -> str | None:
        """An idempotency key as it is stored."""
        return key

    @writes
    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        return [self._insert(draft, now) for draft in drafts]

    def _insert(self, draft: JobDraft, now: datetime) -> Job | None:
        if draft.idempotency_key is not None and self._by_key(draft.idempotency_key):
            return None
        job = transitions.new(draft, self.next_number(self.tables.jobs), now)
        self.tables.jobs[job.id] = job
        return job

    @reads
    def in_window(
        self, platform: str, earliest: datetime, latest: datetime, *, exclude: int | None = None
    ) -> Job | None:
        found = [
            job
            for job in self.tables.jobs.values()
            if self.kept(job.platform) == self.kept(platform)
            and job.status in self.active
            and job.id != exclude
            and self.near(job.scheduled_at, earliest, latest)
        ]
        return min(found, key=lambda job: (job.scheduled_at, job.id), default=None)

    @reads
    def by_key(self, idempotency_key: str) -> Job | None:
        return self._by_key(idempotency_key)

    def _by_key(self, key: str) -> Job | None:
        wanted = self.kept_key(key)
        found = [job for job in self.tables.jobs.values() if self.kept_key(job.idempotency_key) == wanted]
        return found[0] if found else None

    @reads
    def get(self, id: int, *, lock: bool = False) -> Job | None:
        return self.tables.jobs.get(id)

    @writes
    def save(self, job: Job) -> None:
        self.tables.jobs[job.id] = self.copied(job)

    def copied(self, job: Job) -> Job:
        """What is stored of a job that the caller keeps."""
        return deepcopy(job)

    @reads
    def list(
        self, *, status: JobStatus | None, platform: str | None, after: int, limit: int
    ) -> builtins.list[Job]:
        jobs = [self.tables.jobs[id] for id in sorted(self.tables.jobs) if id > after]
        return [job for job in jobs if status in (None, job.status) and self._wanted(job, platform)][:limit]

    def _wanted(self, job: Job, platform: str | None) -> bool:
        return platform is None or self.kept(job.platform) == self.kept(platform)

    @reads
    def counts(self, *, posted: bool = True) -> dict[JobStatus, int]:
        statuses = [job.status for job in self.tables.jobs.values()]
        return {status: statuses.count(status) for status in statuses}

    @writes
    def remove(self, id: int) -> bool:
        return self.tables.jobs.pop(id, None) is not None

    @reads
    def waiting(
        self,
        *,
        until: datetime | None,
        platforms: Sequence[str] | None,
        after: tuple[datetime, int] | None,
        limit: int,
    ) -> Sequence[Job]:
        waiting = [
            job
            for job in self.tables.jobs.values()
            if job.status in self.waiting_statuses
            and (until is None or job.due_at <= until)
            and (platforms is None or job.platform in platforms)
            and (after is None or (job.due_at, job.id) > after)
        ]
        return sorted(waiting, key=lambda job: (job.due_at, job.id))[:limit]

    @reads
    def late(self, *, limit: int, platforms: Sequence[str] | None, now: datetime) -> Sequence[Job]:
        late = [
            (transitions.late_after(job), job.id)
            for job in self.tables.jobs.values()
            if transitions.is_late(job, now) and (platforms is None or job.platform in platforms)
        ]
        return [self.tables.jobs[id] for _, id in sorted(late)[:limit]]

    @reads
    def expired(self, *, limit: int, now: datetime) -> Sequence[Job]:
        expired = [
            (job.lease_until, job.id) for job in self.tables.jobs.values() if transitions.is_expired(job, now)
        ]
        return [self.tables.jobs[id] for _, id in sorted(expired)[:limit]]

    def next_due_at(self, **options: Any) -> datetime | None:
        if self._backend.is_root:
            self.database.looks.commits = self.database.commits
        return super().next_due_at(**options)

    def wait(self, timeout: float) -> None:
        database = self.database
        seen = getattr(database.looks, "commits", -1)
        with database.committed:
            database.committed.wait_for(lambda: database.commits != seen or database.closed, timeout)
