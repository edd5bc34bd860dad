"""Calls on the storage that a worker repeats while the storage is unavailable."""

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

Sleep = Callable[[float], bool]
"""Sleeps for that many seconds, or until the worker gives up; returns True if it has given up."""


class Backoff:
    """Delays that double, from `first` to `longest` seconds."""

    def __init__(self, first: float = _FIRST_DELAY, longest: float = _LONGEST_DELAY) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def reset(self) -> None:
        """Begin with the first delay again."""
        self._next = self._first

    def next(self) -> float:
        """Return the seconds to wait now, and double the delay."""
        delay = self._next
        self._next = min(2 * delay, self._longest)
        return delay


class RetriedCalls:
    """`begin_publish` and `settle`, repeated while the storage is unavailable."""

    def __init__(self, queue: Queue, sleep: Sleep) -> None:
        self._queue = queue
        self._sleep = sleep
        self._unsettled: set[int] = set()

    @property
    def has_unsettled(self) -> bool:
        """Whether a job has ended here, but its outcome could not be stored yet."""
        return bool(self._unsettled)

    def begin_publish(self, job: Job, may_begin: Callable[[], bool]) -> Job | None:
        """Call `Queue.begin_publish`; None if the job must not be published.

        That is so if the claim is lost, or `may_begin` returns False. The call can be repeated after
        OutcomeUnknown, since beginning twice under one claim is harmless.
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
                if self._sleep(backoff.next()):
                    return None
            except StorageError as error:
                logger.error("job %d is not published: %s", job.id, error)
                return None
        return None

    def settle(self, outcome: Outcome, now: datetime | None = None) -> Job | None:
        """Settle a job and return it; None if the claim is lost or the outcome could not be stored."""
        try:
            return self._settle(outcome, now)
        finally:
            self._unsettled.discard(outcome.job.id)

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
            self._unsettled.add(outcome.job.id)
            if in_doubt:
                has_ended, job = self._look_up(outcome)
                if has_ended:
                    return job
            if self._sleep(backoff.next()):
                logger.error("job %d could not be settled within the grace time", outcome.job.id)
                return None

    def _look_up(self, outcome: Outcome) -> tuple[bool, Job | None]:
        """Return whether the claim has ended, and the job if it ended with this outcome."""
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
