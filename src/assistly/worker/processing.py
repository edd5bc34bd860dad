"""Processes claimed jobs: begins publishing, calls the publisher, and determines the outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from assistly.storage import records
from assistly.storage.errors import InvalidValue
from assistly.storage.records import Failed, Job, Outcome, Posted, Released, Snoozed
from assistly.storage.validation import later, optional_name, utc

from .claimed_jobs import ClaimedJob, ClaimedJobs, Stage
from .events import EventKind, Reporter, WorkerEvent, as_remote_id, one_line
from .invocation import PublisherCaller
from .options import CheckedOptions
from .pauses import PlatformPauses
from .publisher import Permanent, Retry, Unknown, pause_seconds
from .storage_calls import RetriedCalls, logger

_LONGEST_PAUSE = timedelta(days=30).total_seconds()
_LONGEST_ERROR = 4096


class JobProcessor:
    """Publishes claimed jobs. All publisher threads share it."""

    def __init__(
        self,
        options: CheckedOptions,
        calls: RetriedCalls,
        claimed_jobs: ClaimedJobs,
        pauses: PlatformPauses,
        caller: PublisherCaller,
        is_stopping: Callable[[], bool],
        reporter: Reporter,
    ) -> None:
        self._options = options
        self._calls = calls
        self._claimed_jobs = claimed_jobs
        self._pauses = pauses
        self._caller = caller
        self._is_stopping = is_stopping
        self._reporter = reporter

    def begin(self, jobs: Sequence[ClaimedJob]) -> None:
        """Begin to publish jobs in one call. If it fails for some, `process` begins them."""
        may_begin = [claimed for claimed in jobs if self._may_begin(claimed)]
        if not may_begin:
            return
        began = self._options.clock()
        begun = {job.id: job for job in self._calls.begin_publish_many([each.job for each in may_begin])}
        for claimed in may_begin:
            claimed.begun, claimed.begun_at = begun.get(claimed.job.id), began

    def process(self, claimed: ClaimedJob) -> None:
        """Publish a job, or release it if it may not be published now. Does not store the outcome."""
        job = self._begun(claimed)
        if job is None:
            outcome = self._put_back(claimed)
        else:
            claimed.stage = Stage.PUBLISHING
            began = self._options.clock()
            outcome = self._publish(job, began)
            claimed.seconds = self._options.clock() - began
        claimed.outcome, claimed.stage = outcome, Stage.SETTLING

    def _begun(self, claimed: ClaimedJob) -> Job | None:
        if claimed.begun is None:
            return self._calls.begin_publish(claimed.job, lambda: self._may_begin(claimed))
        return claimed.begun if self._may_begin(claimed) else None

    def _may_begin(self, claimed: ClaimedJob) -> bool:
        if (
            self._is_stopping()
            or not self._claimed_jobs.holds(claimed)
            or self._pauses.remaining(claimed.job.platform, claimed.claimed_at)
        ):
            return False
        claimed.stage = Stage.BEGINNING
        return True

    def _put_back(self, claimed: ClaimedJob) -> Outcome:
        job = claimed.job
        pause = self._pauses.remaining(job.platform, claimed.claimed_at)
        if pause and not self._is_stopping():
            return Snoozed(job, self._storage_time(job, claimed.claimed_at, pause))
        return Released(job)

    def _publish(self, job: Job, began: float) -> Outcome:
        try:
            publisher = self._options.publishers[job.platform]
            value = self._caller.publish(publisher, job, self._calls.checkpoint)
        except Retry as error:
            return self._rate_limited(job, error, began)
        except Permanent as error:
            return Failed(job, error_text(error), retryable=False)
        except Unknown as error:
            return records.Unknown(job, error_text(error))
        except Exception as error:  # noqa: BLE001 - by the contract of Publisher, nothing was published
            unknown = _unknown_in(error)
            if unknown is not None:
                return records.Unknown(job, error_text(unknown))
            logger.debug("job %d: the publisher failed", job.id, exc_info=True)
            return Failed(job, error_text(error, named=True), self._retry_at(job, began))
        except BaseException as error:  # noqa: BLE001 - it may come from outside, before or after the request
            return records.Unknown(job, f"the publisher was interrupted by {error_text(error, named=True)}")
        self._pauses.succeeded(job.platform, began)
        return Posted(job, storable_remote_id(job, value))

    def _rate_limited(self, job: Job, error: Retry, began: float) -> Outcome:
        after = _after(error)
        asked = min(self._options.pause if after is None else after, _LONGEST_PAUSE)
        seconds = self._pauses.rate_limited(job.platform, asked, began)
        until = self._storage_time(job, began, seconds)
        reason = error_text(error)
        self._calls.pause(job.platform, until, reason=reason, by=self._options.worker_id)
        self._reporter.report(
            WorkerEvent(
                EventKind.PAUSED,
                self._options.worker_id,
                job.platform,
                error=one_line(reason),
                until=until,
                seconds=seconds,
            )
        )
        return Snoozed(job, until)

    def _retry_at(self, job: Job, began: float) -> datetime | None:
        policy = self._options.retry_policy(job.platform)
        if policy is None:
            return None
        try:
            return utc("next_attempt", policy.next_attempt(self._storage_time(job, began), job))
        except Exception:  # noqa: BLE001 - the publisher said that nothing was published
            logger.exception(
                "job %d: the retry policy of the worker failed; using that of the storage", job.id
            )
            return None

    def _storage_time(self, job: Job, since: float, ahead: float = 0.0) -> datetime:
        """The time `ahead` seconds from now by the clock of the storage, which may differ from this
        machine's.

        `job` was written when the worker's clock showed `since`; its `updated_at` is the storage's time then.
        """
        return later(job.updated_at, timedelta(seconds=self._options.clock() - since + ahead))


def _unknown_in(error: Exception) -> Unknown | None:
    """The first Unknown in an exception group, as raised by a `TaskGroup`; None if there is none."""
    if isinstance(error, ExceptionGroup):
        for part in error.exceptions:
            found = part if isinstance(part, Unknown) else _unknown_in(part)
            if found is not None:
                return found
    return None


def _after(error: Retry) -> float | None:
    try:
        return pause_seconds(getattr(error, "after", None))  # a subclass may set it to anything
    except Exception:  # noqa: BLE001 - a property of a subclass may raise anything
        return None


def error_text(error: BaseException, *, named: bool = False) -> str:
    """An exception as text that can be stored; with `named`, prefixed with the name of its class."""
    try:
        message = str(error)
    except BaseException:  # noqa: BLE001 - the exception class of a publisher may have a broken __str__
        message = ""
    name = type(error).__name__
    text = (f"{name}: {message}" if message else name) if named else message or name
    return text[:_LONGEST_ERROR].replace("\0", "\ufffd").encode(errors="replace").decode()


def storable_remote_id(job: Job, value: object) -> str | None:
    """The remote id; None, with an error in the log, if it cannot be stored. The job is posted anyway."""
    try:
        return optional_name("remote_id", value)
    except InvalidValue as error:
        logger.error("job %d is posted, but its remote id cannot be stored: %s", job.id, error)
        return None


def ending(outcome: Outcome) -> str:
    """The outcome of a job in this worker, to complete "here it …" in the log."""
    if isinstance(outcome, Posted):
        return f"was published{as_remote_id(outcome.remote_id)}"
    if isinstance(outcome, Failed | records.Unknown):
        return f"ended with: {one_line(outcome.error)}"
    return "was not published"
