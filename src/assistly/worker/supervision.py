"""Waits for the loop of a worker, which has its own thread, and abandons it if it does not end."""

from __future__ import annotations

import contextvars
import threading
from enum import Enum, auto
from queue import Empty
from typing import TYPE_CHECKING

from .claimed_jobs import ClaimedJob, Stage
from .processing import ending
from .signals import SIGNAL_SECONDS
from .storage_calls import logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from .loop import WorkerLoop
    from .options import CheckedOptions
    from .threads import MessageQueue, Runtime

_LAST_SECONDS = 0.25
"""How long the calls in progress may take to end once the grace time is over."""


class _Note(Enum):
    ENDING = auto()
    """The loop must end, or has ended: the grace time begins."""
    ENDED = auto()
    """Nothing of the run is left."""


class WorkerRun:
    """One run of a worker.

    Storage calls run on other threads than the one that waits here, so that a storage that does not answer
    cannot block the worker for longer than its grace time.
    """

    def __init__(self, runtime: Runtime, options: CheckedOptions, loop: WorkerLoop) -> None:
        self._runtime = runtime
        self._options = options
        self._loop = loop
        self._inbox: MessageQueue[_Note] = runtime.queue()
        self._error: BaseException | None = None
        self._has_ended = False

    def run(self, work: Callable[[WorkerLoop, Callable[[], None]], None]) -> None:
        """Run the loop. Raises its errors; returns after the grace time, even if something hangs."""
        context = contextvars.copy_context()  # the storage keeps its open transactions in it
        try:
            self._runtime.start("assistly-worker-claims", lambda: context.run(self._work, work))
            self._wait_for_a_note()
        finally:
            self._leave()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Make `run` return within the grace time. A signal handler may call this."""
        self._loop.stop()
        self._inbox.put(_Note.ENDING)

    def _work(self, work: Callable[[WorkerLoop, Callable[[], None]], None]) -> None:
        try:
            work(self._loop, lambda: self._inbox.put(_Note.ENDING))
        except BaseException as error:  # noqa: BLE001 - raised again where the run is waited for
            self._error = error
        finally:
            self._inbox.put(_Note.ENDED)

    def _leave(self) -> None:
        self._loop.stop()
        self._wait_for_the_end(self._options.grace)
        if not self._has_ended:
            self._loop.give_up()
            self._wait_for_the_end(_LAST_SECONDS)
        if not self._has_ended:
            self._report()

    def _wait_for_a_note(self) -> None:
        """Wait without a limit.

        The system may deliver a signal to any thread, which does not wake the main thread, but only the main
        thread runs the handlers. So it wakes up regularly.
        """
        is_main = threading.current_thread() is threading.main_thread()
        while not self._receive(SIGNAL_SECONDS if is_main else None):
            pass

    def _wait_for_the_end(self, seconds: float) -> None:
        # By both clocks, since that of the worker may stand still.
        clocks = (self._options.clock, self._runtime.monotonic)
        deadlines = [clock() + seconds for clock in clocks]
        while not self._has_ended:
            left = min(deadline - clock() for clock, deadline in zip(clocks, deadlines, strict=True))
            if left <= 0:
                return
            self._receive(min(left, SIGNAL_SECONDS))

    def _receive(self, timeout: float | None) -> bool:
        try:
            note = self._inbox.get(timeout=timeout)
        except Empty:
            return False
        self._has_ended |= note is _Note.ENDED
        return True

    def _report(self) -> None:
        jobs = self._loop.unfinished
        for claimed in jobs:
            logger.error("job %d on %s %s", claimed.job.id, claimed.job.platform, _left_behind(claimed))
        left = [f"{len(jobs)} job{'s' if len(jobs) > 1 else ''}"] if jobs else []
        if self._loop.is_claiming:
            left.append("a claim of jobs, which are due again when their lease expires")
        logger.error(
            "the worker stops after its grace time of %g s with unfinished work: %s",
            self._options.grace,
            ", ".join(left) or "storage calls that have not returned",
        )


def _left_behind(claimed: ClaimedJob) -> str:
    if claimed.stage is Stage.PUBLISHING:
        return "is still being published: its outcome is unknown when its lease expires"
    if claimed.stage is Stage.SETTLING and claimed.outcome is not None:
        return f"waits for the storage, which has not stored its outcome: here it {ending(claimed.outcome)}"
    if claimed.stage is Stage.BEGINNING:
        return "waits for the storage, and was not published, even if its outcome counts as unknown later"
    return "was not published: it is retried when its lease expires"
