"""`Worker`: claims due jobs, publishes them, and stores the outcomes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING

from .counts import JobCounts, WorkerNumbers
from .events import Reporter, WorkerEvent, one_line
from .health import WorkerHealth
from .invocation import PublisherCaller
from .loop import WorkerLoop
from .options import check_event_loop, check_options, check_storage
from .pauses import PlatformPauses
from .publisher import Publisher
from .signals import stop_on_signals
from .storage_calls import TRANSIENT, described
from .supervision import WorkerRun
from .threads import Runtime

if TYPE_CHECKING:
    import asyncio

    from assistly.storage.retry import RetryPolicy
    from assistly.storage.storage import Storage


Work = Callable[[WorkerLoop, Callable[[], None]], None]
"""What a run does with the loop; it calls the function once nothing more is claimed."""


class Worker:
    """Publishes the due jobs of the platforms that it has a publisher for, on its own threads.

    It calls `begin_publish` before a publisher, and stores the outcome right after it. If the process dies in
    between, the job becomes a dead letter, `outcome unknown: …`, and is not published again unless somebody
    resolves it as not posted (`queue.resolve`) or replays it. If the publisher has a `check`, the worker
    calls it, and its result resolves the job.

    A claim lasts for `lease`, and a heartbeat extends it for as long as the publisher takes, so publishers
    need their own timeouts. Unless STORAGE_VACUUM is `off`, the worker also calls `storage.maintain()` once a
    minute. `WorkerOptions` describes the options. Durations given as numbers are seconds.

    Raises InvalidValue for a wrong option.
    """

    _runtime = Runtime()

    def __init__(
        self,
        storage: Storage,
        publishers: Mapping[str, Publisher],
        *,
        worker_id: str | None = None,
        platforms: Iterable[str] | None = None,
        concurrency: int = 4,
        platform_concurrency: Mapping[str, int] | None = None,
        batch: int | None = None,
        lease: timedelta = timedelta(seconds=60),
        heartbeat: timedelta | None = None,
        poll: float | timedelta = 5.0,
        grace: float | timedelta = 30.0,
        pause: float | timedelta = 60.0,
        retry: RetryPolicy | Mapping[str, RetryPolicy] | None = None,
        timeout: float | timedelta | None = None,
        check_pause: float | timedelta = 10.0,
        check_for: float | timedelta = 86_400.0,
        on_event: Callable[[WorkerEvent], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = check_storage(storage)
        self._options = check_options(
            publishers,
            worker_id=worker_id,
            platforms=platforms,
            concurrency=concurrency,
            platform_concurrency=platform_concurrency,
            batch=batch,
            lease=lease,
            heartbeat=heartbeat,
            poll=poll,
            grace=grace,
            pause=pause,
            retry=retry,
            timeout=timeout,
            check_pause=check_pause,
            check_for=check_for,
            on_event=on_event,
            clock=clock,
        )
        self._counts = JobCounts(self._options.platforms)
        self._pauses = PlatformPauses(clock)
        self._stopped = False
        self._current: WorkerRun | None = None
        self._loop: WorkerLoop | None = None
        self._failure: tuple[bool, str] | None = None
        self._running = threading.Lock()

    @property
    def worker_id(self) -> str:
        """The name of this worker in its claims."""
        return self._options.worker_id

    @property
    def counts(self) -> dict[str, int]:
        """The number of jobs by outcome, over all runs.

        The keys are posted, failed, dead, unknown, snoozed, put back, lost and not stored; keys with 0 are
        missing.
        """
        return self._counts.read()

    @property
    def numbers(self) -> WorkerNumbers:
        """The jobs that are finished or in progress, and how long publishers took. Makes no storage call."""
        loop = self._loop
        age = None if loop is None else loop.last_claim_age
        return WorkerNumbers(
            self.worker_id,
            self._options.concurrency,
            0 if loop is None else len(loop.unfinished),
            self._counts.ended(),
            None if age is None else timedelta(seconds=age),
        )

    @property
    def health(self) -> WorkerHealth:
        """Whether the worker is alive and ready. Makes no storage call, so it never waits."""
        loop, failure = self._loop, self._failure
        if failure is not None:
            may_run_again, why = failure
            return WorkerHealth(may_run_again, False, [f"the worker has ended: {why}"])
        if self._stopped:
            return WorkerHealth(True, False, ["the worker was told to stop"])
        if loop is None:
            return WorkerHealth(True, False, ["the worker is not running"])
        stuck, refusal = loop.stuck, loop.refusal
        why_not = [] if refusal is None else [f"cannot claim jobs: {refusal}"]
        return WorkerHealth(not stuck, not (stuck or why_not), [*stuck, *why_not])

    def run(self, *, handle_signals: bool = True, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Work until `stop` is called, or until SIGTERM or SIGINT.

        A stopping worker claims nothing new, gives running jobs the grace time to finish, and releases jobs
        that have not begun. Coroutine publishers run on `loop` (default: the worker's own loop).

        Signals are handled only in the main thread, and not with `handle_signals=False` (default: True). The
        first one stops the worker; a second one ends the process at once. When the worker has stopped, the
        previous handlers are restored, and the signal is raised again for them:

        - your own handler is called, and `run` returns if the handler does;
        - SIGINT raises KeyboardInterrupt, as usual;
        - SIGTERM ends the process, as usual. If the program should continue after `run`, install a handler
          for it before the call; one that does nothing is enough.

        A signal that is ignored when `run` is called, such as SIGINT after `nohup … &`, stays ignored.

        Raises RuntimeError if this worker is already running, and the errors of the storage, except
        StorageUnavailable and OutcomeUnknown, which are logged before the call is retried.
        """
        signals: AbstractContextManager[None] = nullcontext()
        if handle_signals:
            signals = stop_on_signals(self.stop, pass_on=True)
        with signals:
            self._run(WorkerLoop.run, loop)

    def run_until_idle(self, *, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Create the jobs of schedules, publish the jobs that are due now, then return. Handles no signals.

        It does not wait for platforms that are paused, or whose `platform_concurrency` other workers use up.
        Raises RuntimeError if this worker is already running, and the errors of the storage.
        """
        self._run(WorkerLoop.run_until_idle, loop)

    def stop(self) -> None:
        """Make this and every later `run` return soon. May be called from any thread or signal handler."""
        self._stopped = True
        current = self._current
        if current is not None:
            current.stop()

    def _run(self, work: Work, loop: asyncio.AbstractEventLoop | None) -> None:
        if loop is not None:
            check_event_loop(loop)
        if not self._running.acquire(blocking=False):
            raise RuntimeError("this worker is running already")
        caller = self._new_caller(loop)
        checked = dict.fromkeys(self._options.checks, self._options.check_pause)
        reporter = Reporter(self._runtime, self._counts, self._options.on_event, checked)
        worker_loop = WorkerLoop(self._runtime, self._storage, self._options, caller, self._pauses, reporter)
        try:
            self._failure, self._loop = None, worker_loop
            self._current = WorkerRun(self._runtime, self._options, worker_loop)
            if self._stopped:
                self._current.stop()
            self._current.run(work)
        except Exception as error:
            if not self._stopped:
                self._failure = isinstance(error, TRANSIENT), one_line(described(error))
            raise
        finally:
            self._current = self._loop = None
            caller.close()
            self._running.release()

    def _new_caller(self, loop: asyncio.AbstractEventLoop | None) -> PublisherCaller:
        return PublisherCaller(self._runtime, loop, self._options.timeout)
