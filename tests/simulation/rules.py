"""The rules that every run must keep, checked with each call that takes effect."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from assistly.storage.records import Job, JobStatus

from .backend import STORES, SimulatedBackend, Violation
from .scheduler import Process, SimulatedThread

if TYPE_CHECKING:
    from .world import World

WAITING = (JobStatus.SCHEDULED, JobStatus.RETRYING)
ACTIVE = (*WAITING, JobStatus.PROCESSING)
UNKNOWN = "outcome unknown: "
EXPIRED = "lease expired: "
MISSED = "missed: "
LATEST_REPLY = 0.2
"""Seconds that a reply may be late."""


@dataclass
class Ending:
    """What a publisher said, and so how the claim must end."""

    kind: str
    error: str = ""
    final: bool = False
    unknown: bool = False
    remote_id: str | None = None
    after: float = 0.0
    """Seconds after which a job is due again."""


@dataclass(eq=False)
class Claim:
    """One claim on a job."""

    process: Process
    job: Job
    reply_lost: bool
    epoch: int
    """How often the job had been replayed."""
    claimed_mono: float
    begun: bool = False
    begun_at: datetime | None = None
    begun_mono: float = 0.0
    calls: int = 0
    ending: Ending | None = None
    ended_mono: float = 0.0
    ended: str | None = None
    given_up: bool = False
    """Whether the worker no longer waits for the publisher, which took longer than its time limit."""


@dataclass
class Word:
    """What a person or a check said about the unknown outcome of a job, as it was at that look."""

    job: Job
    posted: bool


@dataclass
class JobTrack:
    """What has happened to one job."""

    claims: dict[int, Claim] = field(default_factory=dict)
    published: dict[int, int] = field(default_factory=dict)
    """How often it went out, by the number of replays before."""
    misjudged: int = 0
    """How often a person said something that had been true of an earlier attempt."""
    removed: bool = False


class Rules:
    """Watches all calls of all processes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._checks = self._methods("_before_")
        self._notes = self._methods("_after_")
        self.jobs: dict[int, JobTrack] = {}
        self.words: dict[SimulatedThread, Word] = {}
        self.answers: dict[tuple[Process, int], Word] = {}
        """What each thread says at the moment."""
        self._tables = world.tables
        self.nonces: Counter[str] = Counter()
        self.tokens: set[int] = set()
        self.completed: defaultdict[str, list[Any]] = defaultdict(list)
        self.decided: Counter[str] = Counter()
        self.publishing: dict[Process, list[Claim]] = {}
        self.settled: defaultdict[Process, Counter[str]] = defaultdict(Counter)

    def _methods(self, start: str) -> dict[tuple[str, str], Callable[..., None]]:
        """By kind of record and name of the call."""
        found: dict[tuple[str, str], Callable[..., None]] = {}
        for kind in STORES:
            for name in dir(self):
                if name.startswith(f"{start}{kind}_"):
                    found[kind, name.removeprefix(f"{start}{kind}_")] = getattr(self, name)
        return found

    def published(self, id: int) -> int:
        """How often the job went out since it was scheduled or replayed."""
        return self.jobs[id].published.get(self._epoch(id), 0)

    def _epoch(self, id: int) -> int:
        return self._world.tables.replays.get(id, 0) + self.jobs[id].misjudged

    def may_still_go_out(self, id: int) -> bool:
        """Whether somebody who lives was allowed to publish the job, and has not ended it yet."""
        for claim in self.jobs[id].claims.values():
            is_running = claim in self.publishing.get(claim.process, ())
            if claim.begun and claim.process.alive and (claim.ending is None or is_running):
                return True
        return False

    # Before a call

    def before(
        self, backend: SimulatedBackend, kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Check what an engine is asked for."""
        world = self._world
        now = kwargs.get("now")
        if now is not None and now not in world.scheduler.current.reads:
            reads = [*world.scheduler.current.reads]
            raise Violation(f"{kind}.{name} at {now}, which the clock did not show to its caller: {reads}")
        check = self._checks.get((kind, name))
        if check is not None:
            self._tables = getattr(backend, "tables", world.tables)
            check(backend.process, *args, **kwargs)

    def _before_jobs_claim(
        self, process: Process, *, worker_id: str, limit: int, lease_until: datetime, now: datetime, **_: Any
    ) -> None:
        worker = self._world.worker_of(process)
        if worker is None:
            return
        if lease_until - now != worker.lease:
            raise Violation(f"{process.name} claims for {lease_until - now}, and its lease is {worker.lease}")
        if limit > worker.concurrency:
            raise Violation(f"{process.name} claims {limit} jobs, and publishes {worker.concurrency} at once")
        if worker_id != process.name:
            raise Violation(f"{process.name} claims as {worker_id}")

    def _before_jobs_extend(
        self, process: Process, claims: Any, *, lease_until: datetime, now: datetime
    ) -> None:
        worker = self._world.worker_of(process)
        if worker is not None and lease_until - now != worker.lease:
            raise Violation(f"{process.name} extends to {lease_until - now}; its lease is {worker.lease}")

    def _before_jobs_replay(self, process: Process, *_: Any, **__: Any) -> None:
        if self._world.worker_of(process) is not None:
            raise Violation(f"{process.name} replays a dead letter, and nobody told it to")

    _before_jobs_replay_many = _before_jobs_replay
    _before_jobs_remove = _before_jobs_replay
    _before_jobs_reschedule = _before_jobs_replay

    def _before_jobs_save(self, process: Process, job: Job) -> None:
        """A checkpoint, a cancellation, or the answer to an unknown outcome, and nothing else."""
        before = self._tables.jobs[job.id]
        if job.status is JobStatus.PROCESSING:
            same = replace(before, checkpoint=job.checkpoint, updated_at=job.updated_at)
            if job != same or before.publish_started_at is None:
                raise Violation(f"a checkpoint would turn\n  {before} into\n  {job}")
            return
        by_worker = self._world.worker_of(process) is not None
        if by_worker and (process, job.id) not in self.answers:
            raise Violation(f"{process.name} decides about job {job.id}, and nobody told it to")
        if job.status is JobStatus.CANCELLED:
            if before.status not in ACTIVE or before.publish_started_at is not None:
                raise Violation(f"a job would be cancelled, and it was too late for that: {before}")
            return
        word = self._word(process, job)
        if by_worker and word is not None and word.job.claim != before.claim:
            raise Violation(f"{process.name} answers for claim {word.job.claim}, and the job is {before}")
        if word is None or word.job.id != job.id:
            raise Violation(f"nobody said anything about job {job.id}, and it would become {job}")
        if before.status is not JobStatus.DEAD_LETTER or before.publish_started_at is None:
            raise Violation(f"the outcome of job {job.id} is known, and would become another one: {before}")
        if job.status is not (JobStatus.POSTED if word.posted else JobStatus.SCHEDULED):
            raise Violation(f"job {job.id} is {word}, and would become {job}")

    def _word(self, process: Process, job: Job) -> Word | None:
        return self.answers.get((process, job.id)) or self.words.get(self._world.scheduler.current)

    def _after_jobs_save(self, process: Process, answer: Any, lost: bool, job: Job) -> None:
        if job.status not in (JobStatus.POSTED, JobStatus.SCHEDULED):
            return
        word = self._word(process, job)
        if word is None:
            raise Violation(f"nobody said anything about job {job.id}")
        self.words.pop(self._world.scheduler.current, None)
        if (self.published(job.id) > 0) is word.posted:
            return
        if word.job.claim == job.claim:
            raise Violation(f"a person said {word.posted} about job {job.id}, and that is not true")
        self.jobs[job.id].misjudged += 1

    def _before_jobs_dead_letter_late(self, process: Process, *, reason: str, **_: Any) -> None:
        if not reason.startswith(MISSED):
            raise Violation(f"a late job would become a dead letter because of {reason!r}")

    def _before_jobs_settle(
        self, process: Process, settlements: Any, *, now: datetime, expired_only: bool = False
    ) -> None:
        for one in settlements:
            track = self.jobs.get(one.id)
            claim = None if track is None else track.claims.get(one.claim)
            if claim is None:
                raise Violation(f"job {one.id} is settled under claim {one.claim}, which nobody had")
            if expired_only:
                self._before_rescue(one, claim, now)
            elif claim.process is not process:
                raise Violation(f"{process.name} settles job {one.id} for {claim.process.name}")
            elif self._world.worker_of(process) is not None:
                self._before_ending(process, one, claim, now)

    def _before_rescue(self, one: Any, claim: Claim, now: datetime) -> None:
        if one.keep_publish:
            if not (one.final and one.error.startswith(UNKNOWN)):
                raise Violation(f"job {one.id} was begun and would not end as an unknown outcome: {one}")
        elif not one.error.startswith(EXPIRED) or one.final:
            raise Violation(f"job {one.id} lost its lease, and would end with {one}")
        elif one.at != now + self._world.profile.retry_delay:
            raise Violation(f"job {one.id} lost its lease at {now} and would be due again at {one.at}")

    def _before_ending(self, process: Process, one: Any, claim: Claim, now: datetime) -> None:
        """Whether a worker stores what its publisher said."""
        said = claim.ending
        worker = self._world.worker_of(process)
        is_given_up = one.keep_publish and one.final and "time limit" in one.error
        if is_given_up and claim.calls and worker is not None and worker.timeout is not None:
            if self._world.scheduler.now < claim.begun_mono + worker.timeout:
                raise Violation(f"{process.name} gives job {one.id} up too early")
            claim.given_up = True
            return
        if said is None:
            if claim.calls or one.kind not in ("released", "snoozed"):
                raise Violation(f"{process.name} ends job {one.id}, which no publisher ended, with {one}")
            return
        if one.kind != said.kind:
            raise Violation(f"{process.name}: job {one.id} ended with {said}, and would be stored as {one}")
        if said.kind == "snoozed" and worker is not None and worker.timeout is not None:
            # The publisher has a thread of its own, from which the worker hears a moment later.
            worker.pause(claim.job.platform, claim.ended_mono + said.after)
        if said.kind == "posted":
            if one.remote_id != said.remote_id:
                raise Violation(f"job {one.id} went out as {said.remote_id!r}, not as {one.remote_id!r}")
            return
        if said.kind == "failed":
            error = UNKNOWN + said.error if said.unknown else said.error
            asked = (one.error, one.final, one.keep_publish)
            if asked != (error, said.final or said.unknown, said.unknown):
                raise Violation(f"job {one.id} ended with {said}, and would be stored as {asked}")
            if one.final:
                return
        self._check_due_again(one, claim, said, now)

    def _check_due_again(self, one: Any, claim: Claim, said: Ending, now: datetime) -> None:
        """By the worker's monotonic clock since the publishing began, or by the storage's clock now."""
        assert claim.begun_at is not None
        if said.kind == "failed" and one.at == now + self._world.profile.retry_delay:
            return
        worker = self._world.worker_of(claim.process)
        assert worker is not None
        if said.kind == "failed" and worker.retry_delay is None:
            raise Violation(f"job {one.id} failed at {now}, and would be due again at {one.at}")
        after = said.after
        if said.kind == "failed":
            after = (worker.retry_delay or timedelta(0)).total_seconds()
        passed = claim.ended_mono - claim.begun_mono
        latest = claim.begun_at + timedelta(seconds=passed + after, milliseconds=1)
        # The publisher's time counts from the reply to begin_publish, which may be late.
        earliest = latest - timedelta(seconds=LATEST_REPLY, milliseconds=2)
        if said.kind == "snoozed":
            # The pauses grow with each rate limit in a row.
            latest += timedelta(seconds=60)
        if not earliest <= one.at <= latest:
            raise Violation(f"job {one.id} would be due again at {one.at}, not from {earliest} to {latest}")

    def _before_retention_delete_older(
        self, process: Process, kind: str, cutoff: datetime, *, limit: int
    ) -> None:
        age = getattr(self._world.profile.retention, f"{kind}_age")
        reads = self._world.scheduler.current.reads
        if age is None or all(cutoff != read - age for read in reads):
            raise Violation(f"{kind} before {cutoff} would be deleted, and are kept for {age}")

    def _before_retention_newest_beyond(self, process: Process, kind: str, cap: int) -> None:
        if cap != getattr(self._world.profile.retention, f"{kind}_cap"):
            raise Violation(f"all but {cap} {kind} would be deleted")

    # After a call that took effect

    def after(
        self,
        process: Process,
        kind: str,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        answer: Any,
        reply_lost: bool,
    ) -> None:
        """Note what a call did, and check what became of the jobs."""
        note = self._notes.get((kind, name))
        if note is not None:
            note(process, answer, reply_lost, *args, **kwargs)

    def _after_jobs_insert(self, process: Process, answer: Any, lost: bool, drafts: Any, **_: Any) -> None:
        for job in answer:
            if job is not None:
                if job.id in self.jobs:
                    raise Violation(f"the id {job.id} is given to a second job")
                self.jobs[job.id] = JobTrack()

    def _after_jobs_claim(self, process: Process, answer: Any, lost: bool, **asked: Any) -> None:
        for job in answer:
            track = self.jobs[job.id]
            if job.claim in track.claims:
                raise Violation(f"claim {job.claim} on job {job.id} is given out twice")
            if self.published(job.id):
                raise Violation(f"job {job.id} went out before, and is claimed again")
            if job.publish_started_at is not None:
                raise Violation(f"job {job.id} is claimed, and its publishing has begun already")
            track.claims[job.claim] = Claim(
                process, job, lost, self._epoch(job.id), self._world.scheduler.now
            )

    def _after_jobs_begin_publish(
        self, process: Process, answer: Any, lost: bool, id: int, claim: int, **_: Any
    ) -> None:
        if answer is not None:
            held = self.jobs[id].claims[claim]
            held.begun = True
            held.begun_at, held.begun_mono = answer.updated_at, self._world.scheduler.now

    def _after_jobs_begin_publish_many(
        self, process: Process, answer: Any, lost: bool, claims: Any, **asked: Any
    ) -> None:
        for (id, claim), job in zip(claims, answer, strict=True):
            self._after_jobs_begin_publish(process, job, lost, id, claim, **asked)

    def _after_jobs_settle(
        self, process: Process, answer: Any, lost: bool, settlements: Any, **asked: Any
    ) -> None:
        rescue = asked.get("expired_only", False)
        for one, job in zip(settlements, answer, strict=True):
            if job is None:
                continue
            claim = self.jobs[one.id].claims[one.claim]
            if claim.ended is not None:
                raise Violation(f"claim {one.claim} on job {one.id} has ended twice")
            claim.ended = "rescued" if rescue else one.kind
            if self.published(one.id) and job.status in WAITING:
                raise Violation(f"job {one.id} went out, and waits to go out again")
            if rescue:
                self._after_rescue(one, claim)
            else:
                self._count(process, one, job)

    def _after_rescue(self, one: Any, claim: Claim) -> None:
        if one.keep_publish != claim.begun:
            raise Violation(f"the publishing of job {one.id} had{'' if claim.begun else ' not'} begun: {one}")
        worker = self._world.worker_of(claim.process)
        if worker is None or self._world.profile.jumps or claim.reply_lost:
            return
        if claim.process.alive and not worker.has_ended:
            raise Violation(f"the claim on job {one.id} of {claim.process.name}, which lives, was taken back")

    def _count(self, process: Process, one: Any, job: Job) -> None:
        kind = one.kind
        if kind == "failed":
            kind = (
                "unknown" if one.keep_publish else "dead" if job.status is JobStatus.DEAD_LETTER else "failed"
            )
        claim = self.jobs[one.id].claims[one.claim]
        if kind == "released" or (kind == "snoozed" and claim.ending is None):
            kind = "put back"
        self.settled[process][kind] += 1

    def _after_jobs_remove(self, process: Process, answer: Any, lost: bool, id: int) -> None:
        if answer:
            self.jobs[id].removed = True

    def _after_nonces_register(
        self, process: Process, answer: Any, lost: bool, nonce: str, timestamp_ms: int
    ) -> None:
        self.nonces[nonce] += answer

    def _after_nonces_register_many(self, process: Process, answer: Any, lost: bool, nonces: Any) -> None:
        for (nonce, _), new in zip(nonces, answer, strict=True):
            self.nonces[nonce] += new

    def _after_idempotency_claim(
        self, process: Process, answer: Any, lost: bool, key: str, *, token: int, **_: Any
    ) -> None:
        if answer.token == token and not answer.completed:
            self.tokens.add(token)

    def _after_idempotency_claim_many(self, process: Process, answer: Any, lost: bool, claims: Any) -> None:
        for claim, row in zip(claims, answer, strict=True):
            if row is not None and row.token == claim.token and not row.completed:
                self.tokens.add(claim.token)

    def _after_idempotency_complete(
        self, process: Process, answer: Any, lost: bool, key: str, token: int, value: str, **_: Any
    ) -> None:
        if answer:
            self.completed[key].append(value)

    def _after_approvals_decide(
        self, process: Process, answer: Any, lost: bool, id: str, *_: Any, **__: Any
    ) -> None:
        self.decided[id] += answer is not None

    # Publishing

    def requested(self, process: Process, id: int) -> None:
        """A worker asks whether it may publish a job."""
        worker = self._world.worker_of(process)
        if worker is None:
            return
        if worker.stopping:
            raise Violation(f"{process.name} was told to stop, and begins to publish job {id}")
        job = self._world.tables.jobs.get(id)
        until = 0.0 if job is None else worker.paused.get(job.platform, 0.0)
        claim = None if job is None else self.jobs[id].claims.get(job.claim)
        if job is None or claim is None or claim.claimed_mono > worker.paused_since.get(job.platform, -1.0):
            # The storage has handed it out since, so the pause is over by the storage's clock.
            return
        if self._world.scheduler.now < until - 1e-6:
            raise Violation(f"{process.name} begins job {id}, and its platform is paused until {until:.3f}")

    def begin(self, process: Process, job: Job) -> Claim:
        """A publisher is called."""
        world = self._world
        claim = self.jobs[job.id].claims.get(job.claim)
        if claim is None or claim.process is not process:
            raise Violation(f"{process.name} publishes job {job.id} without a claim on it")
        if not claim.begun:
            raise Violation(f"{process.name} publishes job {job.id} without begin_publish")
        claim.calls += 1
        if claim.calls > 1:
            raise Violation(f"{process.name} publishes job {job.id} twice under claim {job.claim}")
        before = claim.job
        if (job.platform, job.content, job.metadata) != (before.platform, before.content, before.metadata):
            raise Violation(f"{process.name} publishes {job}, and claimed {before}")
        self.publishing.setdefault(process, []).append(claim)
        worker = world.worker_of(process)
        if worker is not None:
            at_once = self._published_at_once(process)
            if len(at_once) > worker.concurrency:
                raise Violation(f"{process.name} publishes {len(at_once)} jobs at once")
            limit = worker.limits.get(job.platform)
            if limit is not None and not world.profile.jumps:
                workers = [each for each in world.workers if each.alive]
                running = [one for each in workers for one in self._published_at_once(each)]
                count = sum(one.job.platform == job.platform for one in running)
                if count > limit:
                    raise Violation(f"{count} jobs on {job.platform} are published at once, not {limit}")
        return claim

    def _published_at_once(self, process: Process) -> list[Claim]:
        return [claim for claim in self.publishing.get(process, ()) if not claim.given_up]

    def went_out(self, process: Process, job: Job) -> None:
        """A job was published, for real."""
        if not process.alive:
            raise Violation(f"{process.name} is dead, and publishes job {job.id}")
        track = self.jobs[job.id]
        epoch = track.claims[job.claim].epoch
        track.published[epoch] = track.published.get(epoch, 0) + 1
        if track.published[epoch] > 1:
            raise Violation(f"job {job.id} is published twice, without a person's word")

    def end(self, process: Process, claim: Claim) -> None:
        """A publisher has returned."""
        self.publishing[process].remove(claim)
