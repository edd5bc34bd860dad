"""The loop of a running worker: claim while there is room, hand out, sleep, stop."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from assistly.storage.errors import StorageClosed, StorageError

from .calling import Caller
from .leases import Hold, Leases
from .persistence import TRANSIENT, Backoff, Persistent, logger
from .publishing import Pauses, Publishing
from .slots import Slots
from .stopping import Repeating

if TYPE_CHECKING:
    from collections.abc import Callable

    from assistly.storage.records import Job
    from assistly.storage.storage import Storage

    from .options import Options

_UPKEEP = 60.0
# A wait that ends sooner than this has not slept: what is due was due before.
_SLEPT = 0.05


class Note(Enum):
    """What the other threads, and signal handlers, tell the loop."""

    FINISHED = auto()
    DUE = auto()
    STILL_DUE = auto()
    NOT_DUE = auto()
    STOP = auto()


# A SimpleQueue may be put to from a signal handler, whatever the main thread is doing: a lock may not.
Inbox = SimpleQueue[Note | BaseException]


class Dispatch:
    """One run. All but `put` of the inbox belongs to the thread that calls `work`."""

    def __init__(
        self,
        storage: Storage,
        options: Options,
        caller: Caller,
        pauses: Pauses,
        inbox: Inbox,
        stopping: Callable[[], bool],
        count: Callable[[str], None],
    ) -> None:
        self._storage = storage
        self._options = options
        self._inbox = inbox
        self._stopping = stopping
        self._gave_up = threading.Event()
        # A slot outlives the leases of the jobs in it, so that a job that may begin has its slot.
        ttl = options.lease + options.heartbeat
        owner_id = f"{options.worker_id[:64]}-{secrets.token_hex(8)}"
        self._slots = Slots(storage, owner_id, options.limits, ttl)
        self._leases = Leases(storage.queue, self._slots, options.lease)
        self._pauses = pauses
        self._persistent = Persistent(storage.queue, self._gave_up.wait)
        self._publishing = Publishing(
            options, self._persistent, self._leases, self._pauses, caller, stopping, count
        )
        self._heartbeat = Repeating(
            "assistly-worker-heartbeat", options.heartbeat.total_seconds(), self._leases.beat
        )
        every = min(options.lease.total_seconds(), _UPKEEP)
        self._upkeep = Repeating("assistly-worker-upkeep", every, self._keep_up)
        self._waits: SimpleQueue[bool] = SimpleQueue()
        self._tasks: SimpleQueue[Hold | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._groups = deque(_groups(options))
        self._running = 0
        self._waiting = False
        self._nothing_new = False
        self._backoff = Backoff(0.02, 1.0)

    def work(self) -> None:
        """Until it is told to stop."""
        self._start_waiting()
        self._upkeep.start()
        self._in_full(self._loop)

    def work_until_idle(self) -> None:
        """Until there is nothing left that this worker could claim now."""
        self._in_full(self._drain)

    def _in_full(self, loop: Callable[[], None]) -> None:
        self._heartbeat.start()
        try:
            loop()
        finally:
            self._upkeep.stop()
            self._waits.put(False)
            self._finish()

    def _loop(self) -> None:
        while not self._stopping():
            try:
                claimed = self._fill()
            except TRANSIENT as error:
                logger.warning("nothing can be claimed now: %s", error)
                claimed, self._nothing_new = 0, True
            self._rest(found=claimed > 0)

    def _drain(self) -> None:
        while not self._stopping() and (self._fill() or self._running):
            self._receive(None)

    def _fill(self) -> int:
        """Claim for every free place; how many jobs that gave."""
        if self._persistent.is_late:
            # A claim takes back what ran out, also where the result is known here and about to be stored.
            self._nothing_new = True
            return 0
        claimed = 0
        self._groups.rotate(1)
        for group in self._groups:
            free = min(self._options.concurrency - self._running, self._options.batch)
            platforms = [platform for platform in group if not self._pauses.left(platform)]
            if free and platforms:
                claimed += self._claim(platforms, free)
        return claimed

    def _claim(self, platforms: list[str], most: int) -> int:
        slots: list[str] | None = None
        if self._slots.limited(platforms[0]):
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
        since = self._options.clock()
        for number, job in enumerate(jobs):
            self._hand_out(Hold(job, slots[number] if slots else None, since))
        return len(jobs)

    def _hand_out(self, hold: Hold) -> None:
        self._leases.add(hold)
        self._running += 1
        if self._running > len(self._threads):
            self._threads.append(_daemon(f"assistly-publisher-{self._running}", self._publish_all))
        self._tasks.put(hold)

    def _publish_all(self) -> None:
        while (hold := self._tasks.get()) is not None:
            try:
                self._publishing.publish(hold)
            except BaseException:  # noqa: BLE001 - the thread has other jobs to do
                # Nothing is settled: the job's lease runs out, and decides.
                logger.exception("job %d: the worker failed", hold.job.id)
            finally:
                self._leases.remove(hold)
                if hold.slot is not None:
                    self._slots.release([hold.slot])
                self._inbox.put(Note.FINISHED)

    def _rest(self, *, found: bool) -> None:
        """Sleep until there may be something to do."""
        if found:
            self._backoff.reset()
        paused = min(map(self._pauses.left, self._options.platforms))
        if self._running == self._options.concurrency:
            self._receive(None)
        elif paused:
            self._receive(paused)
        elif self._nothing_new and not found:
            # What is due is not for this worker: of a platform that it does not serve, or may not use now.
            self._receive(self._backoff.next())
            self._nothing_new = False
        else:
            self._nothing_new = False
            self._sleep()

    def _sleep(self) -> None:
        worth_a_look = False
        while not worth_a_look:
            if not self._waiting:
                self._waiting = True
                self._waits.put(True)
            worth_a_look = self._receive(None)

    def _receive(self, timeout: float | None) -> bool:
        """Take the notes that are there, or wait for one; False if none of them is a reason to claim."""
        try:
            notes = [self._take(timeout)]
        except Empty:
            return False
        while not self._inbox.empty():
            notes.append(self._take(None))
        return any(note is not Note.NOT_DUE for note in notes)

    def _take(self, timeout: float | None) -> Note:
        note = self._inbox.get(timeout=timeout)
        if isinstance(note, BaseException):
            raise note
        if note is Note.FINISHED:
            self._running -= 1
        elif note is not Note.STOP:
            self._waiting = False
            self._nothing_new = note is Note.STILL_DUE
            if not self._nothing_new:
                self._backoff.reset()
        return note

    def _start_waiting(self) -> None:
        _daemon("assistly-worker-wait", self._wait_for_jobs)

    def _wait_for_jobs(self) -> None:
        while self._waits.get():
            began = time.monotonic()
            try:
                due = self._storage.queue.wait(self._options.poll)
                slept = time.monotonic() - began > _SLEPT
                note = (Note.DUE if slept else Note.STILL_DUE) if due else Note.NOT_DUE
            except TRANSIENT:
                note = Note.STILL_DUE
            except BaseException as error:  # noqa: BLE001 - raised again by the loop
                self._inbox.put(error)
                return
            self._inbox.put(note)

    def _keep_up(self) -> bool:
        """Take back what others left, and prune: also where nothing is claimed for a long time."""
        try:
            if not self._persistent.is_late:
                self._storage.queue.rescue_expired()
            self._storage.prune()
        except StorageClosed:
            return False
        except StorageError as error:
            logger.warning("rescuing and pruning failed, and will be tried again: %s", error)
        return True

    def _finish(self) -> None:
        """Let the running ones end, within the grace time."""
        deadline = self._options.clock() + self._options.grace
        try:
            while self._running and (left := deadline - self._options.clock()) > 0:
                self._take_if_any(left)
        finally:
            self._gave_up.set()
            self._leases.end()
            for _ in self._threads:
                self._tasks.put(None)
            self._part()

    def _take_if_any(self, timeout: float) -> None:
        try:
            self._take(timeout)
        except Empty:
            pass
        except StorageError as error:
            logger.warning("while stopping: %s", error)

    def _part(self) -> None:
        if not self._running:
            self._heartbeat.stop()
            for thread in self._threads:
                thread.join(timeout=5.0)
            return
        for hold in self._leases.held():
            logger.error(
                "job %d on %s is still being published: its outcome is unknown once its lease runs out",
                hold.job.id,
                hold.job.platform,
            )


def _groups(options: Options) -> list[list[str]]:
    """The platforms that can be claimed together: limited ones only by themselves."""
    free = [platform for platform in options.platforms if platform not in options.limits]
    limited = [[platform] for platform in options.platforms if platform in options.limits]
    return [free, *limited] if free else limited


def _daemon(name: str, work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread
