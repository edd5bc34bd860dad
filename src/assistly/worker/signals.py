"""Signals that stop a worker."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNAL_SECONDS = 0.5
"""The longest wait of a thread that handles signals: a signal to another thread does not wake it."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signals(stop: Callable[[], None], *, pass_on: bool, restore: bool = True) -> Iterator[None]:
    """Inside the block, the first SIGTERM or SIGINT calls `stop`, and a second one ends the process at once.

    After the block, the previous handlers are restored. With `pass_on`, the signal is then raised again for
    them, unless the block raised an exception. Without `restore`, the handlers stay, for a process that
    exits.

    An ignored signal stays ignored, and a handler that was not installed from Python, which could not be
    restored, stays in place. Only the main thread may handle signals: in any other thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()
    received: list[int] = []
    before: dict[int, Any] = {}

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked child, which has nothing to stop
            signal.signal(number, before[number])
            _raise(number)
            return
        received.append(number)
        for each in before:
            signal.signal(each, _default_action())
        stop()

    try:
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if handler is not None and handler is not signal.SIG_IGN:
                before[number] = handler
                signal.signal(number, on_signal)
        yield
    finally:
        if restore:
            for each, handler in before.items():
                signal.signal(each, handler)
    if pass_on and received:
        _raise(received[0])


def _raise(number: int) -> None:
    has_default = signal.getsignal(number) is signal.SIG_DFL
    signal.raise_signal(number)
    if has_default:
        _exit(number, None)  # reached in process 1 only


def _default_action() -> Any:
    """The handler that ends the process. For process 1, as in containers, the kernel ignores the default."""
    return _exit if os.getpid() == 1 else signal.SIG_DFL


def _exit(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
