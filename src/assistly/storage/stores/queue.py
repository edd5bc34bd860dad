"""The queue: schedule, claim, publish, settle."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, overload

from .. import validation as check
from ..engine.protocol import StorageBackend
from ..errors import InvalidValue, NotFound, StatusConflict
from ..records import (
    Claimed,
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
from .changing import cancellation, change, checkpoint_of, claim_lost, resolution
from .claiming import DEFAULT_LEASE, claim, rescue
from .context import Context
from .counts import QueueCounts
from .pages import job_status, start_of_page
from .scheduling import Scheduler, checked_gap, raise_conflict
from .settling import claimed_job, claims_of, settlement
from .waiting import wait

_RESCHEDULABLE = (JobStatus.SCHEDULED, JobStatus.RETRYING)


class Queue(QueueCounts):
    """`storage.queue`: jobs to publish, each once, at its time.

    A job is scheduled, claimed by a worker for the time of a lease, and settled: posted, failed, unknown,
    snoozed or released. Platforms, keys and worker ids are names of 1 to 512 bytes of UTF-8; content and
    metadata have at most 1 MiB. Times are aware datetimes, durations are timedeltas. `now` is the time at
    which a call is made (default: the storage's clock, else the engine's). All methods raise InvalidValue
    for wrong arguments.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._scheduler = Scheduler(context)

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
        now: datetime | None = None,
    ) -> Job:
        """Store a job that is due at `scheduled_at` (default: now), and return it.

        `idempotency_key`: if a stored job has this key, that job is returned instead; raises
        IdempotencyMismatch if its platform, content or metadata (except `assistly.trace`) differ. `min_gap`
        (default: no gap): raises ScheduleConflict, with the earliest such job, if an active job on the
        platform is nearer than that; of several concurrent callers for one slot, one wins. `metadata` is a
        JSON object (default: empty). After `max_retries` failed attempts (default: SCHEDULE_MAX_RETRIES) the
        job becomes a dead letter, and so does a job that is not claimed within `max_lateness` after its time
        (default: no limit). Raises InvalidValue for wrong arguments.
        """
        return self._scheduler.schedule(
            NewJob(
                platform, content, scheduled_at, idempotency_key, min_gap, metadata, max_retries, max_lateness
            ),
            now,
        )

    @overload
    def schedule_many(
        self, jobs: Iterable[NewJob], *, returning: Literal["jobs"] = "jobs", now: datetime | None = None
    ) -> builtins.list[Job]: ...

    @overload
    def schedule_many(
        self, jobs: Iterable[NewJob], *, returning: Literal["ids", "none"], now: datetime | None = None
    ) -> builtins.list[int]: ...

    def schedule_many(
        self,
        jobs: Iterable[NewJob],
        *,
        returning: Literal["jobs", "ids", "none"] = "jobs",
        now: datetime | None = None,
    ) -> builtins.list[Any]:
        """Store several jobs like `schedule`, in order, all or nothing, and return them in that order.

        With `returning` "ids" it returns their ids, and with "none" an empty list, using far less memory.
        """
        return self._scheduler.schedule_many(jobs, now, returning)

    def reschedule(
        self,
        id: int,
        scheduled_at: datetime,
        *,
        content: str | None = None,
        metadata: Mapping[str, Json] | None = None,
        min_gap: timedelta | None = None,
        now: datetime | None = None,
    ) -> Job:
        """Move a scheduled or retrying job to another time; it keeps its status and its retries.

        The job is due at `scheduled_at`, which replaces the time of a pending retry. Content and metadata are
        replaced if they are given. Raises NotFound if there is no such job, StatusConflict if it has another
        status, and, if `min_gap` is given, ScheduleConflict like `schedule`.
        """
        given, id = id, check.identity("id", id)
        at = check.utc("scheduled_at", scheduled_at)
        if content is not None:
            check.content("content", content)
        text = None if metadata is None else check.canonical_object("metadata", metadata)
        gap = checked_gap("min_gap", min_gap)
        if gap:
            self._context.backend.jobs.prepare_gap_checks()

        def attempt(backend: StorageBackend) -> Job:
            job = backend.jobs.get(id, lock=True)
            if job is None:
                raise NotFound(f"there is no job {check.shown(given)}")
            if job.status not in _RESCHEDULABLE:
                raise StatusConflict(f"job {id} is {job.status}: only a waiting job can be rescheduled", job)
            if gap:
                backend.jobs.lock_platforms([job.platform])
                raise_conflict(backend, job.platform, at, gap, exclude=id)
            moved = backend.jobs.reschedule(
                id, at, content=content, metadata=text, now=self._context.now(now, backend)
            )
            if moved is None:
                raise NotFound(f"job {id} no longer exists")
            return moved

        return self._context.atomically(attempt)

    def find_conflict(self, platform: str, scheduled_at: datetime, min_gap: timedelta) -> Job | None:
        """Return the earliest active job on the platform nearer to `scheduled_at` than `min_gap`, or None.

        A job is active while it is scheduled, retrying or processing. This reserves nothing: pass `min_gap`
        to `schedule` for that.
        """
        check.name("platform", platform)
        at = check.utc("scheduled_at", scheduled_at)
        gap = check.duration("min_gap", min_gap, zero=True)
        if not gap:
            return None
        self._context.backend.jobs.prepare_gap_checks()
        return self._context.backend.jobs.in_window(platform, *check.window(at, gap))

    def get(self, id: int) -> Job | None:
        """Return the job with this id, or None."""
        return self._context.backend.jobs.get(check.identity("id", id))

    def find_by_key(self, idempotency_key: str) -> Job | None:
        """Return the job with this idempotency key, or None."""
        return self._context.backend.jobs.by_key(check.name("idempotency_key", idempotency_key))

    def list(
        self,
        *,
        status: JobStatus | str | None = None,
        platform: str | None = None,
        after: Job | int | None = None,
        limit: int = 100,
    ) -> builtins.list[Job]:
        """Return a page of up to `limit` (1 to 1000) jobs by id, with one `status` or `platform` if given.

        `after` is the last job of the previous page, or its id.
        """
        wanted = None if status is None else job_status(status)
        check.optional_name("platform", platform)
        return [
            *self._context.backend.jobs.list(
                status=wanted, platform=platform, after=start_of_page(after), limit=check.limit(limit)
            )
        ]

    def remove(self, id: int) -> bool:
        """Delete a job in any status, and return whether there was one.

        Its idempotency key is free again, and a claim on it is lost.
        """
        return self._context.backend.jobs.remove(check.identity("id", id))

    def upcoming(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        platform: str | None = None,
        after: Job | None = None,
        limit: int = 100,
    ) -> builtins.list[Job]:
        """Return a page of up to `limit` (1 to 1000) waiting jobs by (due_at, id), the next one first.

        `since` selects jobs due then or later, `until` then or earlier, `platform` those of one platform.
        `after` is the last job of the previous page, as it was returned.
        """
        check.optional_name("platform", platform)
        edge: tuple[datetime, int] | None = None
        if since is not None:
            edge = (check.utc("since", since), 0)  # ids begin at 1
        if after is not None:
            claimed_job("after", after)
            behind = (check.utc("after.due_at", after.due_at), after.id)
            edge = behind if edge is None else max(edge, behind)
        return [
            *self._context.backend.jobs.waiting(
                until=check.optional_utc("until", until),
                platforms=None if platform is None else [platform],
                after=edge,
                limit=check.limit(limit),
            )
        ]

    def next_due_at(self) -> datetime | None:
        """Return when the first waiting job is due, which may be in the past; None if no job waits."""
        return self._context.backend.jobs.next_due_at()

    def claim_due(
        self,
        *,
        worker_id: str,
        limit: int = 100,
        lease: timedelta = DEFAULT_LEASE,
        platforms: Iterable[str] | None = None,
        now: datetime | None = None,
    ) -> builtins.list[Job]:
        """Claim up to `limit` (1 to 1000) due jobs until now + `lease` (default: 5 minutes), by (due_at, id).

        Each job goes to only one caller. `platforms` restricts the choice (default: all). Pass the returned
        records to the calls that follow; these raise ClaimLost once the job was reclaimed, settled or
        removed. Before it claims, it reclaims up to 100 expired claims (see `rescue_expired`), and up to 100
        due jobs that are past their `max_lateness` become dead letters with the reason `missed: …`. Jobs of
        paused platforms are not claimed.
        """
        return self.sweep_and_claim(
            worker_id=worker_id, limit=limit, lease=lease, platforms=platforms, now=now
        ).jobs

    def sweep_and_claim(
        self,
        *,
        worker_id: str,
        limit: int = 100,
        lease: timedelta = DEFAULT_LEASE,
        platforms: Iterable[str] | None = None,
        now: datetime | None = None,
    ) -> Claimed:
        """Like `claim_due`, but also return the reclaimed and the missed jobs."""
        return claim(
            self._context, worker_id=worker_id, limit=limit, lease=lease, platforms=platforms, now=now
        )

    def extend(
        self, jobs: Iterable[Job], *, lease: timedelta, now: datetime | None = None
    ) -> builtins.list[Job]:
        """Extend the leases of claimed jobs to now + `lease`, and return those still held, by id.

        A job whose lease has expired or whose claim was lost is neither changed nor returned.
        """
        claims = claims_of(jobs)
        check.duration("lease", lease, zero=False)
        if not claims:
            return []
        at = self._context.lease_now(now)
        return [*self._context.backend.jobs.extend(claims, lease_until=check.later(at, lease), now=at)]

    def begin_publish(self, job: Job, *, now: datetime | None = None) -> Job:
        """Record that publishing begins, and return the job. Call it right before the request to the
        platform.

        If the lease expires after this, the job becomes a dead letter with the reason `outcome unknown: …`
        instead of being retried, since a retry could publish it twice. Raises ClaimLost if the claim was lost
        or its lease has expired: do not publish then.
        """
        claimed_job("job", job)
        at = self._context.lease_now(now)
        begun = self._context.backend.jobs.begin_publish(job.id, job.claim, now=at)
        if begun is None:
            raise claim_lost(job, self.get(job.id))
        return begun

    def begin_publish_many(self, jobs: Iterable[Job], *, now: datetime | None = None) -> builtins.list[Job]:
        """Call `begin_publish` for several jobs at once, and return those that may be published, in order.

        Jobs whose claim was lost or whose lease has expired are missing: do not publish them.
        """
        claims = [*dict.fromkeys(claims_of(jobs))]
        if not claims:
            return []
        at = self._context.lease_now(now)
        begun = self._context.backend.jobs.begin_publish_many(claims, now=at)
        return [job for job in begun if job is not None]

    def mark_posted(self, job: Job, remote_id: str | None = None, *, now: datetime | None = None) -> Job:
        """Settle a claimed job as posted, with its id on the platform if known.

        Raises ClaimLost if the job was reclaimed, settled or removed meanwhile.
        """
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
        """Settle a claimed job as failed: nothing was published.

        The job is retried at `retry_at` (default: after SCHEDULE_RETRY_MINUTES), or becomes a dead letter
        after `max_retries` attempts, or at once if it is not `retryable` (default: True). `error` is a str of
        at most 1 MiB. Raises ClaimLost if the job was reclaimed, settled or removed meanwhile.
        """
        return self._settle_one(Failed(job, error, retry_at, retryable), now)

    def mark_unknown(self, job: Job, error: str, *, now: datetime | None = None) -> Job:
        """Settle a claimed job as a dead letter because nobody knows whether it was published.

        Its reason is `outcome unknown: ` and the error. publish_started_at is kept, or set if `begin_publish`
        was not called. A person checks the platform, then calls `resolve`. Raises ClaimLost if the job was
        reclaimed, settled or removed meanwhile.
        """
        return self._settle_one(Unknown(job, error), now)

    def snooze(self, job: Job, until: datetime, *, now: datetime | None = None) -> Job:
        """Return a claimed job to the queue, with its previous status, due at `until`. This uses no attempt.

        Raises ClaimLost if the job was reclaimed, settled or removed meanwhile.
        """
        return self._settle_one(Snoozed(job, until), now)

    def release(self, job: Job, *, now: datetime | None = None) -> Job:
        """Return a claimed job to the queue as it was before the claim. This uses no attempt.

        Raises ClaimLost if the job was reclaimed, settled or removed meanwhile.
        """
        return self._settle_one(Released(job), now)

    def settle(self, outcomes: Iterable[Outcome], *, now: datetime | None = None) -> Settled:
        """Settle several claimed jobs, each with Posted, Failed, Snoozed, Released or Unknown.

        Jobs whose claim was lost are not changed, and their ids are in the result; the others are settled,
        all or nothing.
        """
        batch = [*check.items("outcomes", outcomes, "outcomes")]
        if not batch:
            return Settled([], [])
        at = self._context.now(now)
        retry = self._context.policies.retry
        settlements = [settlement(outcome, retry, at) for outcome in batch]
        results = self._context.backend.jobs.settle(settlements, now=at)
        lost = [outcome.job.id for outcome, job in zip(batch, results, strict=True) if job is None]
        return Settled([job for job in results if job is not None], lost)

    def rescue_expired(self, *, limit: int = 100, now: datetime | None = None) -> builtins.list[Job]:
        """Reclaim up to `limit` (1 to 1000) jobs whose lease has expired, and return them.

        Each counts as a failed attempt. If publishing had begun, the job becomes a dead letter with the
        reason `outcome unknown: …`, and a person decides (see `resolve`).
        """
        check.limit(limit)
        return rescue(self._context, limit, *self._context.times(now))

    def dead_letters(
        self, *, platform: str | None = None, after: Job | int | None = None, limit: int = 100
    ) -> builtins.list[Job]:
        """Return a page of up to `limit` (1 to 1000) dead letters by id; `after` as in `list`."""
        return self.list(status=JobStatus.DEAD_LETTER, platform=platform, after=after, limit=limit)

    def resolve(
        self,
        id: int,
        *,
        posted: bool,
        remote_id: str | None = None,
        claim: int | None = None,
        now: datetime | None = None,
    ) -> Job:
        """Record whether a job with an unknown outcome was published (see `Job.outcome_unknown`).

        With `posted`, the job becomes posted, at the time at which publishing began, with its id on the
        platform if known, and keeps its idempotency key. Otherwise it is scheduled again, due now, like
        `replay`, but keeps its checkpoint. Raises NotFound if there is no such job, and StatusConflict if its
        outcome is not unknown: of several callers, one resolves it and the others get StatusConflict. `claim`
        (default: None) limits the answer to that attempt: raises StatusConflict if the job has another claim.
        """
        check.flag("posted", posted)
        check.optional_name("remote_id", remote_id)
        if remote_id is not None and not posted:
            raise InvalidValue("remote_id must be None unless the job was posted")
        if claim is not None:
            check.whole("claim", claim, least=0, most=check.MAX_ID)
        return change(self._context, id, resolution(remote_id, posted=posted, claim=claim), now)

    def cancel(self, id: int, *, now: datetime | None = None) -> Job:
        """Cancel a job, and return it. The job stays stored, and keeps its idempotency key.

        A job that a worker holds can be cancelled until publishing begins: the worker's next call on it,
        including `begin_publish`, raises ClaimLost. Raises NotFound if there is no such job, and
        StatusConflict if publishing has begun, or if the job is posted, a dead letter or cancelled.
        """
        return change(self._context, id, cancellation, now)

    def checkpoint(self, job: Job, data: Json, *, now: datetime | None = None) -> Job:
        """Store the progress of publishing in a claimed job, as JSON of at most 1 MiB, and return the job.

        For platforms that need several steps: the next attempt finds it in `job.checkpoint`, and need not
        repeat the first steps. It replaces the previous checkpoint; None deletes it. It survives a failure,
        an expired lease and an unknown outcome, and is deleted when the job is posted or replayed.

        Raises ClaimLost if the claim was lost, and StatusConflict if `begin_publish` was not called.
        """
        claimed_job("job", job)
        noted = json.loads(check.canonical("data", data))
        try:
            return change(self._context, job.id, checkpoint_of(job, noted), now)
        except NotFound:
            raise claim_lost(job, None) from None

    def replay(
        self, id: int, *, scheduled_at: datetime | None = None, now: datetime | None = None
    ) -> Job | None:
        """Schedule a dead letter or a cancelled job again at `scheduled_at` (default: now).

        Resets `retries` to 0, and deletes the checkpoint. A job with an unknown outcome may be published a
        second time: use `resolve` for these. Returns None if no dead letter or cancelled job has this id.
        """
        id = check.identity("id", id)
        scheduled = check.optional_utc("scheduled_at", scheduled_at)
        at = self._context.now(now)
        return self._context.backend.jobs.replay(id, scheduled or at, now=at)

    def replay_all(
        self,
        *,
        platform: str | None = None,
        limit: int | None = None,
        unknown: bool = False,
        missed: bool = False,
        now: datetime | None = None,
    ) -> int:
        """Schedule dead letters again, due now, by id, at most `limit` (default: all); return how many.

        By default it skips those with an `unknown` outcome, which may be published a second time, and those
        that were `missed`, whose time has passed.
        """
        check.optional_name("platform", platform)
        check.flag("unknown", unknown)
        check.flag("missed", missed)
        if limit is not None:
            check.whole("limit", limit, least=1, most=check.MAX_ID)
        at = self._context.now(now)
        jobs = self._context.backend.jobs
        return jobs.replay_many(
            platform=platform, limit=limit, unknown=unknown, missed=missed, scheduled_at=at, now=at
        )

    def wait(self, timeout: float | timedelta, *, platforms: Iterable[str] | None = None) -> bool:
        """Sleep until a job of `platforms` (default: all) may be due.

        Returns False if there is none after `timeout` (seconds, or a timedelta). It wakes early when another
        thread or process schedules a due job. Inside a transaction it polls every 0.1 seconds.
        """
        return wait(self._context, check.seconds("timeout", timeout), check.names("platforms", platforms))

    def _settle_one(self, outcome: Outcome, now: datetime | None) -> Job:
        settled = self.settle([outcome], now=now)
        if settled.lost:
            raise claim_lost(outcome.job, self.get(outcome.job.id))
        return settled.jobs[0]
