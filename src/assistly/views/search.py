"""Searches jobs, newest first, a bounded number at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from assistly.storage import Job, Storage

    from .job_filter import JobFilter

T = TypeVar("T")

_LARGEST_PAGE = 1000
_MOST_PAGES = 30


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """The records that a search has found, newest first.

    `before` continues the search (None: it is complete). `searched_all` is False if the search stopped at its
    limit of records to examine before it had found the requested number.
    """

    items: list[T]
    before: int | None
    searched_all: bool


def newest(
    storage: Storage, wanted: JobFilter, *, before: int | None = None, limit: int = 50, most: int = 5000
) -> Found[Job]:
    """Return up to `limit` matching jobs with ids below `before` (None: all), by descending id.

    Examines about `most` jobs.
    """
    if wanted.key is not None:
        job = storage.queue.find_by_key(wanted.key)
        return Found([job] if job is not None and wanted.accepts(job) else [], None, searched_all=True)
    return _Search(storage, wanted, limit, most).run(before)


class _Search:
    """Reads the jobs before an id in windows, which grow where ids are sparse."""

    def __init__(self, storage: Storage, wanted: JobFilter, limit: int, most: int) -> None:
        self._storage = storage
        self._wanted = wanted
        self._limit = limit
        self._most = most
        self._status = wanted.statuses[0] if len(wanted.statuses) == 1 else None
        self._found: list[Job] = []

    def run(self, before: int | None) -> Found[Job]:
        top = highest_id(self._storage) + 1 if before is None else before
        width, looked_at = 2 * self._limit, 0
        for _ in range(_MOST_PAGES):
            low = max(0, top - 1 - width)
            page = self._page(low)
            if len(page) == _LARGEST_PAGE and page[-1].id < top - 1:
                # This window has more jobs than fit in a page.
                width = max(_LARGEST_PAGE, width // 4)
                continue
            page = [job for job in page if job.id < top]
            looked_at += len(page)
            for job in reversed(page):
                if self._wanted.accepts(job):
                    self._found.append(job)
                    if len(self._found) == self._limit:
                        return Found(self._found, job.id, searched_all=True)
            top = low + 1
            if low == 0:
                return Found(self._found, None, searched_all=True)
            if looked_at >= self._most:
                break
            width = width * 4 if len(page) < _LARGEST_PAGE // 4 else _LARGEST_PAGE
        return Found(self._found, top, searched_all=False)

    def _page(self, after: int) -> list[Job]:
        return self._storage.queue.list(
            status=self._status, platform=self._wanted.platform, after=after, limit=_LARGEST_PAGE
        )


def highest_id(storage: Storage) -> int:
    """The highest id of a job; 0 if there is none. Takes about fifty short reads at most."""
    low, step = 0, 1
    while found := storage.queue.list(after=low + step - 1, limit=1):
        low, step = found[0].id, step * 2
    # No id is above low + step - 1.
    while step > 1:
        step //= 2
        found = storage.queue.list(after=low + step - 1, limit=1)
        if found:
            low = found[0].id
            step *= 2
    return low
