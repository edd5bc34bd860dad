"""Where calls run: in place, on a pool of threads, or on one thread until it is left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from queue import SimpleQueue
from typing import Protocol, TypeVar

from ..errors import StorageClosed

T = TypeVar("T")


class Place(Protocol):
    """One at which calls run one after another."""

    async def run(self, call: Callable[[], T]) -> T:
        """A cancellation comes out at once. A call that has begun goes on to its end, unseen."""

    async def finish(self, call: Callable[[], T]) -> T:
        """A cancellation comes out when the call has ended."""

    async def undo(self, call: Callable[[], object]) -> None:
        """A cancellation comes out at once, and the call is made all the same."""

    def drop(self, call: Callable[[], object]) -> None:
        """Run it after what was begun before, and wait for nothing."""


class InPlace:
    async def run(self, call: Callable[[], T]) -> T:
        # A loop over such calls would otherwise never let another task in.
        await asyncio.sleep(0)
        return call()

    async def finish(self, call: Callable[[], T]) -> T:
        return call()

    async def undo(self, call: Callable[[], object]) -> None:
        call()

    def drop(self, call: Callable[[], object]) -> None:
        call()


class Threads:
    """At most `size` threads. They are not carried through a fork."""

    def __init__(self, size: int) -> None:
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="assistly-aio")
        self._process = os.getpid()
        self._closed = False

    async def run(self, call: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self.submit(call))

    async def finish(self, call: Callable[[], T]) -> T:
        return await _to_the_end(self.submit(call))

    def submit(self, call: Callable[[], T]) -> Future[T]:
        self.check()
        return self._pool.submit(copy_context().run, _shielded, call)

    def check(self) -> None:
        if self._process != os.getpid():
            raise StorageClosed("threads are not carried through a fork: open another storage in the child")
        if self._closed:
            raise StorageClosed("the storage is closed: open another one")

    def refuse(self) -> None:
        self._closed = True

    def join(self) -> None:
        """Wait for all that was begun."""
        self._pool.shutdown()


class OneThread:
    """A thread of the pool, kept for as long as this place is open."""

    def __init__(self, threads: Threads) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._left = False
        threads.submit(self._serve)

    async def run(self, call: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._submit(call))

    async def finish(self, call: Callable[[], T]) -> T:
        return await _to_the_end(self._submit(call))

    async def undo(self, call: Callable[[], object]) -> None:
        await asyncio.shield(asyncio.wrap_future(self._submit(call)))

    def drop(self, call: Callable[[], object]) -> None:
        self._submit(call)

    def leave(self) -> None:
        """The thread is the pool's again when what was begun here has ended."""
        if not self._left:
            self._left = True
            self._calls.put(None)

    def _submit(self, call: Callable[[], T]) -> Future[T]:
        if self._left:
            raise StorageClosed("the transaction has ended")
        future: Future[T] = Future()
        context = copy_context()
        self._calls.put(lambda: _perform(future, lambda: context.run(_shielded, call)))
        return future

    def _serve(self) -> None:
        for call in iter(self._calls.get, None):
            call()


def _perform(future: Future[T], call: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - raised again in the task that waits
        future.set_exception(error)
    else:
        future.set_result(result)
    finally:
        # The traceback of an error holds this frame, and the future holds the error.
        del future, call


def _shielded(call: Callable[[], T]) -> T:
    try:
        return call()
    except StopIteration as error:
        # No asyncio.Future takes it: the task would wait for ever.
        raise RuntimeError("a callback raised StopIteration") from error


async def _to_the_end(call: Future[T]) -> T:
    future = asyncio.wrap_future(call)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()
        raise cancelled
    return future.result()
