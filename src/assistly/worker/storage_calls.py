"""Calls on the storage that a worker repeats while the storage is unavailable."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from enum import Enum, auto

from assistly.storage.errors import (
    ClaimLost,
    InvalidValue,
    OutcomeUnknown,
    StorageClosed,
    StorageError,
    StorageUnavailable,
)
from assistly.storage.records import Job, JobStatus, Json, Outcome, Posted
from assistly.storage.storage import Storage

from .publisher import Unknown

logger = logging.getLogger("assistly.worker")

TRANSIENT = (StorageUnavailable, OutcomeUnknown)
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0

# These stay, however often a call is repeated.
_FINAL = (StorageClosed, InvalidValue)

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


class NotSettled(Enum):
    """Why an outcome was not stored."""

    CLAIM_LOST = auto()
    """The claim has ended: it was taken back or settled, or the job was removed."""
    NOT_STORED = auto()
    """The storage could not be made to store it."""


class RetriedCalls:
    """Calls that are repeated until the storage has done it or the worker gives up."""

    def __init__(self, storage: Storage, sleep: Sleep) -> None:
        self._queue = storage.queue
        self._platforms = storage.platforms
        self._sleep = sleep
        self._unsettled: set[int] = set()

    @property
    def has_unsettled(self) -> bool:
        """Whether a job has ended here, but its outcome could not be stored yet."""
        return bool(self._unsettled)

    def begin_publish(self, job: Job, may_begin: Callable[[], bool]) -> Job | None:
        """Call `Queue.begin_publish`; None if the job must not be published.

        That is so if the claim is lost, `may_begin` returns False, or the worker has given up. The call can
        be repeated after any error, since beginning twice under one claim is harmless.
        """
        backoff = Backoff()
        while may_begin():
            try:
                begun = self._queue.begin_publish(job)
            except ClaimLost as error:
                logger.info("job %d is not published: %s", job.id, error)
                return None
            except _FINAL as error:
                logger.error("job %d is not published: %s", job.id, error)
                return None
            except Exception as error:  # noqa: BLE001 - nothing is published before it is stored
                logger.warning("job %d waits to be published: %s", job.id, described(error))
            else:
                return None if self._sleep(0) else begun
            if self._sleep(backoff.next()):
                return None
        return None

    def checkpoint(self, job: Job, data: Json) -> Job:
        """Call `Queue.checkpoint`. Storing the same again is harmless, so it is repeated after most errors.

        Raises its ClaimLost and InvalidValue. Raises Unknown once the worker has given up: what was published
        before is not noted, so nothing may be concluded from a missing checkpoint.
        """
        backoff = Backoff()
        while True:
            try:
                return self._queue.checkpoint(job, data)
            except TRANSIENT as error:
                logger.warning("job %d waits for its checkpoint: %s", job.id, described(error))
                last = error
            except (ClaimLost, InvalidValue):
                raise
            except Exception as error:
                raise Unknown(f"the checkpoint could not be stored: {described(error)}") from error
            if self._sleep(backoff.next()):
                raise Unknown(f"the checkpoint could not be stored: {described(last)}") from last

    def pause(self, platform: str, until: datetime, *, reason: str, by: str) -> None:
        """Pause the platform for all workers, unless it is paused for longer already."""
        backoff = Backoff()
        while True:
            try:
                self._platforms.pause_at_least(platform, until, reason=reason, by=by)
            except TRANSIENT as error:
                logger.warning("platform %s waits to be paused: %s", platform, described(error))
            except Exception as error:  # noqa: BLE001 - the job has to be settled all the same
                logger.error("platform %s cannot be paused: %s", platform, described(error))
                return
            else:
                return
            if self._sleep(backoff.next()):
                return

    def settle(self, outcome: Outcome, now: datetime | None = None) -> Job | NotSettled:
        """Settle a job and return it, or why it could not be settled."""
        try:
            return self._settle(outcome, now)
        finally:
            self._unsettled.discard(outcome.job.id)

    def _settle(self, outcome: Outcome, now: datetime | None) -> Job | NotSettled:
        id = outcome.job.id
        backoff = Backoff()
        in_doubt = False
        while True:
            try:
                settled = self._queue.settle([outcome], now=now)
                if settled.jobs or not in_doubt:
                    return settled.jobs[0] if settled.jobs else NotSettled.CLAIM_LOST
            except _FINAL as error:
                logger.error("job %d cannot be settled: %s", id, error)
                return NotSettled.NOT_STORED
            except Exception as error:  # noqa: BLE001 - the outcome must not get lost
                # Only an error of the storage promises that nothing was written.
                in_doubt |= isinstance(error, OutcomeUnknown) or not isinstance(error, StorageError)
                logger.warning("job %d waits to be settled: %s", id, described(error))
            self._unsettled.add(id)
            if in_doubt and (ended := self._look_up(outcome)) is not None:
                return ended
            if self._sleep(backoff.next()):
                logger.error("job %d could not be settled within the grace time", id)
                return NotSettled.NOT_STORED

    def _look_up(self, outcome: Outcome) -> Job | NotSettled | None:
        """The job if the claim ended with this outcome, CLAIM_LOST if with another; None if it goes on."""
        try:
            current = self._queue.get(outcome.job.id)
        except Exception:  # noqa: BLE001 - then it is settled again
            return None
        if current is None or current.claim != outcome.job.claim:
            return NotSettled.CLAIM_LOST
        if current.status is JobStatus.PROCESSING:
            return None
        overtaken = isinstance(outcome, Posted) and current.status is not JobStatus.POSTED
        return NotSettled.CLAIM_LOST if overtaken else current


def described(error: Exception) -> str:
    """An error of the storage for the log: its text, and the name of its class if that is not one of ours."""
    return str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
