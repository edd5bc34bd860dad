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
    HOLD = auto()


class Proxy:
    """`silent` takes connections and never answers, until `forward` is called."""

    def __init__(self, server: Path, *, silent: bool = False) -> None:
        self.cuts = 0
        self._is_closed = False
        self._may_forward = threading.Event()
        if not silent:
            self._may_forward.set()
        self._server = server
        self._trigger: tuple[bytes, Cut] | None = None
        self._replies: set[socket.socket] = set()
        self._sockets: list[socket.socket] = []
        self._servers: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        port = self._listener.getsockname()[1]
        return f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable&gssencmode=disable"

    @property
    def connections(self) -> int:
        """How many a client has opened."""
        return len(self._sockets)

    def hold(self) -> None:
        """Take whatever either side sends, and forward nothing: as a network that was cut, or a server that
        was stopped."""
        self._may_forward.clear()

    def hold_at(self, word: str) -> None:
        """As `hold`, from the next time on that the client sends this."""
        self._trigger = (word.encode(), Cut.HOLD)

    def forward(self) -> None:
        """Forward what was held back, and whatever comes."""
        self._may_forward.set()

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
        self._is_closed = True
        for each in (self._listener, *self._sockets, *self._servers):
            _end(each)
            each.close()
        self._may_forward.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._may_forward.wait()
        if self._is_closed:
            return
        server = socket.socket(socket.AF_UNIX)
        self._servers.append(server)
        if self._is_closed:
            server.close()
            return
        try:
            server.connect(str(self._server))
        except OSError:
            _end(client)
            return
        threading.Thread(target=self._to_server, args=(client, server), daemon=True).start()
        threading.Thread(target=self._to_client, args=(client, server), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(65536):
                cut = self._cut_at(data)
                if cut is Cut.HOLD:
                    self.hold()
                self._may_forward.wait()
                if cut is Cut.REPLY:
                    self._replies.add(server)
                elif cut is Cut.HOLD:
                    pass
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
                self._may_forward.wait()
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
