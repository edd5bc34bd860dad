"""The threads in which an `AsyncStorage` makes its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Protocol, TypeVar

from .. import forks
from ..errors import StorageClosed

T = TypeVar("T")

MAX_THREADS = 10_000

CLOSED = "the storage is closed: open a new one"


class Threads(Protocol):
    """Where calls run, other than on the event loop."""

    @property
    def are_usable(self) -> bool:
        """Whether `submit` can run calls."""

    def submit(self, call: Callable[[], T], *, in_transaction: bool = False) -> asyncio.Future[T]:
        """Run a call, with the context variables of the caller."""


class ThreadPools:
    """The two thread pools of an `AsyncStorage`. They do not exist in a forked child.

    Calls inside transactions have a pool of their own, since all threads of the other may be waiting for a
    lock that a transaction holds. It grows to as many threads as there are transactions with a call in
    progress.
    """

    def __init__(self, size: int) -> None:
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="assistly-aio")
        self._transaction_pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="assistly-aio-tx")
        self._generation = forks.generation()
        self._is_shut_down = False

    @property
    def are_usable(self) -> bool:
        """False after `shut_down`, and in a forked child."""
        return not self._is_shut_down and self._generation == forks.generation()

    def check(self) -> None:
        """Raise StorageClosed after `shut_down`, and in a forked child."""
        if self._is_shut_down:
            raise StorageClosed(CLOSED)
        if self._generation != forks.generation():
            raise StorageClosed("an AsyncStorage cannot be used after a fork: open a new one in the child")

    def submit(self, call: Callable[[], T], *, in_transaction: bool = False) -> asyncio.Future[T]:
        """Run a call in a thread, with the context variables of the caller."""
        self.check()
        pool: Executor = self._transaction_pool if in_transaction else self._pool
        run = in_context(call)
        return asyncio.get_running_loop().run_in_executor(pool, run)

    def shut_down(self) -> None:
        """Refuse further calls, and wait for those in progress."""
        self._is_shut_down = True
        self._pool.shutdown()
        self._transaction_pool.shutdown()


def in_context(call: Callable[[], T]) -> Callable[[], T]:
    """Return the call with the context variables that are set now, to be made in a thread."""
    return partial(copy_context().run, _without_stop_iteration, call)


async def to_the_end(future: asyncio.Future[T]) -> T:
    """Wait for a future to end, and only then raise a cancellation that came meanwhile."""
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


def _without_stop_iteration(call: Callable[[], T]) -> T:
    try:
        return call()
    except StopIteration as error:
        # An asyncio.Future refuses this exception, so the task would wait for ever.
        raise RuntimeError("a callback raised StopIteration") from error
