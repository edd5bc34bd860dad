"""Counting jobs up to a limit. Waiting jobs are counted without reading their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import islice, pairwise
from typing import Any

from ...records import JobStatus, QueueDepth, TimelineCount
from ..counting import DEAD_LETTERS, DepthCounter, TimelineCounter
from . import keys
from .ordered import OrderedMap, Value
from .rows import job_of_row, platform_of_row

Entries = Iterator[tuple[bytes, Value]]
ReadRow = Callable[[OrderedMap, int], Sequence[Any]]
"""Reads the row of a job."""


def depths(map: OrderedMap, row: ReadRow, limit: int, now: datetime) -> list[QueueDepth]:
    """See `CountingJobs.depths`. Of posted jobs, the newest are counted."""
    found: list[QueueDepth] = []
    counter = DepthCounter(now)
    due = map.scan(keys.JOBS_DUE, keys.JOBS_DUE + keys.END)
    for key, platform in islice(due, limit):
        counter.add_waiting(platform.decode(), _waiting_status(map, key), keys.time_in(key))
    found += counter.rows(exact=_is_empty(due))
    for status in (JobStatus.POSTED, JobStatus.CANCELLED):
        counter = DepthCounter(now)
        entries = _of_status(map, status) if status is JobStatus.CANCELLED else _newest_posted(map)
        for key, _ in islice(entries, limit):
            counter.add_other(platform_of_row(row(map, keys.last_number(key))), status)
        found += counter.rows(exact=_is_empty(entries))
    for status in (JobStatus.PROCESSING, JobStatus.DEAD_LETTER):
        counter = DepthCounter(now)
        entries = _of_status(map, status)
        for key, _ in islice(entries, limit):
            counter.add(job_of_row(row(map, keys.last_number(key))))
        found += counter.rows(exact=_is_empty(entries))
    return found


def timeline(map: OrderedMap, row: ReadRow, edges: Sequence[datetime], limit: int) -> list[TimelineCount]:
    """See `CountingJobs.timeline`. Of posted jobs, the first by (posted_at, id) are counted."""
    waiting, posted = TimelineCounter(edges, limit), TimelineCounter(edges, limit)
    for start, end in pairwise([keys.time(edge) for edge in edges]):
        for key, platform in islice(map.scan(keys.JOBS_DUE + start, keys.JOBS_DUE + end), limit + 1):
            waiting.add(keys.time_in(key), platform.decode(), _waiting_status(map, key))
        for key, _ in islice(map.scan(keys.JOBS_POSTED + start, keys.JOBS_POSTED + end), limit + 1):
            platform = platform_of_row(row(map, keys.last_number(key)))
            posted.add(keys.time_in(key), platform, JobStatus.POSTED)
    dead = TimelineCounter(edges)
    letters = _of_status(map, JobStatus.DEAD_LETTER, reverse=True)
    for key, _ in islice(letters, DEAD_LETTERS):
        job = job_of_row(row(map, keys.last_number(key)))
        dead.add(job.dead_letter_at, job.platform, job.status)
    return [*waiting.rows(), *posted.rows(), *dead.rows(exact=_is_empty(letters))]


def _waiting_status(map: OrderedMap, key: bytes) -> JobStatus:
    """The status of a waiting job, from its entry in JOBS_DUE."""
    is_retrying = map.get(_RETRYING + key[-8:]) is not None
    return JobStatus.RETRYING if is_retrying else JobStatus.SCHEDULED


def _of_status(map: OrderedMap, status: JobStatus, *, reverse: bool = False) -> Entries:
    table = keys.JOBS_BY_STATUS + keys.name(status)
    return map.scan(table, table + keys.END, reverse=reverse)


def _newest_posted(map: OrderedMap) -> Entries:
    return map.scan(keys.JOBS_POSTED, keys.JOBS_POSTED + keys.END, reverse=True)


def _is_empty(entries: Entries) -> bool:
    return next(entries, None) is None


_RETRYING = keys.JOBS_BY_STATUS + keys.name(JobStatus.RETRYING)
