"""Group commit: concurrent calls of one operation are batched into one call of the engine.

No call is delayed to fill a batch. While fewer than `writers` batches are in flight, a call runs at once
and alone. Further calls are queued, and the next batch takes all that are queued when one in flight ends.
Threads use `ThreadBatcher`, tasks `aio.batching.TaskBatcher`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from . import forks
from .errors import OutcomeUnknown, StorageError
from .records import record

R = TypeVar("R")
T = TypeVar("T")
X = TypeVar("X", bound="CallContext")
C = TypeVar("C", bound="PendingCall[Any]")

MAX_CALLS = 1000
"""Calls in a batch at most."""

MAX_CHARACTERS = 4 * 2**20
"""Characters of content and JSON in a batch at most, unless one call alone has more."""


class _Retry(Enum):
    RETRY_SINGLY = "this call must be made again, by itself"


RETRY_SINGLY: Final = _Retry.RETRY_SINGLY


@record
class CallError:
    """The error that one call of a batch raises."""

    error: Exception


Answer = Any
"""The result of one call of a batch: its return value, a `CallError`, or `RETRY_SINGLY`."""


class CallContext(Protocol):
    """The part of `stores.context.Context` that a batched call needs."""

    writers: int

    def check(self) -> None:
        """Raise StorageClosed or TransactionOpen if the calling thread or task may not call now."""

    def now(self, given: datetime | None) -> datetime:
        """`given`, or the time of the clock."""


class BatchedCall(Generic[X, R, T]):
    """An operation whose concurrent calls may be batched.

    A request holds the validated arguments of one call, and its time only if the caller gave one.
    `single` makes one call. `batch` makes several, in order, in one atomic call of the engine with one
    time. If it raises OutcomeUnknown, so does each call; any other error means that nothing was written,
    and each call is made singly. `length` gives the characters that a request adds to a statement.
    """

    def __init__(
        self,
        context: X,
        single: Callable[[X, R], T],
        batch: Callable[[X, Sequence[R], datetime], Sequence[Answer]],
        length: Callable[[R], int] = lambda _: 0,
    ) -> None:
        self._context = context
        self._single = single
        self._batch = batch
        self.length = length
        self.writers = context.writers
        """How many batches may be in flight; with 0 calls are not batched."""
        self._batcher = ThreadBatcher(self) if self.writers else None

    def call(self, request: R) -> T:
        """Make one call, possibly in a batch with those of other threads."""
        if self._batcher is None:
            return self._single(self._context, request)
        self.check()
        return self._batcher.call(request)

    def check(self) -> None:
        """Raise StorageClosed or TransactionOpen if the calling thread or task may not call now."""
        self._context.check()

    def run_singly(self, request: R) -> T:
        """Make one call by itself."""
        return self._single(self._context, request)

    def run_batch(self, requests: Sequence[R]) -> Sequence[Answer]:
        """Make several calls, and return an answer for each."""
        if len(requests) == 1:
            return [answer_of(self.run_singly, requests[0])]
        try:
            at = self._context.now(None)
        except Exception:  # noqa: BLE001 - made singly, each call raises the clock's error if it needs the clock
            return [RETRY_SINGLY] * len(requests)
        try:
            return self._batch(self._context, requests, at)
        except OutcomeUnknown as error:
            return unknown_answers(error, len(requests))
        except StorageError:
            return [RETRY_SINGLY] * len(requests)

    def result(self, request: R, answer: Answer) -> T:
        """Return the result of a call, or raise its error. An answer RETRY_SINGLY makes the call now."""
        if answer is RETRY_SINGLY:
            return self.run_singly(request)
        if isinstance(answer, CallError):
            raise answer.error
        return cast("T", answer)


def answer_of(call: Callable[[R], T], request: R) -> Answer:
    """Make a call, and return its result, or its error as a `CallError`."""
    try:
        return call(request)
    except Exception as error:  # noqa: BLE001 - raised again in its caller
        return CallError(error)


def unknown_answers(cause: BaseException, count: int) -> list[CallError]:
    """Return an OutcomeUnknown for each call. Each is a new object, since raising one adds a traceback."""
    return [CallError(_outcome_unknown(cause)) for _ in range(count)]


def _outcome_unknown(cause: BaseException) -> OutcomeUnknown:
    text = str(cause) if isinstance(cause, OutcomeUnknown) else f"the batch of this call failed: {cause!r}"
    error = OutcomeUnknown(text)
    error.__cause__ = cause
    return error


class PendingCall(Generic[R]):
    """A call that waits for its answer."""

    __slots__ = ("request",)

    def __init__(self, request: R) -> None:
        self.request = request


class Batcher(Generic[C]):
    """The pending calls of one operation, and how many of its batches are in flight."""

    def __init__(self, operation: BatchedCall[Any, Any, Any]) -> None:
        self.operation = operation
        self.pending: deque[C] = deque()
        self.in_flight = 0

    def take_batch(self) -> list[C]:
        """Take the next pending calls, up to MAX_CALLS and MAX_CHARACTERS, as a batch in flight.

        Returns an empty list if no further batch may be in flight, or no call is pending. Otherwise the
        caller must call `end_batch` when the batch has ended.
        """
        batch: list[C] = []
        if self.in_flight >= self.operation.writers:
            return batch
        characters = 0
        while self.pending and len(batch) < MAX_CALLS:
            characters += self.operation.length(self.pending[0].request)
            if batch and characters > MAX_CHARACTERS:
                break
            batch.append(self.pending.popleft())
        self.in_flight += bool(batch)
        return batch

    def end_batch(self) -> None:
        """Note that a batch has ended."""
        self.in_flight -= 1


class _ThreadCall(PendingCall[R]):
    """A call of a thread, which sleeps on `wake` until `answer` is set or it is given a `batch` to run."""

    __slots__ = ("answer", "batch", "is_answered", "wake")

    def __init__(self, request: R) -> None:
        super().__init__(request)
        self.batch: list[_ThreadCall[R]] = []
        self.is_answered = False
        self.answer: Answer = None
        self.wake = threading.Lock()
        self.wake.acquire()


class ThreadBatcher(Batcher[_ThreadCall[R]], forks.ForkAware, Generic[R, T]):
    """Batches the calls of threads. The first thread of a batch runs it for the others."""

    def __init__(self, operation: BatchedCall[Any, R, T]) -> None:
        super().__init__(operation)
        self._mutex = threading.Lock()
        forks.register(self)

    def after_fork_in_child(self) -> None:
        """Forget the pending calls of the parent's threads, and the mutex, which one of them may hold."""
        self._mutex = threading.Lock()
        self.pending = deque()
        self.in_flight = 0

    def call(self, request: R) -> T:
        """Make one call. Errors of other calls in the same batch do not affect it."""
        call: _ThreadCall[R] | None = None
        is_running = False
        try:
            with self._mutex:
                if self.in_flight < self.operation.writers:
                    self.in_flight += 1
                    is_running = True
                else:
                    call = _ThreadCall(request)
                    self.pending.append(call)
            if call is None:
                alone: T = self.operation.run_singly(request)
                return alone
            call.wake.acquire()
            if call.batch:
                self._run(call.batch)
        except BaseException:
            if call is not None:
                self._withdraw(call)
            raise
        finally:
            if is_running:
                with self._mutex:
                    self._end_and_start_next()
        result: T = self.operation.result(request, call.answer)
        return result

    def _run(self, batch: Sequence[_ThreadCall[R]]) -> None:
        answers: Sequence[Answer] = []
        try:
            answers = self.operation.run_batch([call.request for call in batch])
        except BaseException as error:
            answers = unknown_answers(error, len(batch))
            raise
        finally:
            for call, answer in zip(batch, answers, strict=True):
                call.answer = answer
                call.is_answered = True
                if call is not batch[0]:
                    call.wake.release()
            with self._mutex:
                self._end_and_start_next()

    def _end_and_start_next(self) -> None:
        self.end_batch()
        batch = self.take_batch()
        if batch:
            self._hand_over(batch)

    def _hand_over(self, batch: list[_ThreadCall[R]]) -> None:
        batch[0].batch = batch
        batch[0].wake.release()

    def _withdraw(self, call: _ThreadCall[R]) -> None:
        """Drop the call of an interrupted thread. If it was to run a batch, the next call in it does."""
        with self._mutex:
            if call in self.pending:
                self.pending.remove(call)
            elif call.batch and not call.is_answered:
                if call.batch[1:]:
                    self._hand_over(call.batch[1:])
                else:
                    self._end_and_start_next()
