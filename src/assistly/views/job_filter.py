"""Filters of jobs, and reading all jobs that match."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import merge
from typing import TYPE_CHECKING

from .jobs import COUNT_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from assistly.storage import Job, Storage

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class JobFilter:
    """A filter of jobs. None accepts any value.

    `statuses`: one of these. `due_until`: waiting, and due then or earlier. `since`: changed then or later.
    `match`: the content contains this text, ignoring case. `key`: has this idempotency key. `kind`: a dead
    letter that is "unknown" (with an unknown outcome), "missed", or "other". `text`: this text is in the
    content, metadata, checkpoint, an error, the key or the id on the platform, ignoring case.
    """

    statuses: tuple[str, ...] = ()
    platform: str | None = None
    due_until: datetime | None = None
    since: datetime | None = None
    match: str | None = None
    key: str | None = None
    kind: str | None = None
    text: str | None = None

    def accepts(self, job: Job) -> bool:
        """Whether the job matches."""
        return (
            (not self.statuses or job.status in self.statuses)
            and (self.platform is None or job.platform == self.platform)
            and (self.due_until is None or (_waits(job) and job.due_at <= self.due_until))
            and (self.since is None or job.updated_at >= self.since)
            and (self.match is None or self.match.casefold() in job.content.casefold())
            and (self.key is None or job.idempotency_key == self.key)
            and (self.kind is None or self.kind == kind_of(job))
            and (self.text is None or self.text.casefold() in _all_text(job).casefold())
        )


def _all_text(job: Job) -> str:
    """Everything in a job that can be searched, one item per line."""
    import json

    values = [job.content, job.idempotency_key, job.remote_id, job.last_error, job.dead_letter_reason]
    values += [json.dumps(value, ensure_ascii=False) for value in (job.metadata, job.checkpoint) if value]
    values += [attempt.error for attempt in job.attempts]
    return "\n".join(value for value in values if value)


KINDS = ("unknown", "missed", "other")
"""The kinds of dead letters that a filter distinguishes."""


def kind_of(job: Job) -> str | None:
    """The kind of a dead letter; None for other jobs."""
    if job.status != "dead_letter":
        return None
    return "unknown" if job.outcome_unknown else "missed" if job.missed else "other"


def _waits(job: Job) -> bool:
    return job.status in ("scheduled", "retrying")


def matching(
    storage: Storage, wanted: JobFilter, *, after: int = 0, until: Callable[[], bool] | None = None
) -> Iterator[Job]:
    """Yield all matching jobs with an id above `after`, by id. Reads a page at a time.

    Ends as soon as `until` returns True; it is called for each job that is read.
    """
    if wanted.key is not None:
        job = storage.queue.find_by_key(wanted.key)
        found: Iterable[Job] = [] if job is None or job.id <= after else [job]
    elif _are_few(storage, wanted.statuses):
        by_status = [_pages(storage, status, wanted.platform, after) for status in set(wanted.statuses)]
        found = merge(*by_status, key=lambda job: job.id)
    else:
        found = _pages(storage, None, wanted.platform, after)
    last = after
    for job in found:
        if until is not None and until():
            return
        # A job whose status changes meanwhile may be read twice.
        if job.id > last and wanted.accepts(job):
            last = job.id
            yield job


def _are_few(storage: Storage, statuses: tuple[str, ...]) -> bool:
    """Whether it is faster to read the jobs with these statuses than to read all jobs.

    The cost of a page of one status grows with the number of its jobs.
    """
    if not statuses or "posted" in statuses:
        return False
    depths = [depth for depth in storage.queue.depths(limit=COUNT_LIMIT) if depth.status in statuses]
    return all(depth.exact for depth in depths)


def _pages(storage: Storage, status: str | None, platform: str | None, after: int) -> Iterator[Job]:
    while page := storage.queue.list(status=status, platform=platform, after=after, limit=_PAGE):
        yield from page
        after = page[-1].id


def falling_due(storage: Storage, wanted: JobFilter, *, after: Job | None = None) -> Iterator[Job]:
    """Yield all matching waiting jobs, by (due_at, id), after `after`."""
    while True:
        page = storage.queue.upcoming(
            until=wanted.due_until, platform=wanted.platform, after=after, limit=_PAGE
        )
        yield from (job for job in page if wanted.accepts(job))
        if len(page) < _PAGE:
            return
        after = page[-1]
