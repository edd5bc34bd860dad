"""`AsyncWorker`: the same worker, publishing on the caller's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Unpack

from assistly.storage.aio import AsyncStorage
from assistly.storage.storage import Storage
from assistly.storage.validation import wrong_type

from .counts import WorkerNumbers
from .health import WorkerHealth
from .options import WorkerOptions
from .publisher import Publisher
from .signals import SIGNAL_SECONDS, stop_on_signals
from .threads import Runtime
from .worker import Worker


class AsyncWorker:
    """Publishes the due jobs of the platforms that it has a publisher for, on the caller's event loop.

    It takes the same arguments as `Worker`, and also accepts an `AsyncStorage`. Coroutine publishers and
    checks run on the loop that awaits `run`. Storage calls, and publishers and checks that are plain
    functions, run on threads of the worker, so they never block the loop.

    Raises InvalidValue for a wrong option.
    """

    def __init__(
        self,
        storage: Storage | AsyncStorage,
        publishers: Mapping[str, Publisher],
        **options: Unpack[WorkerOptions],
    ) -> None:
        if isinstance(storage, AsyncStorage):
            storage = storage._storage  # noqa: SLF001 - the worker has threads of its own
        elif not isinstance(storage, Storage):
            raise wrong_type("storage", "an AsyncStorage or a Storage", storage)
        self._worker = Worker(storage, publishers, **options)

    @property
    def worker_id(self) -> str:
        """The name of this worker in its claims."""
        return self._worker.worker_id

    @property
    def counts(self) -> dict[str, int]:
        """The number of jobs by outcome, over all runs.

        The keys are posted, failed, dead, unknown, snoozed, put back, lost and not stored; keys with 0 are
        missing.
        """
        return self._worker.counts

    @property
    def numbers(self) -> WorkerNumbers:
        """The jobs that are finished or in progress, and how long publishers took. Makes no storage call."""
        return self._worker.numbers

    @property
    def health(self) -> WorkerHealth:
        """Whether the worker is alive and ready. Makes no storage call, so it never waits."""
        return self._worker.health

    def stop(self) -> None:
        """Make this and every later `run` return soon. May be called from any thread or signal handler."""
        self._worker.stop()

    async def run(self, *, handle_signals: bool = False) -> None:
        """Work until `stop` is called or this call is cancelled. Stopping takes the grace time at most.

        By default it handles no signals, since a web server or another framework does; that must call `stop`
        or cancel the task. In a script without a framework, pass `handle_signals=True`: if the loop runs in
        the main thread, the first SIGTERM or SIGINT makes `run` return, a second one ends the process at
        once, and the handlers are restored afterwards. An ignored signal stays ignored.

        Raises what `Worker.run` raises.
        """
        loop = asyncio.get_running_loop()
        signals: AbstractContextManager[None] = nullcontext()
        if handle_signals:
            signals = stop_on_signals(self._worker.stop, pass_on=False)
        with signals:
            run = partial(self._worker.run, handle_signals=False, loop=loop)
            await self._on_thread(run, SIGNAL_SECONDS if handle_signals else None)

    async def run_until_idle(self) -> None:
        """Publish the jobs that are due now, like `Worker.run_until_idle`. A cancellation calls `stop`."""
        loop = asyncio.get_running_loop()
        await self._on_thread(partial(self._worker.run_until_idle, loop=loop))

    async def _on_thread(self, work: Callable[[], None], wake_up_after: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def run() -> None:
            error: BaseException | None = None
            try:
                work()
            except BaseException as raised:  # noqa: BLE001 - raised again where it is awaited
                error = raised
            with suppress(RuntimeError):  # the loop is closed, so nothing awaits this
                loop.call_soon_threadsafe(_finish, done, error)

        Runtime().start("assistly-worker", run)
        try:
            while not done.done():
                await asyncio.wait([done], timeout=wake_up_after)
            await done
        except asyncio.CancelledError:
            self._worker.stop()
            await done
            raise


def _finish(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
