"""Applies a change to one job, or to all that match: each in a transaction with its event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from assistly.storage import ClaimLost, Conflict, InvalidValue, NotFound, TransactionAborted
from assistly.views.job_filter import matching

from . import audit
from .job_changes import HELD

if TYPE_CHECKING:
    from assistly.storage import Job, Storage
    from assistly.views.job_filter import JobFilter

    from .audit import Person
    from .job_changes import JobChange

_T = TypeVar("_T")

_ATTEMPTS = 5


@dataclass(slots=True)
class ChangePlan:
    """Which jobs a change would be applied to.

    `jobs` have no content, metadata or checkpoint, since there may be very many. `left_out` counts by reason
    the jobs that match and would not be changed. `complete` is False if more jobs match.
    """

    jobs: list[Job] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    complete: bool = True


@dataclass(slots=True)
class Result:
    """What a change of `matched` jobs has done so far.

    `done` has the ids of the changed jobs. `not_done` says by id why a job is not changed. `stopped` is True
    if it ended early, and did not try the rest of the jobs.
    """

    matched: int = 0
    done: list[int] = field(default_factory=list)
    not_done: dict[int, str] = field(default_factory=dict)
    stopped: bool = False


def change_job(
    storage: Storage, change: JobChange, id: int, person: Person, *, seen: int | None = None
) -> Job | None:
    """Change the job with this id, and return the changed job (None: it was removed).

    `seen` is the claim number of the job that the person saw (default: the one stored now). Raises NotFound
    if there is no such job, Conflict if a worker has claimed it since, and what `apply` raises.
    """
    job = storage.queue.get(id)
    if job is None:
        raise NotFound(f"there is no job {id}")
    if seen is not None and job.claim != seen:
        raise _claimed(job)
    return apply(storage, change, job, person)


def apply(
    storage: Storage, change: JobChange, seen: Job, person: Person, wanted: JobFilter | None = None
) -> Job | None:
    """Make the change and record its event, in one transaction.

    Raises Conflict if a worker has claimed the job since it was `seen`, or it no longer matches `wanted`;
    NotFound if it no longer exists; and a StorageError (Conflict, NotFound, ClaimLost or InvalidValue) if the
    job does not allow the change.
    """

    def work(tx: Storage) -> Job | None:
        job = tx.queue.get(seen.id)
        if job is None:
            raise NotFound(f"job {seen.id} no longer exists")
        if job.claim != seen.claim:
            raise _claimed(job)
        if wanted is not None and not wanted.accepts(job):
            raise Conflict(f"job {job.id} has changed meanwhile, and no longer matches")
        changed, details = change.apply(tx, job)
        if changed is not None and changed.claim != job.claim:
            raise Conflict(f"job {job.id} was claimed meanwhile: nothing was changed")
        audit.record(tx, f"jobs.{change.verb}", person, job=job.id, **details)
        return changed

    return atomically(storage, work)


def plan(
    storage: Storage,
    change: JobChange,
    wanted: JobFilter,
    *,
    most: int | None = None,
    until: Callable[[], bool] | None = None,
) -> ChangePlan:
    """Return which of the matching jobs would be changed. Changes nothing.

    Without statuses in `wanted`, the statuses that the change applies to are used; of the jobs that workers
    hold, only the number is returned. It stops after `most` jobs (default: no limit), counts up to `most`
    jobs that workers hold, and ends as soon as `until` returns True.
    """
    found = ChangePlan()
    if not wanted.statuses and "scheduled" in change.statuses:
        held = sum(1 for _ in islice(matching(storage, replace(wanted, statuses=("processing",))), most))
        if held:
            found.left_out[HELD[held != 1]] = held
    for job in matching(storage, _with_statuses(wanted, change), until=until):
        if most is not None and len(found.jobs) >= most:
            found.complete = False
            break
        reason = change.obstacle(job) or change.left_out(job)
        if reason is None:
            # There may be very many jobs: their content is read again when needed.
            found.jobs.append(replace(job, content="", metadata={}, checkpoint=None))
        else:
            found.left_out[reason] += 1
    if until is not None and until():
        found.complete = False
    return found


def apply_all(
    storage: Storage,
    change: JobChange,
    jobs: Sequence[tuple[int, Job | None]],
    wanted: JobFilter | None,
    person: Person,
    *,
    result: Result | None = None,
    until: Callable[[], bool] | None = None,
) -> Result:
    """Change these jobs one after another, each in its own transaction, and return what was done.

    Each id comes with the job as it was seen: None if there was none. `wanted` is the filter of the plan, so
    that jobs that no longer match are skipped; None for jobs that were named by their ids. It stops before
    the next job when `until` returns True. `result` is updated after each job, so that the caller knows how
    many are done if this raises, for example StorageUnavailable.
    """
    found = Result() if result is None else result
    found.matched = len(jobs)
    meant = None if wanted is None else _with_statuses(wanted, change)
    for id, job in jobs:
        if until is not None and until():
            found.stopped = True
            break
        try:
            if job is None:
                raise NotFound(f"there is no job {id}")
            apply(storage, change, job, person, meant)
            found.done.append(id)
        except (Conflict, NotFound, ClaimLost, InvalidValue) as error:
            found.not_done[id] = str(error)
    return found


def atomically(storage: Storage, work: Callable[[Storage], _T]) -> _T:
    """Run `work` in a transaction, and retry it (5 times at most) after a deadlock."""
    for _ in range(_ATTEMPTS - 1):
        try:
            with storage.transaction() as tx:
                return work(tx)
        except TransactionAborted:
            continue
    with storage.transaction() as tx:
        return work(tx)


def _with_statuses(wanted: JobFilter, change: JobChange) -> JobFilter:
    """The filter, with the statuses that the change applies to unless it names others."""
    return wanted if wanted.statuses else replace(wanted, statuses=change.statuses)


def _claimed(job: Job) -> Conflict:
    return Conflict(f"job {job.id} was claimed meanwhile, and is {job.status}: nothing was changed")
