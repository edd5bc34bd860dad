"""The contract, told as plainly as Python can: lists and dicts, searched from end to end.

`Model` has the methods of `Storage` with the same names and arguments, and nothing of its
code. It knows one caller at a time and no database. The state machines drive an engine and
a model side by side, and demand the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ..records import Approval, Event, Job, JobStatus, PruneReport, Session, Snapshot
from .model_queue import ModelQueue
from .model_records import (
    ModelApprovals,
    ModelEvents,
    ModelIdempotency,
    ModelKey,
    ModelLock,
    ModelMutex,
    ModelNonces,
    ModelSessions,
    ModelSnapshots,
)
from .model_values import copied

EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
MINUTE = timedelta(minutes=1)


@dataclass
class Tables:
    """Everything that is stored, and that a rollback brings back."""

    jobs: dict[int, Job] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    approvals: list[Approval] = field(default_factory=list)
    keys: list[ModelKey] = field(default_factory=list)
    nonces: dict[str, int] = field(default_factory=dict)
    locks: dict[str, ModelMutex] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    pruned_at: datetime | None = None


@dataclass(frozen=True)
class ModelRetention:
    """Ages and caps; an age of None keeps for ever."""

    approvals_age: timedelta = timedelta(days=30)
    approvals_cap: int = 5000
    idempotency_age: timedelta = timedelta(days=14)
    idempotency_cap: int = 10000
    nonces_age: timedelta = timedelta(days=1)
    posted_age: timedelta | None = None
    events_age: timedelta | None = None
    sessions_age: timedelta | None = None


class Model:
    def __init__(
        self,
        clock: Callable[[], datetime],
        *,
        retention: ModelRetention | None = None,
        max_retries: int = 3,
        retry_delay: timedelta = timedelta(minutes=5),
    ) -> None:
        self.now = clock
        self.max_retries = max_retries
        self.retry_delay = retry_delay
        self.tables = Tables()
        self.queue = ModelQueue(self)
        self.sessions = ModelSessions(self)
        self.approvals = ModelApprovals(self)
        self.idempotency = ModelIdempotency(self)
        self.nonces = ModelNonces(self)
        self.lock = ModelLock(self)
        self.events = ModelEvents(self)
        self.snapshots = ModelSnapshots(self)
        self._retention = retention or ModelRetention()
        self._numbers = 0

    def number(self) -> int:
        """A new id: one sequence for everything, which no rollback turns back."""
        self._numbers += 1
        return self._numbers

    @contextmanager
    def transaction(self) -> Iterator[Model]:
        before = copied(self.tables)
        try:
            yield self
        except BaseException:
            self.tables = before
            raise

    def prune(self, *, force: bool = False) -> PruneReport:
        now, tables, keep = self.now(), self.tables, self._retention
        if not force and tables.pruned_at is not None and abs(now - tables.pruned_at) < MINUTE:
            return PruneReport(ran=False)
        tables.pruned_at = now
        before = self._sizes()

        def old(moment: datetime | None, age: timedelta | None) -> bool:
            return moment is not None and age is not None and moment < now - age

        tables.approvals = [row for row in tables.approvals if not old(row.created_at, keep.approvals_age)]
        tables.keys = [row for row in tables.keys if not old(row.saved_at, keep.idempotency_age)]
        tables.events = [row for row in tables.events if not old(row.created_at, keep.events_age)]
        tables.sessions = {
            name: row for name, row in tables.sessions.items() if not old(row.updated_at, keep.sessions_age)
        }
        tables.jobs = {
            id: job
            for id, job in tables.jobs.items()
            if not (job.status is JobStatus.POSTED and old(job.posted_at, keep.posted_age))
        }
        oldest_nonce = (now - keep.nonces_age - EPOCH) // timedelta(milliseconds=1)
        tables.nonces = {name: ms for name, ms in tables.nonces.items() if ms >= oldest_nonce}

        # Of equal ones `min` takes the first, which was inserted first.
        while len(tables.approvals) > keep.approvals_cap:
            tables.approvals.remove(min(tables.approvals, key=lambda row: row.created_at))
        while len(tables.keys) > keep.idempotency_cap:
            tables.keys.remove(min(tables.keys, key=lambda row: row.saved_at))

        deleted = {kind: before[kind] - size for kind, size in self._sizes().items()}
        return PruneReport(ran=True, **deleted)

    def _sizes(self) -> dict[str, int]:
        return {
            "approvals": len(self.tables.approvals),
            "idempotency": len(self.tables.keys),
            "nonces": len(self.tables.nonces),
            "posted": len(self.tables.jobs),
            "events": len(self.tables.events),
            "sessions": len(self.tables.sessions),
        }
