"""The queue."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from ... import transitions
from ...errors import StorageCorrupt
from ...records import Job, JobStatus, QueueDepth, TimelineCount
from ..base import JobStoreBase
from ..values import JobDraft
from . import counts, keys
from .ordered import OrderedMap, Value
from .rows import job_of_row, metadata_of_row, platform_of_row, row_of_job
from .scopes import MapScope, MapStore, next_number

IndexEntries = tuple[Any, ...]
"""The status of a job, then for each of _TABLES the time that orders it there; None if it is not in it."""

_STATUS = {status: keys.JOBS_BY_STATUS + keys.name(status) for status in JobStatus}


class KeyValueJobs(MapStore, JobStoreBase[MapScope]):
    """A row for each job, and indexes by status, due time and so on, most of them of active jobs only.

    The values of JOBS_DUE and JOBS_LATE are the platform, so that a claim skips jobs of other platforms
    without reading their rows.
    """

    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        with self._write() as map:
            self._backend.note_jobs()
            return [self._insert(map, draft, now) for draft in drafts]

    def _insert(self, map: OrderedMap, draft: JobDraft, now: datetime) -> Job | None:
        key = None if draft.idempotency_key is None else keys.JOBS_BY_KEY + draft.idempotency_key.encode()
        if key is not None and map.get(key) is not None:
            return None
        job = transitions.new(draft, next_number(map, keys.JOB_IDS), now)
        self.put_row(map, job, draft.metadata)
        return job

    def put_row(self, map: OrderedMap, job: Job, metadata: str | None) -> None:
        """Store a job that is not stored. `metadata` is its metadata as JSON, if the caller has it."""
        map.put(keys.JOBS + keys.number(job.id), self._pack(row_of_job(job, metadata)))
        if job.idempotency_key is not None:
            map.put(keys.JOBS_BY_KEY + job.idempotency_key.encode(), keys.number(job.id))
        _update_indexes(map, job, _NO_ENTRIES, _index_entries(job))

    def in_window(
        self, platform: str, earliest: datetime, latest: datetime, *, exclude: int | None = None
    ) -> Job | None:
        table = keys.JOBS_BY_SLOT + keys.name(platform)
        with self._read() as map:
            for key, _ in map.scan(table + keys.time(earliest), table + keys.time(latest) + keys.END):
                id = keys.last_number(key)
                if id != exclude:
                    return self._load(map, id)
            return None

    def by_key(self, idempotency_key: str) -> Job | None:
        with self._read() as map:
            id = map.get(keys.JOBS_BY_KEY + idempotency_key.encode())
            return None if id is None else self._load(map, keys.last_number(id))

    def get(self, id: int, *, lock: bool = False) -> Job | None:  # noqa: ARG002 - writers are alone
        with self._read() as map:
            value = map.get(keys.JOBS + keys.number(id))
        return None if value is None else job_of_row(self._unpack(value))

    def save(self, job: Job) -> None:
        """Replace the row and all index entries, since any field may have changed."""
        with self._write() as map:
            self._backend.note_jobs()
            self.delete_row(map, job.id)
            self.put_row(map, job, None)

    def list(
        self, *, status: JobStatus | None, platform: str | None, after: int, limit: int
    ) -> Sequence[Job]:
        with self._read() as map:
            rows = self._rows(map, status, after)
            found = [*islice((row for row in rows if platform in (None, platform_of_row(row))), limit)]
        return [job_of_row(row) for row in found]

    def _rows(self, map: OrderedMap, status: JobStatus | None, after: int) -> Iterator[Sequence[Any]]:
        table = keys.JOBS if status is None else _STATUS[status]
        for key, value in map.scan(table + keys.number_after(after), table + keys.END):
            yield self._unpack(value) if status is None else self._row(map, keys.last_number(key))

    def counts(self, *, posted: bool = True) -> dict[JobStatus, int]:
        with self._read() as map:
            return {
                status: sum(1 for _ in map.scan(table, table + keys.END))
                for status, table in _STATUS.items()
                if posted or status is not JobStatus.POSTED
            }

    def remove(self, id: int) -> bool:
        with self._write() as map:
            self._backend.note_jobs()
            return self.delete_row(map, id)

    def delete_row(self, map: OrderedMap, id: int) -> bool:
        """Delete the job, its key and its index entries."""
        value = map.get(keys.JOBS + keys.number(id))
        if value is None:
            return False
        job = job_of_row(self._unpack(value))
        map.delete(keys.JOBS + keys.number(id))
        if job.idempotency_key is not None:
            map.delete(keys.JOBS_BY_KEY + job.idempotency_key.encode())
        _update_indexes(map, job, _index_entries(job), _NO_ENTRIES)
        return True

    def waiting(
        self,
        *,
        until: datetime | None,
        platforms: Sequence[str] | None,
        after: tuple[datetime, int] | None,
        limit: int,
    ) -> Sequence[Job]:
        low = keys.JOBS_DUE if after is None else keys.JOBS_DUE + keys.time_and_number(*after) + b"\x00"
        with self._read() as map:
            due = islice(_due(map, low, until, platforms), limit)
            return [self._load(map, keys.last_number(key)) for key in due]

    def next_due_at(
        self, *, platforms: Sequence[str] | None = None, now: datetime | None = None
    ) -> datetime | None:
        self._backend.note_look()
        pauses = {} if now is None else self.pauses(now)
        found = [until for until in pauses.values() if until is not None]
        with self._read() as map:
            first = next(_due(map, keys.JOBS_DUE, None, platforms, pauses), None)
        return min(found if first is None else [keys.time_in(first), *found], default=None)

    def claim(
        self,
        *,
        worker_id: str,
        limit: int,
        lease_until: datetime,
        platforms: Sequence[str] | None,
        now: datetime,
        unless_overdue: bool = False,
    ) -> Sequence[Job]:
        """As in the base, but each row is read once."""
        with self._write() as map:
            if unless_overdue and (
                next(self._expired(map, now), None) or next(self._late(map, platforms, now), None)
            ):
                return []
            found: builtins.list[tuple[Sequence[Any], Job, Job]] = []
            for key in _due(map, keys.JOBS_DUE, now, platforms, self.pauses(now)):
                row = self._row(map, keys.last_number(key))
                job = job_of_row(row)
                held = transitions.claimed(job, worker_id=worker_id, lease_until=lease_until, now=now)
                if held is not None:
                    found.append((row, job, held))
                    if len(found) == limit:
                        break
            for row, job, held in found:
                self._replace(map, job, held, metadata_of_row(row))
        return [held for _, _, held in found]

    def late(self, *, limit: int, platforms: Sequence[str] | None, now: datetime) -> Sequence[Job]:
        with self._read() as map:
            return [*islice(self._late(map, platforms, now), limit)]

    def expired(self, *, limit: int, now: datetime) -> Sequence[Job]:
        with self._read() as map:
            return [*islice(self._expired(map, now), limit)]

    def depths(self, *, limit: int, now: datetime) -> Sequence[QueueDepth]:
        with self._read() as map:
            return counts.depths(map, self._row, limit, now)

    def timeline(self, edges: Sequence[datetime], *, limit: int) -> Sequence[TimelineCount]:
        with self._read() as map:
            return counts.timeline(map, self._row, edges, limit)

    def wait(self, timeout: float) -> None:
        self._backend.wait(timeout)

    def apply(self, id: int, change: Callable[[Job], Job | None]) -> Job | None:
        """As in the base, but the row is read once."""
        with self._write() as map:
            value = map.get(keys.JOBS + keys.number(id))
            if value is None:
                return None
            row = self._unpack(value)
            job = job_of_row(row)
            changed = change(job)
            if changed is not None:
                same = changed.metadata is job.metadata
                self._replace(map, job, changed, metadata_of_row(row) if same else None)
            return changed

    def _late(self, map: OrderedMap, platforms: Sequence[str] | None, now: datetime) -> Iterator[Job]:
        wanted = _encoded(platforms)
        for key, platform in map.scan(keys.JOBS_LATE, keys.JOBS_LATE + keys.time(now)):
            if wanted is None or platform in wanted:
                job = self._load(map, keys.last_number(key))
                if transitions.is_late(job, now):
                    yield job

    def _expired(self, map: OrderedMap, now: datetime) -> Iterator[Job]:
        for key, _ in map.scan(keys.JOBS_LEASED, keys.JOBS_LEASED + keys.time(now) + keys.END):
            yield self._load(map, keys.last_number(key))

    def _row(self, map: OrderedMap, id: int) -> Sequence[Any]:
        value: Value | None = map.get(keys.JOBS + keys.number(id))
        if value is None:
            raise StorageCorrupt(f"an index has an entry for job {id}, which is not stored: restore a backup")
        return self._unpack(value)

    def _load(self, map: OrderedMap, id: int) -> Job:
        return job_of_row(self._row(map, id))

    def _replace(self, map: OrderedMap, old: Job, new: Job, metadata: str | None) -> None:
        if new.status in transitions.WAITING:
            self._backend.note_jobs()
        map.put(keys.JOBS + keys.number(new.id), self._pack(row_of_job(new, metadata)))
        _update_indexes(map, new, _index_entries(old), _index_entries(new))


def _due(
    map: OrderedMap,
    low: bytes,
    until: datetime | None,
    platforms: Sequence[str] | None,
    paused: Iterable[str] = (),
) -> Iterator[bytes]:
    """The entries of waiting jobs from `low` on."""
    wanted, unwanted = _encoded(platforms), _encoded([*paused])
    high = keys.JOBS_DUE + (keys.END if until is None else keys.time(until) + keys.END)
    for key, platform in map.scan(low, high):
        if (wanted is None or platform in wanted) and not (unwanted and platform in unwanted):
            yield key


def _encoded(platforms: Sequence[str] | None) -> frozenset[bytes] | None:
    return None if platforms is None else frozenset(platform.encode() for platform in platforms)


_NO_ENTRIES: IndexEntries = (None,) * 6


def _index_entries(job: Job) -> IndexEntries:
    status = job.status
    is_waiting = status in transitions.WAITING
    return (
        status,
        job.due_at if is_waiting else None,
        transitions.late_after(job) if is_waiting else None,
        job.lease_until if status is JobStatus.PROCESSING else None,
        job.scheduled_at if is_waiting or status is JobStatus.PROCESSING else None,
        job.posted_at if status is JobStatus.POSTED else None,
    )


def _update_indexes(map: OrderedMap, job: Job, old: IndexEntries, new: IndexEntries) -> None:
    """Write only the entries that differ."""
    if old == new:
        return
    id = keys.number(job.id)
    platform = job.platform.encode()
    before, after = old[0], new[0]
    if before is not after:
        if before is not None:
            map.delete(_STATUS[before] + id)
        if after is not None:
            map.put(_STATUS[after] + id, b"")
    values = (platform, platform, b"", b"", b"")
    for table, value, before, after in zip(_TABLES, values, old[1:], new[1:], strict=True):
        if before == after:
            continue
        if table is keys.JOBS_BY_SLOT:
            table = keys.JOBS_BY_SLOT + platform + b"\x00"
        if before is not None:
            map.delete(table + keys.time(before) + id)
        if after is not None:
            map.put(table + keys.time(after) + id, value)


_TABLES = (keys.JOBS_DUE, keys.JOBS_LATE, keys.JOBS_LEASED, keys.JOBS_BY_SLOT, keys.JOBS_POSTED)
