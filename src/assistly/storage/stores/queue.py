"""The queue: schedule, claim, publish, settle."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from datetime import datetime, timedelta

from .. import validation as check
from ..engine.protocol import StorageBackend
from ..errors import ClaimLost, InvalidValue, NotFound, StatusConflict
from ..records import (
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
from .context import Context
from .scheduling import Scheduler, checked_gap, raise_conflict
from .settling import expire, settlement
from .waiting import wait

_SWEEP = 100
_LEASE = timedelta(minutes=5)
_RESCHEDULABLE = (JobStatus.SCHEDULED, JobStatus.RETRYING)


class Queue:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._scheduler = Scheduler(context)

    def schedule(
        self,
        platform: str,
        content: str,
        scheduled_at: datetime | None = None,
        *,
        idempotency_key: str | None = None,
        min_gap: timedelta | None = None,
        metadata: dict[str, Json] | None = None,
        max_retries: int | None = None,
        max_lateness: timedelta | None = None,
        now: datetime | None = None,
    ) -> Job:
        """Store a job, due at `scheduled_at` (default: now).

        With an `idempotency_key` that a stored job has, that job is returned, or
        IdempotencyMismatch raised if its platform, content or metadata differ. With `min_gap`,
        ScheduleConflict is raised, carrying the earliest active job on the platform that is
        nearer than that; of callers that race for one slot, one wins. After `max_retries` failed
        attempts (default: SCHEDULE_MAX_RETRIES) a job goes to the dead letters, and so does one
        that is met later than `max_lateness` after its time.
        """
        if now is None and min_gap is None:
            return self._scheduler.schedule_plain(
                platform, content, scheduled_at, idempotency_key, metadata, max_retries, max_lateness
            )
        new = NewJob(
            platform, content, scheduled_at, idempotency_key, min_gap, metadata, max_retries, max_lateness
        )
        return self._scheduler.schedule(new, now)

    def schedule_many(self, jobs: Iterable[NewJob], *, now: datetime | None = None) -> builtins.list[Job]:
        """`schedule` for each, in order, all or nothing."""
        return self._scheduler.schedule_many(jobs, now)

    def reschedule(
        self,
        id: int,
        scheduled_at: datetime,
        *,
        content: str | None = None,
        metadata: dict[str, Json] | None = None,
        min_gap: timedelta | None = None,
        now: datetime | None = None,
    ) -> Job:
        """Move a job that is scheduled or retrying; it keeps its status and its retries.

        A pending retry is dropped: the job is due at `scheduled_at`. Raises NotFound,
        StatusConflict for any other status, and ScheduleConflict as `schedule` does.
        """
        id = check.identity("id", id)
        moment = check.utc("scheduled_at", scheduled_at)
        if content is not None:
            check.content("content", content)
        text = None if metadata is None else check.canonical_object("metadata", metadata)
        gap = checked_gap("min_gap", min_gap)
        if gap:
            self._context.backend.jobs.prepare_gap_checks()

        def attempt(backend: StorageBackend) -> Job:
            job = backend.jobs.get(id, lock=True)
            if job is None:
                raise NotFound(f"there is no job {id}")
            if job.status not in _RESCHEDULABLE:
                raise StatusConflict(f"job {id} is {job.status}: only a waiting job can be rescheduled", job)
            if gap:
                backend.jobs.lock_platforms([job.platform])
                raise_conflict(backend, job.platform, moment, gap, exclude=id)
            moved = backend.jobs.reschedule(
                id, moment, content=content, metadata=text, now=self._context.now(now)
            )
            if moved is None:
                raise NotFound(f"there is no job {id} any more")
            return moved

        return self._context.atomically(attempt)

    def find_conflict(self, platform: str, scheduled_at: datetime, min_gap: timedelta) -> Job | None:
        """The earliest active job on the platform that is nearer to the time than `min_gap`."""
        check.name("platform", platform)
        moment = check.utc("scheduled_at", scheduled_at)
        gap = check.duration("min_gap", min_gap, zero=True)
        if not gap:
            return None
        self._context.backend.jobs.prepare_gap_checks()
        return self._context.backend.jobs.in_window(platform, *check.window(moment, gap))

    def get(self, id: int) -> Job | None:
        return self._context.backend.jobs.get(check.identity("id", id))

    def list(
        self,
        *,
        status: JobStatus | str | None = None,
        platform: str | None = None,
        after: Job | int | None = None,
        limit: int = 100,
    ) -> builtins.list[Job]:
        """A page by id. `after`: the last job of the page before, or its id."""
        wanted = None if status is None else _status(status)
        check.optional_name("platform", platform)
        return [
            *self._context.backend.jobs.list(
                status=wanted, platform=platform, after=_after(after), limit=check.limit(limit)
            )
        ]

    def counts(self, *, posted: bool = True) -> dict[JobStatus, int]:
        """How many jobs are in each status, with zeros.

        The posted ones are as many as the history is long. Without them (`posted=False`) the
        answer has four statuses, and comes as soon as what is not done is counted.
        """
        check.flag("posted", posted)
        found = self._context.backend.jobs.counts(posted=posted)
        return {
            status: found.get(status, 0) for status in JobStatus if posted or status is not JobStatus.POSTED
        }

    def remove(self, id: int) -> bool:
        """Delete a job in whatever status, and free its idempotency key. A claim on it is lost."""
        return self._context.backend.jobs.remove(check.identity("id", id))

    def next_due_at(self) -> datetime | None:
        """When the next waiting job falls due; in the past if one is due already."""
        return self._context.backend.jobs.next_due_at()

    def claim_due(
        self,
        *,
        worker_id: str,
        limit: int = 100,
        lease: timedelta = _LEASE,
        platforms: Iterable[str] | None = None,
        now: datetime | None = None,
    ) -> builtins.list[Job]:
        """Hold up to `limit` due jobs until now + `lease`, by (due_at, id).

        Each job goes to one claimer only. Every later call on it carries its claim, and raises
        ClaimLost once the job was taken back, settled or removed. On the way, up to 100 expired
        claims are taken back (see `rescue_expired`) and up to 100 due jobs that are later than
        their max_lateness go to the dead letters with the reason `missed: …`.
        """
        check.name("worker_id", worker_id)
        check.limit(limit)
        check.duration("lease", lease, zero=False)
        wanted = check.names("platforms", platforms)
        at = self._context.now(now)
        until = check.later(at, lease)
        jobs = self._context.backend.jobs
        claimed = jobs.claim(
            worker_id=worker_id,
            limit=limit,
            lease_until=until,
            platforms=wanted,
            now=at,
            unless_overdue=True,
        )
        if not claimed:
            self._rescue(_SWEEP, at)
            reason = f"missed: later than its max_lateness when it was met at {at.isoformat()}"
            jobs.dead_letter_late(limit=_SWEEP, platforms=wanted, reason=reason, now=at)
            claimed = jobs.claim(
                worker_id=worker_id, limit=limit, lease_until=until, platforms=wanted, now=at
            )
        return [*claimed]

    def extend(
        self, jobs: Iterable[Job], *, lease: timedelta, now: datetime | None = None
    ) -> builtins.list[Job]:
        """Hold claimed jobs until now + `lease`; the ones that are still held, by id."""
        if not isinstance(jobs, Iterable):
            raise check.wrong_type("jobs", "an iterable of Job", jobs)
        claims = [(job.id, job.claim) for job in (check.instance("jobs", job, Job) for job in jobs)]
        check.duration("lease", lease, zero=False)
        if not claims:
            return []
        at = self._context.now(now)
        return [*self._context.backend.jobs.extend(claims, lease_until=check.later(at, lease), now=at)]

    def begin_publish(self, job: Job, *, now: datetime | None = None) -> Job:
        """Record that publishing begins. Call it right before the call that cannot be taken back.

        From here on, a lease that runs out leads to the dead letters with `outcome unknown: …`
        and not to a retry. Raises ClaimLost also when the lease has run out.
        """
        check.instance("job", job, Job)
        begun = self._context.backend.jobs.begin_publish(job.id, job.claim, now=self._context.now(now))
        if begun is None:
            raise self._lost(job)
        return begun

    def mark_posted(self, job: Job, remote_id: str | None = None, *, now: datetime | None = None) -> Job:
        return self._settle_one(Posted(job, remote_id), now)

    def mark_failed(
        self,
        job: Job,
        error: str,
        *,
        retry_at: datetime | None = None,
        retryable: bool = True,
        now: datetime | None = None,
    ) -> Job:
        """Count a failed attempt that published nothing.

        The job is tried again at `retry_at` (default: after the policy's delay), or goes to the
        dead letters when it has had its `max_retries` or is not `retryable`.
        """
        return self._settle_one(Failed(job, error, retry_at, retryable), now)

    def mark_unknown(self, job: Job, error: str, *, now: datetime | None = None) -> Job:
        """Put a job that may have been published or not among the dead letters, for a person to decide.

        Its reason is `outcome unknown: ` and the error; publish_started_at is kept.
        """
        return self._settle_one(Unknown(job, error), now)

    def snooze(self, job: Job, until: datetime, *, now: datetime | None = None) -> Job:
        """Put a claimed job back until then; costs no attempt."""
        return self._settle_one(Snoozed(job, until), now)

    def release(self, job: Job, *, now: datetime | None = None) -> Job:
        """Put a claimed job back as it was; costs no attempt."""
        return self._settle_one(Released(job), now)

    def settle(self, outcomes: Iterable[Outcome], *, now: datetime | None = None) -> Settled:
        """End a batch of claims. Lost ones are listed, the others are applied."""
        if not isinstance(outcomes, Iterable):
            raise check.wrong_type("outcomes", "an iterable of outcomes", outcomes)
        batch = [*outcomes]
        if not batch:
            return Settled([], [])
        at = self._context.now(now)
        retry = self._context.policies.retry
        settlements = [settlement(outcome, retry, at) for outcome in batch]
        results = self._context.backend.jobs.settle(settlements, now=at)
        lost = [outcome.job.id for outcome, job in zip(batch, results, strict=True) if job is None]
        return Settled([job for job in results if job is not None], lost)

    def rescue_expired(self, *, limit: int = 100, now: datetime | None = None) -> builtins.list[Job]:
        """Take back claims whose lease ran out; the jobs as they are now.

        It counts as a failed attempt. Where publishing had begun, the job goes to the dead
        letters with the reason `outcome unknown: …`, for a person to decide.
        """
        check.limit(limit)
        return self._rescue(limit, self._context.now(now))

    def dead_letters(
        self, *, platform: str | None = None, after: Job | int | None = None, limit: int = 100
    ) -> builtins.list[Job]:
        """A page by id."""
        return self.list(status=JobStatus.DEAD_LETTER, platform=platform, after=after, limit=limit)

    def replay(
        self, id: int, *, scheduled_at: datetime | None = None, now: datetime | None = None
    ) -> Job | None:
        """Schedule a dead letter anew (default: now); None if there is no dead letter of that id."""
        id = check.identity("id", id)
        moment = check.optional_utc("scheduled_at", scheduled_at)
        at = self._context.now(now)
        return self._context.backend.jobs.replay(id, moment or at, now=at)

    def replay_all(
        self, *, platform: str | None = None, limit: int | None = None, now: datetime | None = None
    ) -> int:
        """Schedule the dead letters anew, by id; how many."""
        check.optional_name("platform", platform)
        if limit is not None:
            check.whole("limit", limit, least=1, most=check.MAX_ID)
        at = self._context.now(now)
        return self._context.backend.jobs.replay_many(platform=platform, limit=limit, scheduled_at=at, now=at)

    def wait(self, timeout: float | timedelta) -> bool:
        """Sleep until a job may be due, at most `timeout` (seconds, or a timedelta): True if one may be."""
        return wait(self._context, timeout)

    def _rescue(self, limit: int, at: datetime) -> builtins.list[Job]:
        jobs = self._context.backend.jobs
        expired = jobs.expired(limit=limit, now=at)
        if not expired:
            return []
        retry = self._context.policies.retry
        results = jobs.settle([expire(job, retry, at) for job in expired], now=at, expired_only=True)
        return [job for job in results if job is not None]

    def _settle_one(self, outcome: Outcome, now: datetime | None) -> Job:
        at = self._context.now(now)
        ending = settlement(outcome, self._context.policies.retry, at)
        job = self._context.backend.jobs.settle([ending], now=at)[0]
        if job is None:
            raise self._lost(outcome.job)
        return job

    def _lost(self, job: Job) -> ClaimLost:
        current = self._context.backend.jobs.get(job.id)
        if current is None:
            found = "it was removed"
        elif current.status is not JobStatus.PROCESSING:
            found = f"it is {current.status} by now"
        elif current.claim != job.claim:
            found = f"it was claimed again by {current.worker_id!r}"
        else:
            found = f"its lease ran out at {current.lease_until}"
        return ClaimLost(f"claim {job.claim} on job {job.id} is lost: {found}; nothing was changed")


def _status(value: object) -> JobStatus:
    try:
        return JobStatus(value)  # type: ignore[arg-type]
    except ValueError:
        known = ", ".join(JobStatus)
        raise InvalidValue(f"status must be one of {known}, not {check.shown(value)}") from None


def _after(after: Job | int | None) -> int:
    if after is None:
        return 0
    return after.id if isinstance(after, Job) else check.identity("after", after)
