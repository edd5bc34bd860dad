"""`Worker`: claims what is due, publishes it, and writes down how it went."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from queue import SimpleQueue
from typing import TYPE_CHECKING

from assistly.storage import validation as check
from assistly.storage.retry import RetryPolicy

from . import options as given
from .calling import Caller
from .dispatch import Dispatch, Inbox, Note
from .publishing import Counts, Pauses
from .stopping import stop_on_signals
from .verdicts import Publisher

if TYPE_CHECKING:
    import asyncio

    from assistly.storage.storage import Storage


class Worker:
    """Publishes the due jobs of the platforms that it has a publisher for.

    `begin_publish` is stored before each call, and the result right after it. Where a process
    dies in between, the job goes to the dead letters as `outcome unknown: …`: no job is published a
    second time before a person has said so.

    A claim lasts for `lease`, and a heartbeat extends it for as long as the publisher takes, so a
    publisher needs time-outs of its own. `concurrency` is the most jobs at once in this worker;
    `platform_concurrency` is the most for a platform in all workers of the storage together, which
    have to agree on it. `retry` says when failed jobs come again (default: the storage's policy);
    `pause` is how long a platform is left alone after a `Retry` that does not say.
    """

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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        chosen = given.chosen_publishers(publishers, platforms)
        places = given.checked_concurrency(concurrency)
        self._storage = storage
        self._options = given.Options(
            worker_id=given.new_worker_id() if worker_id is None else check.name("worker_id", worker_id),
            publishers=chosen,
            concurrency=places,
            limits=given.checked_limits(platform_concurrency, chosen),
            batch=places if batch is None else check.whole("batch", batch, least=1, most=check.MAX_LIMIT),
            lease=check.duration("lease", lease, zero=False),
            heartbeat=given.checked_heartbeat(heartbeat, lease),
            poll=given.checked_poll(poll),
            grace=check.seconds("grace", grace),
            pause=check.seconds("pause", pause),
            retry=retry,
            clock=clock,
        )
        self._counts = Counts()
        self._pauses = Pauses(clock)
        self._stopped = False
        self._inbox: Inbox = SimpleQueue()
        self._busy = threading.Lock()

    @property
    def worker_id(self) -> str:
        return self._options.worker_id

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs ended how: posted, failed, dead, unknown, snoozed, put back, lost."""
        return self._counts.read()

    def run(self, *, handle_signals: bool = True, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Work until `stop`, SIGTERM or SIGINT; a second signal ends the process at once.

        What runs then may end within the grace time, and what has not begun is released. Signals
        are handled in the main thread alone. Coroutine publishers run on `loop`, by default one of
        the worker's own.
        """
        watch: AbstractContextManager[None] = nullcontext()
        if handle_signals:
            watch = stop_on_signals(self.stop)
        with watch:
            self._run(Dispatch.work, loop)

    def run_until_idle(self, *, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Publish what is due now, for scripts and tests. Waits for no platform that is paused or full."""
        self._run(Dispatch.work_until_idle, loop)

    def stop(self) -> None:
        """For good: `run` returns soon. May be called from any thread and from a signal handler."""
        self._stopped = True
        self._inbox.put(Note.STOP)

    def _run(self, work: Callable[[Dispatch], None], loop: asyncio.AbstractEventLoop | None) -> None:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("this worker is running already")
        caller = Caller(loop)
        inbox: Inbox = SimpleQueue()
        self._inbox = inbox
        try:
            dispatch = Dispatch(
                self._storage,
                self._options,
                caller,
                self._pauses,
                inbox,
                lambda: self._stopped,
                self._counts.add,
            )
            work(dispatch)
        finally:
            caller.close()
            self._busy.release()
