"""Storage calls of a worker that must not fail for a passing reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from assistly.storage.errors import ClaimLost, OutcomeUnknown, StorageError, StorageUnavailable
from assistly.storage.records import Job, JobStatus, Outcome, Posted
from assistly.storage.stores.queue import Queue

logger = logging.getLogger("assistly.worker")

TRANSIENT = (StorageUnavailable, OutcomeUnknown)
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0

Pause = Callable[[float], bool]
"""Sleeps that many seconds; True where there is no point in going on."""


class Backoff:
    """Delays that double, from `first` to `longest` seconds."""

    def __init__(self, first: float = _FIRST_DELAY, longest: float = _LONGEST_DELAY) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def reset(self) -> None:
        self._next = self._first

    def next(self) -> float:
        delay = self._next
        self._next = min(2 * delay, self._longest)
        return delay


class Persistent:
    """`begin` and `settle`, again and again while the storage is away."""

    def __init__(self, queue: Queue, pause: Pause) -> None:
        self._queue = queue
        self._pause = pause
        self._late: set[int] = set()

    @property
    def is_late(self) -> bool:
        """Whether a result waits to be stored."""
        return bool(self._late)

    def begin(self, job: Job, may_begin: Callable[[], bool]) -> Job | None:
        """None where it must not be published: the claim is lost, or `may_begin` says so.

        Beginning twice under one claim is harmless, so an unknown outcome is tried again as well.
        """
        backoff = Backoff()
        while may_begin():
            try:
                return self._queue.begin_publish(job)
            except ClaimLost as error:
                logger.info("job %d is not published: %s", job.id, error)
                return None
            except TRANSIENT as error:
                logger.warning("job %d waits to be published: %s", job.id, error)
                if self._pause(backoff.next()):
                    return None
            except StorageError as error:
                logger.error("job %d is not published: %s", job.id, error)
                return None
        return None

    def settle(self, outcome: Outcome, now: datetime | None = None) -> Job | None:
        """The job as it is afterwards; None where the claim is lost or nothing could be stored."""
        try:
            return self._settle(outcome, now)
        finally:
            self._late.discard(outcome.job.id)

    def _settle(self, outcome: Outcome, now: datetime | None) -> Job | None:
        backoff = Backoff()
        in_doubt = False
        while True:
            try:
                settled = self._queue.settle([outcome], now=now)
                if settled.jobs or not in_doubt:
                    return settled.jobs[0] if settled.jobs else None
            except OutcomeUnknown as error:
                logger.warning("job %d: %s", outcome.job.id, error)
                in_doubt = True
            except StorageUnavailable as error:
                logger.warning("job %d waits to be settled: %s", outcome.job.id, error)
            except StorageError as error:
                logger.error("job %d cannot be settled: %s", outcome.job.id, error)
                return None
            self._late.add(outcome.job.id)
            if in_doubt:
                done, job = self._looked_up(outcome)
                if done:
                    return job
            if self._pause(backoff.next()):
                logger.error("job %d is given up: it could not be settled in time", outcome.job.id)
                return None

    def _looked_up(self, outcome: Outcome) -> tuple[bool, Job | None]:
        """Whether a claim has ended, and the job if it ended with this outcome."""
        try:
            current = self._queue.get(outcome.job.id)
        except StorageError:
            return False, None
        if current is None or current.claim != outcome.job.claim:
            return True, None
        if current.status is JobStatus.PROCESSING:
            return False, None
        overtaken = isinstance(outcome, Posted) and current.status is not JobStatus.POSTED
        return True, None if overtaken else current
