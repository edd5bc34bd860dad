"""What a publisher may be passed beside the job: the attempt, and checkpoints."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from assistly.storage.errors import ClaimLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from assistly.storage.records import Job, Json

    from .threads import Runtime


class Publication:
    """One attempt to publish a job: the second argument of a publisher that takes one. Thread-safe."""

    def __init__(self, runtime: Runtime, job: Job, store: Callable[[Job, Json], Job]) -> None:
        self._runtime = runtime
        self._job = job
        self._store = store
        self._mutex = threading.Lock()
        self._is_abandoned = False

    @property
    def job(self) -> Job:
        """The job, with the newest checkpoint."""
        return self._job

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1 since the job was scheduled, replayed or resolved."""
        return self._job.retries + 1

    def checkpoint(self, data: Json) -> Job:
        """Store how far publishing is, as JSON, and return the job. The next attempt finds it in `checkpoint`.

        Call it after a step, before the next one begins. It waits until the storage has stored it. See
        `Queue.checkpoint`. A coroutine awaits `acheckpoint` instead.

        Raises ClaimLost if this attempt has ended, because the claim was lost or the time limit is over: make
        no further step then. Raises Unknown if the worker stops before the storage has answered, and
        InvalidValue for data that is no JSON.
        """
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            raise _BlockedLoop("a coroutine must not wait here: await publication.acheckpoint(data)")
        with self._mutex:
            if self._is_abandoned:
                raise ClaimLost(
                    f"the time limit for publishing job {self._job.id} is over: nothing was stored, and no "
                    "further step must be made"
                )
            self._job = self._store(self._job, data)
            return self._job

    async def acheckpoint(self, data: Json) -> Job:
        """As `checkpoint`, for coroutines: it waits on a thread of the worker, and does not block the loop."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Job] = loop.create_future()

        def store() -> None:
            try:
                stored = self.checkpoint(data)
            except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
                _hand_over(loop, done, error)
            else:
                _hand_over(loop, done, stored)

        self._runtime.start("assistly-publisher-checkpoint", store)
        return await done

    def abandon(self) -> None:
        """Store no further checkpoints."""
        self._is_abandoned = True


class _BlockedLoop(Exception):
    pass
