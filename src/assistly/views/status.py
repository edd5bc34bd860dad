"""The state of a whole storage: how many jobs there are, what is late, and what needs a person."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from .jobs import COUNT_LIMIT, GRACE, worker_seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assistly.storage import Job, Platform, Storage, WorkerLock

_PAGE = 500
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class JobCount:
    """A number of jobs. If it is not `exact`, counting stopped there: there are at least so many."""

    count: int
    exact: bool = True


@dataclass(frozen=True, slots=True)
class PlatformState:
    """A platform that has jobs, a pause or a limit.

    `counts` is by status. `due` counts the waiting jobs whose time has come; `oldest_due_at` is when the
    first of them fell due (None: none is due). `available` is how many jobs the limit lets through now (None:
    no limit). `worker_seen` is None where that does not matter: no job has been due for a minute, or the
    platform is paused.
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

    Posted jobs are counted up to 10,000, and so are the jobs of each status by platform: a platform whose
    jobs all come behind these is missing. `oldest_due_age` is for how long the first due job has waited
    (None: none is due), `next_due_at` when the first waiting job falls due or fell due. `retrying` and
    `unknown` hold the first 10 jobs that are retried, and whose outcome is unknown. `locks` are those that
    are held, by name (of an engine that can list none, the lock `worker`). `sizes` are the bytes by table or
    file, the largest first, and `size_bytes` is the sum (None: the engine does not know).
    """

    at: datetime
    ping: timedelta
    counts: dict[str, JobCount]
    next_due_at: datetime | None
    oldest_due_age: timedelta | None
    platforms: list[PlatformState]
    without_worker: list[str]
    retrying: list[Job]
    unknown_count: JobCount
    unknown: list[Job]
    locks: list[WorkerLock]
    size_bytes: int | None
    sizes: dict[str, int]


class Tally:
    """Counts jobs by platform and status as they are read, up to COUNT_LIMIT of each status."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._counts: dict[str, Counter[str]] = {}
        self._due: Counter[str] = Counter()
        self._cut: set[str] = set()
        self.oldest: dict[str, Job] = {}
        self.unknown: list[Job] = []
        self.unknown_seen = 0

    def read(self, jobs: Iterator[Job], *statuses: str) -> int:
        """Count up to COUNT_LIMIT of the jobs, which have one of these statuses; return how many."""
        count = 0
        for count, job in enumerate(jobs, 1):
            self._add(job)
            if count == COUNT_LIMIT:
                self._cut |= {*statuses}
                break
        return count

    def _add(self, job: Job) -> None:
        self._counts.setdefault(job.platform, Counter())[str(job.status)] += 1
        if job.status in ("scheduled", "retrying") and job.due_at <= self._now:
            self._due[job.platform] += 1
            self.oldest.setdefault(job.platform, job)
        if job.outcome_unknown:
            self.unknown_seen += 1
            if len(self.unknown) < _SHOWN:
                self.unknown.append(job)

    def count(self, platform: str, status: str) -> JobCount:
        """The jobs of a platform that have a status."""
        return JobCount(self._counts[platform][status], status not in self._cut)

    @property
    def names(self) -> set[str]:
        """The platforms of the jobs that were counted."""
        return {*self._counts}

    def counts(self, platform: str) -> dict[str, JobCount]:
        """The jobs of a platform by status, where there are any."""
        return {status: self.count(platform, status) for status in sorted(self._counts.get(platform, ()))}

    def due(self, platform: str) -> JobCount:
        """How many jobs of a platform are due."""
        return JobCount(self._due[platform], "scheduled" not in self._cut)

    def unknown_count(self) -> JobCount:
        """How many outcomes are unknown."""
        return JobCount(self.unknown_seen, "dead_letter" not in self._cut)


def status(storage: Storage, *, now: datetime | None = None) -> StorageStatus:
    """Read the state of a storage. `now` is the time it is told for (default: this machine's)."""
    at = now or datetime.now(UTC)
    ping = timedelta(seconds=storage.ping())
    tally = unfinished(storage, at)
    tally.read(of_status(storage, "cancelled"), "cancelled")
    posted = tally.read(of_status(storage, "posted"), "posted")
    counts = {str(name): JobCount(count) for name, count in storage.queue.counts(posted=False).items()}
    counts["posted"] = JobCount(posted, posted < COUNT_LIMIT)
    known = {platform.name: platform for platform in storage.platforms.list(now=at)}
    names = sorted(tally.names | {name for name, found in known.items() if found.paused or found.limit})
    platforms = [_platform(storage, name, known.get(name), tally, at) for name in names]
    due = storage.queue.next_due_at()
    sizes = sorted(storage.sizes().items(), key=lambda item: (-item[1], item[0]))
    return StorageStatus(
        at=at,
        ping=ping,
        counts=counts,
        next_due_at=due,
        oldest_due_age=at - due if due is not None and due <= at else None,
        platforms=platforms,
        without_worker=[platform.name for platform in platforms if platform.worker_seen is False],
        retrying=storage.queue.list(status="retrying", limit=_SHOWN),
        unknown_count=tally.unknown_count(),
        unknown=tally.unknown,
        locks=_held_locks(storage),
        size_bytes=sum(size for _, size in sizes) if sizes else None,
        sizes=dict(sizes),
    )


def _held_locks(storage: Storage) -> list[WorkerLock]:
    from assistly.storage import ConfigurationError

    try:
        return storage.lock.list()
    except ConfigurationError:
        lock = storage.lock.current()
        return [] if lock is None else [lock]


def unfinished(storage: Storage, now: datetime) -> Tally:
    """Count the jobs that wait, are held by workers, or need a person."""
    tally = Tally(now)
    tally.read(_waiting(storage), "scheduled", "retrying")
    for name in ("processing", "dead_letter"):
        tally.read(of_status(storage, name), name)
    return tally


def _platform(
    storage: Storage, name: str, found: Platform | None, tally: Tally, now: datetime
) -> PlatformState:
    oldest = tally.oldest.get(name)
    is_paused = found is not None and found.paused
    needs_worker = oldest is not None and now - oldest.due_at >= GRACE and not is_paused
    return PlatformState(
        name=name,
        counts=tally.counts(name),
        due=tally.due(name),
        oldest_due_at=None if oldest is None else oldest.due_at,
        paused=is_paused,
        paused_until=None if found is None else found.paused_until,
        pause_reason=None if found is None else found.reason,
        paused_by=None if found is None else found.by,
        limit=None if found is None else found.limit,
        available=None if found is None else storage.platforms.available(name, now=now),
        worker_seen=worker_seen(storage, name, oldest.id, now=now) if oldest and needs_worker else None,
    )


def _waiting(storage: Storage) -> Iterator[Job]:
    after: Job | None = None
    while page := storage.queue.upcoming(after=after, limit=_PAGE):
        yield from page
        after = page[-1]


def platform_names(storage: Storage) -> set[str]:
    """The platforms of waiting and held jobs, dead letters, schedules, pauses and limits.

    10,000 jobs of each status are looked at, and 1,000 schedules.
    """
    names = unfinished(storage, datetime.now(UTC)).names
    names |= {platform.name for platform in storage.platforms.list()}
    return names | schedule_platforms(storage)


def schedule_platforms(storage: Storage) -> set[str]:
    """The platforms of the first 1,000 schedules."""
    return {schedule.platform for schedule in storage.schedules.list(limit=1000)}


def of_status(storage: Storage, name: str) -> Iterator[Job]:
    """Yield all jobs of a status by id. It reads a page at a time."""
    after = 0
    while page := storage.queue.list(status=name, after=after, limit=_PAGE):
        yield from page
        after = page[-1].id
