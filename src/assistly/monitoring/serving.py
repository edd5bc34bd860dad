"""`serve`: the monitoring server for your own program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistly.storage.aio import AsyncStorage
from assistly.storage.errors import ConfigurationError
from assistly.storage.storage import Storage
from assistly.storage.validation import wrong_type
from assistly.worker import AsyncWorker, Worker

from .address import parse_address
from .server import MonitoringServer

if TYPE_CHECKING:
    from .monitor import Monitor


def serve(
    storage: Storage | AsyncStorage,
    address: str | int,
    *,
    worker: Worker | AsyncWorker | None = None,
) -> MonitoringServer:
    """Serve `/healthz` and `/metrics` on an address, on background threads, until `close`.

    `address` is PORT (of 127.0.0.1), HOST:PORT or [IPV6]:PORT; port 0 stands for any free port. Anybody who
    can reach the address can read the metrics. With `worker`, they include those of this worker, which runs
    in the same process (default: None). Needs the extra `prometheus`. Start it after forks: a forked child
    does not serve.

    Raises InvalidValue for wrong arguments, and ConfigurationError if the extra is missing or it cannot
    listen on the address.
    """
    if isinstance(storage, AsyncStorage):
        storage = storage._storage  # noqa: SLF001 - the server has threads of its own
    elif not isinstance(storage, Storage):
        raise wrong_type("storage", "a Storage or an AsyncStorage", storage)
    if worker is not None and not isinstance(worker, Worker | AsyncWorker):
        raise wrong_type("worker", "a Worker or an AsyncWorker", worker)
    parsed = parse_address(address)
    monitor = new_monitor()
    monitor.attach(storage, worker)
    return MonitoringServer(parsed, monitor)


def new_monitor() -> Monitor:
    """A monitor without a storage. Raises ConfigurationError if the extra `prometheus` is missing."""
    try:
        import assistly.views.exposition  # noqa: F401 - it imports prometheus_client
    except ImportError as error:
        raise ConfigurationError(
            f"/metrics needs prometheus-client ({error}): python -m pip install 'assistly[prometheus]'"
        ) from None
    from .monitor import Monitor

    return Monitor()
