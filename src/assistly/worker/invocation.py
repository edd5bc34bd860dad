"""Calls publishers, which may be plain functions or coroutine functions, with or without a time limit."""

from __future__ import annotations

import inspect
import logging
import shlex
import threading
from concurrent.futures import CancelledError, Future
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from .publication import Publication
from .publisher import CheckResult, Unknown
from .publisher_checks import CheckedPublisher, check_result, examining, remote_id
from .storage_calls import logger

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from assistly.storage.records import Job, Json

    from .threads import MessageQueue, Runtime

T = TypeVar("T")

_MOST_AWAITED = 10

MOST_ABANDONED = 100
"""How many calls of a platform may hang beyond the time limit before the worker stops calling."""

MOST_ABANDONED_CHECKS = 10
"""The same for calls of its check."""

CHECK_SECONDS = 30.0
"""How many seconds a check may take if there is no time limit for publishers."""

Called = Literal["publisher", "check"]


class PublisherCaller:
    """Calls publishers, and awaits coroutines on `loop` (default: its own loop, on a thread).

    A call that takes longer than `time_limit` seconds is abandoned.
    """

    def __init__(
        self,
        runtime: Runtime,
        loop: asyncio.AbstractEventLoop | None = None,
        time_limit: float | None = None,
    ) -> None:
        self._runtime = runtime
        self._loop = loop
        self._owns_loop = loop is None
        self._time_limit = time_limit
        self._mutex = threading.Lock()
        self._idle: list[CallThread] = []
        self._started = 0
        self._abandoned: list[PublisherCall[Any]] = []
        self._closed = False

    def publish(
        self, publisher: CheckedPublisher, job: Job, checkpoint: Callable[[Job, Json], Job]
    ) -> str | None:
        """Return the remote id, or raise the publisher's exception. `checkpoint` stores a checkpoint.

        Raises Unknown if its coroutine was cancelled, if it took longer than the time limit, or if its result
        is not a remote id.
        """
        publication = Publication(self._runtime, job, checkpoint)
        make = partial(publisher.publish, job, publication)
        call = PublisherCall(self, "publisher", job, make, remote_id, publication.abandon)
        return call.run() if self._time_limit is None else self._limited(call, self._time_limit)

    def check(self, check: Callable[[Job], object], job: Job) -> CheckResult:
        """Return the result of a publisher's check for a job, or raise its exception.

        Raises Unknown like `publish`. There is always a time limit.
        """
        call = PublisherCall(self, "check", job, partial(check, job), check_result, lambda: None)
        return self._limited(call, self.check_limit)

    @property
    def check_limit(self) -> float:
        """The seconds that a check may take."""
        return CHECK_SECONDS if self._time_limit is None else self._time_limit

    def is_overrun(self, platform: str, what: Called = "publisher") -> bool:
        """Whether too many abandoned calls of this platform still hang to make another one."""
        most = MOST_ABANDONED if what == "publisher" else MOST_ABANDONED_CHECKS
        with self._mutex:
            return sum(call.is_of(platform, what) for call in self._abandoned) >= most

    def is_hanging(self, job: Job) -> bool:
        """Whether an abandoned call is still publishing this job, which may still be posted."""
        with self._mutex:
            return any(call.job.id == job.id and call.what == "publisher" for call in self._abandoned)

    def close(self) -> None:
        """Stop its threads and its own loop, and cancel the coroutines that still run there."""
        with self._mutex:
            self._closed = True
            idle, self._idle = self._idle, []
        for thread in idle:
            thread.requests.put(None)
        if self._owns_loop and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def running_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that coroutines run on. The first call starts an own loop."""
        import asyncio

        with self._mutex:
            if self._loop is None:
                loop = self._loop = asyncio.new_event_loop()
                self._runtime.start("assistly-worker-loop", lambda: _run_loop(loop))
            return self._loop

    def put_back(self, thread: CallThread) -> None:
        """Keep a thread for the next call, unless this is closed."""
        with self._mutex:
            if not self._closed:
                self._idle.append(thread)
                return
        thread.requests.put(None)

    def note_end(self, call: PublisherCall[Any]) -> None:
        """Note that an abandoned call has ended."""
        with self._mutex:
            self._abandoned.remove(call)

    def _limited(self, call: PublisherCall[T], time_limit: float) -> T:
        answers: MessageQueue[T | BaseException] = self._runtime.queue()
        self._thread().requests.put((call, answers))
        try:
            answer = answers.get(timeout=time_limit)
        except Empty:
            with self._mutex:
                self._abandoned.append(call)
            if call.abandon():
                raise Unknown(
                    f"the {call.what} took longer than the time limit of {time_limit:g} s"
                ) from None
            self.note_end(call)
            answer = answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _thread(self) -> CallThread:
        with self._mutex:
            if self._idle:
                return self._idle.pop()
            self._started += 1
            number = self._started
        thread = CallThread(self, self._runtime.queue())
        self._runtime.start(f"assistly-publisher-call-{number}", thread.work)
        return thread


class PublisherCall(Generic[T]):
    """One call of a publisher or of its check, which may be abandoned.

    `read` converts its result, and raises Unknown for a wrong type.
    """

    def __init__(
        self,
        caller: PublisherCaller,
        what: Called,
        job: Job,
        make: Callable[[], object],
        read: Callable[[object], T],
        on_abandon: Callable[[], None],
    ) -> None:
        self.what = what
        self.job = job
        self._caller = caller
        self._make = make
        self._read = read
        self._on_abandon = on_abandon
        self._mutex = threading.Lock()
        self._future: Future[Any] | None = None
        self._has_ended = False
        self._is_abandoned = False

    def is_of(self, platform: str, what: Called) -> bool:
        """Whether it is such a call for a job of this platform."""
        return self.what == what and self.job.platform == platform

    def run(self) -> T:
        """Make the call, wait for what it returns, and return its result."""
        result: Any = self._make()
        if result is None or type(result) is str:
            return self._read(result)
        for _ in range(_MOST_AWAITED):
            with examining(self.what):
                is_future = isinstance(result, Future)
                if not (is_future or inspect.isawaitable(result)):
                    return self._read(result)
            result = self._result_of(result if is_future else self._scheduled(result))
        raise Unknown(f"the {self.what} returned too many nested awaitables")

    def end(self) -> bool:
        """Note that the call has ended. Returns True if it was abandoned before."""
        with self._mutex:
            self._has_ended = True
            return self._is_abandoned

    def abandon(self) -> bool:
        """Stop waiting for the call, and cancel its coroutine. Returns False if it has ended."""
        with self._mutex:
            if self._has_ended:
                return False
            self._is_abandoned = True
            future = self._future
        self._on_abandon()
        if future is not None:
            future.cancel()
        return True

    def _result_of(self, future: Future[Any]) -> object:
        with self._mutex:
            self._future = future
            is_abandoned = self._is_abandoned
        if is_abandoned:
            future.cancel()
        try:
            return future.result()
        except CancelledError as error:
            raise Unknown(f"the {self.what} was cancelled") from error

    def _scheduled(self, result: Awaitable[object]) -> Future[object]:
        import asyncio

        loop = self._caller.running_loop()
        if asyncio.isfuture(result):  # a future can be awaited only on its own loop
            loop = result.get_loop()
            if not (loop.is_running() or result.done()):
                raise Unknown(f"the {self.what} returned a future of an event loop that is not running")
            if result.done():
                loop = self._caller.running_loop()
        return asyncio.run_coroutine_threadsafe(_contained(result), loop)


class CallThread:
    """A thread that makes calls one after another, until one of them is abandoned."""

    def __init__(
        self,
        caller: PublisherCaller,
        requests: MessageQueue[tuple[PublisherCall[Any], MessageQueue[Any]] | None],
    ) -> None:
        self.requests = requests
        self._caller = caller

    def work(self) -> None:
        """Make the calls from `requests`, until one is None."""
        while (request := self.requests.get()) is not None:
            call, answers = request
            answer: object
            try:
                answer = call.run()
            except BaseException as error:  # noqa: BLE001 - raised again where the call is waited for
                answer = error
            if call.end():
                self._caller.note_end(call)
                _log_late(call, answer)
                return
            self._caller.put_back(self)
            answers.put(answer)


def _log_late(call: PublisherCall[Any], answer: object) -> None:
    job = call.job
    if isinstance(answer, BaseException):
        how = f"it raised {type(answer).__name__}: {answer}"
    elif call.what == "check":
        how = f"it returned {answer}"
    else:
        how = "it was published" if answer is None else f"it was published as {answer}"
        given = "" if answer is None else f" --remote-id {shlex.quote(str(answer))}"
        how += f": `assistly jobs resolve {job.id} --posted{given}`"
    level = logging.WARNING if call.what == "check" else logging.ERROR
    text = "job %d on %s: the %s ended after its time limit: %s"
    logger.log(level, text, job.id, job.platform, call.what, how)


async def _contained(result: Awaitable[object]) -> object:
    """Await the result. Turn KeyboardInterrupt and SystemExit, which would stop the loop, into Unknown."""
    try:
        return await result
    except (KeyboardInterrupt, SystemExit) as error:
        raise Unknown(f"the publisher raised {type(error).__name__}") from error


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _cancel_all() -> None:
    """Cancel publishers that outlast the grace time; otherwise their heartbeat would never end."""
    import asyncio

    abandoned = asyncio.all_tasks() - {asyncio.current_task()}
    for task in abandoned:
        task.cancel()
    await asyncio.gather(*abandoned, return_exceptions=True)
