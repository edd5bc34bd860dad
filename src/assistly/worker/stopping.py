"""Signals that ask to stop, and threads that can be stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """The first SIGTERM or SIGINT calls `stop`; a second one ends the process on the spot.

    Only the main thread may handle signals: in any other this does nothing.
    """
    with _handled(stop):
        yield


@contextmanager
def leave_on_signals() -> Iterator[None]:
    """The first one raises SystemExit(0), for as long as there is nothing yet to stop well."""

    def leave() -> None:
        raise SystemExit(0)

    with _handled(leave):
        yield


@contextmanager
def _handled(react: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(_number: int, _frame: FrameType | None) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        react()

    before = [(number, signal.signal(number, first)) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


class Repeating:
    """Calls `work` on a daemon thread every `interval` seconds, until it is stopped or `work` says no."""

    def __init__(self, name: str, interval: float, work: Callable[[], bool]) -> None:
        self._interval = interval
        self._work = work
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._interval) and self._work():
            pass
