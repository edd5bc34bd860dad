"""Applies one change to one job, or to all that match: each in a transaction with its event."""

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

    `jobs` have no content, metadata and checkpoint, since there may be very many. `left_out` counts the jobs
    that match and would not be changed, by the reason. `complete` is False if there are more that match.
    """

    jobs: list[Job] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    complete: bool = True


@dataclass(slots=True)
class Result:
    """What a change of `matched` jobs has done so far.

    `done` are the ids of the jobs that are changed. `not_done` says by the id why one is not. `stopped` is
    whether it ended before the last of the jobs, and the rest was not tried.
    """

    matched: int = 0
    done: list[int] = field(default_factory=list)
    not_done: dict[int, str] = field(default_factory=dict)
    stopped: bool = False


def change_job(
    storage: Storage, change: JobChange, id: int, person: Person, *, seen: int | None = None
) -> Job | None:
    """Change the job of this id, and return it as it is then (None: it is gone).

    `seen` is the claim number of the job that the person decided on (default: the one that is stored now).
    Raises NotFound if there is no such job, Conflict if a worker claimed it since it was seen, and what
    `apply` raises.
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
    """Do it with the event, both or neither, unless the job was changed meanwhile in a way that matters.

    Raises Conflict if a worker claimed it since it was `seen`, or it does not match `wanted` any more;
    NotFound if it is gone; and a StorageError (Conflict, NotFound, ClaimLost or InvalidValue) if the job does
    not allow the change.
    """

    def work(tx: Storage) -> Job | None:
        job = tx.queue.get(seen.id)
        if job is None:
            raise NotFound(f"there is no job {seen.id} any more")
        if job.claim != seen.claim:
            raise _claimed(job)
        if wanted is not None and not wanted.accepts(job):
            raise Conflict(f"job {job.id} was changed meanwhile, and does not match any more")
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
    """Return which of the jobs that match would be changed. Nothing is changed.

    Without statuses in `wanted`, those are meant that the change is for; of the jobs that workers hold it
    says only how many are left out. It stops after `most` jobs (default: none), counts up to `most` jobs
    that workers hold, and ends as soon as `until` is true.
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
            # The content is read again when it is needed: there may be very many.
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
    """Change these jobs one after another, each in a transaction of its own, and return what was done.

    A job is given with its id, as it was seen: None if there was none. `wanted` is the filter of the plan, so
    that jobs that do not match any more are left alone; None for jobs that were named by their ids. It stops
    before the next job when `until` returns True. `result` is filled as it goes, for a caller that has to
    know how many are done if this raises, such as StorageUnavailable.
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
    """Run `work` in a transaction, and again (5 times at most) after a deadlock."""
    for _ in range(_ATTEMPTS - 1):
        try:
            with storage.transaction() as tx:
                return work(tx)
        except TransactionAborted:
            continue
    with storage.transaction() as tx:
        return work(tx)


def _with_statuses(wanted: JobFilter, change: JobChange) -> JobFilter:
    """The filter, with the statuses that the change is for unless it names others."""
    return wanted if wanted.statuses else replace(wanted, statuses=change.statuses)


def _claimed(job: Job) -> Conflict:
    return Conflict(f"job {job.id} was claimed meanwhile, and is {job.status}: nothing was changed")
