"""Deletes the records that the retention policy no longer keeps, on call or on a thread in the background."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from . import forks
from .engine.protocol import StorageBackend
from .engine.values import PrunedByAge, PrunedByCap
from .errors import StorageClosed, StorageError
from .records import Prunable, PrunableCount, PruneReport
from .retention import PRUNE_INTERVAL, RetentionPolicy, cutoff

BATCH = 2000
"""Rows of the first batch. The size of each later one follows from the time that the one before took."""

_SMALLEST_BATCH = 500
_LARGEST_BATCH = 10_000
_QUICK_SECONDS = 0.010
_SLOW_SECONDS = 0.025
_FIRST_RUN_SECONDS = 10.0
_PAUSE_SECONDS = 0.02


def prune(
    backend: StorageBackend,
    policy: RetentionPolicy,
    now: datetime,
    *,
    force: bool,
    pause: Callable[[], object] = lambda: None,
) -> PruneReport:
    """Delete what the policy no longer keeps, at most once a minute for a database unless `force` is True.

    `pause` is called between two batches, so that other writers get their turn.
    """
    store = backend.retention
    stamped = store.begin_prune(now=now, interval=timedelta(0) if force else PRUNE_INTERVAL)
    if not stamped:
        return PruneReport(ran=False)

    drain = _Batches(pause).drain

    def by_age(kind: PrunedByAge, age: timedelta | None) -> int:
        if age is None:
            return 0
        oldest_kept = cutoff(now, age)
        return drain(lambda limit: store.delete_older(kind, oldest_kept, limit=limit))

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
        # If that fails, too, the next prune runs after a minute.
        with suppress(StorageError):
            store.reset_prune(now=now)
        raise


def prunable(backend: StorageBackend, policy: RetentionPolicy, now: datetime) -> Prunable:
    """Count what a prune would delete at `now`, and delete nothing."""
    store = backend.retention

    def count(
        kind: PrunedByAge, age: timedelta | None, edge: tuple[datetime, int] | None = None
    ) -> PrunableCount:
        by_age, is_exact = (0, True) if age is None else store.count_prunable(kind, cutoff(now, age))
        if edge is None:
            return PrunableCount(by_age, 0, is_exact)
        # Both begin with the oldest record, so that one of the two sets contains the other.
        beyond, is_exact_beyond = store.count_prunable(kind, edge)
        return PrunableCount(by_age, max(0, beyond - by_age), is_exact and is_exact_beyond)

    return Prunable(
        approvals=count(
            "approvals", policy.approvals_age, store.newest_beyond("approvals", policy.approvals_cap)
        ),
        idempotency=count(
            "idempotency", policy.idempotency_age, store.newest_beyond("idempotency", policy.idempotency_cap)
        ),
        nonces=count("nonces", policy.nonces_age),
        posted=count("posted", policy.posted_age),
        events=count("events", policy.events_age),
        sessions=count("sessions", policy.sessions_age),
    )


class _Batches:
    """Deletes in batches that take 10 to 25 milliseconds each, since other writers may wait for one to end.

    The number of rows is adapted, since it depends on their size, the disk and the load.
    """

    def __init__(self, pause: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> None:
        self._pause = pause
        self._clock = clock
        self._limit = BATCH

    def drain(self, batch: Callable[[int], int]) -> int:
        """Call `batch` with a limit until it deletes fewer rows; return how many were deleted in total."""
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
        if seconds < _QUICK_SECONDS:
            self._limit = min(2 * self._limit, _LARGEST_BATCH)
        elif seconds > _SLOW_SECONDS:
            self._limit = max(self._limit // 2, _SMALLEST_BATCH)


class Pruner(forks.ForkAware):
    """A daemon thread that calls `run` 10 seconds after the first use of a storage, then once a minute.

    It skips minutes without use. It starts with the first use, and again with the first use in a forked
    child. It keeps only a weak reference to `run`, so that a storage that is never closed can be collected.
    """

    def __init__(self, run: Callable[[Callable[[], object]], object]) -> None:
        self._run = weakref.WeakMethod(run)
        self._used = False
        self._is_started = False
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        forks.register(self)

    def after_fork_in_child(self) -> None:
        """Replace the mutex, which another thread may hold; the thread starts again with the next use."""
        is_closed = self._stop.is_set()
        self._is_started = False
        self._mutex, self._stop = threading.Lock(), threading.Event()
        if is_closed:
            self._stop.set()

    def used(self) -> None:
        """Note that the storage is in use, and start the thread with the first use."""
        self._used = True
        if not self._is_started:
            self._start_thread()

    def close(self) -> None:
        """Stop the thread, without waiting for a batch in progress."""
        self._stop.set()

    def _start_thread(self) -> None:
        with self._mutex:
            if self._is_started or self._stop.is_set():
                return
            self._is_started = True
            threading.Thread(
                target=_prune_while_used,
                args=(weakref.ref(self), self._stop),
                name="assistly-prune",
                daemon=True,
            ).start()

    def run_if_used(self, stop: threading.Event) -> None:
        """Prune if the storage was used since the last time."""
        run = self._run()
        if self._used and run is not None:
            self._used = False
            run(lambda: stop.wait(_PAUSE_SECONDS))


def _prune_while_used(pruner: weakref.ref[Pruner], stop: threading.Event) -> None:
    wait = _FIRST_RUN_SECONDS
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

    logging.getLogger("assistly.storage").warning("pruning failed; will retry: %s", error)
