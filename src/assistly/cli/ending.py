"""Ends the process of a command in time, even if something hangs."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

_LONGEST_GRACE = 1e9
_MARGIN_SECONDS = 1.0
_CLOSE_SECONDS = 0.25
_LAST_WORDS_SECONDS = 0.2
# A signal that another thread received does not wake the main thread, which runs the handler.
_SIGNAL_SECONDS = 0.5

logger = logging.getLogger("assistly.worker")


class ProcessEnd:
    """Ends a command, and gives what still runs `grace` seconds to finish.

    Storage calls run on daemon threads, so that the command can abandon one that hangs. Signal handlers may
    call `begin`.
    """

    def __init__(self, grace: float) -> None:
        self._grace = min(grace, _LONGEST_GRACE) if grace >= 0 else 0.0  # also for NaN
        self._deadline: float | None = None
        self._messages: SimpleQueue[int | None] = SimpleQueue()

    @contextmanager
    def limited(self, *, owns_process: bool) -> Iterator[None]:
        """End the process a second after the grace time, which begins with `begin` or the end of the block.

        If the command does not own the process, this applies only inside the block.
        """
        _start("assistly-worker-exit", self._exit_in_time)
        code = 1
        try:
            yield
            code = 0
        finally:
            self.begin(code)
            if not owns_process:
                self._messages.put(None)

    def begin(self, code: int = 0) -> None:
        """Start the grace time. Later calls have no effect."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._grace
            self._messages.put(code)

    def call(self, call: Callable[[], object]) -> None:
        """Call on a daemon thread, and wait for it. A signal handler may interrupt the wait."""
        _Call(call).wait(math.inf)

    def close(self, close: Callable[[], object]) -> None:
        """Close the storage within the grace time, or log that it is still open."""
        self.begin()
        deadline = max(self._deadline or 0.0, time.monotonic() + _CLOSE_SECONDS)
        if not _Call(close).wait(deadline):
            logger.error("the storage did not close within the grace time; exiting without it")

    def _exit_in_time(self) -> None:
        code = self._messages.get()
        if code is None:
            return
        try:
            self._messages.get(timeout=self._grace + _MARGIN_SECONDS)
        except Empty:
            _Call(_say_what_is_left).wait(time.monotonic() + _LAST_WORDS_SECONDS)
            os._exit(code)


class _Call:
    """A call on a daemon thread."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._ended = threading.Event()
        _start("assistly-worker-call", self._work)

    def wait(self, deadline: float) -> bool:
        """Return whether it ended before that time of the monotonic clock. Raises its exception."""
        while (left := deadline - time.monotonic()) > 0:
            if self._ended.wait(min(left, _SIGNAL_SECONDS)):
                if self._error is not None:
                    raise self._error
                return True
        return False

    def _work(self) -> None:
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error
        finally:
            self._ended.set()


def _start(name: str, work: Callable[[], None]) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()


def _say_what_is_left() -> None:
    others = [each.name for each in threading.enumerate() if each is not threading.main_thread()]
    threads = [name for name in others if not name.startswith("assistly-")]
    left = f"threads {', '.join(threads)}" if threads else "calls that did not return"
    logger.error("the grace time is over; exiting while these still run: %s", left)
    sys.stdout.flush()
