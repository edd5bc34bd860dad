"""The model: the contract in the simplest possible Python, lists and dicts that are searched from end to end.

`Model` has the methods of `Storage` with the same names and arguments, and nothing of its
code. It knows one caller at a time and no database. The state machines drive an engine and
a model side by side, and demand the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..records import JobStatus, PruneReport
from .model_queue import ModelQueue
from .model_records import (
    ModelApprovals,
    ModelEvents,
    ModelIdempotency,
    ModelLock,
    ModelNonces,
    ModelPlatforms,
    ModelSessions,
    ModelSnapshots,
)
from .model_state import ModelState

EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
MINUTE = timedelta(minutes=1)


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
        self.state = ModelState(clock)
        self.queue = ModelQueue(self.state, max_retries=max_retries, retry_delay=retry_delay)
        self.sessions = ModelSessions(self.state)
        self.approvals = ModelApprovals(self.state)
        self.idempotency = ModelIdempotency(self.state)
        self.nonces = ModelNonces(self.state)
        self.lock = ModelLock(self.state)
        self.events = ModelEvents(self.state)
        self.snapshots = ModelSnapshots(self.state)
        self.platforms = ModelPlatforms(self.state)
        self._retention = retention or ModelRetention()

    @contextmanager
    def transaction(self) -> Iterator[Model]:
        with self.state.transaction():
            yield self

    def prune(self, *, force: bool = False) -> PruneReport:
        now, tables, keep = self.state.now(), self.state.tables, self._retention
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
        tables = self.state.tables
        return {
            "approvals": len(tables.approvals),
            "idempotency": len(tables.keys),
            "nonces": len(tables.nonces),
            "posted": len(tables.jobs),
            "events": len(tables.events),
            "sessions": len(tables.sessions),
        }
