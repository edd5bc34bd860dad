"""The queue of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from ..errors import (
    ClaimLost,
    IdempotencyMismatch,
    InvalidValue,
    NotFound,
    ScheduleConflict,
    StatusConflict,
)
from ..records import (
    Attempt,
    Failed,
    Job,
    JobStatus,
    Json,
    NewJob,
    Outcome,
    Posted,
    Released,
    Settled,
    Snoozed,
    Unknown,
)
from .model_counts import WAITING, ModelCounts, is_missed, is_unknown
from .model_state import ModelState, compared, copied

ACTIVE = (*WAITING, JobStatus.PROCESSING)
SWEEP = 100


class ModelQueue(ModelCounts):
    def __init__(self, state: ModelState, *, max_retries: int, retry_delay: timedelta) -> None:
        super().__init__(state)
        self._max_retries = max_retries
        self._retry_delay = retry_delay

    @property
    def _rows(self) -> dict[int, Job]:
        return self._state.tables.jobs

    def _store(self, job: Job) -> Job:
        stored = replace(job, due_at=job.next_retry_at or job.scheduled_at, updated_at=self._state.now())
        self._rows[job.id] = stored
        return copied(stored)

    def _sorted(self) -> list[Job]:
        return [self._rows[id] for id in sorted(self._rows)]

    def schedule(
        self,
        platform: str,
        content: str,
        scheduled_at: datetime | None = None,
        *,
        idempotency_key: str | None = None,
        min_gap: timedelta | None = None,
        metadata: Mapping[str, Json] | None = None,
        max_retries: int | None = None,
        max_lateness: timedelta | None = None,
    ) -> Job:
        now = self._state.now()
        at = scheduled_at or now
        for job in self._sorted():
            if idempotency_key is not None and job.idempotency_key == idempotency_key:
                asked = (platform, content, compared(metadata or {}))
                if asked != (job.platform, job.content, compared(job.metadata)):
                    raise IdempotencyMismatch("another job has this key", idempotency_key)
                return copied(job)
        self._check_gap(platform, at, min_gap)
        job = Job(
            id=self._state.number(),
            status=JobStatus.SCHEDULED,
            platform=platform,
            content=content,
            metadata=copied(dict(metadata or {})),
            scheduled_at=at,
            created_at=now,
            updated_at=now,
            retries=0,
            max_retries=self._max_retries if max_retries is None else max_retries,
            next_retry_at=None,
            due_at=at,
            idempotency_key=idempotency_key,
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
            max_lateness=max_lateness,
            attempts=(),
        )
        return self._store(job)

    def schedule_many(self, jobs: Iterable[NewJob], *, returning: str = "jobs") -> Sequence[Any]:
        with self._state.transaction():
            scheduled = [
                self.schedule(
                    new.platform,
                    new.content,
                    new.scheduled_at,
                    idempotency_key=new.idempotency_key,
                    min_gap=new.min_gap,
                    metadata=new.metadata,
                    max_retries=new.max_retries,
                    max_lateness=new.max_lateness,
                )
                for new in jobs
            ]
        if returning == "jobs":
            return scheduled
        return [job.id for job in scheduled] if returning == "ids" else []

    def reschedule(
        self,
        id: int,
        scheduled_at: datetime,
        *,
        content: str | None = None,
        metadata: Mapping[str, Json] | None = None,
        min_gap: timedelta | None = None,
    ) -> Job:
        job = self._rows.get(id)
        if job is None:
            raise NotFound("no such job")
        if job.status not in WAITING:
            raise StatusConflict("not waiting", copied(job))
        self._check_gap(job.platform, scheduled_at, min_gap, exclude=id)
        return self._store(
            replace(
                job,
                scheduled_at=scheduled_at,
                next_retry_at=None,
                content=job.content if content is None else content,
                metadata=job.metadata if metadata is None else copied(dict(metadata)),
            )
        )

    def find_conflict(self, platform: str, scheduled_at: datetime, min_gap: timedelta) -> Job | None:
        return self._conflict(platform, scheduled_at, min_gap, None)

    def _conflict(self, platform: str, at: datetime, gap: timedelta, exclude: int | None) -> Job | None:
        near = [
            job
            for job in self._sorted()
            if job.platform == platform
            and job.status in ACTIVE
            and job.id != exclude
            and abs(job.scheduled_at - at) < gap
        ]
        return copied(min(near, key=lambda job: (job.scheduled_at, job.id))) if near else None

    def _check_gap(
        self, platform: str, at: datetime, gap: timedelta | None, exclude: int | None = None
    ) -> None:
        if gap is None:
            return
        conflict = self._conflict(platform, at, gap, exclude)
        if conflict is not None:
            raise ScheduleConflict("too near", conflict)

    def get(self, id: int) -> Job | None:
        return copied(self._rows.get(id))

    def list(
        self,
        *,
        status: JobStatus | None = None,
        platform: str | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> Sequence[Job]:
        matching = [
            job
            for job in self._sorted()
            if (status is None or job.status == status)
            and (platform is None or job.platform == platform)
            and (after is None or job.id > after)
        ]
        return copied(matching[:limit])

    def dead_letters(
        self, *, platform: str | None = None, after: int | None = None, limit: int = 100
    ) -> Sequence[Job]:
        return self.list(status=JobStatus.DEAD_LETTER, platform=platform, after=after, limit=limit)

    def counts(self) -> dict[JobStatus, int]:
        return {status: len(self.list(status=status, limit=10**9)) for status in JobStatus}

    def remove(self, id: int) -> bool:
        return self._rows.pop(id, None) is not None

    def upcoming(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        platform: str | None = None,
        after: Job | None = None,
        limit: int = 100,
    ) -> Sequence[Job]:
        waiting = [
            job
            for job in self._rows.values()
            if job.status in WAITING
            and (since is None or job.due_at >= since)
            and (until is None or job.due_at <= until)
            and (platform is None or job.platform == platform)
            and (after is None or (job.due_at, job.id) > (after.due_at, after.id))
        ]
        return copied(sorted(waiting, key=lambda job: (job.due_at, job.id))[:limit])

    def next_due_at(self) -> datetime | None:
        return min((job.due_at for job in self._rows.values() if job.status in WAITING), default=None)

    def claim_due(
        self,
        *,
        worker_id: str,
        limit: int = 100,
        lease: timedelta = timedelta(minutes=5),
        platforms: Sequence[str] | None = None,
    ) -> Sequence[Job]:
        now = self._state.now()
        self.rescue_expired(limit=SWEEP)
        due = [
            job
            for job in sorted(self._rows.values(), key=lambda job: (job.due_at, job.id))
            if job.status in WAITING
            and job.due_at <= now
            and (platforms is None or job.platform in platforms)
        ]
        missed = [
            job for job in due if job.max_lateness is not None and now - job.scheduled_at > job.max_lateness
        ]
        for job in missed[:SWEEP]:
            self._store(
                replace(
                    job,
                    status=JobStatus.DEAD_LETTER,
                    dead_letter_at=now,
                    dead_letter_reason="missed: ",
                    next_retry_at=None,
                )
            )
        return [
            self._store(
                replace(
                    job,
                    status=JobStatus.PROCESSING,
                    claim=job.claim + 1,
                    worker_id=worker_id,
                    lease_until=now + lease,
                )
            )
            for job in [job for job in due if job not in missed and not self._is_paused(job)][:limit]
        ]

    def _is_paused(self, job: Job) -> bool:
        pauses = self._state.tables.pauses
        until = pauses.get(job.platform)
        return job.platform in pauses and (until is None or until > self._state.now())

    def _held(self, job: Job, *, lease: bool = False) -> Job:
        row = self._rows.get(job.id)
        if row is None or row.status is not JobStatus.PROCESSING or row.claim != job.claim:
            raise ClaimLost("not held")
        assert row.lease_until is not None
        if lease and row.lease_until <= self._state.now():
            raise ClaimLost("the lease ran out")
        return row

    def extend(self, jobs: Sequence[Job], *, lease: timedelta) -> Sequence[Job]:
        extended: dict[int, Job] = {}
        for job in jobs:
            try:
                row = self._held(job, lease=True)
            except ClaimLost:
                continue
            extended[row.id] = self._store(replace(row, lease_until=self._state.now() + lease))
        return [extended[id] for id in sorted(extended)]

    def begin_publish(self, job: Job) -> Job:
        row = self._held(job, lease=True)
        return self._store(replace(row, publish_started_at=row.publish_started_at or self._state.now()))

    def begin_publish_many(self, jobs: Sequence[Job]) -> Sequence[Job]:
        begun: dict[tuple[int, int], Job] = {}
        for job in jobs:
            with suppress(ClaimLost):
                begun[job.id, job.claim] = self.begin_publish(job)
        return [*begun.values()]

    def mark_posted(self, job: Job, remote_id: str | None = None) -> Job:
        return self._store(
            replace(
                self._held(job),
                status=JobStatus.POSTED,
                posted_at=self._state.now(),
                remote_id=remote_id,
                next_retry_at=None,
                checkpoint=None,
                worker_id=None,
                lease_until=None,
            )
        )

    def mark_failed(
        self, job: Job, error: str, *, retry_at: datetime | None = None, retryable: bool = True
    ) -> Job:
        row = replace(self._held(job), publish_started_at=None)
        return self._failed(row, error, retry_at=retry_at, final=not retryable)

    def _failed(self, row: Job, error: str, *, retry_at: datetime | None = None, final: bool = False) -> Job:
        now = self._state.now()
        attempt = Attempt(row.retries + 1, now, row.worker_id, error[:4096])
        row = replace(
            row,
            retries=row.retries + 1,
            last_error=error,
            attempts=(*row.attempts, attempt)[-20:],
            worker_id=None,
            lease_until=None,
        )
        if final or row.retries >= row.max_retries:
            return self._store(
                replace(
                    row,
                    status=JobStatus.DEAD_LETTER,
                    dead_letter_at=now,
                    dead_letter_reason=error,
                    next_retry_at=None,
                )
            )
        retry_at = retry_at or now + self._retry_delay
        return self._store(replace(row, status=JobStatus.RETRYING, next_retry_at=retry_at))

    def mark_unknown(self, job: Job, error: str) -> Job:
        row = self._held(job)
        row = replace(row, publish_started_at=row.publish_started_at or self._state.now())
        return self._failed(row, f"outcome unknown: {error}", final=True)

    def snooze(self, job: Job, until: datetime) -> Job:
        return self._handed_back(replace(self._held(job), next_retry_at=until))

    def release(self, job: Job) -> Job:
        return self._handed_back(self._held(job))

    def _handed_back(self, row: Job) -> Job:
        return self._store(
            replace(
                row,
                status=JobStatus.RETRYING if row.retries > 0 else JobStatus.SCHEDULED,
                worker_id=None,
                lease_until=None,
                publish_started_at=None,
            )
        )

    def settle(self, outcomes: Iterable[Outcome]) -> Settled:
        settled = Settled([], [])
        for outcome in outcomes:
            try:
                settled.jobs.append(self._settle_one(outcome))
            except ClaimLost:
                settled.lost.append(outcome.job.id)
        return settled

    def _settle_one(self, outcome: Outcome) -> Job:
        match outcome:
            case Posted(job, remote_id):
                return self.mark_posted(job, remote_id)
            case Failed(job, error, retry_at, retryable):
                return self.mark_failed(job, error, retry_at=retry_at, retryable=retryable)
            case Snoozed(job, until):
                return self.snooze(job, until)
            case Released(job):
                return self.release(job)
            case Unknown(job, error):
                return self.mark_unknown(job, error)

    def rescue_expired(self, *, limit: int = 100) -> Sequence[Job]:
        now = self._state.now()
        expired = sorted(
            (row.lease_until, row.id)
            for row in self._rows.values()
            if row.lease_until is not None and row.lease_until <= now
        )
        rescued = []
        for _, id in expired[:limit]:
            row = self._rows[id]
            if row.publish_started_at is None:
                rescued.append(self._failed(row, "lease expired: "))
            else:
                rescued.append(self._failed(row, "outcome unknown: ", final=True))
        return rescued

    def resolve(
        self, id: int, *, posted: bool, remote_id: str | None = None, claim: int | None = None
    ) -> Job:
        if remote_id is not None and not posted:
            raise InvalidValue("a job that was not posted has no remote id")
        job = self._found(id)
        if claim is not None and claim != job.claim:
            raise StatusConflict("the answer is for another claim", copied(job))
        if not is_unknown(job):
            raise StatusConflict("the outcome is known", copied(job))
        if not posted:
            return self._store(replace(self._again(job, None), checkpoint=job.checkpoint))
        return self._store(
            replace(
                job,
                status=JobStatus.POSTED,
                posted_at=job.publish_started_at,
                remote_id=remote_id,
                dead_letter_at=None,
                dead_letter_reason=None,
                checkpoint=None,
            )
        )

    def cancel(self, id: int) -> Job:
        job = self._found(id)
        if job.status not in ACTIVE or job.publish_started_at is not None:
            raise StatusConflict("it ended, or its publishing has begun", copied(job))
        return self._store(
            replace(job, status=JobStatus.CANCELLED, worker_id=None, lease_until=None, next_retry_at=None)
        )

    def checkpoint(self, job: Job, data: Json) -> Job:
        row = self._held(job)
        if row.publish_started_at is None:
            raise StatusConflict("publishing has not begun", copied(row))
        return self._store(replace(row, checkpoint=copied(data)))

    def _found(self, id: int) -> Job:
        if id not in self._rows:
            raise NotFound("no such job")
        return self._rows[id]

    def replay(self, id: int, *, scheduled_at: datetime | None = None) -> Job | None:
        job = self._rows.get(id)
        if job is None or job.status not in (JobStatus.DEAD_LETTER, JobStatus.CANCELLED):
            return None
        return self._store(self._again(job, scheduled_at))

    def _again(self, job: Job, scheduled_at: datetime | None) -> Job:
        now = self._state.now()
        return replace(
            job,
            status=JobStatus.SCHEDULED,
            scheduled_at=scheduled_at or now,
            retries=0,
            next_retry_at=None,
            last_error=None,
            dead_letter_at=None,
            dead_letter_reason=None,
            publish_started_at=None,
            checkpoint=None,
            replayed_at=now,
        )

    def replay_all(
        self,
        *,
        platform: str | None = None,
        limit: int | None = None,
        unknown: bool = False,
        missed: bool = False,
    ) -> int:
        dead = [
            job.id
            for job in self.dead_letters(platform=platform, limit=10**9)
            if (unknown or not is_unknown(job)) and (missed or not is_missed(job))
        ]
        return len([self.replay(id) for id in dead[:limit]])
