"""The content of `/healthz` and `/metrics`."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from assistly.storage.errors import StorageError
from assistly.views.metrics import StorageMetrics, collect
from assistly.views.process import process_metrics

from .shared_call import NoAnswer, SharedCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from assistly.storage import Storage
    from assistly.worker import AsyncWorker, Worker

logger = logging.getLogger("assistly.monitoring")

COLLECTION_SECONDS = 3.0
"""How long `/metrics` waits for the storage."""

PING_SECONDS = 2.0
"""How long `/healthz` waits for the storage."""

_KEEP_COLLECTION_SECONDS = 1.0
_KEEP_PING_SECONDS = 3.0
# Seconds. A worker with an older last claim may just have a long poll interval: the storage is asked then.
_RECENT_CLAIM_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Health:
    """The response of `/healthz`. `why` says what is wrong."""

    alive: bool
    ready: bool
    why: list[str]


class Monitor:
    """Reads the health and the metrics of a process, for threads that must not hang with its storage.

    It starts without a storage, and is not ready then.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage: Storage | None = None
        self._worker: Worker | AsyncWorker | None = None
        self._is_stopping = False
        self._is_up = True
        self._collection = SharedCall(
            "assistly-monitoring-metrics",
            self._collect,
            keep=_KEEP_COLLECTION_SECONDS,
            limit=COLLECTION_SECONDS,
            clock=clock,
        )
        self._ping = SharedCall(
            "assistly-monitoring-ping",
            self._ping_storage,
            keep=_KEEP_PING_SECONDS,
            limit=PING_SECONDS,
            clock=clock,
        )

    def attach(self, storage: Storage, worker: Worker | AsyncWorker | None = None) -> None:
        """Report this storage and worker from now on."""
        self._worker = worker
        self._storage = storage

    def stop(self) -> None:
        """Note that the process is stopping, so that it is no longer ready."""
        self._is_stopping = True

    def alive(self) -> list[str]:
        """Why only a restart helps; empty if the process is alive. Makes no storage call."""
        worker = self._worker
        if worker is None:
            return []
        health = worker.health
        return [] if health.alive else health.why

    def health(self) -> Health:
        """Whether the process is alive, and ready: it is not stopping, and its storage answers."""
        worker = self._worker
        health = None if worker is None else worker.health
        is_alive = health is None or health.alive
        if self._is_stopping:
            return Health(is_alive, False, ["the process is stopping"])
        if health is not None and not health.ready:
            return Health(is_alive, False, health.why)
        why = self._unanswered()
        return Health(is_alive, not why, why)

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format that the Accept header requests, and its media type."""
        from assistly.views.exposition import scrape

        found = self._collected()
        worker = self._worker
        numbers = None if worker is None else worker.numbers
        process = process_metrics(self._storage, numbers)
        return scrape(process, found, now=datetime.now(UTC), accept=accept)

    def _unanswered(self) -> list[str]:
        """Why the storage counts as unavailable; empty if it has just answered."""
        storage, worker = self._storage, self._worker
        if storage is None:
            return ["the storage is not open yet"]
        age = None if worker is None else worker.numbers.last_claim_age
        if age is not None and age.total_seconds() < _RECENT_CLAIM_SECONDS:
            return []
        try:
            self._ping.result()
        except Exception as error:  # noqa: BLE001 - whatever it is, the storage does not answer
            return [f"the storage does not answer: {_described(error)}"]
        return []

    def _collected(self) -> StorageMetrics | None:
        """The metrics of the storage; None if it does not answer in time, which is logged once."""
        if self._storage is None:
            return None
        try:
            found = self._collection.result()
        except Exception as error:
            if self._is_up:
                is_expected = isinstance(error, NoAnswer | StorageError)
                logger.warning(
                    "cannot read the metrics of the storage: %s",
                    _described(error),
                    exc_info=None if is_expected else error,
                )
            self._is_up = False
            return None
        if not self._is_up:
            logger.info("the metrics of the storage can be read again")
        self._is_up = True
        return found

    def _collect(self) -> StorageMetrics:
        assert self._storage is not None  # noqa: S101 - it is asked for only then
        return collect(self._storage)

    def _ping_storage(self) -> float:
        assert self._storage is not None  # noqa: S101 - it is asked for only then
        return self._storage.ping()


def _described(error: Exception) -> str:
    text = str(error) if isinstance(error, NoAnswer | StorageError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
