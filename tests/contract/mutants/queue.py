"""The queue of the naive engine."""

from __future__ import annotations

import builtins
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from assistly.storage.engine.protocol import JobDraft, Settlement
from assistly.storage.records import Attempt, Job, JobStatus
from assistly.storage.validation import JsonText

from .engine import Store, locked

WAITING = (JobStatus.SCHEDULED, JobStatus.RETRYING)
ACTIVE = (*WAITING, JobStatus.PROCESSING)


class NaiveJobs(Store):
    def holds(self, job: Job | None, claim: int) -> bool:
        return job is not None and job.status is JobStatus.PROCESSING and job.claim == claim

    def ran_out(self, lease_until: datetime, now: datetime) -> bool:
        return lease_until <= now

    def near(self, at: datetime, earliest: datetime, latest: datetime) -> bool:
        return earliest <= at <= latest

    def missed(self, job: Job, now: datetime) -> bool:
        return job.max_lateness is not None and now - job.scheduled_at > job.max_lateness

    def first(self, due: Sequence[Job], limit: int) -> Sequence[Job]:
        return sorted(due, key=lambda job: (job.due_at, job.id))[:limit]

    def replayed(self, job: Job) -> Job:
        return replace(
            job,
            retries=0,
            next_retry_at=None,
            last_error=None,
            dead_letter_at=None,
            dead_letter_reason=None,
            publish_started_at=None,
        )

    def decoded(self, text: JsonText) -> Any:
        return json.loads(text)

    def save(self, job: Job, now: datetime) -> Job:
        job = replace(job, due_at=job.next_retry_at or job.scheduled_at, updated_at=now)
        self.tables.jobs[job.id] = job
        return job

    @locked
    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        return [self._insert(draft, now) for draft in drafts]

    def _insert(self, draft: JobDraft, now: datetime) -> Job | None:
        if draft.idempotency_key is not None and self.by_key(draft.idempotency_key):
            return None
        return self.save(
            Job(
                self.number(),
                JobStatus.SCHEDULED,
                draft.platform,
                draft.content,
                self.decoded(draft.metadata),
                draft.scheduled_at,
                created_at=now,
                updated_at=now,
                retries=0,
                max_retries=draft.max_retries,
                next_retry_at=None,
                due_at=draft.scheduled_at,
                idempotency_key=draft.idempotency_key,
                remote_id=None,
                posted_at=None,
                last_error=None,
                dead_letter_at=None,
                dead_letter_reason=None,
                replayed_at=None,
                claim=0,
                worker_id=None,
                lease_until=None,
                publish_started_at=None,
                max_lateness=draft.max_lateness,
                attempts=(),
            ),
            now,
        )

    def prepare_gap_checks(self) -> None: ...

    def lock_platforms(self, platforms: Sequence[str]) -> None:
        """A transaction has the lock over everything."""

    @locked
    def in_window(
        self, platform: str, earliest: datetime, latest: datetime, *, exclude: int | None = None
    ) -> Job | None:
        found = [
            job
            for job in self.tables.jobs.values()
            if job.platform == platform
            and job.status in ACTIVE
            and job.id != exclude
            and self.near(job.scheduled_at, earliest, latest)
        ]
        return min(found, key=lambda job: (job.scheduled_at, job.id), default=None)

    @locked
    def by_key(self, idempotency_key: str) -> Job | None:
        found = [job for job in self.tables.jobs.values() if job.idempotency_key == idempotency_key]
        return found[0] if found else None

    @locked
    def get(self, id: int, *, lock: bool = False) -> Job | None:
        return self.tables.jobs.get(id)

    @locked
    def reschedule(
        self,
        id: int,
        scheduled_at: datetime,
        *,
        content: str | None,
        metadata: JsonText | None,
        now: datetime,
    ) -> Job | None:
        job = self.tables.jobs.get(id)
        if job is None or job.status not in WAITING:
            return None
        job = replace(job, scheduled_at=scheduled_at, next_retry_at=None)
        if content is not None:
            job = replace(job, content=content)
        if metadata is not None:
            job = replace(job, metadata=self.decoded(metadata))
        return self.save(job, now)

    @locked
    def list(
        self, *, status: JobStatus | None, platform: str | None, after: int, limit: int
    ) -> builtins.list[Job]:
        jobs = [self.tables.jobs[id] for id in sorted(self.tables.jobs) if id > after]
        return [job for job in jobs if status in (None, job.status) and platform in (None, job.platform)][
            :limit
        ]

    @locked
    def counts(self, *, posted: bool = True) -> dict[JobStatus, int]:
        statuses = [job.status for job in self.tables.jobs.values()]
        if not posted:
            statuses = [status for status in statuses if status is not JobStatus.POSTED]
        return {status: statuses.count(status) for status in statuses}

    @locked
    def remove(self, id: int) -> bool:
        return self.tables.jobs.pop(id, None) is not None

    @locked
    def next_due_at(self) -> datetime | None:
        return min((job.due_at for job in self.tables.jobs.values() if job.status in WAITING), default=None)

    def _due(self, platforms: Sequence[str] | None, now: datetime) -> builtins.list[Job]:
        return [
            job
            for job in self.tables.jobs.values()
            if job.status in WAITING
            and job.due_at <= now
            and (platforms is None or job.platform in platforms)
        ]

    @locked
    def claim(
        self,
        *,
        worker_id: str,
        limit: int,
        lease_until: datetime,
        platforms: Sequence[str] | None,
        now: datetime,
        unless_overdue: bool = False,
    ) -> Sequence[Job]:
        if unless_overdue:
            return []
        due = [job for job in self._due(platforms, now) if not self.missed(job, now)]
        return [
            self.save(
                replace(
                    job,
                    status=JobStatus.PROCESSING,
                    claim=job.claim + 1,
                    worker_id=worker_id,
                    lease_until=lease_until,
                ),
                now,
            )
            for job in self.first(due, limit)
        ]

    @locked
    def dead_letter_late(self, *, limit: int, platforms: Sequence[str] | None, reason: str, now: datetime) -> int:
        missed = [job for job in self._due(platforms, now) if self.missed(job, now)][:limit]
        for job in missed:
            dead = replace(job, status=JobStatus.DEAD_LETTER, dead_letter_at=now, dead_letter_reason=reason)
            self.save(replace(dead, next_retry_at=None), now)
        return len(missed)

    @locked
    def expired(self, *, limit: int, now: datetime) -> Sequence[Job]:
        held = [(job.lease_until, job.id) for job in self.tables.jobs.values() if job.lease_until]
        return [self.tables.jobs[id] for lease, id in sorted(held) if self.ran_out(lease, now)][:limit]

    def _unexpired(self, id: int, claim: int, now: datetime) -> Job | None:
        job = self.tables.jobs.get(id)
        if job is None or not self.holds(job, claim):
            return None
        return None if job.lease_until is None or self.ran_out(job.lease_until, now) else job

    @locked
    def extend(
        self, claims: Sequence[tuple[int, int]], *, lease_until: datetime, now: datetime
    ) -> Sequence[Job]:
        held = [self._unexpired(id, claim, now) for id, claim in sorted(set(claims))]
        return [self.save(replace(job, lease_until=lease_until), now) for job in held if job]

    @locked
    def begin_publish(self, id: int, claim: int, *, now: datetime) -> Job | None:
        job = self._unexpired(id, claim, now)
        if job is None:
            return None
        return self.save(replace(job, publish_started_at=job.publish_started_at or now), now)

    @locked
    def settle(
        self, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
    ) -> Sequence[Job | None]:
        return [self._settle(settlement, now, expired_only) for settlement in settlements]

    def _settle(self, settlement: Settlement, now: datetime, expired_only: bool) -> Job | None:
        job = self.tables.jobs.get(settlement.id)
        if job is None or not self.holds(job, settlement.claim):
            return None
        if expired_only and not self._may_be_rescued(job, settlement, now):
            return None
        return self.save(replace(_ended(job, settlement, now), worker_id=None, lease_until=None), now)

    def _may_be_rescued(self, job: Job, settlement: Settlement, now: datetime) -> bool:
        if job.publish_started_at is not None and not settlement.keep_publish:
            return False
        return job.lease_until is not None and self.ran_out(job.lease_until, now)

    @locked
    def replay(self, id: int, scheduled_at: datetime, *, now: datetime) -> Job | None:
        job = self.tables.jobs.get(id)
        if job is None or job.status is not JobStatus.DEAD_LETTER:
            return None
        again = replace(
            self.replayed(job), status=JobStatus.SCHEDULED, scheduled_at=scheduled_at, replayed_at=now
        )
        return self.save(again, now)

    @locked
    def replay_many(
        self, *, platform: str | None, limit: int | None, scheduled_at: datetime, now: datetime
    ) -> int:
        dead = self.list(status=JobStatus.DEAD_LETTER, platform=platform, after=0, limit=limit or 10**9)
        return len([self.replay(job.id, scheduled_at, now=now) for job in dead])

    def wait(self, timeout: float) -> None:
        threading.Event().wait(min(timeout, 0.01))


def _ended(job: Job, settlement: Settlement, now: datetime) -> Job:
    if settlement.kind == "posted":
        return replace(
            job,
            status=JobStatus.POSTED,
            posted_at=now,
            remote_id=settlement.remote_id,
            next_retry_at=None,
        )
    if not settlement.keep_publish:
        job = replace(job, publish_started_at=None)
    if settlement.kind == "failed":
        return _failed(job, settlement, now)
    if settlement.kind == "snoozed":
        job = replace(job, next_retry_at=settlement.at)
    return replace(job, status=JobStatus.RETRYING if job.retries else JobStatus.SCHEDULED)


def _failed(job: Job, settlement: Settlement, now: datetime) -> Job:
    attempt = Attempt(job.retries + 1, now, job.worker_id, settlement.error[:4096])
    job = replace(
        job,
        retries=job.retries + 1,
        last_error=settlement.error,
        attempts=(*job.attempts, attempt)[-20:],
    )
    if settlement.final or job.retries >= job.max_retries:
        return replace(
            job,
            status=JobStatus.DEAD_LETTER,
            dead_letter_at=now,
            dead_letter_reason=settlement.error,
            next_retry_at=None,
        )
    return replace(job, status=JobStatus.RETRYING, next_retry_at=settlement.at)
