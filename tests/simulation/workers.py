"""Real workers in simulated processes, their publishers, and what kills or stops them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from assistly.storage import Storage
from assistly.storage.errors import OutcomeUnknown, StorageUnavailable
from assistly.storage.records import Job
from assistly.storage.retry import RetryPolicy
from assistly.worker import NotPosted, Permanent, Retry, StillUnknown, Unknown, WasPosted, Worker
from assistly.worker.threads import Runtime

from .backend import Violation
from .rules import Ending, Word
from .scheduler import TICK, Process, Scheduler, SimulatedEvent, SimulatedQueue, StartableThread

if TYPE_CHECKING:
    from .world import World

T = TypeVar("T")

PLATFORMS = ("free", "narrow", "shy")
"""One without a limit, one with a limit, and one that asks for pauses."""

SHORTEST_PAUSE = 1.0
"""Seconds that a platform is paused at least, whatever it asks for."""

_LONGEST_CALL = 12.0
"""Seconds: a call waits up to 10 for another transaction."""


class SimulatedRuntime(Runtime):
    """The threads and waits of a worker, in the scheduler's hands."""

    def __init__(self, scheduler: Scheduler, process: Process) -> None:
        self._scheduler = scheduler
        self._process = process

    def start(self, name: str, work: Callable[[], None]) -> StartableThread:
        thread = StartableThread(self._scheduler, name, work)
        thread.start()
        return thread

    def event(self) -> SimulatedEvent:
        return SimulatedEvent(self._scheduler)

    def queue(self) -> SimulatedQueue[T]:
        return SimulatedQueue(self._scheduler)

    def monotonic(self) -> float:
        return self._scheduler.now


class SimulatedWorker(Worker):
    """A real worker on another runtime."""

    def __init__(self, runtime: Runtime, storage: Storage, publishers: Any, **options: Any) -> None:
        self._runtime = runtime
        super().__init__(storage, publishers, clock=runtime.monotonic, **options)


class WorkerProcess(Process):
    """A process with one worker."""

    def __init__(self, world: World, number: int, *, until_idle: bool = False) -> None:
        super().__init__(f"worker-{number}")
        random = world.random
        profile = world.profile
        self._world = world
        self.lease = profile.lease
        self.concurrency = random.choice((1, 2, 3, 3))
        self.limits = {"narrow": profile.narrow}
        self.grace = random.choice((0.5, 3.0, 20.0))
        self.retry_delay = random.choice((None, None, timedelta(seconds=2)))
        self.timeout = random.choice((None, None, None, 1.2))
        self.has_checks = random.random() < 0.5
        self.stopping = False
        self.has_ended = False
        self.paused: dict[str, float] = {}
        self.paused_since: dict[str, float] = {}
        retry = None
        if self.retry_delay is not None:
            retry = RetryPolicy(max_retries=profile.max_retries, delay=self.retry_delay)
        self.worker = SimulatedWorker(
            SimulatedRuntime(world.scheduler, self),
            world.open(self),
            dict.fromkeys(PLATFORMS, SimulatedPublisher(self) if self.has_checks else self.publish),
            check_pause=random.choice((0.5, 2.0)),
            worker_id=self.name,
            concurrency=self.concurrency,
            platform_concurrency=self.limits,
            lease=self.lease,
            grace=self.grace,
            poll=profile.poll,
            timeout=self.timeout,
            pause=3.0,
            retry=retry,
        )
        self._until_idle = until_idle
        world.workers.append(self)
        world.scheduler.start("run", self, self._run)

    def _run(self) -> None:
        try:
            if self._until_idle:
                self.worker.run_until_idle()
            else:
                self.worker.run(handle_signals=False)
        except (StorageUnavailable, OutcomeUnknown):
            if not self._until_idle or not self._world.profile.faults:
                raise
        self.has_ended = True
        self._world.note(f"{self.name} has ended: {self.worker.counts}")
        if not self._until_idle and not self.stopping:
            raise Violation(f"{self.name} has ended, and nobody told it to")
        self._check_counts()
        if not self._until_idle:
            self._check_left()

    def stop(self) -> None:
        """Ask the worker to stop."""
        self.stopping = True
        self._world.note(f"{self.name} is told to stop")
        self.worker.stop()

    def pause(self, platform: str, until: float) -> None:
        """The worker knows that a platform wants a pause."""
        self.paused[platform] = max(until, self.paused.get(platform, 0.0))
        self.paused_since[platform] = self._world.scheduler.now

    def longest_stop(self) -> float:
        """Seconds within which a worker ends."""
        return self.grace + 5.0 * self.concurrency + _LONGEST_CALL

    def _check_counts(self) -> None:
        profile = self._world.profile
        if profile.faults or profile.jumps or self._world.rules.publishing.get(self):
            return
        counts = {name: count for name, count in self.worker.counts.items() if name != "lost"}
        stored = dict(self._world.rules.settled[self])
        if counts != stored:
            raise Violation(f"{self.name} counts {counts}, and stored {stored}")

    def _check_left(self) -> None:
        """A worker that ends in peace leaves no claim behind."""
        if self._world.profile.faults or self._world.profile.jumps or self._world.rules.publishing.get(self):
            return
        left = [job.id for job in self._world.tables.jobs.values() if job.worker_id == self.name]
        if left:
            raise Violation(f"{self.name} has ended, and the jobs {left} are still claimed by it")

    def publish(self, job: Job) -> Any:
        """The publisher of all platforms."""
        world = self._world
        scheduler, random, rules = world.scheduler, world.random, world.rules
        scheduler.pause()
        with world.strict():
            claim = rules.begin(self, job)
        try:
            if random.random() < 0.6:
                longest = 2.5 * self.lease.total_seconds() if random.random() < world.profile.slow else 1.0
                world.meet(random.randrange(1, 2 + int(longest / TICK)))
            with world.strict():
                ending, act = self._ending(job)
            claim.ending, claim.ended_mono = ending, scheduler.now
            return act()
        finally:
            rules.end(self, claim)

    def check(self, job: Job) -> Any:
        """The check of all platforms: it is sure only if no publisher may still be at it."""
        world = self._world
        random, rules = world.random, world.rules
        world.scheduler.pause()
        draw = random.random()
        if draw < 0.1:
            raise RuntimeError("no connection")
        if draw < 0.2:
            return None
        with world.strict():
            if rules.may_still_go_out(job.id):
                return StillUnknown("a publisher may be at it")
            posted = rules.published(job.id) > 0
            rules.answers[self, job.id] = Word(job, posted)
        if draw < 0.4:
            world.meet(random.randrange(1, 40))
        return WasPosted("found") if posted else NotPosted()

    def _ending(self, job: Job) -> tuple[Ending, Callable[[], Any]]:
        world = self._world
        random, rules = world.random, world.rules
        draw = random.random() * (1.0 if world.chaos else 2.0)
        if draw < 0.10:
            return Ending("failed", "RuntimeError: refused"), _raiser(RuntimeError("refused"))
        if draw < 0.15:
            return Ending("failed", "not allowed", final=True), _raiser(Permanent("not allowed"))
        if job.platform != "free" and (draw < 0.20 or (draw < 0.4 and job.platform == "shy")):
            asked = random.choice((0.0, 0.5, 2.0, 5.0))
            after = max(asked, SHORTEST_PAUSE)
            if self.timeout is None:
                self.pause(job.platform, world.scheduler.now + after)
            return Ending("snoozed", after=after), _raiser(Retry("too many", after=asked))
        if draw < 0.25:
            if random.random() < 0.5:
                rules.went_out(self, job)
            return Ending("failed", "no answer", unknown=True), _raiser(Unknown("no answer"))
        if draw < 0.28:
            if random.random() < 0.5:
                rules.went_out(self, job)
            error = "the publisher was interrupted by SystemExit: 3"
            return Ending("failed", error, unknown=True), _raiser(SystemExit(3))
        rules.went_out(self, job)
        remote_id = random.choice((None, f"remote-{job.id}-{job.claim}"))
        return Ending("posted", remote_id=remote_id), lambda: remote_id


class SimulatedPublisher:
    """The publisher of a process whose platforms can be asked."""

    def __init__(self, process: WorkerProcess) -> None:
        self.publish, self.check = process.publish, process.check


def _raiser(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


__all__ = ["PLATFORMS", "WorkerProcess"]
