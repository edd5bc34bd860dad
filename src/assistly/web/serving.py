"""Serves the page with uvicorn."""

from __future__ import annotations

import logging
from contextlib import closing
from ipaddress import ip_address
from typing import TYPE_CHECKING

import uvicorn

from assistly.storage.errors import ConfigurationError

if TYPE_CHECKING:
    import socket

    from starlette.applications import Starlette

_GRACE_SECONDS = 5

logger = logging.getLogger("assistly.web")


def serve(app: Starlette, host: str, port: int, *, behind_proxy: bool) -> None:
    """Serve the application until SIGINT or SIGTERM.

    `behind_proxy`: headers of a proxy on this machine say where requests come from. Raises ConfigurationError
    if the address cannot be had.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=behind_proxy,
        lifespan="off",
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    with closing(listening(host, port)) as listener:
        shown = f"[{host}]" if ":" in host else host
        logger.info("http://%s:%d/", shown, listener.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigurationError if the address cannot be had."""
    import socket as sockets

    try:
        family, _, _, _, address = sockets.getaddrinfo(host, port, type=sockets.SOCK_STREAM)[0]
        return sockets.create_server((str(address[0]), port), family=family)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another --listen"
        ) from None


def is_loopback(host: str) -> bool:
    """Whether an address or name stands for this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
