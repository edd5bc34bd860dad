"""Serves the page with uvicorn."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.responses import PlainTextResponse

from assistly.storage.errors import ConfigurationError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Receive, Scope, Send

    from assistly.monitoring.address import Address

GRACE_SECONDS = 5
"""How long requests may continue after the server was asked to stop."""

REQUEST_SECONDS = 10
"""How long a connection may take to send the head of a request."""

_MOST_CONNECTIONS = 200
# asyncio logs this many errors per second when no more files can be opened.
_BACKLOG = 32

logger = logging.getLogger("assistly.web")


class PageServer(uvicorn.Server):
    """Serves an application on a listening socket, until `stop`. It handles no signals.

    `behind_proxy`: headers of a proxy on this machine say where requests come from. A connection is closed if
    it does not send the complete head of a request within REQUEST_SECONDS, or if it has waited longest when
    there are too many.
    """

    def __init__(self, app: Starlette, listener: socket.socket, *, behind_proxy: bool) -> None:
        super().__init__(
            uvicorn.Config(
                _answering_when_cancelled(app),
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=behind_proxy,
                lifespan="off",
                timeout_graceful_shutdown=GRACE_SECONDS,
                callback_notify=self._close_silent,
                timeout_notify=1,
                backlog=_BACKLOG,
            )
        )
        self._listener = listener
        self._silent_since: dict[Any, float] = {}

    def stop(self) -> None:
        """Make `serve_forever` return soon. May be called from any thread or signal handler."""
        self.should_exit = True

    def serve_forever(self) -> None:
        """Serve requests until `stop`."""
        host, port = self._listener.getsockname()[:2]
        logger.info("http://%s:%d/", f"[{host}]" if ":" in host else host, port)
        self.run(sockets=[self._listener])

    async def _close_silent(self) -> None:
        """Called once a second."""
        now = time.monotonic()
        silent = [each for each in self.server_state.connections if _awaits_request(each)]
        self._silent_since = {each: self._silent_since.get(each, now) for each in silent}
        silent.sort(key=self._silent_since.__getitem__)
        surplus = len(self.server_state.connections) - most_connections()
        for place, each in enumerate(silent):
            if place < surplus or now - self._silent_since[each] > REQUEST_SECONDS:
                each.transport.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the caller."""
        yield


def _awaits_request(connection: Any) -> bool:
    """Whether a connection of uvicorn has no complete request head without a response."""
    return connection.cycle is None or connection.cycle.response_complete


def most_connections() -> int:
    """The maximum number of connections: fewer if the process may open few files."""
    try:
        import resource
    except ImportError:  # not on Unix
        return _MOST_CONNECTIONS
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if limit < 0 else min(_MOST_CONNECTIONS, limit // 4)


def _answering_when_cancelled(app: Starlette) -> ASGIApp:
    """Respond to requests that are cancelled at the end of the grace time, without a traceback in the log."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            logger.warning("503: a request got no response within %d s after the stop", GRACE_SECONDS)
            await PlainTextResponse("this server is stopping\n", 503)(scope, receive, send)

    return answer


def listening(address: Address) -> socket.socket:
    """A socket that listens on the address. Raises ConfigurationError if it is not available."""
    import socket as sockets

    try:
        family, _, _, _, found = sockets.getaddrinfo(*address, type=sockets.SOCK_STREAM)[0]
        listener = sockets.create_server((str(found[0]), address.port), family=family)
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        reason = reason.partition(" (while attempting")[0]
        raise ConfigurationError(f"cannot listen on {address}: {reason}") from None
    # Connections inherit this. Without it, the body of a response waits 40 ms until its head is acknowledged.
    listener.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
    return listener


def is_loopback_name(host: str) -> bool:
    """Whether a host name or address is reachable only from this machine."""
    return host in ("localhost", "127.0.0.1", "::1")
