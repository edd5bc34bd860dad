"""Group commit for tasks: one trip to a thread for all calls that are made while one is under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Generic, TypeVar

from ..errors import StorageClosed
from ..batching import RETRY_SINGLY, Answer, Flight, BatchedCall, board, in_doubt, patience

R = TypeVar("R")
T = TypeVar("T")

Submit = Callable[[Callable[[], Sequence[Answer]]], asyncio.Future[Sequence[Answer]]]

_LIGHT_VALUES = 200
_LIGHT_CHARACTERS = 20_000


class _Passenger(Generic[R]):
    __slots__ = ("answer", "request")

    def __init__(self, request: R, answer: asyncio.Future[Answer]) -> None:
        self.request = request
        self.answer = answer


class Lane(Generic[R, T]):
    """The tasks that call one operation, as `stores.grouping.Lane` is for threads.

    A flight leaves at the end of a turn of the event loop, with all whom that turn brought.
    """

    def __init__(self, shared: BatchedCall[R, T], submit: Submit) -> None:
        self._shared = shared
        self._submit = submit
        self._loop: asyncio.AbstractEventLoop | None = None
        self._renew()

    def _renew(self) -> None:
        self._waiting: deque[_Passenger[R]] = deque()
        self._latest: Flight | None = None
        self._call: asyncio.Handle | None = None

    async def join(self, request: R) -> Answer:
        """A cancellation comes out at once. A request that has left goes on to its end, unseen."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._renew()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append(_Passenger(request, answer))
        if self._call is None:
            self._plan(loop)
        return await answer

    def flush(self) -> None:
        """Nobody waits any longer: the storage closes."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            while self._waiting:
                self._depart(loop)

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._call is not None:
            self._call.cancel()
        if self._latest is None:
            self._call = loop.call_soon(self._depart, loop)
        else:
            self._call = loop.call_later(max(0, patience(self._latest)), self._depart, loop)

    def _depart(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call = None
        aboard = [
            passenger
            for passenger in board(self._waiting, lambda passenger: self._shared.length(passenger.request))
            if not passenger.answer.done()
        ]
        if not aboard:
            return
        carry = partial(self._shared.carry, [passenger.request for passenger in aboard])
        try:
            future = self._submit(carry)
        except StorageClosed:
            _tell(aboard, [RETRY_SINGLY] * len(aboard))
            return
        flight = self._latest = monotonic()
        future.add_done_callback(partial(self._land, loop, flight, aboard))
        if self._waiting:
            self._plan(loop)

    def _land(
        self,
        loop: asyncio.AbstractEventLoop,
        flight: Flight,
        aboard: Sequence[_Passenger[R]],
        done: asyncio.Future[Sequence[Answer]],
    ) -> None:
        error = done.exception()
        _tell(aboard, done.result() if error is None else in_doubt(error, len(aboard)))
        if self._latest is flight:
            self._latest = None
            if self._waiting:
                self._plan(loop)


def _tell(aboard: Sequence[_Passenger[R]], answers: Sequence[Answer]) -> None:
    for passenger, answer in zip(aboard, answers, strict=True):
        if not passenger.answer.done():
            passenger.answer.set_result(answer)


def is_light(*values: object) -> bool:
    """Whether to check these is no more than a moment's work, which the event loop can bear."""
    todo: list[Any] = [*values]
    characters = 0
    for count, value in enumerate(todo):
        if type(value) is str:
            characters += len(value)
        elif type(value) in (list, dict):
            if len(value) > _LIGHT_VALUES:
                return False
            todo += value
            if type(value) is dict:
                todo += value.values()
        if count > _LIGHT_VALUES or characters > _LIGHT_CHARACTERS:
            return False
    return True
