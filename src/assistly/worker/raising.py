"""A worker for tests: what a publisher raises to end the test ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Unpack

from . import invocation, publisher_checks
from .invocation import PublisherCaller
from .publisher import CheckResult, Publisher, Unknown
from .publisher_checks import CheckedPublisher
from .worker import Work, Worker

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

    from assistly.storage.records import Job, Json
    from assistly.storage.storage import Storage

    from .options import WorkerOptions
    from .threads import Runtime

_CALLERS = (invocation.__name__, publisher_checks.__name__)


class RaisingWorker(Worker):
    """A worker whose runs raise, when they have ended, what a publisher or a check raised to end the test.

    That is an AssertionError, an ExceptionGroup with one, or what is no Exception, as the outcomes of pytest
    are. If there are several, it is the first. The jobs are settled as by any worker.
    """

    def __init__(
        self, storage: Storage, publishers: Mapping[str, Publisher], **options: Unpack[WorkerOptions]
    ) -> None:
        super().__init__(storage, publishers, **options)
        self._raised: list[BaseException] = []

    def _new_caller(self, loop: asyncio.AbstractEventLoop | None) -> PublisherCaller:
        caller = _NotingCaller(self._runtime, loop, self._options.timeout)
        self._raised = caller.raised
        return caller

    def _run(self, work: Work, loop: asyncio.AbstractEventLoop | None) -> None:
        __tracebackhide__ = True
        super()._run(work, loop)
        if self._raised:
            error = self._raised[0]
            raise error.with_traceback(_of_the_publisher(error.__traceback__))


class _NotingCaller(PublisherCaller):
    """Notes what is raised to end the test."""

    def __init__(
        self, runtime: Runtime, loop: asyncio.AbstractEventLoop | None, time_limit: float | None
    ) -> None:
        super().__init__(runtime, loop, time_limit)
        self.raised: list[BaseException] = []

    def publish(
        self, publisher: CheckedPublisher, job: Job, checkpoint: Callable[[Job, Json], Job]
    ) -> str | None:
        with self._noting():
            return super().publish(publisher, job, checkpoint)

    def check(self, check: Callable[[Job], object], job: Job) -> CheckResult:
        with self._noting():
            return super().check(check, job)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            cause = error.__cause__
            if isinstance(error, Unknown) and cause is not None and not isinstance(cause, Exception):
                self.raised.append(cause)  # by a coroutine
            elif _ends_the_test(error):
                self.raised.append(error)
            raise


def _ends_the_test(error: BaseException) -> bool:
    if isinstance(error, ExceptionGroup):
        return error.subgroup(AssertionError) is not None
    return isinstance(error, AssertionError) or not isinstance(error, Exception)


def _of_the_publisher(trace: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that comes after the call of the publisher."""
    part = trace
    while trace is not None:
        name, trace = trace.tb_frame.f_globals.get("__name__"), trace.tb_next
        if name in _CALLERS:
            part = trace
    return part
