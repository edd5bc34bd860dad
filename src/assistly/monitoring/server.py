"""A small HTTP server for `/healthz` and `/metrics`."""

from __future__ import annotations

import io
import json
import logging
import socket
import socketserver
import threading
import time
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Self

from assistly.storage import forks
from assistly.storage.errors import ConfigurationError

from .address import Address
from .connections import ConnectionClosed, Connections

if TYPE_CHECKING:
    from types import TracebackType

    from .monitor import Monitor

logger = logging.getLogger("assistly.monitoring")

REQUEST_SECONDS = 2.0
"""How long a client may take to send its request."""

ANSWER_SECONDS = 5.0
"""How long a client may take to receive the response."""

_JOIN_SECONDS = 5.0
_LOOK_SECONDS = 0.2
_TEXT = "text/plain; charset=utf-8"
_PATHS = "/healthz, /healthz/alive, /healthz/ready and /metrics"


class MonitoringServer(forks.ForkAware):
    """Serves `/healthz` and `/metrics` on an address, on its own threads, until `close` or the process ends.

    Raises ConfigurationError if it cannot listen on the address. A forked child does not serve: start the
    server after the fork.
    """

    def __init__(self, address: Address, monitor: Monitor) -> None:
        self._monitor = monitor
        try:
            self._http: _HttpServer | None = _HttpServer(address, monitor)
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(f"cannot listen on {address}: {_reason(error)}") from None
        host, port = self._http.server_address[:2]
        self._address = Address(str(host), int(port))
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(_LOOK_SECONDS,), name="assistly-monitoring", daemon=True
        )
        forks.register(self)
        self._thread.start()
        logger.info("http://%s serves %s", self._address, _PATHS)

    @property
    def address(self) -> str:
        """The address that it listens on, as HOST:PORT. For port 0, the port that the system chose."""
        return str(self._address)

    def close(self) -> None:
        """Stop serving. Closing twice has no effect."""
        self._monitor.stop()
        http, self._http = self._http, None
        if http is not None:
            http.is_closing.set()
            http.shutdown()
            http.server_close()
            self._thread.join(_JOIN_SECONDS)

    def after_fork_in_child(self) -> None:
        """Close the child's copy of the socket, so that the port is free once the parent has ended."""
        http, self._http = self._http, None
        if http is not None:
            http.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class _HttpServer(socketserver.TCPServer):
    """Looks up no client names, and prints nothing."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: Address, monitor: Monitor) -> None:
        self.monitor = monitor
        self.is_closing = threading.Event()
        self.connections = Connections()
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        self.address_family, bound = found[0][0], found[0][4]
        super().__init__(bound, _Request)  # type: ignore[arg-type] # with the scope, if it is of IPv6

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except OSError:  # too many open files: the connection still waits, so do not retry in a tight loop
            self.is_closing.wait(_LOOK_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.connections.add(request, self.is_closing):
            self.shutdown_request(request)
            return
        try:
            threading.Thread(
                target=self._answer,
                args=(request, client_address),
                name="assistly-monitoring-request",
                daemon=True,
            ).start()
        except BaseException:
            self.connections.remove(request)
            raise

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:  # noqa: BLE001 - logged
            self.handle_error(request, client_address)
        finally:
            self.connections.remove(request)
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - of the base
        """Log at debug level instead of printing: a client that disconnected is not an error."""
        logger.debug("a request was not answered", exc_info=True)


class _UntilDeadline(io.RawIOBase):
    """Reads from a socket. Raises TimeoutError when the time for the whole request has passed."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Request(BaseHTTPRequestHandler):
    """One request on one connection."""

    server: _HttpServer
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = _TEXT
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_UntilDeadline(self.connection, REQUEST_SECONDS))

    def version_string(self) -> str:
        """The Server header, without versions."""
        return "assistly"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: requests are routine."""

    def do_GET(self) -> None:
        """Respond, with status 500 if that fails."""
        self.server.connections.note_request(self.connection)
        try:
            answer = self._answer()
        except ConnectionClosed:
            return
        except Exception:
            logger.exception("cannot respond to %s", self.path)
            answer = HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error: see the log\n", _TEXT
        self._send(*answer)

    do_HEAD = do_GET  # noqa: N815 - of the base

    def _answer(self) -> tuple[HTTPStatus, bytes, str]:
        path = self.path.partition("?")[0]
        if path == "/healthz/alive":  # waits for nothing, so that no process is killed for being busy
            why = self.server.monitor.alive()
            return _json({"alive": not why, "why": why}, is_good=not why)
        if path in ("/metrics", "/healthz", "/healthz/ready"):
            with self.server.connections.slot(self.connection):
                return self._of_storage(path)
        return HTTPStatus.NOT_FOUND, f"the paths are {_PATHS}\n".encode(), _TEXT

    def _of_storage(self, path: str) -> tuple[HTTPStatus, bytes, str]:
        monitor = self.server.monitor
        if path == "/metrics":
            return HTTPStatus.OK, *monitor.metrics(",".join(self.headers.get_all("Accept", [])))
        health = monitor.health()
        if path == "/healthz":
            return _json(asdict(health), is_good=health.alive and health.ready)
        return _json({"ready": health.ready, "why": health.why}, is_good=health.ready)

    def _refuse(self) -> None:
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, b"use GET or HEAD\n", _TEXT, Allow="GET, HEAD")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815 - of the base

    def _send(self, status: HTTPStatus, body: bytes, media_type: str, **headers: str) -> None:
        self.connection.settimeout(ANSWER_SECONDS)  # for the whole response
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _json(value: object, *, is_good: bool) -> tuple[HTTPStatus, bytes, str]:
    status = HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE
    return status, f"{json.dumps(value)}\n".encode(), "application/json"
