"""Numbers of one process: what it runs, its connections, and its worker."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assistly.storage import PoolConnections, Storage
    from assistly.worker import WorkerNumbers


@dataclass(frozen=True, slots=True)
class ProcessMetrics:
    """The numbers of a process. Reading them asks the storage nothing.

    `engine` is the name of the storage's engine (empty: no storage is open yet). `connections` are those of
    its pool (None: it has none). `worker` are the numbers of the worker that runs here, if one does.
    """

    version: str
    engine: str
    connections: PoolConnections | None
    worker: WorkerNumbers | None


def process_metrics(storage: Storage | None, worker: WorkerNumbers | None) -> ProcessMetrics:
    """Read the numbers of this process."""
    from assistly.storage.errors import StorageClosed

    try:
        connections = None if storage is None else storage.connections()
    except StorageClosed:
        connections = None
    engine = "" if storage is None else engine_name(storage)
    return ProcessMetrics(_version(), engine, connections, worker)


def engine_name(storage: Storage) -> str:
    """The engine by its class: `sqlite` for `SqliteBackend`."""
    return type(storage._backend).__name__.removesuffix("Backend").lower()  # noqa: SLF001 - of the same package


@cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("assistly")
    except PackageNotFoundError:
        return "unknown"
