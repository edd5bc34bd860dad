"""Clients: they schedule, decide, count, lock and read, and check what they are told."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

from assistly.storage import Storage
from assistly.storage.errors import (
    ConfigurationError,
    InvalidValue,
    MigrationError,
    OutcomeUnknown,
    StorageClosed,
    StorageCorrupt,
    StorageError,
    StorageUnavailable,
    TransactionOpen,
)
from assistly.storage.records import (
    ClaimState,
    Failed,
    IdempotencyClaim,
    Job,
    NewEvent,
    NewJob,
    Outcome,
    Posted,
    Released,
    Snoozed,
    Unknown,
    WorkerLock,
)

from .backend import Violation
from .compared import Undone, compare
from .rules import Ending, Word
from .scheduler import Process
from .workers import PLATFORMS

if TYPE_CHECKING:
    from .world import World

Operation = Callable[[Any], Any]

_CONTESTED = (
    "_schedule",
    "_schedule_many",
    "_work_by_hand",
    "_decide",
    "_decide",
    "_count_in_a_session",
    "_use_sessions",
    "_use_approvals",
    "_use_keys",
    "_run_once",
    "_register",
    "_register",
    "_measure",
    "_measure",
    "_measure",
    "_use_locks",
    "_use_events",
    "_prune",
)
"""What several clients may do at once."""

_NEVER = (ConfigurationError, InvalidValue, MigrationError, StorageClosed, StorageCorrupt, TransactionOpen)
GAP = timedelta(seconds=3)
KEY_LEASE = timedelta(seconds=3)
LOCK_TTL = timedelta(seconds=4)


class Promises:
    """What clients were told, over all of them."""

    def __init__(self) -> None:
        self.scheduled: set[int] = set()
        self.nonces: Counter[str] = Counter()
        self.decided: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()
        self.perhaps: Counter[str] = Counter()
        self.metrics: Counter[str] = Counter()
        self.perhaps_metrics: Counter[str] = Counter()
        self.runs: defaultdict[str, list[tuple[Process, datetime]]] = defaultdict(list)
        self.results: defaultdict[str, list[Any]] = defaultdict(list)
        self.read: list[int] = []
        self.appended: set[int] = set()
        self.fences: dict[str, int] = {}


class Client:
    """One thread that makes operations one after the other."""

    def __init__(
        self,
        world: World,
        process: Process,
        storage: Storage,
        number: int,
        count: int,
        *,
        rival_in: str | None = None,
    ) -> None:
        self._world = world
        self._process = process
        self._storage = storage
        # In a batch of others an operation would wait for their turns.
        self._alone = world.open(process, batches=0)
        self._number = number
        self._count = count
        self._name = f"client-{number}"
        self._held: list[Job] = []
        self._claimed: list[Job] = []
        self._begun: dict[int, Job] = {}
        self._key_claims: list[IdempotencyClaim] = []
        self._locks: list[WorkerLock] = []
        self._kinds: list[Callable[[], None]] = [
            *[self._schedule] * 9,
            *[self._schedule_many] * 4,
            *[self._change_a_job] * 3,
            *[self._decide] * 5,
            *[self._work_by_hand] * 10,
            *[self._use_a_stale_claim] * 2,
            *[self._read_jobs] * 2,
            *[self._count_in_a_session] * 2,
            *[self._use_sessions] * 2,
            *[self._use_approvals] * 2,
            *[self._use_keys] * 3,
            *[self._run_once] * 3,
            *[self._register] * 2,
            *[self._measure] * 2,
            *[self._use_locks] * 4,
            *[self._use_events] * 2,
            self._use_snapshots,
            *[self._use_platforms] * 2,
            self._prune,
            *[self._in_a_transaction] * 2,
            *[self._compete] * 6,
        ]
        self._is_rival = rival_in is not None
        if rival_in is not None:
            self._kinds = [getattr(self, rival_in)]

    @property
    def _random(self) -> Random:
        return self._world.random

    @property
    def _promises(self) -> Promises:
        return self._world.promises

    def run(self) -> None:
        """Make all operations."""
        random = self._random
        for _ in range(self._count):
            if not self._is_rival and random.random() < 0.6:
                self._world.meet(random.randrange(1, 5))
            if self._taken() and random.random() < 0.4:
                self._use_a_stale_claim()
            else:
                random.choice(self._kinds)()

    def _make(self, what: str, operation: Operation, *, compared: bool = True) -> Any:
        """Make an operation, often in one turn and compared with the model; return the answer or error."""
        world = self._world
        if compared and not self._is_rival and self._random.random() < 0.55:
            with world.atomic():
                answer = compare(world, self._alone, f"{self._name}: {what}", operation)
        else:
            try:
                answer = operation(self._storage)
            except (StorageError, Undone) as error:
                answer = error
        if isinstance(answer, _NEVER):
            raise Violation(f"{self._name}: {what} raised {answer!r}") from answer
        if isinstance(answer, StorageUnavailable | OutcomeUnknown) and not world.profile.faults:
            raise Violation(f"{self._name}: {what} raised {answer!r}, and nothing went wrong") from answer
        return answer

    def _number_below(self, count: int) -> int:
        """Names a record. Rivals compete for the same, or one of two."""
        return (
            int(self._random.random() < 0.3 and count > 1)
            if self._is_rival
            else self._random.randrange(count)
        )

    def _compete(self) -> None:
        """Several threads do the same at the same moment, with the same records."""
        kind = self._random.choice(_CONTESTED)
        for _ in range(self._random.randrange(3, 7)):
            number = self._world.next_number()
            rival = Client(
                self._world, self._process, self._storage, number, self._random.choice((1, 2)), rival_in=kind
            )
            self._world.scheduler.start(f"client-rival-{number}", self._process, rival.run)

    # Jobs

    def _time(self) -> datetime | None:
        offset = self._random.choice((None, 0.0, 0.0, 0.5, 1.0, 1.0, 3.0, 7.0, -1.0))
        return None if offset is None else self._world.today() + timedelta(seconds=offset)

    def _new(self) -> NewJob:
        random = self._random
        keyed = random.random() < 0.4
        number = self._number_below(8)
        platform = PLATFORMS[number % 3] if keyed else random.choice(PLATFORMS)
        content = f"content {number}" if keyed and random.random() < 0.95 else f"by {self._name}"
        return NewJob(
            platform,
            content,
            self._time(),
            idempotency_key=f"key {number}" if keyed else None,
            min_gap=random.choice((None, None, None, GAP)),
            metadata=random.choice((None, {"n": number})) if not keyed else {"n": number},
            max_retries=random.choice((None, None, 1, 3)),
            max_lateness=random.choice((None, None, None, timedelta(0), timedelta(seconds=2))),
        )

    def _schedule(self) -> None:
        new = self._new()
        answer = self._make(f"schedule({new})", lambda api: _schedule(api, new))
        if isinstance(answer, Job):
            self._was_scheduled(new, answer)

    def _schedule_many(self) -> None:
        news = [self._new() for _ in range(self._random.randrange(1, 7))]
        if self._random.random() < 0.5:
            news = [_without_gap(new) for new in news]
        returning = self._random.choice(("jobs", "jobs", "jobs", "none"))
        answer = self._make(
            f"schedule_many({news})", lambda api: api.queue.schedule_many(news, returning=returning)
        )
        if returning == "none":
            if answer != [] and not isinstance(answer, StorageError):
                raise Violation(f"schedule_many returned {answer}, and was asked for nothing")
        elif isinstance(answer, list):
            if len(answer) != len(news):
                raise Violation(f"schedule_many returned {len(answer)} jobs for {len(news)}")
            for new, job in zip(news, answer, strict=True):
                self._was_scheduled(new, job)

    def _was_scheduled(self, new: NewJob, job: Job) -> None:
        got = job.platform, job.idempotency_key, job.content, job.metadata
        if got != (new.platform, new.idempotency_key, new.content, new.metadata or {}):
            raise Violation(f"{new} was scheduled, and {job} returned")
        if job.id not in self._world.rules.jobs:
            raise Violation(f"job {job.id} was acknowledged, and never stored")
        self._promises.scheduled.add(job.id)

    def _some_id(self) -> int:
        ids = [*self._world.tables.jobs]
        return self._random.choice(ids) if ids and self._random.random() < 0.97 else 10**6

    def _change_a_job(self) -> None:
        random, id = self._random, self._some_id()
        at = self._time() or self._world.today()
        kind = random.randrange(10)
        if kind < 4:
            content = random.choice((None, "other"))
            gap = random.choice((None, None, GAP))
            self._make(
                f"reschedule({id}, {at})",
                lambda api: api.queue.reschedule(id, at, content=content, min_gap=gap),
            )
        elif kind < 6:
            keyed = [job.id for job in self._world.tables.jobs.values() if job.idempotency_key is not None]
            id = random.choice(keyed) if keyed and random.random() < 0.7 else id
            self._make(f"remove({id})", lambda api: api.queue.remove(id))
        elif kind < 9:
            jobs = self._world.tables.jobs.values()
            fit = [job.id for job in jobs if job.status in ("dead_letter", "cancelled")]
            id = random.choice(fit) if fit else id
            when = random.choice((None, at))
            self._make(f"replay({id})", lambda api: api.queue.replay(id, scheduled_at=when))
        else:
            platform, limit = random.choice((None, *PLATFORMS)), random.choice((None, 1, 2))
            unknown, missed = random.random() < 0.2, random.random() < 0.4
            self._make(
                f"replay_all(unknown={unknown}, missed={missed})",
                lambda api: api.queue.replay_all(
                    platform=platform, limit=limit, unknown=unknown, missed=missed
                ),
            )

    def _decide(self) -> None:
        """An operator answers an unknown outcome, or cancels a job."""
        random, world = self._random, self._world
        unknown = [job for job in world.tables.jobs.values() if job.outcome_unknown]
        if unknown and random.random() < 0.7:
            self.answer(unknown[self._number_below(len(unknown))])
            return
        fit = [job.id for job in world.tables.jobs.values() if job.status in ("processing", "scheduled")]
        id = random.choice(fit) if fit and random.random() < 0.8 else self._some_id()
        if random.random() < 0.2:
            # Of most jobs the outcome is known, and nobody may say anything else about them.
            job = world.tables.jobs.get(id)
            if job is not None and not job.outcome_unknown:
                self._make(f"resolve({id})", lambda api: api.queue.resolve(id, posted=False))
            return
        self._make(f"cancel({id})", lambda api: api.queue.cancel(id))

    def answer(self, job: Job) -> None:
        """Say about an unknown outcome what is true, unless a publisher may still be at it."""
        rules = self._world.rules
        if rules.may_still_go_out(job.id):
            return
        posted = rules.published(job.id) > 0
        remote_id = self._random.choice((None, "found")) if posted else None
        rules.words[self._world.scheduler.current] = Word(job, posted)
        self._make(
            f"resolve({job.id}, posted={posted})",
            lambda api: api.queue.resolve(job.id, posted=posted, remote_id=remote_id),
        )

    def _read_jobs(self) -> None:
        random, id = self._random, self._some_id()
        status = random.choice(
            (None, "scheduled", "processing", "posted", "dead_letter", "retrying", "cancelled")
        )
        platform = random.choice((None, *PLATFORMS))
        limit, at = random.choice((1, 3, 100)), self._time() or self._world.today()
        until, last = self._time(), random.choice((None, self._world.tables.jobs.get(id)))
        operation: Operation = random.choice(
            (
                lambda api: api.queue.get(id),
                lambda api: api.queue.list(status=status, platform=platform, after=id - 2, limit=limit),
                lambda api: api.queue.counts(),
                lambda api: api.queue.depths(),
                lambda api: api.queue.timeline([at - GAP, at, at + GAP]),
                lambda api: api.queue.next_due_at(),
                lambda api: api.queue.upcoming(until=until, platform=platform, after=last, limit=limit),
                lambda api: api.queue.dead_letters(platform=platform, limit=limit),
                lambda api: api.queue.find_conflict(platform or "free", at, GAP),
            )
        )
        self._make("reading jobs", operation)

    def _work_by_hand(self) -> None:
        """A worker of the simplest kind: it never extends a lease by itself."""
        random = self._random
        draw = random.random()
        if not self._held or draw < 0.3:
            limit = random.choice((1, 2, 100 if random.random() < 0.2 else 3))
            lease = timedelta(seconds=random.choice((0.5, 1, 4)))
            platforms = random.choice((None, ["free"], [*PLATFORMS]))
            answer = self._make(
                f"claim_due(limit={limit})",
                lambda api: api.queue.claim_due(
                    worker_id=self._name, limit=limit, lease=lease, platforms=platforms
                ),
            )
            if isinstance(answer, list):
                self._were_claimed(answer, limit, platforms)
                self._held += answer
                self._claimed = (self._claimed + answer)[-8:]
            return
        if draw < 0.4:
            lease = timedelta(seconds=random.choice((1, 4)))
            held = [*self._held]
            self._make("extend", lambda api: api.queue.extend(held, lease=lease))
            return
        if draw < 0.45:
            limit = random.choice((1, 100))
            self._make("rescue_expired", lambda api: api.queue.rescue_expired(limit=limit))
            return
        if draw < 0.65:
            job = random.choice(self._held)
            answer = self._make(f"begin_publish({job.id})", lambda api: api.queue.begin_publish(job))
            if isinstance(answer, Job):
                self._begun[job.id] = answer
            return
        if draw < 0.75:
            self._note_progress(random.choice(self._held))
            return
        self._settle_by_hand()

    def _note_progress(self, job: Job) -> None:
        """Store a checkpoint; publishing may not have begun, or somebody else may have the job."""
        data = self._random.choice((None, {"container": self._world.next_number()}))
        self._make(f"checkpoint({job.id})", lambda api: api.queue.checkpoint(job, data))

    def _were_claimed(self, jobs: list[Job], limit: int, platforms: list[str] | None) -> None:
        if len(jobs) > limit:
            raise Violation(f"{len(jobs)} jobs are claimed, and {limit} were asked for")
        for job in jobs:
            if job.worker_id != self._name or (platforms is not None and job.platform not in platforms):
                raise Violation(f"{self._name} got {job}")
        places = [(job.due_at, job.id) for job in jobs]
        if places != sorted(places):
            raise Violation(f"claimed in another order than that of their times: {places}")

    def _settle_by_hand(self) -> None:
        random = self._random
        jobs = random.sample(self._held, random.randrange(1, min(3, len(self._held)) + 1))
        outcomes = [self._outcome(job) for job in jobs]
        for job in jobs:
            if random.random() < 0.9:
                self._held.remove(job)
        if len(outcomes) == 1 and random.random() < 0.7:
            (outcome,) = outcomes
            self._make(f"ending {outcome}", lambda api: _end_one(api.queue, outcome))
        else:
            self._make("settle", lambda api: api.queue.settle(outcomes))

    def _taken(self) -> list[Job]:
        """Jobs that it had claimed, and that others hold now."""
        rows = self._world.tables.jobs
        return [
            job
            for job in self._claimed
            if job.id in rows and rows[job.id].status == "processing" and rows[job.id].claim != job.claim
        ]

    def _use_a_stale_claim(self) -> None:
        """Somebody else may have the job by now."""
        if not self._claimed:
            return
        job = self._random.choice(self._taken() or self._claimed)
        outcome = self._outcome(job)
        choices: tuple[Operation, ...] = (
            lambda api: api.queue.settle([outcome]),
            lambda api: _end_one(api.queue, outcome),
            lambda api: api.queue.extend([job], lease=timedelta(seconds=2)),
            lambda api: api.queue.checkpoint(job, {"by": self._name}),
        )
        self._make(f"with a claim of long ago, {outcome}", self._random.choice(choices))

    def _outcome(self, job: Job) -> Outcome:
        random, rules = self._random, self._world.rules
        begun = self._begun.pop(job.id, None)
        now = self._world.today()
        claim = rules.jobs[job.id].claims[job.claim]
        if begun is not None and begun.claim == job.claim and claim.ending is None:
            if random.random() < 0.7:
                rules.begin(self._process, begun)
                rules.went_out(self._process, begun)
                rules.end(self._process, claim)
            claim.ending = Ending("posted" if claim.calls else "nothing went out")
        if claim.calls:
            # It went out: nothing else may be said about it.
            return Posted(job, f"by {self._name}") if random.random() < 0.8 else Unknown(job, "no answer")
        if not claim.begun:
            kinds = ("failed", "retry at", "fatal", "snoozed", "released")
        else:
            kinds = ("failed", "fatal", "snoozed", "released", "unknown")
        kind = random.choice(kinds)
        if kind == "failed":
            return Failed(job, "busy")
        if kind == "retry at":
            return Failed(job, "busy", retry_at=now + timedelta(seconds=random.randrange(4)))
        if kind == "fatal":
            return Failed(job, "refused", retryable=False)
        if kind == "snoozed":
            return Snoozed(job, now + timedelta(seconds=random.randrange(6)))
        if kind == "unknown":
            return Unknown(job, "no answer")
        return Released(job)

    # Other kinds of record

    def _count_in_a_session(self) -> None:
        user = f"counter {self._number_below(2)}"

        def change(data: Any) -> Any:
            return {"n": data["n"] + 1}

        answer = self._make("update", lambda api: api.sessions.update(user, change, default={"n": 0}))
        if isinstance(answer, OutcomeUnknown):
            self._promises.perhaps[user] += 1
        elif not isinstance(answer, StorageError):
            self._promises.counted[user] += 1

    def _use_sessions(self) -> None:
        random = self._random
        user, version = f"user {self._number_below(3)}", random.choice((None, None, 0, 1, 2))
        operation: Operation = random.choice(
            (
                lambda api: api.sessions.put(user, {"by": self._name}, expected_version=version),
                lambda api: api.sessions.get(user),
                lambda api: api.sessions.delete(user),
                lambda api: api.sessions.list(limit=2),
            )
        )
        self._make("using sessions", operation)

    def _use_approvals(self) -> None:
        random = self._random
        id = f"approval {random.randrange(8)}"
        draw = random.random()
        if draw < 0.4:
            number = self._world.next_number()
            self._make("add", lambda api: api.approvals.add(f"approval {number}", {"n": number}))
        elif draw < 0.85:
            known = [*self._world.tables.approvals]
            id = known[-1 - self._number_below(min(3, len(known)))] if known else id
            patch = random.choice((None, {"by": self._name}))
            answer = self._make(
                f"decide({id})", lambda api: api.approvals.decide(id, f"by {self._name}", patch=patch)
            )
            if not isinstance(answer, StorageError):
                self._promises.decided[id] += 1
                if self._promises.decided[id] > 1:
                    raise Violation(f"{id} is decided twice")
                if answer.status != f"by {self._name}" or (patch and answer.payload.get("by") != self._name):
                    raise Violation(f"{self._name} decided {id}, and got {answer}")
        else:
            status = random.choice((None, "pending"))
            self._make("listing approvals", lambda api: api.approvals.list(status=status, limit=2))

    def _use_keys(self) -> None:
        random, key = self._random, f"claimed {self._number_below(3)}"
        draw = random.random()
        if draw < 0.4 or not self._key_claims:
            fingerprint = random.choice((None, None, "a", "b"))
            lease = random.choice((timedelta(seconds=0.5), KEY_LEASE))
            answer = self._make(
                f"claim({key})",
                lambda api: api.idempotency.claim(key, fingerprint=fingerprint, lease=lease),
            )
            if isinstance(answer, IdempotencyClaim) and answer.state is ClaimState.ACQUIRED:
                if answer.token not in self._world.rules.tokens:
                    raise Violation(f"{key} is acquired under a token that was never stored")
                self._key_claims.append(answer)
            return
        if draw < 0.9:
            rows = self._world.tables.keys
            overtaken = [
                claim
                for claim in self._key_claims
                if claim.key in rows
                and not rows[claim.key].completed
                and rows[claim.key].token != claim.token
            ]
            claim = random.choice(overtaken or self._key_claims)
            if random.random() < 0.7:
                self._key_claims.remove(claim)
            operation: Operation = lambda api: api.idempotency.complete(claim, {"by": self._name})  # noqa: E731
            if random.random() < 0.3:
                operation = lambda api: api.idempotency.abandon(claim)  # noqa: E731
            self._make(f"ending the claim on {claim.key}", operation)
            return
        choices: tuple[Operation, ...] = (
            lambda api: api.idempotency.put(key, [1, self._name]),
            lambda api: api.idempotency.get(key),
        )
        self._make("using keys", random.choice(choices))

    def _run_once(self) -> None:
        world, promises = self._world, self._promises
        key = f"command {self._number_below(4)}"
        longest = KEY_LEASE.total_seconds() * self._random.choice((0.0, 0.5, 1.5))

        def function() -> Any:
            now = world.scheduler.now
            runs = promises.runs[key]
            if not world.profile.jumps:
                for process, until in runs:
                    if process.alive and world.today() < until:
                        raise Violation(f"the command of {key} runs twice at a time")
            # The lease began before the reply.
            run = (self._process, world.today() + KEY_LEASE - timedelta(seconds=1))
            runs.append(run)
            try:
                world.scheduler.sleep(self._random.randrange(4) * longest / 3)
                if self._random.random() < 0.15:
                    raise Undone
                return [self._name, now, len(runs)]
            finally:
                runs.remove(run)

        try:
            answer = self._storage.idempotency.run_once(key, function, lease=KEY_LEASE)
        except Undone:
            return
        except _NEVER as error:
            raise Violation(f"{self._name}: run_once raised {error!r}") from error
        except StorageError as error:
            if isinstance(error, StorageUnavailable | OutcomeUnknown) and not world.profile.faults:
                raise Violation(f"{self._name}: run_once raised {error!r}, and nothing went wrong") from error
            return
        if answer not in map(json.loads, world.rules.completed[key]):
            raise Violation(f"run_once({key}) returned {answer}, which was never stored")

    def _register(self) -> None:
        nonces, nonce = self._storage.nonces, f"nonce {self._random.randrange(40)}"
        if self._is_rival:
            nonce = f"nonce {self._number_below(2)} at {self._world.scheduler.now}"
        if self._random.random() < 0.2:
            others = [nonce, f"nonce {self._random.randrange(40)}"]
            answer = self._make("register_many", lambda _: nonces.register_many(others), compared=False)
            news = dict(zip(others, answer, strict=True)) if isinstance(answer, list) else {}
            if others[0] == others[1] and isinstance(answer, list):
                news = {nonce: answer[0]}
        else:
            answer = self._make("register", lambda api: api.nonces.register(nonce))
            news = {nonce: answer is True}
        for name, new in news.items():
            self._promises.nonces[name] += new
            if self._promises.nonces[name] > self._world.rules.nonces[name]:
                raise Violation(f"{name} was new more often than it was stored")

    def _measure(self) -> None:
        random, promises = self._random, self._promises
        name, by = f"counter {self._number_below(2)}", random.choice((1, 2, 5))
        # Rivals count, most of them the same.
        draw = random.random() * (0.6 if self._is_rival else 1.0)
        if draw < 0.5:
            answer = self._make(
                "increment", lambda _: self._storage.metrics.increment(name, by), compared=False
            )
            counts = {name: by}
        elif draw < 0.9:
            ms = random.choice((1.5, 2.0, 7.25))
            answer = self._make(
                "observe", lambda _: self._storage.metrics.observe_latency(ms), compared=False
            )
            counts = {"requests": 1, "nanoseconds": int(ms * 1_000_000)}
        else:
            self._make("reading metrics", lambda _: self._storage.metrics.read(), compared=False)
            return
        if isinstance(answer, OutcomeUnknown):
            promises.perhaps_metrics.update(counts)
        elif not isinstance(answer, StorageError):
            promises.metrics.update(counts)

    def _use_locks(self) -> None:
        random = self._random
        name = f"lock {self._number_below(2)}"
        draw = random.random()
        if not self._locks or draw < 0.4:
            answer = self._make(
                f"acquire({name})", lambda api: api.lock.acquire(self._name, ttl=LOCK_TTL, name=name)
            )
            if isinstance(answer, WorkerLock):
                if (answer.name, answer.owner_id) != (name, self._name):
                    raise Violation(f"{self._name} acquired {answer}")
                self._locks.append(answer)
            return
        rows = self._world.tables.locks
        overtaken = [lock for lock in self._locks if rows[lock.name].fence != lock.fence]
        lock = random.choice(overtaken or self._locks)
        if draw < 0.6:
            self._make("renew", lambda api: api.lock.renew(lock, ttl=LOCK_TTL))
        elif draw < 0.75:
            if random.random() < 0.7:
                self._locks.remove(lock)
            self._make("release", lambda api: api.lock.release(lock))
        elif draw < 0.85:
            self._make("current", lambda api: api.lock.current(name))
        else:
            self._use_resource(lock)

    def _use_resource(self, lock: WorkerLock) -> None:
        """The resource refuses a fence that is lower than one it saw."""
        fences = self._promises.fences
        held = self._world.tables.locks[lock.name]
        if lock.fence > held.fence:
            raise Violation(f"{lock} has a higher fence than {held}")
        if lock.fence == held.fence and held.owner_id not in (None, lock.owner_id):
            raise Violation(f"{lock} and {held} have the same fence")
        fences[lock.name] = max(lock.fence, fences.get(lock.name, 0))

    def _use_events(self) -> None:
        random, promises = self._random, self._promises
        kind = random.choice(("created", "posted"))
        draw = random.random()
        if draw < 0.5:
            answer = self._make("append", lambda api: api.events.append(kind, {"by": self._name}))
            if not isinstance(answer, StorageError):
                promises.appended.add(answer.id)
        elif draw < 0.75:
            events = [NewEvent(kind, number) for number in range(random.randrange(1, 4))]
            answer = self._make("append_many", lambda api: api.events.append_many(events))
            if isinstance(answer, list):
                promises.appended.update(event.id for event in answer)
        else:
            last = max(self._world.tables.events, default=0)
            choices: tuple[Operation, ...] = (
                lambda api: api.events.list(event_type=kind, limit=3),
                lambda api: api.events.read_after(max(0, last - 4), event_type=kind, limit=2),
            )
            self._make("reading events", random.choice(choices))

    def _use_snapshots(self) -> None:
        kind = f"kind {self._random.randrange(2)}"
        choices: tuple[Operation, ...] = (
            lambda api: api.snapshots.put(kind, {"by": self._name}),
            lambda api: api.snapshots.get(kind),
            lambda api: api.snapshots.list(),
        )
        self._make("using snapshots", self._random.choice(choices))

    def _use_platforms(self) -> None:
        """Pause and resume platforms; no pause is without an end, since nobody would resume it."""
        random, platforms = self._random, self._storage.platforms
        name = random.choice(PLATFORMS)
        until = self._world.today() + timedelta(seconds=random.choice((0, 0.5, 1.5, 4)))
        if random.random() < 0.1:
            with self._world.atomic():
                platforms.pause(name)
                platforms.resume(name)
            return
        choices: tuple[Operation, ...] = (
            lambda api: api.platforms.pause(name, until=until, reason="maintenance", by=self._name),
            lambda api: api.platforms.pause_at_least(name, until),
            lambda api: api.platforms.resume(name),
            lambda api: api.platforms.get(name),
            lambda api: api.platforms.list(),
        )
        self._make(f"using the platform {name}", random.choice(choices))

    def _prune(self) -> None:
        force = self._random.random() < 0.7
        self._make("prune", lambda api: api.prune(force=force))

    def _in_a_transaction(self) -> None:
        random = self._random
        new = _without_gap(self._new())
        fails = random.random() < 0.3
        nested = random.random() < 0.3
        nonce, user = f"nonce {random.randrange(40)}", f"user {random.randrange(3)}"

        def operation(api: Any) -> Any:
            with api.transaction() as tx:
                job = _schedule(tx, new)
                event = tx.events.append("scheduled", {"key": new.idempotency_key})
                if nested:
                    try:
                        with tx.transaction() as inner:
                            inner.sessions.put(user, {"nested": True})
                            raise Undone
                    except Undone:
                        pass
                tx.sessions.put(user, {"by": self._name})
                new_nonce = tx.nonces.register(nonce)
                if fails:
                    raise Undone
            return job, event, new_nonce

        answer = self._make("a transaction", operation)
        if isinstance(answer, tuple):
            job, event, is_new = answer
            self._was_scheduled(new, job)
            self._promises.appended.add(event.id)
            self._promises.nonces[nonce] += is_new


class Reader:
    """Follows the events."""

    def __init__(self, world: World, storage: Storage) -> None:
        self._world = world
        self._storage = storage
        self.seen: list[int] = []

    def run(self) -> None:
        """Read until the world ends."""
        while True:
            self._world.meet(self._world.random.randrange(1, 6))
            try:
                self.read(self._world.random.choice((1, 2, 100)))
            except (StorageUnavailable, OutcomeUnknown):
                if not self._world.profile.faults:
                    raise

    def read(self, limit: int) -> int:
        """Read a page."""
        last = self.seen[-1] if self.seen else 0
        page = self._storage.events.read_after(last, limit=limit)
        if len(page) > limit:
            raise Violation(f"a page of {limit} events has {len(page)}")
        self.seen += [event.id for event in page]
        return len(page)


def _schedule(api: Any, new: NewJob) -> Any:
    return api.queue.schedule(
        new.platform,
        new.content,
        new.scheduled_at,
        idempotency_key=new.idempotency_key,
        min_gap=new.min_gap,
        metadata=new.metadata,
        max_retries=new.max_retries,
        max_lateness=new.max_lateness,
    )


def _without_gap(new: NewJob) -> NewJob:
    return NewJob(
        new.platform,
        new.content,
        new.scheduled_at,
        new.idempotency_key,
        None,
        new.metadata,
        new.max_retries,
        new.max_lateness,
    )


def _end_one(queue: Any, outcome: Outcome) -> Any:
    match outcome:
        case Posted(job, remote_id):
            return queue.mark_posted(job, remote_id)
        case Failed(job, error, retry_at, retryable):
            return queue.mark_failed(job, error, retry_at=retry_at, retryable=retryable)
        case Snoozed(job, until):
            return queue.snooze(job, until)
        case Released(job):
            return queue.release(job)
        case Unknown(job, error):
            return queue.mark_unknown(job, error)
