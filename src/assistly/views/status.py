"""The state of a whole storage: how many jobs there are, what is late, and what needs a person."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from .jobs import COUNT_LIMIT, GRACE, worker_seen

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from assistly.storage import Job, Platform, Storage, WorkerLock

_PAGE = 500
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class JobCount:
    """A number of jobs or approvals. If it is not `exact`, counting stopped: there are at least so many."""

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

    Posted jobs and pending approvals are counted up to 10,000, and so are the jobs of each status by
    platform: a platform whose jobs all come behind these is missing. Of platforms that are not paused, and
    among the first 10,000 waiting jobs, `oldest_due_age` is for how long the first due job has waited (None:
    none is due), and `next_due_at` is when the next one falls due. `dead_letters` are those that are neither
    `missed` nor of unknown outcome; `expired_leases` counts jobs that workers did not settle in time.
    `retrying` and `unknown` hold the first 10 jobs that are retried, and whose outcome is unknown. `locks`
    are those that are held, by name (of an engine that can list none, the lock `worker`). `sizes` are the
    bytes by table or file, the largest first, and `size_bytes` is the sum (None: the engine does not know).
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
    dead_letters: JobCount
    missed: JobCount
    expired_leases: JobCount
    pending_approvals: JobCount
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
        self._missed = 0
        self._dead = 0
        self._expired = 0
        self._unknown = 0
        self._next: dict[str, datetime] = {}
        self.oldest: dict[str, Job] = {}
        self.unknown: list[Job] = []

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
        if job.status in ("scheduled", "retrying"):
            self._add_waiting(job)
        elif job.status == "processing":
            self._expired += job.lease_until is not None and job.lease_until <= self._now
        elif job.outcome_unknown:
            self._unknown += 1
            if len(self.unknown) < _SHOWN:
                self.unknown.append(job)
        elif job.missed:
            self._missed += 1
        elif job.status == "dead_letter":
            self._dead += 1

    def _add_waiting(self, job: Job) -> None:
        if job.due_at <= self._now:
            self._due[job.platform] += 1
            self.oldest.setdefault(job.platform, job)
        else:
            self._next.setdefault(job.platform, job.due_at)

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
        return self._of_dead_letters(self._unknown)

    def missed_count(self) -> JobCount:
        """How many jobs were not claimed in time."""
        return self._of_dead_letters(self._missed)

    def dead_count(self) -> JobCount:
        """How many dead letters are neither missed nor of unknown outcome."""
        return self._of_dead_letters(self._dead)

    def expired_count(self) -> JobCount:
        """How many jobs are held under a lease that ran out."""
        return JobCount(self._expired, "processing" not in self._cut)

    def _of_dead_letters(self, count: int) -> JobCount:
        return JobCount(count, "dead_letter" not in self._cut)

    def oldest_due_age(self, paused: Collection[str]) -> timedelta | None:
        """For how long the first due job has waited that is not on one of these platforms."""
        due = [job.due_at for name, job in self.oldest.items() if name not in paused]
        return self._now - min(due) if due else None

    def next_due_at(self, paused: Collection[str]) -> datetime | None:
        """When the next job falls due that is not due yet, nor on one of these platforms."""
        return min((time for name, time in self._next.items() if name not in paused), default=None)


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
    paused = {name for name, found in known.items() if found.paused}
    sizes = sorted(storage.sizes().items(), key=lambda item: (-item[1], item[0]))
    return StorageStatus(
        at=at,
        ping=ping,
        counts=counts,
        next_due_at=tally.next_due_at(paused),
        oldest_due_age=tally.oldest_due_age(paused),
        platforms=platforms,
        without_worker=[platform.name for platform in platforms if platform.worker_seen is False],
        retrying=storage.queue.list(status="retrying", limit=_SHOWN),
        unknown_count=tally.unknown_count(),
        unknown=tally.unknown,
        dead_letters=tally.dead_count(),
        missed=tally.missed_count(),
        expired_leases=tally.expired_count(),
        pending_approvals=_pending_approvals(storage),
        locks=_held_locks(storage),
        size_bytes=sum(size for _, size in sizes) if sizes else None,
        sizes=dict(sizes),
    )


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
