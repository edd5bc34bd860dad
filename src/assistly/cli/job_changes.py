"""Applies one change to one job, to several, or to all that match: each in a transaction with its event."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from . import audit
from .asking import ask
from .opening import opened
from .output import Output, jsonable, one_line, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assistly.storage import Job, Storage
    from assistly.views.job_filter import JobFilter

_T = TypeVar("_T")

_ATTEMPTS = 5
_SHOWN = 20
_WAITING = ("scheduled", "retrying")


@dataclass(frozen=True, slots=True)
class JobChange:
    """What is done with a job.

    `verb` and `participle` name it: cancel, cancelled. `apply` does it on a transaction, to the job as it was
    read, and returns the changed job (None: it is gone) and the details of the event; it raises a
    StorageError if the job does not allow it. `statuses` are those of the jobs that it is for, unless others
    are named; `other_statuses` are those that may be named as well. `refused` says why a job of these
    statuses cannot be changed, and `left_out` why one that matches is not meant (None: it can, and it is).
    `new_time` says when a job will be due, for changes that schedule it (None: now). `loses` says of a job
    that was named by its id whether to ask first, since the change loses a post that is still to come.
    """

    verb: str
    participle: str
    apply: Callable[[Storage, Job], tuple[Job | None, dict[str, Any]]]
    statuses: tuple[str, ...]
    other_statuses: tuple[str, ...] = ()
    refused: Callable[[Job], str | None] = lambda _: None
    left_out: Callable[[Job], str | None] = lambda _: None
    new_time: Callable[[Job], datetime | None] = lambda _: None
    loses: Callable[[Job], bool] = lambda _: False

    def obstacle(self, job: Job | None) -> str | None:
        """Why it cannot be done, as far as that is known before (None: it can)."""
        if job is None:
            return "there is no such job"
        if job.status not in (*self.statuses, *self.other_statuses):
            return f"it is {job.status}"
        return self.refused(job)


@dataclass(frozen=True, slots=True)
class Person:
    """Who does it, and why: for the event."""

    by: str | None
    note: str | None


@dataclass(slots=True)
class _Result:
    matched: int
    done: list[int] = field(default_factory=list)
    not_done: dict[int, str] = field(default_factory=dict)

    def document(self, change: JobChange, *, dry_run: bool) -> dict[str, Any]:
        return {
            "action": change.verb,
            "dry_run": dry_run,
            "matched": self.matched,
            "done": self.done,
            "not_done": [{"id": id, "reason": reason} for id, reason in self.not_done.items()],
        }


@dataclass(frozen=True, slots=True)
class Requested:
    """Which jobs are meant: these ids, or those that the filter accepts.

    With `everything` the filter may be empty.
    """

    ids: list[int]
    filter: JobFilter
    everything: bool = False

    def check(self, change: JobChange) -> None:
        """Raise BadParameter unless it is clear what is meant, and the change is for it."""
        from assistly.views.job_filter import JobFilter

        has_filter = self.filter != JobFilter()
        if self.ids and (has_filter or self.everything):
            raise typer.BadParameter("give ids, or filter options, but not both")
        if not self.ids and not has_filter and not self.everything:
            raise typer.BadParameter(
                "which jobs? Give an id, or options such as --match, --platform and --status, or --all"
            )
        possible = (*change.statuses, *change.other_statuses)
        for status in self.filter.statuses:
            if status not in possible:
                raise typer.BadParameter(
                    f"no job that is {status} can be {change.participle}: --status may be "
                    f"{', '.join(possible)}"
                )


def change_jobs(
    out: Output, change: JobChange, requested: Requested, person: Person, *, yes: bool, dry_run: bool
) -> None:
    """Do it, and print what was done. Raises typer.Exit with 1 if not all could be done."""
    requested.check(change)
    began = datetime.now(UTC)
    with opened(out) as storage:
        if requested.ids:
            named = [(id, storage.queue.get(id)) for id in dict.fromkeys(requested.ids)]
            possible = [job for _, job in named if job is not None and change.obstacle(job) is None]
            _warn_of_past(out, [change.new_time(job) for job in possible], began)
            lost = [job for job in possible if change.loses(job)]
            if lost and not dry_run and not yes:
                _ask(out, change, lost, f"{plural(len(lost), 'job')} whose post is still to come")
            if len(requested.ids) == 1 and not dry_run:
                _change_single(out, storage, change, *named[0], person)
            else:
                _change_all(out, storage, change, named, None, person, dry_run=dry_run)
        else:
            _change_matching(out, storage, change, requested.filter, person, yes=yes, dry_run=dry_run)


def _ask(out: Output, change: JobChange, jobs: list[Job], what: str) -> None:
    """Say how many of which status and platform these are, and ask."""
    kinds = Counter(f"{job.status} on {job.platform}" for job in jobs)
    out.remark(", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items())))
    ask(out, f"{change.verb.capitalize()} {what}?", instead="--yes, or --dry-run to look")


def _change_single(
    out: Output, storage: Storage, change: JobChange, id: int, job: Job | None, person: Person
) -> None:
    from assistly.storage import NotFound

    if job is None:
        raise NotFound(f"there is no job {id}")
    changed = apply(storage, change, job, person)
    if out.json:
        result = _Result(1, [id]).document(change, dry_run=False)
        out.document(result | {"job": jsonable(changed)})
    elif changed is None:
        out.say(f"job {id} is {change.participle}")
    elif job.status in _WAITING and changed.status in _WAITING:
        out.say(f"job {id}: {_moved(out, job.due_at, changed.due_at)}")
    elif changed.status in _WAITING:
        out.say(f"job {id} is {changed.status} for {out.time(changed.due_at)}")
    else:
        out.say(f"job {id} is {changed.status}")


def _moved(out: Output, old: datetime, new: datetime) -> str:
    """The old and the new time, and how far these are apart."""
    from assistly.views.jobs import span

    apart = f"{span(abs(new - old))} {'later' if new > old else 'earlier'}" if new != old else "the same time"
    return f"{out.time(old)} -> {out.time(new)} ({apart})"


def _warn_of_past(out: Output, times: list[datetime | None], now: datetime) -> None:
    count = sum(1 for time in times if time is not None and time < now)
    if count:
        out.remark(f"the new time of {plural(count, 'job')} is over already, so due at once")


def _change_matching(
    out: Output,
    storage: Storage,
    change: JobChange,
    wanted: JobFilter,
    person: Person,
    *,
    yes: bool,
    dry_run: bool,
) -> None:
    from dataclasses import replace

    from assistly.views.job_filter import matching

    left_out: Counter[str] = Counter()
    if not wanted.statuses:
        if "scheduled" in change.statuses:
            held = sum(1 for _ in matching(storage, replace(wanted, statuses=("processing",))))
            if held:
                hint = " (see --status processing)" if "processing" in change.other_statuses else ""
                left_out[f"a worker holds {'it' if held == 1 else 'them'}{hint}"] = held
        wanted = replace(wanted, statuses=change.statuses)
    began = datetime.now(UTC)
    new_times: list[datetime | None] = []
    seen: list[Job] = []
    for job in matching(storage, wanted):
        reason = change.obstacle(job) or change.left_out(job)
        if reason is None:
            new_times.append(change.new_time(job))
            # The content is read again when it is needed: there may be very many.
            seen.append(replace(job, content="", metadata={}, checkpoint=None))
        else:
            left_out[reason] += 1
    _warn_of_past(out, new_times, began)
    if seen and not dry_run and not yes:
        _ask(out, change, seen, plural(len(seen), "job"))
    _change_all(out, storage, change, [(job.id, job) for job in seen], wanted, person, dry_run=dry_run)
    for reason, count in left_out.items():
        out.remark(f"{count} left out: {reason}")


def _change_all(
    out: Output,
    storage: Storage,
    change: JobChange,
    jobs: Sequence[tuple[int, Job | None]],
    wanted: JobFilter | None,
    person: Person,
    *,
    dry_run: bool,
) -> None:
    from assistly.storage import ClaimLost, Conflict, InvalidValue, NotFound

    result = _Result(len(jobs))
    try:
        for id, job in jobs:
            if dry_run:
                obstacle = change.obstacle(job)
                if obstacle is not None:
                    result.not_done[id] = obstacle
                continue
            try:
                if job is None:
                    raise NotFound(f"there is no job {id}")
                apply(storage, change, job, person, wanted)
                result.done.append(id)
            except (Conflict, NotFound, ClaimLost, InvalidValue) as error:
                result.not_done[id] = str(error)
    except BaseException:
        out.remark(f"stopped: {plural(len(result.done), 'job')} of {len(jobs)} {change.participle} before")
        raise
    _print_result(out, storage, change, result, jobs, dry_run=dry_run)
    if result.not_done:
        raise typer.Exit(1)


def _print_result(
    out: Output,
    storage: Storage,
    change: JobChange,
    result: _Result,
    jobs: Sequence[tuple[int, Job | None]],
    *,
    dry_run: bool,
) -> None:
    meant = [id for id, _ in jobs if id not in result.not_done]
    if out.json:
        document = result.document(change, dry_run=dry_run)
        if dry_run:
            document["jobs"] = meant
        out.document(document)
        return
    if dry_run:
        out.say(f"{plural(len(meant), 'job')} would be {change.participle}")
        for id in meant[:_SHOWN]:
            job = storage.queue.get(id)
            out.say(f"job {id} {'is gone' if job is None else _foreseen(out, change, job)}")
        if len(meant) > _SHOWN:
            out.say(f"and {len(meant) - _SHOWN:,} more")
    else:
        out.say(f"{plural(len(result.done), 'job')} {change.participle}")
    for id, reason in result.not_done.items():
        out.say(f"job {id} not: {reason}")


def _foreseen(out: Output, change: JobChange, job: Job) -> str:
    """A job, and the time that it would get."""
    text = f"{job.status} {job.platform}"
    new = change.new_time(job)
    if new is not None:
        text += f", {_moved(out, job.due_at, new) if job.status in _WAITING else f'for {out.time(new)}'}"
    return f"{text}: {one_line(job.content)}"


def apply(
    storage: Storage, change: JobChange, seen: Job, person: Person, wanted: JobFilter | None = None
) -> Job | None:
    """Do it with the event, both or neither, unless the job was changed meanwhile in a way that matters.

    Raises Conflict if a worker claimed it since it was `seen`, or it does not match `wanted` any more.
    """
    from assistly.storage import Conflict, NotFound

    def work(tx: Storage) -> Job | None:
        job = tx.queue.get(seen.id)
        if job is None:
            raise NotFound(f"there is no job {seen.id} any more")
        if job.claim != seen.claim:
            raise Conflict(f"job {job.id} was claimed meanwhile, and is {job.status}: nothing was changed")
        if wanted is not None and not wanted.accepts(job):
            raise Conflict(f"job {job.id} was changed meanwhile, and does not match any more")
        changed, details = change.apply(tx, job)
        if changed is not None and changed.claim != job.claim:
            raise Conflict(f"job {job.id} was claimed meanwhile: nothing was changed")
        audit.record(tx, f"jobs.{change.verb}", by=person.by, note=person.note, job=job.id, **details)
        return changed

    return atomically(storage, work)


def atomically(storage: Storage, work: Callable[[Storage], _T]) -> _T:
    """Run `work` in a transaction, and again (5 times at most) after a deadlock."""
    from assistly.storage import TransactionAborted

    for _ in range(_ATTEMPTS - 1):
        try:
            with storage.transaction() as tx:
                return work(tx)
        except TransactionAborted:
            continue
    with storage.transaction() as tx:
        return work(tx)
