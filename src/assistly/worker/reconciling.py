"""Runs the checks of publishers for jobs with an unknown outcome, and resolves these jobs."""

from __future__ import annotations

import secrets
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING

from assistly.storage.engine.values import KEPT_ATTEMPTS
from assistly.storage.errors import LockLost, NotFound, StatusConflict, StorageClosed
from assistly.storage.stores.settling import OUTCOME_UNKNOWN

from .events import EventKind, WorkerEvent, to_resolve
from .processing import error_text, storable_remote_id
from .publisher import CheckResult, NotPosted, StillUnknown, Unknown, WasPosted
from .storage_calls import described, logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from assistly.storage.records import Job, WorkerLock
    from assistly.storage.storage import Storage

    from .events import Reporter
    from .invocation import PublisherCaller
    from .options import CheckedOptions

    Check = Callable[[Job], object]

LONGEST_PAUSE = 3600.0
"""The maximum number of seconds from one check of a job to the next."""
_ROUND_SECONDS = 10.0
# A check counts as the last one if there is no time for this many more pauses.
_LAST_PAUSES = 1.25
_PAGE = 100
_PAGES = 10
_MOST_ASKED = 100
# Seconds for which other workers do not check a job that is still being published in this one.
_HOLD = timedelta(minutes=1)


class Reconciler:
    """Resolves unknown outcomes on the platforms whose publishers have a check. Not thread-safe.

    A job is checked when its outcome has been unknown for `check_pause` seconds, and then each time that this
    time has doubled, or once an hour. A lock `check:{id}`, held during the check and the pause after it,
    keeps other workers from checking the same job.
    """

    def __init__(
        self,
        storage: Storage,
        options: CheckedOptions,
        caller: PublisherCaller,
        reporter: Reporter,
        monotonic: Callable[[], float],
        is_ending: Callable[[], bool],
    ) -> None:
        self._storage = storage
        self._worker_id = options.worker_id
        self._caller = caller
        self._reporter = reporter
        self._monotonic = monotonic
        self._is_ending = is_ending
        self._first, self._longest = options.check_pause, max(LONGEST_PAUSE, options.check_pause)
        self._for = options.check_for
        self._checks = options.checks
        self.interval = min(options.check_pause, _ROUND_SECONDS)
        """Seconds from one round to the next."""
        self._owner_id = f"{options.worker_id[:64]}-{secrets.token_hex(8)}"
        self._questions = 0
        self._after: dict[str, int] = {}
        self._not_before: dict[tuple[int, int], float] = {}
        self._holds: dict[tuple[int, int], WorkerLock | None] = {}
        self._left: set[tuple[int, int]] = set()

    @property
    def has_checks(self) -> bool:
        """Whether any publisher has a check."""
        return bool(self._checks)

    def round(self, *, whole: bool = False) -> bool:
        """Check a limited number of due jobs. Returns False if the storage is closed.

        It reads a limited number of dead letters, and the next round continues; with `whole` it reads all.
        """
        now = self._monotonic()
        self._not_before = {key: time for key, time in self._not_before.items() if time > now}
        for platform, check in self._checks.items():
            try:
                self._ask_about(platform, check, count() if whole else range(_PAGES))
            except StorageClosed:
                return False
            except Exception as error:  # noqa: BLE001 - it is tried again
                logger.warning(
                    "cannot check unknown outcomes on %s; will retry: %s",
                    platform,
                    described(error),
                )
        return True

    def _ask_about(self, platform: str, check: Check, pages: Iterable[int]) -> None:
        began, asked = self._monotonic(), 0
        is_paused: bool | None = None
        for _ in pages:
            page = self._storage.queue.dead_letters(
                platform=platform, after=self._after.get(platform), limit=_PAGE
            )
            for job in page:
                if not self._is_due(job):
                    continue
                if is_paused is None:
                    is_paused = self._is_paused(platform)
                # A slow check must not delay those of other platforms.
                is_late = self._monotonic() - began >= self._caller.check_limit
                if is_paused or is_late or asked == _MOST_ASKED or self._must_stop(platform):
                    return
                self._after[platform] = job.id
                asked += self._ask_in_turn(check, job)
            if len(page) < _PAGE:
                self._after.pop(platform, None)
                return
            self._after[platform] = page[-1].id

    def _must_stop(self, platform: str) -> bool:
        return self._is_ending() or self._caller.is_overrun(platform, "check")

    def _is_paused(self, platform: str) -> bool:
        found = self._storage.platforms.get(platform)
        return found is not None and found.paused

    def _is_due(self, job: Job) -> bool:
        """Whether this worker may check the job now, as far as it knows."""
        if not job.outcome_unknown or job.dead_letter_at is None:
            return False
        key = job.id, job.claim
        if self._caller.is_hanging(job):  # too early: it may still be published
            self._holds[key] = self._storage.lock.acquire(self._owner_id, ttl=_HOLD, name=_lock_name(job))
            return False
        hold = self._holds.pop(key, None)
        if hold is not None:
            self._storage.lock.release(hold)
        if key in self._not_before:
            return False
        return self._first <= self._unknown_for(job) <= self._for

    def _unknown_for(self, job: Job) -> float:
        now = self._storage._context.now(None)  # noqa: SLF001 - the time by which the job was settled
        since: datetime = job.dead_letter_at or now
        return (now - since).total_seconds()

    def _ask_in_turn(self, check: Check, job: Job) -> bool:
        """Check the job, unless another worker has done so since the last pause. Returns whether it did."""
        unknown_for = self._unknown_for(job)
        pause = max(self._first, min(unknown_for, self._longest))
        is_last = unknown_for + _LAST_PAUSES * pause > self._for
        self._questions += 1
        lock = self._storage.lock.acquire(
            f"{self._owner_id}-{self._questions}",  # a new name each time, since an owner may extend a lock
            ttl=timedelta(
                seconds=2 * self._caller.check_limit
            ),  # not the pause: this worker may die during the check
            name=_lock_name(job),
        )
        if lock is None:
            self._not_before[job.id, job.claim] = self._monotonic() + pause / 2
            return False
        current = self._storage.queue.get(job.id)
        if current is None or not current.outcome_unknown or current.claim != job.claim:
            self._storage.lock.release(lock)  # resolved by another worker meanwhile
            return False
        if self._resolve(job, self._answer(check, job), is_last=is_last):
            self._storage.lock.release(lock)
        else:
            self._not_before[job.id, job.claim] = self._monotonic() + pause
            with suppress(LockLost):
                self._storage.lock.renew(lock, ttl=timedelta(seconds=pause))
        return True

    def _answer(self, check: Check, job: Job) -> CheckResult:
        try:
            return self._caller.check(check, job)
        except Unknown as error:
            reason = error_text(error)
        except BaseException as error:  # noqa: BLE001 - a check cannot harm the worker
            logger.debug("job %d: the check failed", job.id, exc_info=True)
            reason = f"the check raised {error_text(error, named=True)}"
        return StillUnknown(reason)

    def _resolve(self, job: Job, answer: CheckResult, *, is_last: bool) -> bool:
        """Store the result. Returns False if there is none, or if a person has to decide."""
        name = f"job {job.id} on {job.platform}"
        if isinstance(answer, StillUnknown):
            text = f"{name}: its outcome is still unknown: {answer.reason or 'no reason given'}"
            if is_last:
                self._leave(job, f"{text}; {to_resolve(job)}")
            else:
                logger.warning("%s", text)
            return False
        if isinstance(answer, NotPosted) and _is_hopeless(job):
            self._leave(
                job,
                f"{name} was not published, according to its platform; but its outcome was unknown in "
                f"{_unknown_outcomes(job)} attempts, so a person has to decide: `assistly jobs resolve "
                f"{job.id} --not-posted` schedules it again",
            )
            return False
        posted = isinstance(answer, WasPosted)
        remote_id = storable_remote_id(job, answer.remote_id) if isinstance(answer, WasPosted) else None
        try:
            resolved = self._storage.queue.resolve(
                job.id, posted=posted, remote_id=remote_id, claim=job.claim
            )
        except (StatusConflict, NotFound) as error:
            logger.info("%s is already resolved: %s", name, error)
        else:
            event = WorkerEvent(EventKind.RESOLVED, self._worker_id, job.platform, resolved)
            self._reporter.report(event)
        return True

    def _leave(self, job: Job, why: str) -> None:
        """Log, once per attempt, that a person has to look at the job."""
        if (job.id, job.claim) not in self._left:
            self._left.add((job.id, job.claim))
            logger.error("%s", why)


def _lock_name(job: Job) -> str:
    return f"check:{job.id}"


def _is_hopeless(job: Job) -> bool:
    """Whether so many attempts ended in an unknown outcome that a person has to look."""
    return _unknown_outcomes(job) >= min(job.max_retries + 1, KEPT_ATTEMPTS)


def _unknown_outcomes(job: Job) -> int:
    return sum(attempt.error.startswith(f"{OUTCOME_UNKNOWN}: ") for attempt in job.attempts)
