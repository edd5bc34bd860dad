"""Rousing a thread that sleeps on a socket."""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress


class Bell:
    def __init__(self) -> None:
        self._ear, self._hand = socket.socketpair()
        self._ear.setblocking(False)
        self._hand.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._ear, selectors.EVENT_READ)

    def ring(self) -> None:
        # A full buffer has rung already; a closed one has nobody left to rouse.
        with suppress(OSError):
            self._hand.send(b"\0")

    def wait(self, timeout: float | None, descriptor: int | None = None) -> bool:
        """Until it rings or the descriptor can be read; whether the latter."""
        if descriptor is None:
            events = self._selector.select(timeout)
        else:
            self._selector.register(descriptor, selectors.EVENT_READ)
            try:
                events = self._selector.select(timeout)
            finally:
                self._selector.unregister(descriptor)
        with suppress(BlockingIOError):
            self._ear.recv(4096)
        return any(key.fd == descriptor for key, _ in events)

    def close(self) -> None:
        self._selector.close()
        self._ear.close()
        self._hand.close()
