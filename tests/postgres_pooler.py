"""Transaction poolers: one of our own, and PgBouncer where it is installed."""

from __future__ import annotations

import os
import queue
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
from collections import deque
from contextlib import closing, suppress
from pathlib import Path

from waiting import until

_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102
_PID = b"\0\0\x7f\xff"


class _Stream:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def startup(self) -> bytes:
        head = self._exactly(4)
        return head + self._exactly(struct.unpack("!i", head)[0] - 4)

    def message(self) -> tuple[bytes, bytes]:
        """Its type, and all of it."""
        head = self._exactly(5)
        return head[:1], head + self._exactly(struct.unpack("!i", head[1:])[0] - 4)

    def close(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._file.close()
        self._connection.close()

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError
        return data


class TransactionPooler:
    """Lends its `sessions` to any number of clients, for a transaction each, to each client in turn.

    It neither keeps track of prepared statements nor cleans a session. With `is_known_by_its_pid` it gives
    clients a process id of its own, as PgBouncer does; else that of its first session.
    """

    def __init__(self, server: Path, *, sessions: int = 2, is_known_by_its_pid: bool = True) -> None:
        self.sent: list[bytes] = []
        self._server = server
        self._missing = sessions
        self._own_pid = is_known_by_its_pid
        self._greeting = b""
        self._idle: queue.Queue[_Stream] = queue.Queue()
        self._opening = threading.Lock()
        self._streams: deque[_Stream] = deque()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        port = self._listener.getsockname()[1]
        return f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable&gssencmode=disable"

    def close(self) -> None:
        self._listener.close()
        while self._streams:
            self._streams.pop().close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            # Messages are passed on one at a time: each would wait for the client's delayed acknowledgement.
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError, ValueError), closing(_Stream(client)) as stream:
            self._streams.append(stream)
            startup = stream.startup()
            while struct.unpack("!i", startup[4:8])[0] in (_SSL, _GSS):
                stream.send(b"N")
                startup = stream.startup()
            if struct.unpack("!i", startup[4:8])[0] == _CANCEL:
                return
            self._open_sessions(startup)
            stream.send(self._greeting)
            while True:
                first = stream.message()
                if first[0] == b"X":
                    return
                session = self._idle.get()
                try:
                    self._transaction(stream, session, first)
                finally:
                    self._idle.put(session)

    def _open_sessions(self, startup: bytes) -> None:
        with self._opening:
            while self._missing:
                self._missing -= 1
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(str(self._server))
                session = _Stream(connection)
                self._streams.append(session)
                session.send(startup)
                greeting = b""
                kind = b""
                while kind != b"Z":
                    kind, message = session.message()
                    if kind == b"K" and self._own_pid:
                        message = message[:5] + _PID + message[9:]
                    greeting += message
                self._greeting = self._greeting or greeting
                self._idle.put(session)

    def _transaction(self, client: _Stream, session: _Stream, first: tuple[bytes, bytes]) -> None:
        kind, message = first
        while True:
            self.sent.append(message)
            session.send(message)
            if kind in (b"Q", b"S", b"c", b"f") and self._answer(client, session, kind) == b"I":
                return
            kind, message = client.message()

    def _answer(self, client: _Stream, session: _Stream, to: bytes) -> bytes:
        """Pass on what the server answers; return the status of the transaction, or "" during a COPY."""
        while True:
            kind, message = session.message()
            client.send(message)
            if kind == b"G" and to != b"S":
                return b""
            if kind == b"Z":
                return message[5:6]


def pgbouncer() -> str | None:
    """The path of the program."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class PgBouncer:
    """The real one, in transaction mode. `user` is the owner of the server's socket, where we are root."""

    def __init__(self, server: Path, *, user: str | None, sessions: int = 2) -> None:
        program = pgbouncer()
        assert program is not None
        self._folder = Path(tempfile.mkdtemp(prefix="assistly-pgbouncer-"))
        self._folder.chmod(0o755)
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self._port = free.getsockname()[1]
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\npostgres = host={server.parent} user=postgres\n"
            f"gone = host={server.parent} user=postgres dbname=gone\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self._port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = transaction\ndefault_pool_size = {sessions}\n"
        )
        as_user = ["-u", user] if user and os.getuid() == 0 else []
        self._process = subprocess.Popen(
            [program, "-q", *as_user, str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._listens)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres?sslmode=disable&gssencmode=disable"

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder)

    def _listens(self) -> bool:
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", self._port), 1)):
            return True
        return False
