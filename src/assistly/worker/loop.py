"""The loop of a running worker: claims jobs while threads are free, hands them out, sleeps, stops."""

from __future__ import annotations

import secrets
from collections import deque
from enum import Enum, auto
from queue import Empty
from typing import TYPE_CHECKING

from assistly.storage.errors import StorageClosed, StorageError

from .claimed_jobs import ClaimedJob, ClaimedJobs
from .processing import JobProcessor
from .slots import PlatformSlots
from .storage_calls import TRANSIENT, Backoff, RetriedCalls, logger
from .threads import MessageQueue, PeriodicThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from assistly.storage.records import Job
    from assistly.storage.storage import Storage

    from .counts import JobCounts
    from .invocation import PublisherCaller
    from .options import CheckedOptions
    from .pauses import PlatformPauses
    from .threads import Runtime, Thread

_UPKEEP_SECONDS = 60.0
_JOIN_SECONDS = 5.0
# Seconds. A wait that returns sooner than this has found a job that was due already.
_SLEPT_SECONDS = 0.05


class Message(Enum):
    """A message to the loop from another thread or a signal handler."""

    FINISHED = auto()
    """A publisher thread has finished its job."""
    DUE = auto()
    """A job became due while the waiting thread slept."""
    STILL_DUE = auto()
    """A job was due before the waiting thread could sleep."""
    NOT_DUE = auto()
    """Nothing became due for `poll` seconds."""
    STOP = auto()
    """`Worker.stop` was called."""


Inbox = MessageQueue[Message | BaseException]


class WorkerLoop:
    """One run of a worker. Other threads only put messages into the inbox."""

    def __init__(
        self,
        runtime: Runtime,
        storage: Storage,
        options: CheckedOptions,
        caller: PublisherCaller,
        pauses: PlatformPauses,
        inbox: Inbox,
        is_stopping: Callable[[], bool],
        counts: JobCounts,
    ) -> None:
        self._runtime = runtime
        self._storage = storage
        self._options = options
        self._pauses = pauses
        self._inbox = inbox
        self._is_stopping = is_stopping
        self._gave_up = runtime.event()
        # A slot outlasts the lease of its job, so that a job with a valid lease always has its slot.
        slot_ttl = options.lease + options.heartbeat
        owner_id = f"{options.worker_id[:64]}-{secrets.token_hex(8)}"
        self._slots = PlatformSlots(storage, owner_id, options.limits, slot_ttl)
        self._claimed_jobs = ClaimedJobs(storage.queue, self._slots, options.lease)
        self._calls = RetriedCalls(storage.queue, self._gave_up.wait)
        self._processor = JobProcessor(
            options, self._calls, self._claimed_jobs, pauses, caller, is_stopping, counts
        )
        heartbeat = options.heartbeat.total_seconds()
        self._heartbeat = PeriodicThread(
            runtime, "assistly-worker-heartbeat", heartbeat, self._claimed_jobs.heartbeat
        )
        every = min(options.lease.total_seconds(), _UPKEEP_SECONDS)
        self._upkeep = PeriodicThread(runtime, "assistly-worker-upkeep", every, self._rescue_and_prune)
        self._maintenance = PeriodicThread(runtime, "assistly-worker-maintenance", every, self._maintain)
        self._waits: MessageQueue[bool] = runtime.queue()
        self._tasks: MessageQueue[ClaimedJob | None] = runtime.queue()
        self._threads: list[Thread] = []
        self._groups = deque(_claim_groups(options))
        self._running = 0
        self._is_waiting = False
        self._nothing_new = False
        self._backoff = Backoff(0.02, 1.0)

    def run(self) -> None:
        """Work until told to stop."""
        self._runtime.start("assistly-worker-wait", self._wait_for_jobs)
        self._upkeep.start()
        if self._storage.worker_maintains:
            self._maintenance.start()
        self._run(self._loop)

    def run_until_idle(self) -> None:
        """Work until there is no job that this worker could claim now."""
        self._run(self._drain)

    def _run(self, loop: Callable[[], None]) -> None:
        self._heartbeat.start()
        try:
            loop()
        finally:
            self._upkeep.stop()
            self._maintenance.stop()
            self._waits.put(False)
            self._finish()

    def _loop(self) -> None:
        while not self._is_stopping():
            try:
                claimed = self._claim_all()
            except TRANSIENT as error:
                logger.warning("nothing can be claimed now: %s", error)
                claimed, self._nothing_new = 0, True
            self._rest(found=claimed > 0)

    def _drain(self) -> None:
        while not self._is_stopping() and (self._claim_all() or self._running):
            self._receive(None)

    def _claim_all(self) -> int:
        """Claim a job for every free thread, and return how many were claimed."""
        if self._calls.has_unsettled:
            # A claim also takes back expired claims, perhaps of jobs whose outcome is about to be stored.
            self._nothing_new = True
            return 0
        claimed = 0
        self._groups.rotate(1)
        for group in self._groups:
            free = min(self._options.concurrency - self._running, self._options.batch)
            platforms = [platform for platform in group if not self._pauses.remaining(platform)]
            if free and platforms:
                claimed += self._claim(platforms, free)
        return claimed

    def _claim(self, platforms: list[str], most: int) -> int:
        slots: list[str] | None = None
        if self._slots.are_limited(platforms[0]):
            slots = self._slots.acquire(platforms[0], most)
            if not slots:
                return 0
            most = len(slots)
        jobs: list[Job] = []
        try:
            jobs = self._storage.queue.claim_due(
                worker_id=self._options.worker_id, limit=most, lease=self._options.lease, platforms=platforms
            )
        finally:
            if slots is not None:
                self._slots.release(slots[len(jobs) :])
        claimed_at = self._options.clock()
        for number, job in enumerate(jobs):
            self._hand_out(ClaimedJob(job, slots[number] if slots else None, claimed_at))
        return len(jobs)

    def _hand_out(self, claimed: ClaimedJob) -> None:
        self._claimed_jobs.add(claimed)
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
                # It is not settled, so its lease expires, and rescue decides.
                logger.exception("job %d: the worker failed", claimed.job.id)
            finally:
                self._claimed_jobs.remove(claimed)
                if claimed.slot is not None:
                    self._slots.release([claimed.slot])
                self._inbox.put(Message.FINISHED)

    def _rest(self, *, found: bool) -> None:
        """Sleep until there may be a job to claim."""
        if found:
            self._backoff.reset()
        paused = min(map(self._pauses.remaining, self._options.platforms))
        if self._running == self._options.concurrency:
            self._receive(None)
        elif paused:
            self._receive(paused)
        elif self._nothing_new and not found:
            # The due jobs are not for this worker: their platforms are not served here, or at their limit.
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
            may_claim = self._receive(None)

    def _receive(self, timeout: float | None) -> bool:
        """Take all messages, waiting for the first; True if one of them is a reason to claim.

        False also after `timeout` seconds without a message.
        """
        try:
            messages = [self._take(timeout)]
        except Empty:
            return False
        while not self._inbox.empty():
            messages.append(self._take(None))
        return any(message is not Message.NOT_DUE for message in messages)

    def _take(self, timeout: float | None) -> Message:
        message = self._inbox.get(timeout=timeout)
        if isinstance(message, BaseException):
            raise message
        if message is Message.FINISHED:
            self._running -= 1
        elif message is not Message.STOP:
            self._is_waiting = False
            self._nothing_new = message is Message.STILL_DUE
            if not self._nothing_new:
                self._backoff.reset()
        return message

    def _wait_for_jobs(self) -> None:
        while self._waits.get():
            began = self._runtime.monotonic()
            try:
                due = self._storage.queue.wait(self._options.poll)
                slept = self._runtime.monotonic() - began > _SLEPT_SECONDS
                message = (Message.DUE if slept else Message.STILL_DUE) if due else Message.NOT_DUE
            except TRANSIENT:
                message = Message.STILL_DUE
            except BaseException as error:  # noqa: BLE001 - raised again by the loop
                self._inbox.put(error)
                return
            self._inbox.put(message)

    def _rescue_and_prune(self) -> bool:
        """Take back expired claims, and prune, even while this worker claims nothing."""
        try:
            if not self._calls.has_unsettled:
                self._storage.queue.rescue_expired()
            self._storage.prune()
        except StorageClosed:
            return False
        except StorageError as error:
            logger.warning("rescuing and pruning failed, and will be tried again: %s", error)
        return True

    def _maintain(self) -> bool:
        """Call `Storage.maintain`. It has a thread of its own, since a vacuum may take minutes."""
        try:
            self._storage.maintain()
        except StorageClosed:
            return False
        except StorageError as error:
            logger.warning("maintenance failed, and will be tried again: %s", error)
        return True

    def _finish(self) -> None:
        """Wait for running jobs, for the grace time at most, then end the threads."""
        deadline = self._options.clock() + self._options.grace
        try:
            while self._running and (left := deadline - self._options.clock()) > 0:
                self._take_while_stopping(left)
        finally:
            self._gave_up.set()
            self._claimed_jobs.end()
            for _ in self._threads:
                self._tasks.put(None)
            self._leave_threads()

    def _take_while_stopping(self, timeout: float) -> None:
        try:
            self._take(timeout)
        except Empty:
            pass
        except StorageError as error:
            logger.warning("while stopping: %s", error)

    def _leave_threads(self) -> None:
        if not self._running:
            self._heartbeat.stop()
            for thread in self._threads:
                thread.join(timeout=_JOIN_SECONDS)
            return
        for claimed in self._claimed_jobs.all():
            logger.error(
                "job %d on %s is still being published: its outcome is unknown once its lease runs out",
                claimed.job.id,
                claimed.job.platform,
            )


def _claim_groups(options: CheckedOptions) -> list[list[str]]:
    """Group the platforms for claims: those without a limit together, each with a limit by itself."""
    free = [platform for platform in options.platforms if platform not in options.limits]
    limited = [[platform] for platform in options.platforms if platform in options.limits]
    return [free, *limited] if free else limited
