"""The jobs that a running worker has claimed, and the heartbeat that extends their leases."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto

from assistly.storage.errors import StorageClosed
from assistly.storage.records import Job, Outcome
from assistly.storage.stores.queue import Queue

from .slots import PlatformSlots
from .storage_calls import described, logger


class Stage(Enum):
    """The stage of a job in a worker."""

    CLAIMED = auto()
    """Nothing was published, and the storage was not asked to record that publishing begins."""
    BEGINNING = auto()
    """Nothing was published, but the storage may have recorded that publishing began."""
    PUBLISHING = auto()
    """The publisher was called."""
    SETTLING = auto()
    """The outcome is known, and not stored yet."""


@dataclass(slots=True, eq=False)
class ClaimedJob:
    """A job between its claim and its settlement, as the worker sees it."""

    job: Job
    slot: str | None
    """The slot of a limited platform that the job occupies."""
    claimed_at: float
    """Seconds of the worker's clock."""
    lost: bool = False
    """Whether the heartbeat has found that the claim is lost."""
    stage: Stage = Stage.CLAIMED
    begun: Job | None = None
    """The job as it was stored when publishing began."""
    begun_at: float = 0.0
    """When that was, in seconds of the worker's clock."""
    outcome: Outcome | None = None
    """The outcome to store, in the stage SETTLING."""
    seconds: float | None = None
    """How long the publisher took; None if it was not called."""


class ClaimedJobs:
    """The jobs whose leases the heartbeat extends. Thread-safe."""

    def __init__(self, queue: Queue, slots: PlatformSlots, lease: timedelta) -> None:
        self._queue = queue
        self._slots = slots
        self._lease = lease
        self._jobs: dict[int, ClaimedJob] = {}
        self._mutex = threading.Lock()
        self._ending = False

    def add(self, claimed: Iterable[ClaimedJob]) -> None:
        """Extend the leases of these jobs from now on."""
        with self._mutex:
            self._jobs.update({each.job.id: each for each in claimed})

    def remove(self, claimed: Iterable[ClaimedJob]) -> None:
        """Stop extending the leases of these jobs."""
        with self._mutex:
            for each in claimed:
                if self._jobs.get(each.job.id) is each:
                    del self._jobs[each.job.id]

    def all(self) -> list[ClaimedJob]:
        """The jobs that are not settled yet."""
        with self._mutex:
            return [*self._jobs.values()]

    def holds(self, claimed: ClaimedJob) -> bool:
        """Whether this worker still holds the claim and the slot, as far as this process knows."""
        return not claimed.lost and (claimed.slot is None or self._slots.holds(claimed.slot))

    def end(self) -> None:
        """Make the heartbeat end when the last job is removed."""
        self._ending = True

    def heartbeat(self) -> bool:
        """Extend all leases and slots. Returns False, to end the heartbeat, after `end` if no job is left."""
        claimed = self.all()
        if not claimed:
            return not self._ending
        try:
            self._extend(claimed)
            self._slots.renew()
        except StorageClosed:
            return False
        except Exception as error:  # noqa: BLE001 - without a heartbeat the leases would run out
            logger.warning("the heartbeat failed; will retry: %s", described(error))
        return True

    def _extend(self, claimed: list[ClaimedJob]) -> None:
        extended = {job.id for job in self._queue.extend([each.job for each in claimed], lease=self._lease)}
        for each in claimed:
            if each.job.id not in extended:
                each.lost = True
