"""The optional second argument of publishers: the attempt, and checkpoints."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from assistly.storage.errors import ClaimLost

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from assistly.storage.records import Job, Json

    from .threads import Runtime


class Publication:
    """One attempt to publish a job: the second argument of a publisher that takes two. Thread-safe."""

    def __init__(self, runtime: Runtime, job: Job, store: Callable[[Job, Json], Job]) -> None:
        self._runtime = runtime
        self._job = job
        self._store = store
        self._mutex = threading.Lock()
        self._is_abandoned = False

    @property
    def job(self) -> Job:
        """The job, with its newest checkpoint."""
        return self._job

    @property
    def attempt(self) -> int:
        """The number of this attempt, counted from 1 since the job was scheduled, replayed or resolved.

        After an unknown outcome it starts at 1 again.
        """
        return self._job.retries + 1

    def checkpoint(self, data: Json) -> Job:
        """Store the progress of publishing, as JSON, and return the job with it as `checkpoint`.

        The next attempt finds it there. Call it after each step, before the next one begins: it returns when
        the storage has stored it. See `Queue.checkpoint`. In a coroutine, await `acheckpoint` instead.

        Raises ClaimLost if this attempt has ended because the claim was lost or the time limit has passed:
        take no further step then. Raises Unknown if the worker stops before the storage has answered,
        InvalidValue for data that is not JSON, and RuntimeError on the thread of an event loop.
        """
        if _is_on_a_loop():
            raise RuntimeError("this would block the event loop: await publication.acheckpoint(data) instead")
        with self._mutex:
            if self._is_abandoned:
                raise ClaimLost(
                    f"the time limit for publishing job {self._job.id} has passed: nothing was stored; take "
                    "no further step"
                )
            self._job = self._store(self._job, data)
            return self._job

    async def acheckpoint(self, data: Json) -> Job:
        """Like `checkpoint`, for coroutines: a thread of the worker waits, not the event loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        done: asyncio.Future[Job] = loop.create_future()

        def store() -> None:
            answer: Job | BaseException
            try:
                answer = self.checkpoint(data)
            except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
                answer = error
            with suppress(RuntimeError):  # the loop is closed, so nothing awaits this
                loop.call_soon_threadsafe(_finish, done, answer)

        self._runtime.start("assistly-publisher-checkpoint", store)
        return await done

    def abandon(self) -> None:
        """Store no further checkpoints."""
        self._is_abandoned = True


def _is_on_a_loop() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _finish(done: asyncio.Future[Job], answer: Job | BaseException) -> None:
    if done.cancelled():
        return
    if isinstance(answer, BaseException):
        done.set_exception(answer)
    else:
        done.set_result(answer)
