"""The queue, derived from eleven methods."""

from __future__ import annotations

import builtins
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from ... import transitions
from ...records import Job, JobStatus, QueueDepth, TimelineCount
from ..counting import DerivedCounts
from ..values import PAUSES, JobDraft, JsonText, Settlement, pause_end
from .backend import B, StoreBase

POLL_SECONDS = 0.1
"""Seconds that `JobStoreBase.wait` sleeps at most. An engine that can notice changes overrides it."""

_PAGE = 100


class JobStoreBase(StoreBase[B], ABC):
    """Required: insert, in_window, by_key, get, save, list, counts, remove, waiting, late, expired."""

    attribute = "jobs"

    @abstractmethod
    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        """Insert jobs in order; None for a draft whose key is taken, in the table or in the batch."""

    @abstractmethod
    def in_window(
        self, platform: str, earliest: datetime, latest: datetime, *, exclude: int | None = None
    ) -> Job | None:
        """The scheduled, retrying or processing job with earliest <= scheduled_at <= latest that is first
        by (scheduled_at, id)."""

    @abstractmethod
    def by_key(self, idempotency_key: str) -> Job | None:
        """The job with this idempotency key, or None."""

    @abstractmethod
    def get(self, id: int, *, lock: bool = False) -> Job | None:
        """The job with this id, or None. `lock`: others cannot change it until the transaction ends."""

    @abstractmethod
    def save(self, job: Job) -> None:
        """Replace the stored job of this id, which the enclosing transaction has locked."""

    @abstractmethod
    def list(
        self, *, status: JobStatus | None, platform: str | None, after: int, limit: int
    ) -> Sequence[Job]:
        """Jobs with id > after, by id."""

    @abstractmethod
    def counts(self, *, posted: bool = True) -> dict[JobStatus, int]:
        """The number of jobs by status. Statuses without jobs may be missing, and posted if not asked for."""

    @abstractmethod
    def remove(self, id: int) -> bool:
        """Delete the job in any status. False if there is none."""

    @abstractmethod
    def waiting(
        self,
        *,
        until: datetime | None,
        platforms: Sequence[str] | None,
        after: tuple[datetime, int] | None,
        limit: int,
    ) -> Sequence[Job]:
        """Waiting jobs by (due_at, id), with due_at <= until (None: all) and (due_at, id) > after."""

    @abstractmethod
    def late(self, *, limit: int, platforms: Sequence[str] | None, now: datetime) -> Sequence[Job]:
        """The first late jobs, by (scheduled_at + max_lateness, id). Changes nothing."""

    @abstractmethod
    def expired(self, *, limit: int, now: datetime) -> Sequence[Job]:
        """Processing jobs with lease_until <= now, by (lease_until, id). Changes nothing."""

    def prepare_gap_checks(self) -> None:
        """Nothing to prepare."""

    def lock_platforms(self, platforms: Sequence[str]) -> None:
        """Nothing to lock: transactions exclude each other."""

    def next_due_at(
        self, *, platforms: Sequence[str] | None = None, now: datetime | None = None
    ) -> datetime | None:
        """From `waiting` and the pauses."""
        pauses = {} if now is None else self.pauses(now)
        found = [until for until in pauses.values() if until is not None]
        after: tuple[datetime, int] | None = None
        while page := self.waiting(
            until=None, platforms=platforms, after=after, limit=_PAGE if pauses else 1
        ):
            running = [job.due_at for job in page if job.platform not in pauses]
            if running:
                return min([running[0], *found])
            after = page[-1].due_at, page[-1].id
        return min(found, default=None)

    def pauses(self, now: datetime) -> dict[str, datetime | None]:
        """The platforms that are paused at `now`, with the end of each pause (None: when somebody ends it).

        Read from the documents of the backend.
        """
        found: dict[str, datetime | None] = {}
        after: str | None = None
        while page := self._backend.documents.list(PAUSES, after=after, limit=_PAGE):
            for document in page:
                until = pause_end(document)
                if until is None or until > now:
                    found[document.key] = until
            after = page[-1].key
        return found

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
        """From `waiting`, `expired`, `late` and the pauses."""
        change = partial(transitions.claimed, worker_id=worker_id, lease_until=lease_until, now=now)
        claimed: builtins.list[Job] = []
        after: tuple[datetime, int] | None = None
        with self._atomic() as jobs:
            if unless_overdue and (
                jobs.expired(limit=1, now=now) or jobs.late(limit=1, platforms=platforms, now=now)
            ):
                return []
            paused = jobs.pauses(now)
            while page := jobs.waiting(until=now, platforms=platforms, after=after, limit=limit):
                for job in page:
                    held = None if job.platform in paused else jobs.apply(job.id, change)
                    if held is not None:
                        claimed.append(held)
                    if len(claimed) == limit:
                        return claimed
                after = page[-1].due_at, page[-1].id
        return claimed

    def dead_letter_late(
        self, *, limit: int, platforms: Sequence[str] | None, reason: str, now: datetime
    ) -> Sequence[Job]:
        """From `late`."""
        change = partial(transitions.dead_lettered_late, reason=reason, now=now)
        with self._atomic() as jobs:
            late = jobs.late(limit=limit, platforms=platforms, now=now)
            moved = [jobs.apply(job.id, change) for job in late]
        return [job for job in moved if job is not None]

    def reschedule(
        self,
        id: int,
        scheduled_at: datetime,
        *,
        content: str | None,
        metadata: JsonText | None,
        now: datetime,
    ) -> Job | None:
        """From `get` and `save`."""
        change = partial(
            transitions.rescheduled, scheduled_at=scheduled_at, content=content, metadata=metadata, now=now
        )
        return self._change(id, change)

    def extend(
        self, claims: Sequence[tuple[int, int]], *, lease_until: datetime, now: datetime
    ) -> Sequence[Job]:
        """From `get` and `save`."""
        extended: builtins.list[Job] = []
        with self._atomic() as jobs:
            for id, claim in sorted(set(claims)):
                job = jobs.apply(
                    id, partial(transitions.extended, claim=claim, lease_until=lease_until, now=now)
                )
                if job is not None:
                    extended.append(job)
        return extended

    def begin_publish(self, id: int, claim: int, *, now: datetime) -> Job | None:
        """From `get` and `save`."""
        return self._change(id, partial(transitions.publish_begun, claim=claim, now=now))

    def begin_publish_many(self, claims: Sequence[tuple[int, int]], *, now: datetime) -> Sequence[Job | None]:
        """From `get` and `save`, in the order of the ids."""
        begun: dict[tuple[int, int], Job | None] = {}
        with self._atomic() as jobs:
            for id, claim in sorted(set(claims)):
                begun[id, claim] = jobs.apply(id, partial(transitions.publish_begun, claim=claim, now=now))
        return [begun[claim] for claim in claims]

    def settle(
        self, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
    ) -> Sequence[Job | None]:
        """From `get` and `save`, in the order of the ids."""
        results: builtins.list[Job | None] = [None] * len(settlements)
        with self._atomic() as jobs:
            for index in sorted(range(len(settlements)), key=lambda index: settlements[index].id):
                one = settlements[index]
                results[index] = jobs.apply(
                    one.id, partial(transitions.settled, settlement=one, now=now, expired_only=expired_only)
                )
        return results

    def replay(self, id: int, scheduled_at: datetime, *, now: datetime) -> Job | None:
        """From `get` and `save`."""
        return self._change(id, partial(transitions.replayed, scheduled_at=scheduled_at, now=now))

    def replay_many(
        self,
        *,
        platform: str | None,
        limit: int | None,
        unknown: bool,
        missed: bool,
        scheduled_at: datetime,
        now: datetime,
    ) -> int:
        """From `list`, `get` and `save`."""
        change = partial(transitions.replayed, scheduled_at=scheduled_at, now=now)
        count = after = 0
        with self._atomic() as jobs:
            while page := jobs.list(
                status=JobStatus.DEAD_LETTER, platform=platform, after=after, limit=_PAGE
            ):
                for job in page:
                    if count == limit:
                        return count
                    if (unknown or not job.outcome_unknown) and (missed or not job.missed):
                        count += jobs.apply(job.id, change) is not None
                after = page[-1].id
        return count

    def depths(self, *, limit: int, now: datetime) -> Sequence[QueueDepth]:
        """From `waiting` and `list`; see `assistly.storage.engine.counting`."""
        return DerivedCounts(self).depths(limit=limit, now=now)

    def timeline(self, edges: Sequence[datetime], *, limit: int) -> Sequence[TimelineCount]:
        """From `waiting` and `list`, which reads all posted jobs; see `assistly.storage.engine.counting`."""
        return DerivedCounts(self).timeline(edges, limit=limit)

    def wait(self, timeout: float) -> None:
        """Sleep for at most POLL_SECONDS; the caller polls."""
        time.sleep(min(timeout, POLL_SECONDS))

    def _change(self, id: int, change: Callable[[Job], Job | None]) -> Job | None:
        with self._atomic() as jobs:
            return jobs.apply(id, change)

    def apply(self, id: int, change: Callable[[Job], Job | None]) -> Job | None:
        """Inside a transaction, replace the job of this id with `change(job)`, and return it.

        None, and nothing is saved, if there is no such job or `change` returns None.
        """
        job = self.get(id, lock=True)
        changed = None if job is None else change(job)
        if changed is not None:
            self.save(changed)
        return changed
