"""Metrics of one process: what it runs, its connections, and its worker."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assistly.storage import PoolConnections, Storage
    from assistly.worker import WorkerNumbers


@dataclass(frozen=True, slots=True)
class ProcessMetrics:
    """The metrics of a process. Reading them makes no storage call.

    `engine` is the name of the storage's engine (empty: no storage is open yet). `connections` are those of
    its pool (None: it has none). `worker` has the metrics of the worker that runs here, if any.
    """

    version: str
    engine: str
    connections: PoolConnections | None
    worker: WorkerNumbers | None


def process_metrics(storage: Storage | None, worker: WorkerNumbers | None) -> ProcessMetrics:
    """Read the metrics of this process."""
    from assistly.storage.errors import StorageClosed

    try:
        connections = None if storage is None else storage.connections()
    except StorageClosed:
        connections = None
    engine = "" if storage is None else engine_name(storage)
    return ProcessMetrics(_version(), engine, connections, worker)


def engine_name(storage: Storage) -> str:
    """The name of the engine, from its class: `sqlite` for `SqliteBackend`."""
    return type(storage._backend).__name__.removesuffix("Backend").lower()  # noqa: SLF001 - of the same package


@cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("assistly")
    except PackageNotFoundError:
        return "unknown"
