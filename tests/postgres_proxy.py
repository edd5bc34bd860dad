"""Between a client and its server: cuts the connection at a chosen word."""

from __future__ import annotations

import socket
import threading
from pathlib import Path


class Proxy:
    """`silent` takes connections and never answers."""

    def __init__(self, server: Path, *, silent: bool = False) -> None:
        self.cuts = 0
        self._server = server
        self._silent = silent
        self._trigger: tuple[bytes, bool] | None = None
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        port = self._listener.getsockname()[1]
        return f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable&gssencmode=disable"

    def cut_before(self, word: str) -> None:
        """Once, when the client sends this: it does not reach the server."""
        self._trigger = (word.encode(), False)

    def cut_after(self, word: str) -> None:
        """Once, when the client sends this: the server works on it, its answer is lost."""
        self._trigger = (word.encode(), True)

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
                if self._trigger and self._trigger[0] in data:
                    forward = self._trigger[1]
                    self._trigger = None
                    self.cuts += 1
                    _end(client)
                    if forward:
                        server.sendall(data)
                    return
                server.sendall(data)
        except OSError:
            pass
        finally:
            _end(client)
            server.shutdown(socket.SHUT_WR) if server.fileno() >= 0 else None

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := server.recv(65536):
                client.sendall(data)
        except OSError:
            pass
        finally:
            _end(client)


def _end(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
