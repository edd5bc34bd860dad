"""Serves the page with uvicorn."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING

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
"""For how long requests may go on after the server was asked to stop."""

logger = logging.getLogger("assistly.web")


class PageServer(uvicorn.Server):
    """Serves an application on a socket that listens, until `stop`. It handles no signals.

    `behind_proxy`: headers of a proxy on this machine say where requests come from.
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
            )
        )
        self._listener = listener

    def stop(self) -> None:
        """Let `serve_forever` return soon. May be called from any thread or signal handler."""
        self.should_exit = True

    def serve_forever(self) -> None:
        """Answer requests until `stop`."""
        host, port = self._listener.getsockname()[:2]
        logger.info("http://%s:%d/", f"[{host}]" if ":" in host else host, port)
        self.run(sockets=[self._listener])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the caller."""
        yield


def _answering_when_cancelled(app: Starlette) -> ASGIApp:
    """Requests that are cancelled at the end of the grace time get an answer, and no traceback in the log."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            logger.warning("503: a request was not answered within the %d s after the stop", GRACE_SECONDS)
            await PlainTextResponse("this server is stopping\n", 503)(scope, receive, send)

    return answer


def listening(address: Address) -> socket.socket:
    """A socket that listens there. Raises ConfigurationError if the address cannot be had."""
    import socket as sockets

    try:
        family, _, _, _, found = sockets.getaddrinfo(*address, type=sockets.SOCK_STREAM)[0]
        return sockets.create_server((str(found[0]), address.port), family=family)
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        reason = reason.partition(" (while attempting")[0]
        raise ConfigurationError(f"cannot listen on {address}: {reason}") from None


def is_loopback(host: str) -> bool:
    """Whether an address or name stands for this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
