"""`AsyncWorker`: the same worker, publishing on the caller's event loop."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Unpack

from assistly.storage.aio import AsyncStorage

from .options import WorkerOptions
from .verdicts import Publisher
from .worker import Worker

if TYPE_CHECKING:
    from assistly.storage.storage import Storage

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class AsyncWorker:
    """Takes what `Worker` takes. Coroutine publishers run on the loop that awaits `run`.

    The storage is worked on aside, on the worker's own threads, and so are publishers that are
    plain functions: the loop never waits for either.
    """

    def __init__(
        self,
        storage: Storage | AsyncStorage,
        publishers: Mapping[str, Publisher],
        **options: Unpack[WorkerOptions],
    ) -> None:
        if isinstance(storage, AsyncStorage):
            storage = storage._storage  # noqa: SLF001 - the worker has threads of its own
        self._worker = Worker(storage, publishers, **options)

    @property
    def worker_id(self) -> str:
        return self._worker.worker_id

    @property
    def counts(self) -> dict[str, int]:
        return self._worker.counts

    def stop(self) -> None:
        self._worker.stop()

    async def run(self, *, handle_signals: bool = True) -> None:
        """As `Worker.run`. Cancelling it stops the worker, which takes the grace time at most."""
        loop = asyncio.get_running_loop()
        with self._signals(loop) if handle_signals else _nothing():
            await self._aside(partial(self._worker.run, handle_signals=False, loop=loop))

    async def run_until_idle(self) -> None:
        loop = asyncio.get_running_loop()
        await self._aside(partial(self._worker.run_until_idle, loop=loop))

    async def _aside(self, work: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def run() -> None:
            error: BaseException | None = None
            try:
                work()
            except BaseException as raised:  # noqa: BLE001 - raised again where it is awaited
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_end, done, error)

        threading.Thread(target=run, name="assistly-worker", daemon=True).start()
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            self._worker.stop()
            await done
            raise

    @contextmanager
    def _signals(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def first() -> None:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL)
            self._worker.stop()

        before = [(number, signal.getsignal(number)) for number in _SIGNALS]
        for number in _SIGNALS:
            loop.add_signal_handler(number, first)
        try:
            yield
        finally:
            for number, handler in before:
                loop.remove_signal_handler(number)
                signal.signal(number, handler)


def _end(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
