"""Forked children that run a function and report its result."""

from __future__ import annotations

import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

import pytest

T = TypeVar("T")

TIMEOUT = 60.0
"""Seconds until a child that does not answer is killed."""

needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"),
    reason="os.fork exists on Unix only: elsewhere no child inherits anything that could go wrong",
)


class ForkedChild(Generic[T]):
    """A child that runs `work` and ends. `work` gets a pipe to its parent, which has `send` and `receive`."""

    def __init__(self, work: Callable[[Connection], T]) -> None:
        self._pipe, theirs = Pipe()
        with warnings.catch_warnings():
            # Python warns of forks while other threads run, which some tests do on purpose.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            self._pipe.close()
            _run(work, theirs)
        theirs.close()

    def send(self, message: Any) -> None:
        """Send a message to the pipe of the child."""
        self._pipe.send(message)

    def receive(self, timeout: float = TIMEOUT) -> Any:
        """Return the next message of the child. Fails the test if none comes."""
        if self._pipe.poll(timeout):
            with suppress(EOFError):
                return self._pipe.recv()
            pytest.fail("the forked child ended without an answer", pytrace=False)
        os.kill(self.pid, signal.SIGKILL)
        pytest.fail(f"the forked child hung for {timeout:.0f} seconds, and was killed", pytrace=False)

    def result(self, timeout: float = TIMEOUT) -> T:
        """Return the result of `work`. Fails the test with the child's traceback if it raised."""
        try:
            kind, value = self.receive(timeout)
        finally:
            self.join()
        if kind == "error":
            pytest.fail(f"in the forked child:\n{value}", pytrace=False)
        result: T = value
        return result

    def join(self, timeout: float = TIMEOUT) -> None:
        """Wait until the child has ended; kill it after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.001)
        self._pipe.close()


def _run(work: Callable[[Connection], Any], pipe: Connection) -> None:
    """Run `work` in the child, then end the process, without returning into the test."""
    try:
        try:
            answer: tuple[str, Any] = "result", work(pipe)
        except BaseException:  # noqa: BLE001 - the parent shows it
            answer = "error", traceback.format_exc()
        pipe.send(answer)
    finally:
        os._exit(0)
