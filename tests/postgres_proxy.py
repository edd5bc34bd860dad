"""Between a client and its server: cuts the connection at a chosen word."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path


class Cut(Enum):
    BEFORE = auto()
    AFTER = auto()
    REPLY = auto()


class Proxy:
    """`silent` takes connections and never answers."""

    def __init__(self, server: Path, *, silent: bool = False) -> None:
        self.cuts = 0
        self._server = server
        self._silent = silent
        self._trigger: tuple[bytes, Cut] | None = None
        self._replies: set[socket.socket] = set()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        port = self._listener.getsockname()[1]
        return f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable&gssencmode=disable"

    def cut_before(self, word: str) -> None:
        """Once, when the client sends this: it does not reach the server."""
        self._trigger = (word.encode(), Cut.BEFORE)

    def cut_after(self, word: str) -> None:
        """Once, when the client sends this: the server works on it, its answer is lost."""
        self._trigger = (word.encode(), Cut.AFTER)

    def cut_reply(self, word: str) -> None:
        """Once, when the server has done what the client asked for with this, and says so."""
        self._trigger = (word.encode(), Cut.REPLY)

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            if self._silent:
                continue
            server = socket.socket(socket.AF_UNIX)
            self._sockets.append(server)
            server.connect(str(self._server))
            threading.Thread(target=self._to_server, args=(client, server), daemon=True).start()
            threading.Thread(target=self._to_client, args=(client, server), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(65536):
                cut = self._cut_at(data)
                if cut is Cut.REPLY:
                    self._replies.add(server)
                elif cut is not None:
                    self.cuts += 1
                    _end(client)
                if cut is not Cut.BEFORE:
                    server.sendall(data)
                if cut in (Cut.BEFORE, Cut.AFTER):
                    return
        except OSError:
            pass
        finally:
            _end(client)
            _end(server, socket.SHUT_WR)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := server.recv(65536):
                if server in self._replies:
                    self.cuts += 1
                    return
                client.sendall(data)
        except OSError:
            pass
        finally:
            _end(client)

    def _cut_at(self, data: bytes) -> Cut | None:
        if self._trigger is None or self._trigger[0] not in data:
            return None
        (_, cut), self._trigger = self._trigger, None
        return cut


def _end(connection: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    with suppress(OSError):
        connection.shutdown(how)
