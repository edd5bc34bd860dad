"""Storage calls that a worker retries while the storage is unavailable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
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

from .health import no_step
from .publisher import Unknown

logger = logging.getLogger("assistly.worker")

TRANSIENT = (StorageUnavailable, OutcomeUnknown)
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0

# Retrying does not help against these.
_FINAL = (StorageClosed, InvalidValue)

Sleep = Callable[[float], bool]
"""Sleeps for a number of seconds, or until the worker gives up; returns True if it has given up."""


class Backoff:
    """Delays that double, from `first` to `longest` seconds."""

    def __init__(self, first: float = _FIRST_DELAY, longest: float = _LONGEST_DELAY) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def reset(self) -> None:
        """Start with the first delay again."""
        self._next = self._first

    def next(self) -> float:
        """Return the seconds to wait now, and double the delay."""
        delay = self._next
        self._next = min(2 * delay, self._longest)
        return delay


class NotSettled(Enum):
    """Why an outcome was not stored."""

    CLAIM_LOST = auto()
    """The claim has ended: it was reclaimed or settled, or the job was removed."""
    NOT_STORED = auto()
    """The storage did not store it."""


class RetriedCalls:
    """Calls that are retried until they succeed or the worker gives up."""

    def __init__(self, storage: Storage, sleep: Sleep) -> None:
        self._queue = storage.queue
        self._platforms = storage.platforms
        self._sleep = sleep
        self._is_behind = False

    @property
    def has_unsettled(self) -> bool:
        """Whether an outcome could not be stored, and it or later ones are not stored yet."""
        return self._is_behind

    def note_all_settled(self) -> None:
        """Note that no outcome waits to be stored."""
        self._is_behind = False

    def begin_publish_many(self, jobs: Sequence[Job]) -> list[Job]:
        """Call `Queue.begin_publish_many` once. Returns none after an error: then begin jobs one by one."""
        try:
            return self._queue.begin_publish_many(jobs)
        except Exception as error:  # noqa: BLE001 - nothing is published before it is stored
            logger.warning("cannot begin to publish %d jobs; will retry: %s", len(jobs), described(error))
            return []

    def begin_publish(self, job: Job, may_begin: Callable[[], bool]) -> Job | None:
        """Call `Queue.begin_publish`; None if the job must not be published.

        This is the case if the claim is lost, `may_begin` returns False, or the worker has given up. The call
        can be retried after any error, since beginning twice under one claim is harmless.
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
                logger.warning("cannot begin to publish job %d; will retry: %s", job.id, described(error))
            else:
                return None if self._sleep(0) else begun
            if self._sleep(backoff.next()):
                return None
        return None

    def checkpoint(self, job: Job, data: Json) -> Job:
        """Call `Queue.checkpoint`. Storing the same data again is harmless, so it is retried after most
        errors.

        Raises its ClaimLost and InvalidValue. Raises Unknown once the worker has given up: what was published
        before is not recorded, so a missing checkpoint proves nothing.
        """
        backoff = Backoff()
        while True:
            try:
                return self._queue.checkpoint(job, data)
            except TRANSIENT as error:
                logger.warning(
                    "cannot store the checkpoint of job %d; will retry: %s", job.id, described(error)
                )
                last = error
            except (ClaimLost, InvalidValue):
                raise
            except Exception as error:
                raise Unknown(f"the checkpoint could not be stored: {described(error)}") from error
            if self._sleep(backoff.next()):
                raise Unknown(f"the checkpoint could not be stored: {described(last)}") from last

    def pause(self, platform: str, until: datetime, *, reason: str, by: str) -> None:
        """Pause the platform for all workers, unless it is already paused for longer."""
        backoff = Backoff()
        while True:
            try:
                self._platforms.pause_at_least(platform, until, reason=reason, by=by)
            except TRANSIENT as error:
                logger.warning("cannot pause platform %s; will retry: %s", platform, described(error))
            except Exception as error:  # noqa: BLE001 - the job has to be settled all the same
                logger.error("cannot pause platform %s: %s", platform, described(error))
                return
            else:
                return
            if self._sleep(backoff.next()):
                return

    def settle(
        self, outcomes: Sequence[Outcome], step: Callable[[], None] = no_step
    ) -> Iterator[Job | NotSettled]:
        """Settle jobs, and yield each in order, or why it could not be settled.

        Settles them in one call, and after an error one by one, so that one job cannot block the others.
        `step` is called before each attempt.
        """
        in_doubt = False
        if len(outcomes) > 1:
            step()
            try:
                settled = self._queue.settle(outcomes)
            except Exception as error:  # noqa: BLE001 - the outcomes must not get lost
                in_doubt = _may_be_stored(error)
                self._is_behind = True
                logger.warning("cannot settle %d jobs; will retry: %s", len(outcomes), described(error))
            else:
                jobs = {(job.id, job.claim): job for job in settled.jobs}
                for outcome in outcomes:
                    yield jobs.get((outcome.job.id, outcome.job.claim), NotSettled.CLAIM_LOST)
                return
        for outcome in outcomes:
            yield self._settle(outcome, in_doubt, step)

    def _settle(self, outcome: Outcome, in_doubt: bool, step: Callable[[], None]) -> Job | NotSettled:
        id = outcome.job.id
        backoff = Backoff()
        while True:
            step()
            try:
                settled = self._queue.settle([outcome])
                if settled.jobs or not in_doubt:
                    return settled.jobs[0] if settled.jobs else NotSettled.CLAIM_LOST
            except _FINAL as error:
                logger.error("cannot settle job %d: %s", id, error)
                return NotSettled.NOT_STORED
            except Exception as error:  # noqa: BLE001 - the outcome must not get lost
                in_doubt |= _may_be_stored(error)
                logger.warning("cannot settle job %d; will retry: %s", id, described(error))
            self._is_behind = True
            if in_doubt and (ended := self._look_up(outcome)) is not None:
                return ended
            if self._sleep(backoff.next()):
                logger.error("job %d could not be settled within the grace time", id)
                return NotSettled.NOT_STORED

    def _look_up(self, outcome: Outcome) -> Job | NotSettled | None:
        """The job if the claim ended with this outcome, CLAIM_LOST if with another; None if it continues."""
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


def _may_be_stored(error: Exception) -> bool:
    """Whether the call may have been stored. Only an error of the storage guarantees that it was not."""
    return isinstance(error, OutcomeUnknown) or not isinstance(error, StorageError)


def described(error: Exception) -> str:
    """An error for the log: its text, and the name of its class unless it is a StorageError."""
    return str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
