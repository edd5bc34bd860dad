"""The loop of a running worker: claims jobs while threads are free, distributes them, sleeps, stops."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from enum import Enum, auto
from queue import Empty
from typing import TYPE_CHECKING

from assistly.storage.errors import StorageClosed, StorageError
from assistly.storage.records import JobStatus
from assistly.storage.unfinished import require_finished

from .budgets import PlatformBudgets
from .claimed_jobs import ClaimedJob, ClaimedJobs
from .events import EventKind, Reporter, WorkerEvent, one_line
from .health import Progress, longest_step
from .processing import JobProcessor
from .reconciling import Reconciler
from .settler import Settler
from .shares import ThreadShares
from .slots import PlatformSlots
from .storage_calls import TRANSIENT, Backoff, RetriedCalls, described, logger
from .threads import MessageQueue, PeriodicThread

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from assistly.storage.records import Job
    from assistly.storage.storage import Storage

    from .invocation import PublisherCaller
    from .options import CheckedOptions
    from .pauses import PlatformPauses
    from .threads import Runtime, Thread

_UPKEEP_SECONDS = 60.0
_JOIN_SECONDS = 5.0
# Seconds. A wait that returns sooner than this has found a job that was already due.
_SLEPT_SECONDS = 0.05
# Seconds for which a failed claim counts. While threads are free, the next claim comes sooner.
_REFUSED_SECONDS = 10.0
LONGEST_WAIT_SECONDS = 30.0
"""By how many seconds a wait for jobs may overrun."""
# Seconds. A platform that recently had no due job is skipped while others have some.
_EMPTY_SECONDS = 0.02


class Message(Enum):
    """A message to the loop from another thread or a signal handler."""

    DUE = auto()
    """A job became due while the waiting thread slept."""
    STILL_DUE = auto()
    """A job was due before the waiting thread could sleep."""
    NOT_DUE = auto()
    """Nothing became due for `poll` seconds."""
    STOP = auto()
    """The loop must end."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A job of each of these platforms is settled or abandoned."""

    platforms: list[str]


Inbox = MessageQueue[Message | Finished | BaseException]


class WorkerLoop:
    """The loop of one run of a worker. Other threads only put messages into its inbox."""

    def __init__(
        self,
        runtime: Runtime,
        storage: Storage,
        options: CheckedOptions,
        caller: PublisherCaller,
        pauses: PlatformPauses,
        reporter: Reporter,
    ) -> None:
        self._runtime = runtime
        self._storage = storage
        self._options = options
        self._caller = caller
        self._reporter = reporter
        self._inbox: Inbox = runtime.queue()
        self._must_end = False
        self._gave_up = runtime.event()
        # A slot outlasts the lease of its job, so a job with a valid lease always has its slot.
        slot_ttl = options.lease + options.heartbeat
        owner_id = f"{options.worker_id[:64]}-{secrets.token_hex(8)}"
        self._slots = PlatformSlots(storage, owner_id, options.limits, slot_ttl)
        self._claimed_jobs = ClaimedJobs(storage.queue, self._slots, options.lease)
        self._calls = RetriedCalls(storage, self._gave_up.wait)
        self._processor = JobProcessor(
            options, self._calls, self._claimed_jobs, pauses, caller, lambda: self._must_end, reporter
        )
        self._settler = Settler(
            runtime,
            options.worker_id,
            self._calls,
            self._claimed_jobs,
            self._slots,
            reporter,
            lambda jobs: self._inbox.put(Finished([each.job.platform for each in jobs])),
        )
        heartbeat = options.heartbeat.total_seconds()
        self._heartbeat = PeriodicThread(
            runtime, "assistly-worker-heartbeat", heartbeat, self._claimed_jobs.heartbeat
        )
        every = min(options.lease.total_seconds(), _UPKEEP_SECONDS)
        self._upkeep = PeriodicThread(runtime, "assistly-worker-upkeep", every, self._keep_up, at_once=True)
        self._maintenance = PeriodicThread(runtime, "assistly-worker-maintenance", every, self._maintain)
        self._reconciler = Reconciler(
            storage, options, caller, reporter, runtime.monotonic, lambda: self._must_end
        )
        self._checks = PeriodicThread(
            runtime, "assistly-worker-checks", self._reconciler.interval, self._reconciler.round
        )
        self._waits: MessageQueue[bool] = runtime.queue()
        self._tasks: MessageQueue[ClaimedJob | None] = runtime.queue()
        self._threads: list[Thread] = []
        self._shares = ThreadShares(options.platforms, options.concurrency, options.limits)
        self._budgets = PlatformBudgets(storage, runtime.monotonic)
        self._found_nothing: dict[str, float] = {}
        self._running = 0
        self._is_claiming = False
        self._is_waiting = False
        self._nothing_new = False
        self._backoff = Backoff(0.02, 1.0)
        self._progress = Progress(runtime.monotonic)
        self._longest_step = longest_step(storage, options.poll)
        self._answered_at: float | None = None
        self._refused: tuple[float, str] | None = None

    def run(self, on_end: Callable[[], None]) -> None:
        """Work until `stop`. Call `on_end` when claiming has ended, then wait for the running jobs."""
        self._runtime.start("assistly-worker-wait", self._wait_for_jobs)
        self._run(self._loop, on_end)

    def run_until_idle(self, on_end: Callable[[], None]) -> None:
        """Work until this worker can claim no job now."""
        self._run(self._drain, on_end)

    def stop(self) -> None:
        """Claim nothing new, and begin no publishing. A signal handler may call this."""
        self._must_end = True
        self._inbox.put(Message.STOP)

    def give_up(self) -> None:
        """Stop retrying storage calls."""
        self._gave_up.set()

    @property
    def is_claiming(self) -> bool:
        """Whether a claim is in progress."""
        return self._is_claiming

    @property
    def unfinished(self) -> list[ClaimedJob]:
        """The jobs that are not settled yet."""
        return self._claimed_jobs.all()

    @property
    def last_claim_age(self) -> float | None:
        """Seconds since a claim succeeded, or the storage reported that nothing is due; None: not yet."""
        at = self._answered_at
        return None if at is None else self._runtime.monotonic() - at

    @property
    def stuck(self) -> list[str]:
        """Which threads are stuck."""
        most = self._longest_step
        threads = {"claims jobs": self._progress, "stores outcomes": self._settler.progress}
        return [
            f"the thread that {what} has made no progress for {seconds:.0f} s; its calls may take {most:g} s"
            for what, seconds in ((what, progress.seconds) for what, progress in threads.items())
            if seconds > most
        ]

    @property
    def refusal(self) -> str | None:
        """Why the last claim failed; None if it did not, or if that was some time ago."""
        refused = self._refused
        if refused is None or self._runtime.monotonic() - refused[0] > _REFUSED_SECONDS:
            return None
        return refused[1]

    def _run(self, loop: Callable[[], None], on_end: Callable[[], None]) -> None:
        self._heartbeat.start()
        self._settler.start()
        try:
            loop()
        finally:
            self._must_end = True
            self._upkeep.stop()
            self._maintenance.stop()
            self._checks.stop()
            self._waits.put(False)
            on_end()
            self._finish()

    def _loop(self) -> None:
        self._await_usable()
        self._upkeep.start()
        if self._storage.worker_maintains:
            self._maintenance.start()
        if self._reconciler.has_checks:
            self._checks.start()
        while not self._must_end:
            try:
                claimed = self._claim_all()
            except TRANSIENT as error:
                self._note_refusal(error)
                claimed, self._nothing_new = 0, True
            self._rest(found=claimed > 0)

    def _await_usable(self) -> None:
        """Raise ConfigurationError if the storage must not be used. Wait until it answers, or `stop`."""
        while not self._must_end:
            self._progress.rest()  # the first use of a storage may apply migrations
            try:
                require_finished(self._storage)
            except TRANSIENT as error:
                self._note_refusal(error)
                self._receive(self._backoff.next())
            else:
                self._backoff.reset()
                return

    def _note_refusal(self, error: Exception) -> None:
        logger.warning("cannot claim jobs: %s", error)
        self._refused = self._runtime.monotonic(), one_line(str(error))

    def _drain(self) -> None:
        require_finished(self._storage)
        self._storage.schedules.run()
        self._reconciler.round(whole=True)
        while not self._must_end and (self._claim_all() or self._running):
            self._receive(None)

    def _claim_all(self) -> int:
        """Claim a job for every free thread, and return how many were claimed."""
        if self._calls.has_unsettled:
            # A claim also reclaims expired claims, perhaps of jobs whose outcome is about to be stored.
            self._nothing_new = True
            return 0
        now = self._runtime.monotonic()
        empty = {name for name, since in self._found_nothing.items() if now - since < _EMPTY_SECONDS}
        return self._claim_round(empty) or (self._claim_round(()) if empty else 0)

    def _claim_round(self, without: Collection[str]) -> int:
        """Claim in turn for all platforms that may get jobs, except these."""
        self._progress.step()
        self._budgets.refresh()
        self._shares.alone = {*self._options.limits, *self._budgets.limited}
        claimed = 0
        done = {*without, *filter(self._is_overrun, self._options.platforms)}
        while self._running < self._options.concurrency:
            platforms, most = self._shares.next_group(done)
            if not platforms:
                break
            most = min(most, self._options.batch)
            found = self._claim(platforms, most)
            self._refused, self._answered_at = None, self._runtime.monotonic()
            claimed += found
            if found < most:
                done.update(platforms)
                self._found_nothing.update(dict.fromkeys(platforms, self._runtime.monotonic()))
        return claimed

    def _is_overrun(self, platform: str) -> bool:
        return self._options.timeout is not None and self._caller.is_overrun(platform)

    def _claim(self, platforms: list[str], most: int) -> int:
        claimed_at = self._options.clock()
        self._is_claiming = True
        self._progress.step()
        try:
            slots: list[str] | None = None
            if self._slots.are_limited(platforms[0]):
                slots = self._slots.acquire(platforms[0], most, self._progress.step)
                most = len(slots)
            jobs: list[Job] = []
            try:
                jobs = self._claim_within_budget(platforms, most) if most else []
            finally:
                if slots is not None:
                    self._slots.release(slots[len(jobs) :], self._progress.step)
        finally:
            self._is_claiming = False
        claimed = [
            ClaimedJob(job, slots[number] if slots else None, claimed_at) for number, job in enumerate(jobs)
        ]
        self._claimed_jobs.add(claimed)
        self._progress.step()
        self._processor.begin(claimed)
        for each in claimed:
            self._hand_out(each)
        return len(jobs)

    def _claim_within_budget(self, platforms: list[str], most: int) -> list[Job]:
        limited = platforms[0] if platforms[0] in self._budgets.limited else None
        if limited is not None:
            most = self._budgets.take(limited, most)
        jobs: list[Job] = []
        try:
            if most:
                self._progress.step()
                found = self._storage.queue.sweep_and_claim(
                    worker_id=self._options.worker_id,
                    limit=most,
                    lease=self._options.lease,
                    platforms=platforms,
                )
                jobs = found.jobs
                self._report_others(found.rescued, found.missed)
        finally:
            if limited is not None:
                self._budgets.give_back(limited, most - len(jobs))
        return jobs

    def _report_others(self, rescued: Sequence[Job], missed: Sequence[Job] = ()) -> None:
        """Report jobs that were reclaimed from other workers, and missed jobs."""
        for job in rescued:
            kind = EventKind.FAILED
            if job.status is JobStatus.DEAD_LETTER:
                kind = EventKind.UNKNOWN if job.outcome_unknown else EventKind.DEAD
            self._report(kind, job)
        for job in missed:
            self._report(EventKind.MISSED, job)

    def _report(self, kind: EventKind, job: Job) -> None:
        is_dead = job.status is JobStatus.DEAD_LETTER
        event = WorkerEvent(
            kind,
            self._options.worker_id,
            job.platform,
            job,
            error=one_line(job.dead_letter_reason if is_dead else job.last_error) or None,
            until=job.due_at if kind is EventKind.FAILED else None,
        )
        self._reporter.report(event)

    def _hand_out(self, claimed: ClaimedJob) -> None:
        if self._reporter.is_wanted(EventKind.CLAIMED):
            self._report(EventKind.CLAIMED, claimed.job)
        self._shares.begin(claimed.job.platform)
        self._running += 1
        if self._running > len(self._threads):
            self._threads.append(
                self._runtime.start(f"assistly-publisher-{self._running}", self._process_all)
            )
        self._tasks.put(claimed)

    def _process_all(self) -> None:
        while (claimed := self._tasks.get()) is not None:
            try:
                self._processor.process(claimed)
            except BaseException:  # noqa: BLE001 - the thread has other jobs to do
                # Without an outcome it is not settled: its lease expires, and a rescue decides.
                logger.exception("job %d: the worker failed", claimed.job.id)
            finally:
                self._settler.put(claimed)

    def _rest(self, *, found: bool) -> None:
        """Sleep until there may be a job to claim."""
        if found:
            self._backoff.reset()
        if self._running == self._options.concurrency:
            self._receive(None)
        elif self._nothing_new and not found:
            # The platforms of the due jobs have reached their limits.
            self._receive(self._backoff.next())
            self._nothing_new = False
        else:
            self._nothing_new = False
            self._sleep()

    def _sleep(self) -> None:
        may_claim = False
        while not may_claim:
            if not self._is_waiting:
                self._is_waiting = True
                self._waits.put(True)
            # A wait that hangs does not keep the worker from claiming.
            may_claim = self._receive(self._options.poll + LONGEST_WAIT_SECONDS) or self._is_waiting

    def _receive(self, timeout: float | None) -> bool:
        """Take all messages, waiting for the first. Returns True if one of them is a reason to claim.

        Returns False after `timeout` seconds without a message.
        """
        try:
            messages = [self._take(timeout)]
        except Empty:
            return False
        while not self._inbox.empty():
            messages.append(self._take(None))
        return any(message is not Message.NOT_DUE for message in messages)

    def _take(self, timeout: float | None) -> Message | Finished:
        self._progress.rest()
        message = self._inbox.get(timeout=timeout)
        if isinstance(message, BaseException):
            if not self._must_wait_out(message):
                raise message
            message = Message.STILL_DUE
        if isinstance(message, Finished):
            self._running -= len(message.platforms)
            for platform in message.platforms:
                self._shares.end(platform)
        elif message is not Message.STOP:
            self._is_waiting = False
            self._nothing_new = message is Message.STILL_DUE
            if not self._nothing_new:
                self._backoff.reset()
        return message

    def _must_wait_out(self, error: BaseException) -> bool:
        """Whether a storage error does not end the worker yet, because an outcome is not stored."""
        if not self._calls.has_unsettled or not isinstance(error, StorageError):
            return False
        if isinstance(error, StorageClosed):
            return False
        logger.warning("cannot claim jobs: %s", error)
        return True

    def _wait_for_jobs(self) -> None:
        while self._waits.get():
            began = self._runtime.monotonic()
            message: Message | BaseException
            try:
                due = self._storage.queue.wait(self._options.poll, platforms=self._options.platforms)
                slept = self._runtime.monotonic() - began > _SLEPT_SECONDS
                message = (Message.DUE if slept else Message.STILL_DUE) if due else Message.NOT_DUE
                self._answered_at = self._runtime.monotonic()
            except TRANSIENT:
                message = Message.STILL_DUE
            except BaseException as error:  # noqa: BLE001 - raised again by the loop
                message = error
            self._inbox.put(message)

    def _keep_up(self) -> bool:
        """Reclaim expired claims, create the jobs of schedules, and prune, even while nothing is claimed."""
        try:
            if not self._calls.has_unsettled:
                self._report_others(self._storage.queue.rescue_expired())
            self._storage.schedules.run()
            self._storage.prune()
        except StorageClosed:
            return False
        except Exception as error:  # noqa: BLE001 - it is tried again
            logger.warning("upkeep failed; will retry: %s", described(error))
        return True

    def _maintain(self) -> bool:
        """Call `Storage.maintain`. It has its own thread, since a vacuum may take minutes."""
        try:
            self._storage.maintain()
        except StorageClosed:
            return False
        except Exception as error:  # noqa: BLE001 - it is tried again
            logger.warning("maintenance failed; will retry: %s", described(error))
        return True

    def _finish(self) -> None:
        """Wait for the running jobs, then end the threads."""
        while self._running:
            try:
                self._take(None)
            except Exception as error:  # noqa: BLE001 - it ends anyway
                logger.warning("while stopping: %s", described(error))
        self._settler.end(_JOIN_SECONDS)
        self._claimed_jobs.end()
        self._heartbeat.stop()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(timeout=_JOIN_SECONDS)
        self._reporter.end(_JOIN_SECONDS)
