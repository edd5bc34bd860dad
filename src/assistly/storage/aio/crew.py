"""Threads that share the calls of an event loop: no more of them than help, and answers in batches."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from time import monotonic, thread_time
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_FEW = 2
_LINGER = 0.1
_PAUSE = 0.001
_LATE = 0.005
_WEIGHT = 1 / 16


class Errand(Generic[T]):
    """A call on its way to a thread and back."""

    __slots__ = ("_answer", "_call", "_context", "_error", "_result")

    def __init__(self, call: Callable[[], T], answer: asyncio.Future[T]) -> None:
        self._call = call
        self._context = copy_context()
        self._answer = answer
        self._result: Any = None
        self._error: BaseException | None = None

    def perform(self) -> None:
        """In a thread, unless its caller has gone."""
        if self._answer.cancelled():
            return
        try:
            self._result = self._context.run(self._call)
        except StopIteration as error:
            # No asyncio.Future takes it: the task would wait for ever.
            self._error = RuntimeError("a callback raised StopIteration")
            self._error.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - raised again in the task that waits
            self._error = error

    def deliver(self) -> None:
        """On the event loop."""
        answer, error = self._answer, self._error
        # The traceback of an error holds the frame that holds this.
        del self._answer, self._error
        if answer.done():
            return
        if error is None:
            answer.set_result(self._result)
        else:
            answer.set_exception(error)


class Desk:
    """Where threads leave what they have done for an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: deque[Errand[Any]] = deque()
        self._is_called = False
        self.delivered = 0

    def leave(self, errand: Errand[Any]) -> None:
        self._done.append(errand)

    def call(self) -> None:
        """Wake the loop; once for all that is there when it comes."""
        if not self._is_called:
            self._is_called = True
            # A closed loop has nobody who waits.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.deliver)

    def deliver(self) -> None:
        # In this order, so that what is left here meanwhile is not overlooked.
        self._is_called = False
        while self._done:
            self._done.popleft().deliver()
            self.delivered += 1


class Crew:
    """Shifts of a pool's threads; each takes the next call as soon as it has made one.

    Threads that have the interpreter's lock to wait for slow each other down, so that there are
    only as many as keep it busy: a call's time by that which it spends on the processor, twice
    over. A call that is late, since it waits for someone's lock say, counts no more.

    The loop is woken for an answer when no other call waits for a thread. While some do, it looks
    for answers every millisecond, which costs less than to be woken for each.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: ThreadPoolExecutor, size: int) -> None:
        self.loop = loop
        self._pool = pool
        self._size = max(1, size)
        self._desk = Desk(loop)
        self._calls: SimpleQueue[Errand[Any] | None] = SimpleQueue()
        self._taken = 0
        self._changed = threading.Condition()
        self._shifts = 0
        self._linger = _LINGER
        self._room = min(self._size, _FEW)
        self._begun: dict[int, float] = {}
        self._elapsed = self._processor = 0.0
        self._look_at: asyncio.TimerHandle | None = None
        self._pause = _PAUSE

    @property
    def shifts(self) -> int:
        return self._shifts

    def take_on(self, call: Callable[[], T]) -> asyncio.Future[T]:
        answer: asyncio.Future[T] = self.loop.create_future()
        self._taken += 1
        self._calls.put(Errand(call, answer))
        self._fill_up()
        return answer

    def let_one_go(self) -> None:
        """When it has made the calls that came before."""
        self._calls.put(None)

    def resize(self, size: int) -> None:
        """How many threads there may be; one at least."""
        self._size = max(1, size)
        self._room = min(self._room, self._size)

    def join(self) -> None:
        """Wait for all calls that were taken on."""
        with self._changed:
            self._linger = 0.0
            self.let_one_go()
            self._changed.wait_for(lambda: not self._shifts)

    def _fill_up(self) -> None:
        under_way = self._taken - self._desk.delivered
        while self._shifts < min(self._room, under_way):
            self._begin_shift()
        if under_way > 1 and self._look_at is None:
            self._look_at = self.loop.call_later(self._pause, self._look)

    def _look(self) -> None:
        self._look_at = None
        before = self._desk.delivered
        self._desk.deliver()
        self._pause = _PAUSE if self._desk.delivered > before else min(2 * self._pause, _LATE)
        now = monotonic()
        late = sum(now - began > _LATE for began in [*self._begun.values()])
        useful = int(self._elapsed / (2 * self._processor)) if self._processor else 0
        self._room = min(self._size, late + max(_FEW, useful))
        self._fill_up()

    def _begin_shift(self) -> None:
        with self._changed:
            self._shifts += 1
        self._pool.submit(self._serve)

    def _serve(self) -> None:
        self._make_calls()
        with self._changed:
            if self._shifts > self._room or self._calls.empty():
                self._shifts -= 1
                if not self._linger:
                    self._changed.notify_all()
                    self.let_one_go()
            else:
                self._pool.submit(self._serve)
        self._desk.call()

    def _make_calls(self) -> None:
        """Until none has come for a while, or the thread is wanted elsewhere, or not at all."""
        calls = self._calls
        with suppress(Empty):
            while self._shifts <= self._room:
                errand = calls.get(timeout=self._linger)
                if errand is not None:
                    self._perform(errand)
                    self._desk.leave(errand)
                    del errand
                    if calls.empty():
                        self._desk.call()
                elif self._linger:
                    return

    def _perform(self, errand: Errand[Any]) -> None:
        me = threading.get_ident()
        began = self._begun[me] = monotonic()
        spent = thread_time()
        errand.perform()
        self._elapsed += (monotonic() - began - self._elapsed) * _WEIGHT
        self._processor += (thread_time() - spent - self._processor) * _WEIGHT
        del self._begun[me]
