"""The option `--listen`: `/healthz` and `/metrics` while a command runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from assistly.monitoring import MonitoringServer
    from assistly.monitoring.address import Address
    from assistly.monitoring.monitor import Monitor

Listen = Annotated[
    str | None,
    typer.Option(
        "--listen",
        metavar="ADDRESS",
        help="Serve /healthz and /metrics on PORT (of 127.0.0.1), HOST:PORT or [IPV6]:PORT. Anybody who can "
        "reach the address can read the metrics. Needs assistly[prometheus].",
    ),
]


def listening(text: str) -> tuple[Monitor, MonitoringServer]:
    """Start to serve on the address. The monitor gets the storage once it is open.

    Raises BadParameter if the address is not valid, and ConfigurationError if it cannot be listened on.
    """
    address = listen_address(text)
    from assistly.monitoring.server import MonitoringServer
    from assistly.monitoring.serving import new_monitor

    monitor = new_monitor()
    return monitor, MonitoringServer(address, monitor)


def listen_address(text: str) -> Address:
    """Parse the address of `--listen`. Raises BadParameter if it is not valid."""
    from assistly.monitoring.address import parse_address
    from assistly.storage.errors import InvalidValue

    try:
        return parse_address(text)
    except InvalidValue as error:
        raise typer.BadParameter(f"--listen: {error}") from None
