"""The jobs that a worker holds, and the heartbeat that keeps them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import timedelta

from assistly.storage.errors import StorageClosed, StorageError
from assistly.storage.records import Job
from assistly.storage.stores.queue import Queue

from .persistence import logger
from .slots import Slots


@dataclass(slots=True, eq=False)
class Hold:
    """A claimed job on its way through the worker. `since` is the worker's clock at the claim."""

    job: Job
    slot: str | None
    since: float
    begun: bool = False
    lost: bool = False


class Leases:
    def __init__(self, queue: Queue, slots: Slots, lease: timedelta) -> None:
        self._queue = queue
        self._slots = slots
        self._lease = lease
        self._holds: dict[int, Hold] = {}
        self._guard = threading.Lock()
        self._ending = False

    def add(self, hold: Hold) -> None:
        with self._guard:
            self._holds[hold.job.id] = hold

    def remove(self, hold: Hold) -> None:
        with self._guard:
            if self._holds.get(hold.job.id) is hold:
                del self._holds[hold.job.id]

    def held(self) -> list[Hold]:
        with self._guard:
            return [*self._holds.values()]

    def still(self, hold: Hold) -> bool:
        """As far as is known here; the storage has the last word."""
        return not hold.lost and (hold.slot is None or self._slots.holds(hold.slot))

    def end(self) -> None:
        """The heartbeat goes on for what is still held, and ends with the last of it."""
        self._ending = True

    def beat(self) -> bool:
        """Extend everything; False once that is no longer needed."""
        holds = self.held()
        if not holds:
            return not self._ending
        try:
            self._extend(holds)
            self._slots.renew()
        except StorageClosed:
            return False
        except StorageError as error:
            logger.warning("the heartbeat failed, and will be tried again: %s", error)
        return True

    def _extend(self, holds: list[Hold]) -> None:
        extended = {job.id for job in self._queue.extend([hold.job for hold in holds], lease=self._lease)}
        for hold in holds:
            if hold.job.id not in extended:
                hold.lost = True
