"""The connections of the monitoring server, and the limits on them."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_CONNECTIONS = 64
"""How many connections are open at once. To accept another one, the server closes an idle one."""

MOST_AT_ONCE = 8
"""How many responses that read the storage are prepared at once. Further requests wait."""

_LOOK_SECONDS = 0.2


class ConnectionClosed(Exception):
    """The server has closed the connection to accept another one."""


class _Connection:
    def __init__(self, socket: socket.socket) -> None:
        self.socket = socket
        self.has_request = False
        self.is_in_use = False
        self.is_closed = False


class Connections:
    """Counts the connections of a server, and those whose responses are being prepared."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: dict[socket.socket, _Connection] = {}  # the oldest first

    def add(self, socket: socket.socket, is_closing: threading.Event) -> bool:
        """Add a connection. Returns False if the server began to close before there was room for it.

        With MOST_CONNECTIONS open, closes the oldest one that has not sent its request yet, or else the
        oldest one whose response is not being prepared.
        """
        with self._changed:
            if len(self._open) >= MOST_CONNECTIONS:
                self._close_one()
            # The thread of a closed connection ends at once, and removes the connection.
            while not self._changed.wait_for(
                lambda: len(self._open) < MOST_CONNECTIONS, timeout=_LOOK_SECONDS
            ):
                if is_closing.is_set():
                    return False
            self._open[socket] = _Connection(socket)
            return True

    def remove(self, socket: socket.socket) -> None:
        """Note that a connection has ended, before its socket is closed."""
        with self._changed:
            del self._open[socket]
            self._changed.notify_all()

    def note_request(self, socket: socket.socket) -> None:
        """Note that the request of a connection has arrived completely."""
        with self._changed:
            self._open[socket].has_request = True

    @contextmanager
    def slot(self, socket: socket.socket) -> Iterator[None]:
        """Wait until fewer than MOST_AT_ONCE responses are being prepared, and count as one of them.

        Raises ConnectionClosed if the connection was closed meanwhile.
        """
        connection = self._open[socket]
        with self._changed:
            self._changed.wait_for(lambda: connection.is_closed or self._has_slot())
            if connection.is_closed:
                raise ConnectionClosed
            connection.is_in_use = True
        try:
            yield
        finally:
            with self._changed:
                connection.is_in_use = False
                self._changed.notify_all()

    def _has_slot(self) -> bool:
        return sum(each.is_in_use for each in self._open.values()) < MOST_AT_ONCE

    def _close_one(self) -> None:
        idle = [each for each in self._open.values() if not (each.is_in_use or each.is_closed)]
        chosen = next((each for each in idle if not each.has_request), idle[0] if idle else None)
        if chosen is not None:
            chosen.is_closed = True
            with suppress(OSError):  # the client may have closed it
                chosen.socket.shutdown(socket.SHUT_RDWR)
            self._changed.notify_all()
