"""A call whose result several requests share."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class NoAnswer(Exception):
    """The call has not returned in time."""


class SharedCall(Generic[T]):
    """Makes a call on its own thread, never twice at the same time.

    Callers that ask while it runs, and for `keep` seconds after it has ended, share its result or its error.
    They wait until `limit` seconds after it began, so that a call that hangs does not block them again.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[], T],
        *,
        keep: float,
        limit: float,
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._call = call
        self._keep = keep
        self._limit = limit
        self._clock = clock
        self._mutex = threading.Lock()
        self._latest: _Running[T] | None = None

    def result(self) -> T:
        """Return the result, at most `keep` seconds old. Raises NoAnswer, or what the call raises."""
        with self._mutex:
            running = self._latest
            if running is None or running.age(self._clock()) >= self._keep:
                running = self._latest = self._begin()
        left = running.began + self._limit - self._clock()
        try:
            return running.future.result(max(0.0, left))
        except TimeoutError:
            if running.future.done():  # the call itself has raised it
                raise
            raise NoAnswer(f"no answer for {self._clock() - running.began:.0f} s") from None

    def _begin(self) -> _Running[T]:
        running: _Running[T] = _Running(self._clock())

        def work() -> None:
            try:
                finish = partial(running.future.set_result, self._call())
            except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
                finish = partial(running.future.set_exception, error)
            running.ended = self._clock()
            finish()

        try:
            threading.Thread(target=work, name=self._name, daemon=True).start()
        except RuntimeError as error:  # no thread can be started
            running.ended = self._clock()
            running.future.set_exception(error)
        return running


class _Running(Generic[T]):
    """A call that has begun."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.ended: float | None = None
        self.future: Future[T] = Future()

    def age(self, now: float) -> float:
        """How many seconds ago it ended; 0 while it runs."""
        return 0.0 if self.ended is None else now - self.ended
