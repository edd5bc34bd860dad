"""Finds the jobs that a command changes, asks for confirmation, changes them, and prints the result."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from .asking import ask
from .opening import opened
from .output import Output, jsonable, one_line, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assistly.operations.applying import Result
    from assistly.operations.audit import Person
    from assistly.operations.job_changes import JobChange
    from assistly.storage import Job, Storage
    from assistly.views.job_filter import JobFilter

_SHOWN = 20
_WAITING = ("scheduled", "retrying")


@dataclass(frozen=True, slots=True)
class Requested:
    """Which jobs to change: these ids, or those that match the filter.

    With `everything` the filter may be empty.
    """

    ids: list[int]
    filter: JobFilter
    everything: bool = False

    def check(self, change: JobChange) -> None:
        """Raise BadParameter unless the request is clear and the change applies to it."""
        from assistly.views.job_filter import JobFilter

        has_filter = self.filter != JobFilter()
        if self.ids and (has_filter or self.everything):
            raise typer.BadParameter("give ids or filter options, not both")
        if not self.ids and not has_filter and not self.everything:
            raise typer.BadParameter(
                "which jobs? Give an id, or options such as --match, --platform and --status, or --all"
            )
        possible = (*change.statuses, *change.other_statuses)
        for status in self.filter.statuses:
            if status not in possible:
                raise typer.BadParameter(
                    f"a job that is {status} cannot be {change.participle}: --status may be "
                    f"{', '.join(possible)}"
                )


def change_jobs(
    out: Output, change: JobChange, requested: Requested, person: Person, *, yes: bool, dry_run: bool
) -> None:
    """Change the jobs, and print the result. Raises typer.Exit with 1 if not all could be changed."""
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
    """Print the number of jobs by status and platform, and ask."""
    from assistly.views.text import jobs_text

    kinds = sorted(Counter((str(job.status), job.platform) for job in jobs).items())
    out.remark(", ".join(f"{jobs_text(count, status)} on {name}" for (status, name), count in kinds))
    ask(out, f"{change.verb.capitalize()} {what}?", instead="--yes, or --dry-run to look")


def _change_single(
    out: Output, storage: Storage, change: JobChange, id: int, job: Job | None, person: Person
) -> None:
    from assistly.operations.applying import Result, apply
    from assistly.storage import NotFound

    if job is None:
        raise NotFound(f"there is no job {id}")
    changed = apply(storage, change, job, person)
    if out.json:
        document = _document(change, Result(1, [id]), dry_run=False)
        out.document(document | {"job": jsonable(changed)})
    elif changed is None:
        out.say(f"job {id} is {change.participle}")
    elif job.status in _WAITING and changed.status in _WAITING:
        out.say(f"job {id}: {_moved(out, job.due_at, changed.due_at)}")
    elif changed.status in _WAITING:
        out.say(f"job {id} is {changed.status} for {out.time(changed.due_at)}")
    else:
        out.say(f"job {id} is {changed.status}")


def _moved(out: Output, old: datetime, new: datetime) -> str:
    """The old and the new time, and the difference."""
    from assistly.views.text import span

    apart = f"{span(abs(new - old))} {'later' if new > old else 'earlier'}" if new != old else "the same time"
    return f"{out.time(old)} -> {out.time(new)} ({apart})"


def _warn_of_past(out: Output, times: list[datetime | None], now: datetime) -> None:
    count = sum(1 for time in times if time is not None and time < now)
    if count:
        out.remark(f"the new time of {plural(count, 'job')} is in the past: due at once")


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
    from assistly.operations.applying import plan

    began = datetime.now(UTC)
    planned = plan(storage, change, wanted)
    jobs = planned.jobs
    _warn_of_past(out, [change.new_time(job) for job in jobs], began)
    if jobs and not dry_run and not yes:
        _ask(out, change, jobs, plural(len(jobs), "job"))
    _change_all(out, storage, change, [(job.id, job) for job in jobs], wanted, person, dry_run=dry_run)
    for reason, count in planned.left_out.items():
        out.remark(f"{count} skipped: {_with_hint(change, reason)}")


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
    from assistly.operations.applying import Result, apply_all

    result = Result(len(jobs))
    try:
        if dry_run:
            obstacles = ((id, change.obstacle(job)) for id, job in jobs)
            result.not_done = {id: obstacle for id, obstacle in obstacles if obstacle is not None}
        else:
            apply_all(storage, change, jobs, wanted, person, result=result)
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
    result: Result,
    jobs: Sequence[tuple[int, Job | None]],
    *,
    dry_run: bool,
) -> None:
    meant = [id for id, _ in jobs if id not in result.not_done]
    if out.json:
        document = _document(change, result, dry_run=dry_run)
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
        out.say(f"job {id} not changed: {_with_hint(change, reason)}")


def _foreseen(out: Output, change: JobChange, job: Job) -> str:
    """A job, and its new time."""
    text = f"{job.status} {job.platform}"
    new = change.new_time(job)
    if new is not None:
        text += f", {_moved(out, job.due_at, new) if job.status in _WAITING else f'for {out.time(new)}'}"
    return f"{text}: {one_line(job.content)}"


def _with_hint(change: JobChange, reason: str) -> str:
    """Why a job is not changed, and the option that changes it anyway."""
    from assistly.operations.job_changes import HELD, MISSED, UNKNOWN

    hints = {UNKNOWN: "see `assistly jobs resolve`, or --unknown", MISSED: "see --missed"}
    if "processing" in change.other_statuses:
        hints |= dict.fromkeys(HELD, "see --status processing")
    return f"{reason} ({hints[reason]})" if reason in hints else reason


def _document(change: JobChange, result: Result, *, dry_run: bool) -> dict[str, Any]:
    return {
        "action": change.verb,
        "dry_run": dry_run,
        "matched": result.matched,
        "done": result.done,
        "not_done": [{"id": id, "reason": reason} for id, reason in result.not_done.items()],
    }
