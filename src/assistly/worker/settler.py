"""Stores the outcomes of jobs: several in one storage call if they arrive together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistly.storage import records
from assistly.storage.records import JobStatus, Snoozed

from .claimed_jobs import ClaimedJob
from .events import EventKind, WorkerEvent, one_line
from .health import Progress
from .processing import ending
from .storage_calls import NotSettled, logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from assistly.storage.records import Job, Outcome

    from .claimed_jobs import ClaimedJobs
    from .events import Reporter
    from .slots import PlatformSlots
    from .storage_calls import RetriedCalls
    from .threads import MessageQueue, Runtime, Thread

_MOST = 1000


class Settler:
    """Settles jobs on its own thread: those that end at about the same time, in one call."""

    def __init__(
        self,
        runtime: Runtime,
        worker_id: str,
        calls: RetriedCalls,
        claimed_jobs: ClaimedJobs,
        slots: PlatformSlots,
        reporter: Reporter,
        on_end: Callable[[list[ClaimedJob]], None],
    ) -> None:
        self._runtime = runtime
        self._worker_id = worker_id
        self._calls = calls
        self._claimed_jobs = claimed_jobs
        self._slots = slots
        self._reporter = reporter
        self._on_end = on_end
        self._ended: MessageQueue[ClaimedJob | None] = runtime.queue()
        self._thread: Thread | None = None
        self.progress = Progress(runtime.monotonic)
        """How long the thread has been storing outcomes."""

    def start(self) -> None:
        """Start the thread."""
        self._thread = self._runtime.start("assistly-worker-settle", self._work)

    def put(self, claimed: ClaimedJob) -> None:
        """Settle the job with its outcome; without one, because of an error in the worker, abandon it."""
        self._ended.put(claimed)

    def end(self, seconds: float) -> None:
        """Make the thread end when all jobs are settled, and wait for it, `seconds` at most."""
        self._ended.put(None)
        if self._thread is not None:
            self._thread.join(timeout=seconds)

    def _work(self) -> None:
        while (first := self._ended.get()) is not None:
            self.progress.step()
            batch = [first]
            while len(batch) < _MOST and not self._ended.empty():
                more = self._ended.get()
                if more is None:
                    self._ended.put(None)
                    break
                batch.append(more)
            try:
                self._settle(batch)
            except BaseException:  # noqa: BLE001 - the thread has other jobs to settle
                # They are not settled: their leases expire, and a rescue decides.
                logger.exception("the worker failed to settle %d jobs", len(batch))
            finally:
                self._claimed_jobs.remove(batch)
                slots = [claimed.slot for claimed in batch if claimed.slot is not None]
                self._slots.release(slots, self.progress.step)
                if self._ended.empty():
                    self._calls.note_all_settled()
                self._on_end(batch)
                self.progress.rest()

    def _settle(self, batch: list[ClaimedJob]) -> None:
        ended = [(claimed, claimed.outcome) for claimed in batch if claimed.outcome is not None]
        settled = self._calls.settle([outcome for _, outcome in ended], self.progress.step)
        for (claimed, outcome), job in zip(ended, settled, strict=True):
            self._report(claimed, outcome, job)

    def _report(self, claimed: ClaimedJob, outcome: Outcome, settled: Job | NotSettled) -> None:
        job = outcome.job if isinstance(settled, NotSettled) else settled
        kind, error = EventKind.FAILED, job.last_error
        if isinstance(settled, NotSettled):
            is_lost = settled is NotSettled.CLAIM_LOST
            kind, error = EventKind.LOST if is_lost else EventKind.NOT_STORED, ending(outcome)
        elif job.status is JobStatus.POSTED:
            kind = EventKind.PUBLISHED
        elif job.status is JobStatus.DEAD_LETTER:
            kind = EventKind.UNKNOWN if isinstance(outcome, records.Unknown) else EventKind.DEAD
            error = job.dead_letter_reason
        elif claimed.seconds is None:
            kind = EventKind.PUT_BACK
        elif isinstance(outcome, Snoozed):
            kind = EventKind.SNOOZED
        self._reporter.count(kind, job.platform, claimed.seconds)
        if not self._reporter.is_wanted(kind):
            return
        retries = kind in (EventKind.FAILED, EventKind.SNOOZED)
        says_why = kind not in (EventKind.PUBLISHED, EventKind.SNOOZED, EventKind.PUT_BACK)
        self._reporter.report(
            WorkerEvent(
                kind,
                self._worker_id,
                job.platform,
                job,
                error=one_line(error) if says_why else None,
                until=job.due_at if retries else None,
                seconds=claimed.seconds,
            )
        )
