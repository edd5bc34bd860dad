"""The state of a whole storage: numbers of jobs, what is late, and what needs a person."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from assistly.storage.engine.counting import FIRST_OF_GROUP
from assistly.storage.records import JobStatus

from .jobs import COUNT_LIMIT, GRACE, workers_seen
from .text import span

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from assistly.storage import Job, Platform, QueueDepth, Storage, WorkerLock

_PAGE = 500
_SHOWN = 10
_DEAD_LETTERS = 1000
_LETTERS_AT_ONCE = 100
WAITING_TRUNCATED = (
    f"More than {COUNT_LIMIT:,} jobs wait: only the first {COUNT_LIMIT:,} are counted, and platforms may be "
    "missing here."
)
"""The remark if not all waiting jobs were counted."""

_ORDER = [*(status for status in JobStatus if status is not JobStatus.POSTED), JobStatus.POSTED]


@dataclass(frozen=True, slots=True)
class JobCount:
    """A number of jobs or approvals. If not `exact`, counting stopped: there are at least that many."""

    count: int
    exact: bool = True


@dataclass(frozen=True, slots=True)
class PlatformState:
    """A platform that has jobs, a pause or a limit.

    `counts` is by status. `due` counts the waiting jobs that are due; `oldest_due_at` is when the first of
    them became due (None: none is due). `available` is how many jobs the limit allows now (None: no limit).
    `worker_seen` is None if it does not matter: no job has been due for a minute, or the platform is paused.
    """

    name: str
    counts: dict[str, JobCount]
    due: JobCount
    oldest_due_at: datetime | None
    paused: bool
    paused_until: datetime | None
    pause_reason: str | None
    paused_by: str | None
    limit: tuple[int, timedelta] | None
    available: int | None
    worker_seen: bool | None


@dataclass(frozen=True, slots=True)
class StorageStatus:
    """The state of a storage at `at`.

    The jobs of each status and the pending approvals are counted up to 10,000, scheduled and retrying jobs
    together. If `waiting_truncated`, there are more of these: a platform whose jobs all come later is missing
    unless it has a schedule or was ever paused or limited, and `retrying` may list jobs that no platform
    counts. On platforms that are not paused, among the first 10,000 waiting jobs, `oldest_due_age` is how
    long the first due job has waited (None: none is due), and `next_due_at` is when the next one becomes due.
    `dead_letters` does not count `missed` jobs and unknown outcomes; `expired_leases` counts jobs that
    workers did not settle in time. `retrying` and `unknown` hold up to 10 jobs that are retrying or have an
    unknown outcome, the latter among 1,000 dead letters. `locks` are the held ones, by name (if the engine
    cannot list them, the lock `worker`). `sizes` are the bytes by table or file, the largest first, and
    `size_bytes` is the sum (None: the engine does not know).
    """

    at: datetime
    ping: timedelta
    counts: dict[str, JobCount]
    waiting_truncated: bool
    next_due_at: datetime | None
    oldest_due_age: timedelta | None
    platforms: list[PlatformState]
    without_worker: list[str]
    retrying: list[Job]
    unknown_count: JobCount
    unknown: list[Job]
    dead_letters: JobCount
    missed: JobCount
    expired_leases: JobCount
    pending_approvals: JobCount
    locks: list[WorkerLock]
    size_bytes: int | None
    sizes: dict[str, int]


class Depths:
    """The numbers of jobs by platform and status: the sums of `queue.depths`."""

    def __init__(self, rows: Iterable[QueueDepth], now: datetime) -> None:
        self._rows = {(row.platform, row.status): row for row in rows}
        self._now = now
        self._cut = {FIRST_OF_GROUP[row.status] for row in self._rows.values() if not row.exact}

    @property
    def rows(self) -> Iterable[QueueDepth]:
        """The counted rows."""
        return self._rows.values()

    @property
    def names(self) -> set[str]:
        """The platforms of the counted jobs."""
        return {platform for platform, _ in self._rows}

    @property
    def waiting_truncated(self) -> bool:
        """Whether there are more waiting jobs than were counted."""
        return not self._is_exact(JobStatus.SCHEDULED)

    def total(self, status: JobStatus) -> JobCount:
        """How many jobs of all platforms have a status."""
        return JobCount(sum(row.count for row in self._of(status)), self._is_exact(status))

    def count(self, platform: str, status: JobStatus) -> JobCount:
        """How many jobs of a platform have a status."""
        row = self._rows.get((platform, status))
        return JobCount(0 if row is None else row.count, self._is_exact(status))

    def counts(self, platform: str) -> dict[str, JobCount]:
        """The numbers of jobs of a platform by status, without zeros."""
        return {
            str(row.status): self.count(platform, row.status)
            for row in sorted(self.rows, key=lambda row: row.status)
            if row.platform == platform
        }

    def due(self, platform: str) -> JobCount:
        """How many jobs of a platform are due."""
        # Due jobs are counted first: if any other job was counted, all of them were.
        is_exact = self._is_exact(JobStatus.SCHEDULED) or any(row.next_due_at for row in self.rows)
        return JobCount(sum(row.due for row in self._waiting(platform)), is_exact)

    def oldest_due_at(self, platform: str) -> datetime | None:
        """When the first due job of a platform became due."""
        times = (row.oldest_due_at for row in self._waiting(platform))
        return min((time for time in times if time is not None), default=None)

    def is_held(self, platform: str) -> bool:
        """Whether a job of a platform is held under a current lease."""
        row = self._rows.get((platform, JobStatus.PROCESSING))
        return row is not None and row.count > row.expired

    def unknown_count(self) -> JobCount:
        """How many outcomes are unknown."""
        return self._of_dead_letters(lambda row: row.unknown)

    def missed_count(self) -> JobCount:
        """How many jobs were missed."""
        return self._of_dead_letters(lambda row: row.missed)

    def dead_count(self) -> JobCount:
        """How many dead letters are neither missed nor have an unknown outcome."""
        return self._of_dead_letters(lambda row: row.count - row.unknown - row.missed)

    def expired_count(self) -> JobCount:
        """How many jobs are held under an expired lease."""
        count = sum(row.expired for row in self._of(JobStatus.PROCESSING))
        return JobCount(count, self._is_exact(JobStatus.PROCESSING))

    def oldest_due_age(self, paused: Collection[str]) -> timedelta | None:
        """How long the first due job has waited, not counting these platforms."""
        times = [row.oldest_due_at for row in self.rows if row.oldest_due_at and row.platform not in paused]
        return self._now - min(times) if times else None

    def next_due_at(self, paused: Collection[str]) -> datetime | None:
        """When the next job becomes due, not counting due jobs and these platforms."""
        times = (row.next_due_at for row in self.rows if row.platform not in paused)
        return min((time for time in times if time is not None), default=None)

    def _is_exact(self, status: JobStatus) -> bool:
        return FIRST_OF_GROUP[status] not in self._cut

    def _of(self, status: JobStatus) -> Iterator[QueueDepth]:
        return (row for row in self.rows if row.status is status)

    def _waiting(self, platform: str) -> Iterator[QueueDepth]:
        found = (self._rows.get((platform, status)) for status in (JobStatus.SCHEDULED, JobStatus.RETRYING))
        return (row for row in found if row is not None)

    def _of_dead_letters(self, count: Callable[[QueueDepth], int]) -> JobCount:
        letters = self._of(JobStatus.DEAD_LETTER)
        return JobCount(sum(map(count, letters)), self._is_exact(JobStatus.DEAD_LETTER))


def status(storage: Storage, *, now: datetime | None = None) -> StorageStatus:
    """Read the state of a storage. `now` is the current time (default: that of this machine)."""
    at = now or datetime.now(UTC)
    ping = timedelta(seconds=storage.ping())
    depths = read_depths(storage, at)
    known = {platform.name: platform for platform in storage.platforms.list(now=at)}
    names = depths.names | {name for name, found in known.items() if found.paused or found.limit}
    if depths.waiting_truncated:
        names |= known.keys() | schedule_platforms(storage)
    paused = {name for name, found in known.items() if found.paused}
    seen = _workers_seen(storage, depths, names - paused, at)
    platforms = [
        _platform(storage, name, known.get(name), depths, seen.get(name), at) for name in sorted(names)
    ]
    retrying = _retrying(storage, depths)
    sizes = sorted(storage.sizes().items(), key=lambda item: (-item[1], item[0]))
    return StorageStatus(
        at=at,
        ping=ping,
        counts=_totals(depths, len(retrying)),
        waiting_truncated=depths.waiting_truncated,
        next_due_at=depths.next_due_at(paused),
        oldest_due_age=depths.oldest_due_age(paused),
        platforms=platforms,
        without_worker=[platform.name for platform in platforms if platform.worker_seen is False],
        retrying=retrying,
        unknown_count=depths.unknown_count(),
        unknown=_unknown_jobs(storage, depths),
        dead_letters=depths.dead_count(),
        missed=depths.missed_count(),
        expired_leases=depths.expired_count(),
        pending_approvals=_pending_approvals(storage),
        locks=_held_locks(storage),
        size_bytes=sum(size for _, size in sizes) if sizes else None,
        sizes=dict(sizes),
    )


def _totals(depths: Depths, retrying: int) -> dict[str, JobCount]:
    """The jobs by status. `retrying` jobs are known, even if they come after the counted ones."""
    counts = {str(status): depths.total(status) for status in _ORDER}
    found = counts["retrying"]
    if not found.exact:
        counts["retrying"] = JobCount(max(found.count, retrying), exact=False)
    return counts


def _pending_approvals(storage: Storage) -> JobCount:
    count, before = 0, None
    while page := storage.approvals.list(status="pending", before=before, limit=_PAGE):
        count += len(page)
        before = page[-1].id
        if count >= COUNT_LIMIT:
            return JobCount(COUNT_LIMIT, exact=False)
    return JobCount(count)


def _held_locks(storage: Storage) -> list[WorkerLock]:
    from assistly.storage import ConfigurationError

    try:
        return storage.lock.list()
    except ConfigurationError:
        lock = storage.lock.current()
        return [] if lock is None else [lock]


def read_depths(storage: Storage, now: datetime) -> Depths:
    """Count the jobs of each status by platform, up to COUNT_LIMIT."""
    return Depths(storage.queue.depths(limit=COUNT_LIMIT, now=now), now)


def _retrying(storage: Storage, depths: Depths) -> list[Job]:
    count = depths.total(JobStatus.RETRYING)
    if count.exact and not count.count:
        return []
    return storage.queue.list(status="retrying", limit=_SHOWN)


def _unknown_jobs(storage: Storage, depths: Depths) -> list[Job]:
    """The first jobs of each platform with an unknown outcome, except those after many dead letters."""
    found: list[Job] = []
    left = _DEAD_LETTERS
    for row in depths.rows:
        # All of them are among the counted dead letters: reading further could take long.
        unread, missing, after = row.count, min(row.unknown, _SHOWN), 0
        while missing > 0 and unread > 0 and left > 0:
            limit = min(unread, left, _LETTERS_AT_ONCE)
            page = storage.queue.list(status="dead_letter", platform=row.platform, after=after, limit=limit)
            if not page:
                break
            unknown = [job for job in page if job.outcome_unknown][:missing]
            found += unknown
            missing -= len(unknown)
            unread -= len(page)
            left -= len(page)
            after = page[-1].id
    return sorted(found, key=lambda job: job.id)[:_SHOWN]


def _workers_seen(
    storage: Storage, depths: Depths, platforms: Iterable[str], now: datetime
) -> dict[str, bool]:
    """Whether a worker was seen on each of the platforms where a job has been due for GRACE."""
    late: list[str] = []
    for name in platforms:
        due_at = depths.oldest_due_at(name)
        if due_at is not None and now - due_at >= GRACE:
            late.append(name)
    near = {
        name: first[0].id
        for name in late
        if not depths.is_held(name) and (first := storage.queue.upcoming(platform=name, limit=1))
    }
    seen = workers_seen(storage, near, now=now) if near else set()
    return {name: name not in near or name in seen for name in late}


def _platform(
    storage: Storage,
    name: str,
    found: Platform | None,
    depths: Depths,
    worker_seen: bool | None,
    now: datetime,
) -> PlatformState:
    return PlatformState(
        name=name,
        counts=depths.counts(name),
        due=depths.due(name),
        oldest_due_at=depths.oldest_due_at(name),
        paused=found is not None and found.paused,
        paused_until=None if found is None else found.paused_until,
        pause_reason=None if found is None else found.reason,
        paused_by=None if found is None else found.by,
        limit=None if found is None else found.limit,
        available=None if found is None else storage.platforms.available(name, now=now),
        worker_seen=worker_seen,
    )


def due_text(platform: PlatformState, now: datetime) -> str:
    """How many jobs of a platform are due, and how long: "2 jobs are due, the first for 2 h"."""
    age = span(None if platform.oldest_due_at is None else now - platform.oldest_due_at)
    if platform.due == JobCount(1):
        return f"1 job has been due for {age}"
    return f"{platform.due.count:,}{'' if platform.due.exact else '+'} jobs are due, the first for {age}"


def platform_names(storage: Storage) -> set[str]:
    """The platforms of jobs, schedules, pauses and limits.

    Examines 10,000 jobs of each status, and 1,000 schedules.
    """
    names = read_depths(storage, datetime.now(UTC)).names
    names |= {platform.name for platform in storage.platforms.list()}
    return names | schedule_platforms(storage)


def schedule_platforms(storage: Storage) -> set[str]:
    """The platforms of the first 1,000 schedules."""
    return {schedule.platform for schedule in storage.schedules.list(limit=1000)}


def of_status(storage: Storage, name: str) -> Iterator[Job]:
    """Yield all jobs with a status, by id. Reads a page at a time."""
    after = 0
    while page := storage.queue.list(status=name, after=after, limit=_PAGE):
        yield from page
        after = page[-1].id
