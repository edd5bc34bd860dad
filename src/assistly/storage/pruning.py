"""Deletes what the retention policy no longer keeps, and does so by itself while a storage is in use."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from datetime import datetime, timedelta

from .engine.protocol import StorageBackend
from .engine.values import PrunedByAge, PrunedByCap
from .errors import StorageClosed, StorageError
from .records import PruneReport
from .retention import PRUNE_INTERVAL, RetentionPolicy, cutoff

BATCH = 2000
"""Rows of the first batch; the size of the others depends on how long it took."""

_SMALLEST_BATCH = 500
_LARGEST_BATCH = 10_000
_QUICK = 0.010
_SLOW = 0.025
_FIRST_RUN = 10.0
_PAUSE = 0.02


def prune(
    backend: StorageBackend,
    policy: RetentionPolicy,
    now: datetime,
    *,
    force: bool,
    pause: Callable[[], object] = lambda: None,
) -> PruneReport:
    """`pause` is called between two batches, to let others in."""
    store = backend.retention
    stamped = store.begin_prune(now=now, interval=timedelta(0) if force else PRUNE_INTERVAL)
    if not stamped:
        return PruneReport(ran=False)

    drain = _Batches(pause).drain

    def by_age(kind: PrunedByAge, age: timedelta | None) -> int:
        if age is None:
            return 0
        edge = cutoff(now, age)
        return drain(lambda limit: store.delete_older(kind, edge, limit=limit))

    def by_cap(kind: PrunedByCap, cap: int) -> int:
        edge = store.newest_beyond(kind, cap)
        return 0 if edge is None else drain(lambda limit: store.delete_up_to(kind, edge, limit=limit))

    try:
        return PruneReport(
            ran=True,
            approvals=by_age("approvals", policy.approvals_age) + by_cap("approvals", policy.approvals_cap),
            idempotency=by_age("idempotency", policy.idempotency_age)
            + by_cap("idempotency", policy.idempotency_cap),
            nonces=by_age("nonces", policy.nonces_age),
            posted=by_age("posted", policy.posted_age),
            events=by_age("events", policy.events_age),
            sessions=by_age("sessions", policy.sessions_age),
        )
    except BaseException:
        store.reset_prune(now=now)
        raise


class _Batches:
    """As large as can be deleted within the time that others may be kept waiting.

    How many rows that is depends on their size, the disk and what else goes on.
    """

    def __init__(self, pause: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> None:
        self._pause = pause
        self._clock = clock
        self._limit = BATCH

    def drain(self, batch: Callable[[int], int]) -> int:
        total = 0
        while True:
            began = self._clock()
            deleted = batch(self._limit)
            total += deleted
            if deleted < self._limit:
                return total
            self._adapt(self._clock() - began)
            self._pause()

    def _adapt(self, seconds: float) -> None:
        if seconds < _QUICK:
            self._limit = min(2 * self._limit, _LARGEST_BATCH)
        elif seconds > _SLOW:
            self._limit = max(self._limit // 2, _SMALLEST_BATCH)


class Pruner:
    """A daemon thread that prunes soon after the first use, then once a minute while there is use.

    It starts with the first use and holds `run` weakly, so that a storage that its owner forgot
    to close can go away.
    """

    def __init__(self, run: Callable[[Callable[[], object]], object]) -> None:
        self._run = weakref.WeakMethod(run)
        self._used = False
        self._process = 0
        self._start = threading.Lock()
        self._stop = threading.Event()

    def used(self) -> None:
        self._used = True
        if self._process != os.getpid():
            self._start_thread()

    def close(self) -> None:
        self._stop.set()

    def _start_thread(self) -> None:
        if self._process:
            # A forked child: threads are not inherited, but a held lock may be.
            self._start, self._stop = threading.Lock(), threading.Event()
            self._process = 0
        with self._start:
            if self._process == 0 and not self._stop.is_set():
                self._process = os.getpid()
                threading.Thread(
                    target=_prune_while_used,
                    args=(weakref.ref(self), self._stop),
                    name="assistly-prune",
                    daemon=True,
                ).start()

    def run_if_used(self, stop: threading.Event) -> None:
        run = self._run()
        if self._used and run is not None:
            self._used = False
            run(lambda: stop.wait(_PAUSE))


def _prune_while_used(pruner: weakref.ref[Pruner], stop: threading.Event) -> None:
    wait = _FIRST_RUN
    while not stop.wait(wait):
        alive = pruner()
        if alive is None:
            return
        try:
            alive.run_if_used(stop)
        except StorageClosed:
            return
        except StorageError as error:
            _warn(error)
        del alive
        wait = PRUNE_INTERVAL.total_seconds()


def _warn(error: StorageError) -> None:
    import logging

    logging.getLogger("assistly.storage").warning("pruning failed, and will be tried again: %s", error)
