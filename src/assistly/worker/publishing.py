"""One job: begin, call the publisher, settle."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

from assistly.storage.records import Failed, Job, JobStatus, Outcome, Posted, Released, Snoozed, Unknown
from assistly.storage.validation import later

from .calling import Caller, error_text, usable_remote_id
from .leases import Hold, Leases
from .options import Options
from .persistence import Persistent, logger
from .verdicts import Permanent, Retry, Unknown

_LONGEST_PAUSE = timedelta(days=30).total_seconds()


class Pauses:
    """The platforms to leave alone, until when on the worker's clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._guard = threading.Lock()

    def add(self, platform: str, seconds: float) -> None:
        with self._guard:
            self._until[platform] = max(self._clock() + seconds, self._until.get(platform, 0.0))

    def left(self, platform: str) -> float:
        """Seconds; 0 where it may be used."""
        with self._guard:
            return max(0.0, self._until.get(platform, 0.0) - self._clock())


class Publishing:
    def __init__(
        self,
        options: Options,
        persistent: Persistent,
        leases: Leases,
        pauses: Pauses,
        caller: Caller,
        stopping: Callable[[], bool],
        count: Callable[[str], None],
    ) -> None:
        self._options = options
        self._persistent = persistent
        self._leases = leases
        self._pauses = pauses
        self._caller = caller
        self._stopping = stopping
        self._count = count

    def publish(self, hold: Hold) -> None:
        job = self._persistent.begin(hold.job, lambda: self._may_begin(hold))
        if job is None:
            self._put_back(hold)
            return
        hold.begun = True
        began = self._options.clock()
        outcome = self._outcome(job, began)
        settled = self._persistent.settle(outcome)
        self._report(outcome, settled, self._options.clock() - began)

    def _may_begin(self, hold: Hold) -> bool:
        return not self._stopping() and self._leases.still(hold) and not self._pauses.left(hold.job.platform)

    def _put_back(self, hold: Hold) -> None:
        left = self._pauses.left(hold.job.platform)
        if left and not self._stopping():
            outcome: Outcome = Snoozed(hold.job, self._storage_time(hold.job, hold.since, left))
        else:
            outcome = Released(hold.job)
        self._count("put back" if self._persistent.settle(outcome) else "lost")

    def _outcome(self, job: Job, began: float) -> Outcome:
        try:
            value = self._caller.call(self._options.publishers[job.platform], job)
        except Retry as error:
            return self._rate_limited(job, error, began)
        except Permanent as error:
            return Failed(job, error_text(error, named=False), retryable=False)
        except Unknown as error:
            return Unknown(job, error_text(error, named=False))
        except Exception as error:  # noqa: BLE001 - by the contract of Publisher, nothing was published
            logger.debug("job %d: the publisher failed", job.id, exc_info=True)
            return Failed(job, error_text(error, named=True), self._retry_at(job, began))
        except BaseException as error:  # noqa: BLE001 - cut off wherever it was
            return Unknown(job, f"the publisher was cut off by {error_text(error, named=True)}")
        remote_id, problem = usable_remote_id(value)
        if problem:
            logger.error("job %d is posted, but its remote id cannot be stored: %s", job.id, problem)
        return Posted(job, remote_id)

    def _rate_limited(self, job: Job, error: Retry, began: float) -> Outcome:
        seconds = min(self._options.pause if error.after is None else error.after, _LONGEST_PAUSE)
        self._pauses.add(job.platform, seconds)
        logger.warning(
            "%s is left alone for %.1f s: %s", job.platform, seconds, error_text(error, named=False)
        )
        return Snoozed(job, self._storage_time(job, began, seconds))

    def _retry_at(self, job: Job, began: float) -> datetime | None:
        policy = self._options.retry_policy(job.platform)
        return None if policy is None else policy.next_attempt(self._storage_time(job, began), job)

    def _storage_time(self, job: Job, since: float, ahead: float = 0.0) -> datetime:
        """By the storage's clock, which may not be this machine's. `job` was written at `since`."""
        return later(job.updated_at, timedelta(seconds=self._options.clock() - since + ahead))

    def _report(self, outcome: Outcome, job: Job | None, seconds: float) -> None:
        id, platform = outcome.job.id, outcome.job.platform
        if job is None:
            self._count("lost")
            logger.error("job %d on %s: its claim is lost; here it %s", id, platform, _shown(outcome))
        elif job.status is JobStatus.POSTED:
            self._count("posted")
            logger.info("job %d on %s is posted%s (%.3f s)", id, platform, _as(job.remote_id), seconds)
        elif isinstance(outcome, Unknown):
            self._count("unknown")
            logger.error("job %d on %s is a dead letter: %s", id, platform, _line(job.dead_letter_reason))
        elif job.status is JobStatus.DEAD_LETTER:
            self._count("dead")
            logger.error("job %d on %s is a dead letter: %s", id, platform, _line(job.dead_letter_reason))
        elif isinstance(outcome, Snoozed):
            self._count("snoozed")
            logger.info("job %d on %s is put off until %s", id, platform, job.due_at)
        else:
            self._count("failed")
            error = _line(job.last_error)
            logger.warning("job %d on %s failed, again at %s: %s", id, platform, job.due_at, error)


class Counts:
    """How many jobs ended how, counted on many threads."""

    def __init__(self) -> None:
        self._counter: Counter[str] = Counter()
        self._guard = threading.Lock()

    def add(self, kind: str) -> None:
        with self._guard:
            self._counter[kind] += 1

    def read(self) -> dict[str, int]:
        with self._guard:
            return dict(self._counter)


def _shown(outcome: Outcome) -> str:
    if isinstance(outcome, Posted):
        return f"was published{_as(outcome.remote_id)}"
    if isinstance(outcome, Failed | Unknown):
        return f"ended with: {_line(outcome.error)}"
    return "was not published"


def _as(remote_id: str | None) -> str:
    return "" if remote_id is None else f" as {remote_id}"


def _line(text: str | None) -> str:
    return " ".join((text or "").split())
