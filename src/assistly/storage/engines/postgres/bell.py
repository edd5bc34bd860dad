"""Rousing a thread that sleeps on a socket."""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress

# Without state in the kernel: a descriptor that was closed, and now stands for another socket, is that one.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Bell:
    def __init__(self) -> None:
        self._ear, self._hand = socket.socketpair()
        self._ear.setblocking(False)
        self._hand.setblocking(False)
        self._selector = _Selector()
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._watched: int | None = None

    def ring(self) -> None:
        # A full buffer has rung already; a closed one has nobody left to rouse.
        with suppress(OSError):
            self._hand.send(b"\0")

    def wait(self, timeout: float | None, descriptor: int | None = None) -> bool:
        """Until it rings or the descriptor can be read; whether the latter."""
        if descriptor != self._watched:
            self._watch(descriptor)
        is_readable = False
        for key, _ in self._selector.select(timeout):
            if key.fd == descriptor:
                is_readable = True
            else:
                self._ear.recv(4096)
        return is_readable

    def close(self) -> None:
        self._selector.close()
        self._ear.close()
        self._hand.close()

    def _watch(self, descriptor: int | None) -> None:
        if self._watched is not None:
            self._selector.unregister(self._watched)
        if descriptor is not None:
            self._selector.register(descriptor, selectors.EVENT_READ)
        self._watched = descriptor
