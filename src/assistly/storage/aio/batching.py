"""Group commit for tasks: the calls made in one iteration of the event loop are batched."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from ..batching import RETRY_SINGLY, Answer, BatchedCall, Batcher, PendingCall, unknown_answers

R = TypeVar("R")
T = TypeVar("T")

Submit = Callable[[Callable[[], Sequence[Answer]]], asyncio.Future[Sequence[Answer]]]

_MOST_LIGHT_VALUES = 200
_MOST_LIGHT_CHARACTERS = 20_000


class _TaskCall(PendingCall[R]):
    """A call of a task, which waits for `answer`."""

    __slots__ = ("answer",)

    def __init__(self, request: R, answer: asyncio.Future[Answer]) -> None:
        super().__init__(request)
        self.answer = answer


class TaskBatcher(Batcher[_TaskCall[R]], Generic[R, T]):
    """Batches the calls of tasks. Batches start at the end of an iteration of the event loop, in threads."""

    def __init__(self, operation: BatchedCall[Any, R, T], submit: Submit) -> None:
        super().__init__(operation)
        self._submit = submit
        self._loop: asyncio.AbstractEventLoop | None = None
        self._start: asyncio.Handle | None = None

    async def call(self, request: R) -> Answer:
        """Make one call, and return its answer.

        A cancellation is raised at once: a pending call is dropped, and the result of one in flight is
        ignored.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # The calls that are pending on another loop will never be awaited.
            self._loop, self._start, self.pending, self.in_flight = loop, None, deque(), 0
        call = _TaskCall(request, loop.create_future())
        self.pending.append(call)
        self._start_soon()
        return await call.answer

    def _start_soon(self) -> None:
        if self._loop is not None and self._start is None:
            self._start = self._loop.call_soon(self._start_batches)

    def _start_batches(self) -> None:
        self._start = None
        self.pending = deque(call for call in self.pending if not call.answer.done())
        while batch := self.take_batch():
            run = partial(self.operation.run_batch, [call.request for call in batch])
            try:
                future = self._submit(run)
            except Exception:  # noqa: BLE001 - nothing was submitted: each call raises its own error
                self.end_batch()
                _answer(batch, [RETRY_SINGLY] * len(batch))
            else:
                future.add_done_callback(partial(self._finish, self._loop, batch))

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop | None,
        batch: Sequence[_TaskCall[R]],
        done: asyncio.Future[Sequence[Answer]],
    ) -> None:
        error = done.exception()
        answers = done.result() if error is None else unknown_answers(error, len(batch))
        _answer(batch, answers)
        if loop is self._loop:
            self.end_batch()
            if self.pending:
                self._start_soon()


def _answer(batch: Sequence[_TaskCall[R]], answers: Sequence[Answer]) -> None:
    for call, answer in zip(batch, answers, strict=True):
        if not call.answer.done():
            call.answer.set_result(answer)


def is_light(*values: object) -> bool:
    """Whether these values are small enough to be validated on the event loop without blocking it."""
    todo: list[Any] = [*values]
    characters = 0
    # The list grows while it is iterated over: the members of containers follow.
    for count, value in enumerate(todo):
        if type(value) is str:
            characters += len(value)
        elif type(value) in (list, dict):
            if len(value) > _MOST_LIGHT_VALUES:
                return False
            todo += value
            if type(value) is dict:
                todo += value.values()
        if count > _MOST_LIGHT_VALUES or characters > _MOST_LIGHT_CHARACTERS:
            return False
    return True
