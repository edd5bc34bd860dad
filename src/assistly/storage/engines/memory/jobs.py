"""The queue."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import count, islice
from math import inf
from typing import Any, NamedTuple

from ...engine.values import JobDraft, JsonText, Settlement
from ...records import Attempt, Job, JobStatus
from ...validation import EMPTY_OBJECT
from .scope import Database, Scope
from .tables import Journal, Key, Ordered, Table, Unique, within

_WAITING = (JobStatus.SCHEDULED, JobStatus.RETRYING)
_ACTIVE = (*_WAITING, JobStatus.PROCESSING)
_KEPT_ATTEMPTS = 20
_KEPT_ERROR = 4096


class JobRow(NamedTuple):
    """A job with its metadata still encoded; the fields are those of `Job`, in its order."""

    id: int
    status: JobStatus
    platform: str
    content: str
    metadata: JsonText
    scheduled_at: datetime
    created_at: datetime
    updated_at: datetime
    retries: int
    max_retries: int
    next_retry_at: datetime | None
    due_at: datetime
    idempotency_key: str | None
    remote_id: str | None
    posted_at: datetime | None
    last_error: str | None
    dead_letter_at: datetime | None
    dead_letter_reason: str | None
    replayed_at: datetime | None
    claim: int
    worker_id: str | None
    lease_until: datetime | None
    publish_started_at: datetime | None
    max_lateness: timedelta | None
    attempts: tuple[Attempt, ...]

    @property
    def missed_after(self) -> datetime | None:
        if self.max_lateness is None:
            return None
        try:
            return self.scheduled_at + self.max_lateness
        except OverflowError:
            return None

    def decoded(self) -> Job:
        metadata = {} if self.metadata == EMPTY_OBJECT else json.loads(self.metadata)
        return _make_job(*self[:_METADATA], metadata, *self[_METADATA + 1 :])


_METADATA = JobRow._fields.index("metadata")
_make_job = Job


def _waiting_key(row: JobRow) -> Key | None:
    return (row.due_at, row.id) if row.status in _WAITING else None


def _missable_key(row: JobRow) -> Key | None:
    if row.max_lateness is None or row.status not in _WAITING or row.missed_after is None:
        return None
    return row.missed_after, row.id


def _slot_key(row: JobRow) -> Key | None:
    return (row.platform, row.scheduled_at, row.id) if row.status in _ACTIVE else None


def _lease_key(row: JobRow) -> Key | None:
    return None if row.lease_until is None else (row.lease_until, row.id)


def _posted_key(row: JobRow) -> Key | None:
    return (row.posted_at, row.id) if row.status is JobStatus.POSTED else None


def _idempotency_key(row: JobRow) -> tuple[str, int] | None:
    return None if row.idempotency_key is None else (row.idempotency_key, row.id)


class JobTable(Table[int, JobRow]):
    """Finished jobs are in no index that a claim reads."""

    def __init__(self, journal: Journal) -> None:
        self.ids = count(1)
        self.by_id: Ordered[JobRow] = Ordered(lambda row: (row.id,))
        self.by_status: Ordered[JobRow] = Ordered(lambda row: (row.status, row.id))
        self.waiting = Ordered(_waiting_key)
        self.missable = Ordered(_missable_key)
        self.slots = Ordered(_slot_key)
        self.leases = Ordered(_lease_key)
        self.posted = Ordered(_posted_key)
        self.by_key = Unique(_idempotency_key)
        super().__init__(
            journal,
            self.by_id,
            self.by_status,
            self.waiting,
            self.missable,
            self.slots,
            self.leases,
            self.posted,
            self.by_key,
        )


class MemoryJobStore:
    def __init__(self, scope: Scope, table: JobTable) -> None:
        self._scope = scope
        self._table = table

    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        with self._scope as database:
            return [self._insert(database, draft, now) for draft in drafts]

    def prepare_gap_checks(self) -> None: ...

    def lock_platforms(self, platforms: Sequence[str]) -> None:  # noqa: ARG002 - a transaction has every lock
        self._scope.check()

    def in_window(
        self, platform: str, earliest: datetime, latest: datetime, *, exclude: int | None = None
    ) -> Job | None:
        with self._scope:
            for _, scheduled_at, id in within((platform,), self._table.slots.ascending((platform, earliest))):
                if scheduled_at > latest:
                    break
                if id != exclude:
                    return self._table.rows[id].decoded()
            return None

    def by_key(self, idempotency_key: str) -> Job | None:
        with self._scope:
            id = self._table.by_key.primary.get(idempotency_key)
            return None if id is None else self._table.rows[id].decoded()

    def get(self, id: int, *, lock: bool = False) -> Job | None:  # noqa: ARG002 - a transaction has every lock
        with self._scope:
            row = self._table.rows.get(id)
            return None if row is None else row.decoded()

    def reschedule(
        self,
        id: int,
        scheduled_at: datetime,
        *,
        content: str | None,
        metadata: JsonText | None,
        now: datetime,
    ) -> Job | None:
        with self._scope as database:
            row = self._table.rows.get(id)
            if row is None or row.status not in _WAITING:
                return None
            row = row._replace(
                scheduled_at=scheduled_at,
                next_retry_at=None,
                content=row.content if content is None else content,
                metadata=row.metadata if metadata is None else metadata,
            )
            return self._save(database, row, now).decoded()

    def list(
        self, *, status: JobStatus | None, platform: str | None, after: int, limit: int
    ) -> Sequence[Job]:
        with self._scope:
            return [row.decoded() for row in islice(self._listed(status, platform, after), limit)]

    def counts(self, *, posted: bool = True) -> dict[JobStatus, int]:
        with self._scope:
            rank = self._table.by_status.rank
            return {
                status: rank((status, inf)) - rank((status,))
                for status in JobStatus
                if posted or status is not JobStatus.POSTED
            }

    def remove(self, id: int) -> bool:
        with self._scope as database:
            if id not in self._table.rows:
                return False
            self._table.delete(id)
            database.woken = True
            return True

    def next_due_at(self) -> datetime | None:
        with self._scope as database:
            database.changes.note()
            first: Key | None = next(self._table.waiting.ascending(), None)
            return None if first is None else first[0]

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
        with self._scope as database:
            if unless_overdue and (self.expired(limit=1, now=now) or any(self._missed(platforms, now))):
                return []
            due = self._rows(self._table.waiting, now)
            wanted = (
                row for row in _on(platforms, due) if row.missed_after is None or now <= row.missed_after
            )
            return [
                self._save(
                    database,
                    row._replace(
                        status=JobStatus.PROCESSING,
                        claim=row.claim + 1,
                        worker_id=worker_id,
                        lease_until=lease_until,
                    ),
                    now,
                ).decoded()
                for row in [*islice(wanted, limit)]
            ]

    def dead_letter_late(self, *, limit: int, platforms: Sequence[str] | None, reason: str, now: datetime) -> int:
        with self._scope as database:
            missed = [*islice(self._missed(platforms, now), limit)]
            for row in missed:
                self._save(database, _buried(row, reason, now), now)
            return len(missed)

    def _missed(self, platforms: Sequence[str] | None, now: datetime) -> Iterator[JobRow]:
        late = self._rows(self._table.missable, now, inclusive=False)
        return (row for row in _on(platforms, late) if row.due_at <= now)

    def expired(self, *, limit: int, now: datetime) -> Sequence[Job]:
        with self._scope:
            return [row.decoded() for row in islice(self._rows(self._table.leases, now), limit)]

    def extend(
        self, claims: Sequence[tuple[int, int]], *, lease_until: datetime, now: datetime
    ) -> Sequence[Job]:
        with self._scope as database:
            held = [row for id, claim in sorted(set(claims)) if (row := self._unexpired(id, claim, now))]
            return [
                self._save(database, row._replace(lease_until=lease_until), now).decoded() for row in held
            ]

    def begin_publish(self, id: int, claim: int, *, now: datetime) -> Job | None:
        with self._scope as database:
            row = self._unexpired(id, claim, now)
            if row is None:
                return None
            started = now if row.publish_started_at is None else row.publish_started_at
            return self._save(database, row._replace(publish_started_at=started), now).decoded()

    def settle(
        self, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
    ) -> Sequence[Job | None]:
        with self._scope as database:
            return [self._settle(database, settlement, now, expired_only) for settlement in settlements]

    def replay(self, id: int, scheduled_at: datetime, *, now: datetime) -> Job | None:
        with self._scope as database:
            row = self._table.rows.get(id)
            if row is None or row.status is not JobStatus.DEAD_LETTER:
                return None
            return self._replay(database, row, scheduled_at, now).decoded()

    def replay_many(
        self, *, platform: str | None, limit: int | None, scheduled_at: datetime, now: datetime
    ) -> int:
        with self._scope as database:
            dead = [*islice(self._listed(JobStatus.DEAD_LETTER, platform, 0), limit)]
            for row in dead:
                self._replay(database, row, scheduled_at, now)
            return len(dead)

    def wait(self, timeout: float) -> None:
        with self._scope as database:
            changes = database.changes
        changes.wait(timeout)

    def _insert(self, database: Database, draft: JobDraft, now: datetime) -> Job | None:
        if draft.idempotency_key is not None and draft.idempotency_key in self._table.by_key.primary:
            return None
        row = JobRow(
            id=next(self._table.ids),
            status=JobStatus.SCHEDULED,
            platform=draft.platform,
            content=draft.content,
            metadata=draft.metadata,
            scheduled_at=draft.scheduled_at,
            created_at=now,
            updated_at=now,
            retries=0,
            max_retries=draft.max_retries,
            next_retry_at=None,
            due_at=draft.scheduled_at,
            idempotency_key=draft.idempotency_key,
            remote_id=None,
            posted_at=None,
            last_error=None,
            dead_letter_at=None,
            dead_letter_reason=None,
            replayed_at=None,
            claim=0,
            worker_id=None,
            lease_until=None,
            publish_started_at=None,
            max_lateness=draft.max_lateness,
            attempts=(),
        )
        self._table.add(row.id, row)
        database.woken = True
        return row.decoded()

    def _save(self, database: Database, row: JobRow, now: datetime) -> JobRow:
        held = row.status is JobStatus.PROCESSING
        row = row._replace(
            updated_at=now,
            due_at=row.scheduled_at if row.next_retry_at is None else row.next_retry_at,
            worker_id=row.worker_id if held else None,
            lease_until=row.lease_until if held else None,
        )
        self._table.put(row.id, row)
        if row.status in _WAITING:
            database.woken = True
        return row

    def _rows(self, index: Ordered[JobRow], until: datetime, *, inclusive: bool = True) -> Iterator[JobRow]:
        """The rows of an index by time and id, up to `until`."""
        end: tuple[Any, ...] = (until, inf) if inclusive else (until,)
        for key in index.ascending():
            if key > end:
                break
            yield self._table.rows[key[-1]]

    def _listed(self, status: JobStatus | None, platform: str | None, after: int) -> Iterator[JobRow]:
        if status is None:
            keys = self._table.by_id.ascending((after,))
        else:
            keys = within((status,), self._table.by_status.ascending((status, after)))
        for key in keys:
            row = self._table.rows[key[-1]]
            if platform is None or row.platform == platform:
                yield row

    def _held(self, id: int, claim: int) -> JobRow | None:
        row = self._table.rows.get(id)
        if row is None or row.status is not JobStatus.PROCESSING or row.claim != claim:
            return None
        return row

    def _unexpired(self, id: int, claim: int, now: datetime) -> JobRow | None:
        row = self._held(id, claim)
        return None if row is None or _lease_ended(row, now) else row

    def _settle(
        self, database: Database, settlement: Settlement, now: datetime, expired_only: bool
    ) -> Job | None:
        row = self._held(settlement.id, settlement.claim)
        if row is None or (expired_only and not _may_lapse(row, settlement, now)):
            return None
        return self._save(database, _settled(row, settlement, now), now).decoded()

    def _replay(self, database: Database, row: JobRow, scheduled_at: datetime, now: datetime) -> JobRow:
        replayed = row._replace(
            status=JobStatus.SCHEDULED,
            scheduled_at=scheduled_at,
            retries=0,
            next_retry_at=None,
            last_error=None,
            dead_letter_at=None,
            dead_letter_reason=None,
            replayed_at=now,
            publish_started_at=None,
        )
        return self._save(database, replayed, now)


def _on(platforms: Sequence[str] | None, rows: Iterable[JobRow]) -> Iterator[JobRow]:
    wanted = None if platforms is None else frozenset(platforms)
    return (row for row in rows if wanted is None or row.platform in wanted)


def _lease_ended(row: JobRow, now: datetime) -> bool:
    return row.lease_until is not None and row.lease_until <= now


def _may_lapse(row: JobRow, settlement: Settlement, now: datetime) -> bool:
    publishing = row.publish_started_at is not None
    return _lease_ended(row, now) and (settlement.keep_publish or not publishing)


def _buried(row: JobRow, reason: str, now: datetime) -> JobRow:
    return row._replace(
        status=JobStatus.DEAD_LETTER, next_retry_at=None, dead_letter_at=now, dead_letter_reason=reason
    )


def _settled(row: JobRow, settlement: Settlement, now: datetime) -> JobRow:
    match settlement.kind:
        case "posted":
            return row._replace(
                status=JobStatus.POSTED, next_retry_at=None, posted_at=now, remote_id=settlement.remote_id
            )
        case "failed":
            return _failed(row, settlement, now)
        case "snoozed":
            return _handed_back(row)._replace(next_retry_at=settlement.at)
        case "released":
            return _handed_back(row)


def _handed_back(row: JobRow) -> JobRow:
    status = JobStatus.RETRYING if row.retries else JobStatus.SCHEDULED
    return row._replace(status=status, publish_started_at=None)


def _failed(row: JobRow, settlement: Settlement, now: datetime) -> JobRow:
    retries = row.retries + 1
    attempt = Attempt(retries, now, row.worker_id, settlement.error[:_KEPT_ERROR])
    row = row._replace(
        retries=retries,
        last_error=settlement.error,
        attempts=(*row.attempts, attempt)[-_KEPT_ATTEMPTS:],
        publish_started_at=row.publish_started_at if settlement.keep_publish else None,
    )
    if settlement.final or retries >= row.max_retries:
        return _buried(row, settlement.error, now)
    return row._replace(status=JobStatus.RETRYING, next_retry_at=settlement.at)
