"""Group commit: single calls that are under way together travel in one statement."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from time import monotonic
from typing import Any, Final, Generic, TypeVar, cast
from weakref import WeakSet

from .errors import OutcomeUnknown, StorageError
from .stores.context import Context

R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

PATIENCE = 0.05
"""Seconds after which nobody waits any longer for a statement to come back before the next one leaves."""

_MOST = 1000
_CHARACTERS = 4 * 2**20


class Apart(Enum):
    RETRY_SINGLY = "this call has to be made alone"


RETRY_SINGLY: Final = Apart.RETRY_SINGLY


@dataclass(frozen=True, slots=True)
class CallError:
    error: Exception


Answer = Any
"""What a call returns, or `CallError`, or `RETRY_SINGLY`."""


class BatchedCall(Generic[R, T]):
    """An operation whose single calls may travel together.

    A request is checked, and holds whatever time its caller gave. `alone` makes one call.
    `together` makes several in one atomic call of the engine, in order, with one reading of the
    clock for those without a time: so if it raises anything but OutcomeUnknown, each may be made
    alone. `length` tells how many characters a request carries.
    """

    def __init__(
        self,
        context: Context,
        alone: Callable[[Context, R], T],
        together: Callable[[Context, Sequence[R], datetime], Sequence[Answer]],
        length: Callable[[R], int] = lambda _: 0,
    ) -> None:
        self._context = context
        self._alone = alone
        self._together = together
        self._lane: Lane[R, T] | None = None
        self.length = length

    def call(self, request: R) -> T:
        context = self._context
        writers = context.writers
        if not writers:
            return self._alone(context, request)
        context.check()
        return self.share(request, writers)

    def share(self, request: R, writers: int) -> T:
        """Beside the calls of other threads, of which as many as `writers` can be under way."""
        lane = self._lane
        if lane is None:
            lane = self._lane = Lane(self)
        return lane.call(request, writers)

    def alone(self, request: R) -> T:
        return self._alone(self._context, request)

    def writers(self) -> int:
        """0: a call of this thread must not travel with others."""
        return self._context.writers

    def carry(self, requests: Sequence[R]) -> Sequence[Answer]:
        """The answers to several calls."""
        if len(requests) == 1:
            return [attempt(self.alone, requests[0])]
        try:
            at = self._context.now(None)
        except Exception:  # noqa: BLE001 - each alone meets its own trouble with the clock, if it needs one
            return [RETRY_SINGLY] * len(requests)
        try:
            return self._together(self._context, requests, at)
        except OutcomeUnknown as error:
            return in_doubt(error, len(requests))
        except StorageError:
            return [RETRY_SINGLY] * len(requests)

    def unpack(self, request: R, answer: Answer) -> T:
        if answer is RETRY_SINGLY:
            return self.alone(request)
        if isinstance(answer, CallError):
            raise answer.error
        return cast("T", answer)


def attempt(call: Callable[[R], T], request: R) -> Answer:
    try:
        return call(request)
    except Exception as error:  # noqa: BLE001 - raised again in its caller
        return CallError(error)


def in_doubt(error: BaseException, count: int) -> list[CallError]:
    """One error for each: callers must not share one, and its traceback."""
    return [CallError(_doubt(error)) for _ in range(count)]


def _doubt(cause: BaseException) -> OutcomeUnknown:
    text = str(cause) if isinstance(cause, OutcomeUnknown) else f"the call that carried it failed: {cause!r}"
    doubt = OutcomeUnknown(text)
    doubt.__cause__ = cause
    return doubt


def board(waiting: deque[S], length: Callable[[S], int]) -> list[S]:
    """Those who come along: one at least, and no more than a statement should carry."""
    aboard: list[S] = []
    total = 0
    while waiting and len(aboard) < _MOST:
        total += length(waiting[0])
        if aboard and total > _CHARACTERS:
            break
        aboard.append(waiting.popleft())
    return aboard


Flight = float
"""A statement that has left and is not back: when it left."""


def patience(flight: Flight) -> float:
    """How much longer others wait for it."""
    return flight + PATIENCE - monotonic()


class _Passenger(Generic[R]):
    __slots__ = ("aboard", "answer", "answered", "leads", "request", "wake")

    def __init__(self, request: R) -> None:
        self.request = request
        self.leads: Flight | None = None
        self.aboard = False
        self.answered = False
        self.answer: Answer = None
        self.wake = threading.Lock()
        self.wake.acquire()

    def rouse(self) -> None:
        # It may have been roused before, and not have noticed yet.
        with suppress(RuntimeError):
            self.wake.release()


class Lane(Generic[R, T]):
    """The threads that call one operation.

    As many as the engine lets write side by side go at once, each alone. Who comes meanwhile would
    wait in any case, and the first of those takes all of them along. A statement that is long under
    way, since another transaction holds one of its keys say, holds up nobody but those in it.
    """

    def __init__(self, shared: BatchedCall[R, T]) -> None:
        self._shared = shared
        self._alone = shared.alone
        self.renew()
        _lanes.add(self)

    def renew(self) -> None:
        """In a forked child: the parent's threads are not there, but what they left behind is."""
        self._mutex = threading.Lock()
        self._waiting: deque[_Passenger[R]] = deque()
        self._flights: list[Flight] = []
        self._writers = 1

    def call(self, request: R, writers: int) -> T:
        # No lock for who is alone. Two may slip through at once, which the engine bears.
        flights = self._flights
        if self._waiting or len(flights) >= writers:
            return self._along(request, writers)
        flight = monotonic()
        flights.append(flight)
        try:
            return self._alone(request)
        finally:
            self._end(flight)

    def _along(self, request: R, writers: int) -> T:
        me = _Passenger(request)
        with self._mutex:
            self._writers = writers
            self._waiting.append(me)
            # Who was under way may be back by now, without having seen that somebody waits.
            self._appoint()
        try:
            while not me.answered:
                me.wake.acquire(timeout=PATIENCE)
                self._depart(me)
        except BaseException:
            self._leave(me)
            raise
        return self._shared.unpack(me.request, me.answer)

    def _depart(self, me: _Passenger[R]) -> None:
        """If it is for `me` to lead the next flight."""
        with self._mutex:
            if me.aboard or (me.leads is None and not self._is_free()):
                return
            flight = self._begin() if me.leads is None else me.leads
            me.leads = None
            aboard = board(self._waiting, lambda passenger: self._shared.length(passenger.request))
            for passenger in aboard:
                passenger.aboard = True
                if passenger.leads is not None:
                    self._remove(passenger.leads)
        self._fly(flight, aboard)

    def _fly(self, flight: Flight, aboard: Sequence[_Passenger[R]]) -> None:
        answers: Sequence[Answer] = []
        try:
            answers = self._shared.carry([passenger.request for passenger in aboard])
        except BaseException as error:
            answers = in_doubt(error, len(aboard))
            raise
        finally:
            self._end(flight)
            for passenger, answer in zip(aboard, answers, strict=True):
                passenger.answer = answer
                passenger.answered = True
                passenger.rouse()

    def _begin(self) -> Flight:
        flight = monotonic()
        self._flights.append(flight)
        return flight

    def _is_free(self) -> bool:
        flights = self._flights
        if len(flights) < self._writers:
            return True
        for flight in [*flights]:
            if patience(flight) < 0:
                self._remove(flight)
        return len(flights) < self._writers

    def _remove(self, flight: Flight) -> None:
        with suppress(ValueError):
            self._flights.remove(flight)

    def _end(self, flight: Flight) -> None:
        try:
            self._flights.remove(flight)
        except ValueError:
            return
        if self._waiting:
            with self._mutex:
                self._appoint()

    def _appoint(self) -> None:
        """The first of those who wait to lead the next flight, if it may leave."""
        leader = next((passenger for passenger in self._waiting if passenger.leads is None), None)
        if leader is not None and self._is_free():
            leader.leads = self._begin()
            leader.rouse()

    def _leave(self, me: _Passenger[R]) -> None:
        """`me` was interrupted, and what it was to lead falls to the next."""
        with self._mutex:
            if me.aboard:
                return
            self._waiting.remove(me)
        if me.leads is not None:
            self._end(me.leads)


_lanes: WeakSet[Lane[Any, Any]] = WeakSet()


def _after_fork() -> None:
    for lane in _lanes:
        lane.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
