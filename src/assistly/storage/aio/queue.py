"""The queue with `await`."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, overload

from .. import validation as check
from ..records import (
    Claimed,
    Job,
    JobStatus,
    Json,
    NewJob,
    Outcome,
    QueueDepth,
    Settled,
    TimelineCount,
)
from ..stores.claiming import DEFAULT_LEASE
from ..stores.counts import MOST_COUNTED
from ..stores.queue import Queue
from .base import AsyncStore
from .batching import is_light
from .calls import Calls
from .watch import Waiter


class AsyncQueue(AsyncStore[Queue], mirrors=Queue):
    def __init__(self, store: Queue, calls: Calls, waiter: Waiter) -> None:
        super().__init__(store, calls)
        self._waiter = waiter

    async def schedule(
        self,
        platform: str,
        content: str,
        scheduled_at: datetime | None = None,
        *,
        idempotency_key: str | None = None,
        min_gap: timedelta | None = None,
        metadata: Mapping[str, Json] | None = None,
        max_retries: int | None = None,
        max_lateness: timedelta | None = None,
        now: datetime | None = None,
    ) -> Job:
        new = NewJob(
            platform, content, scheduled_at, idempotency_key, min_gap, metadata, max_retries, max_lateness
        )
        scheduler = self._store._scheduler
        if now is not None or min_gap is not None or not is_light(content, metadata):
            return await self._run(scheduler.schedule, new, now)
        return await self._batch(scheduler.batched, scheduler.request(new))

    @overload
    async def schedule_many(
        self, jobs: Iterable[NewJob], *, returning: Literal["jobs"] = "jobs", now: datetime | None = None
    ) -> builtins.list[Job]: ...

    @overload
    async def schedule_many(
        self, jobs: Iterable[NewJob], *, returning: Literal["ids", "none"], now: datetime | None = None
    ) -> builtins.list[int]: ...

    async def schedule_many(
        self,
        jobs: Iterable[NewJob],
        *,
        returning: Literal["jobs", "ids", "none"] = "jobs",
        now: datetime | None = None,
    ) -> builtins.list[Any]:
        return await self._run(self._store._scheduler.schedule_many, jobs, now, returning)

    async def reschedule(
        self,
        id: int,
        scheduled_at: datetime,
        *,
        content: str | None = None,
        metadata: Mapping[str, Json] | None = None,
        min_gap: timedelta | None = None,
        now: datetime | None = None,
    ) -> Job:
        return await self._run(
            self._store.reschedule,
            id,
            scheduled_at,
            content=content,
            metadata=metadata,
            min_gap=min_gap,
            now=now,
        )

    async def find_conflict(self, platform: str, scheduled_at: datetime, min_gap: timedelta) -> Job | None:
        return await self._run(self._store.find_conflict, platform, scheduled_at, min_gap)

    async def get(self, id: int) -> Job | None:
        return await self._run(self._store.get, id)

    async def find_by_key(self, idempotency_key: str) -> Job | None:
        return await self._run(self._store.find_by_key, idempotency_key)

    async def list(
        self,
        *,
        status: JobStatus | str | None = None,
        platform: str | None = None,
        after: Job | int | None = None,
        limit: int = 100,
    ) -> builtins.list[Job]:
        return await self._run(self._store.list, status=status, platform=platform, after=after, limit=limit)

    async def counts(self, *, posted: bool = True) -> dict[JobStatus, int]:
        return await self._run(self._store.counts, posted=posted)

    async def depths(
        self, *, limit: int = MOST_COUNTED, now: datetime | None = None
    ) -> builtins.list[QueueDepth]:
        return await self._run(self._store.depths, limit=limit, now=now)

    async def timeline(self, edges: Iterable[datetime], *, limit: int = 1000) -> builtins.list[TimelineCount]:
        return await self._run(self._store.timeline, edges, limit=limit)

    async def remove(self, id: int) -> bool:
        return await self._run(self._store.remove, id)

    async def upcoming(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        platform: str | None = None,
        after: Job | None = None,
        limit: int = 100,
    ) -> builtins.list[Job]:
        return await self._run(
            self._store.upcoming, since=since, until=until, platform=platform, after=after, limit=limit
        )

    async def next_due_at(self) -> datetime | None:
        return await self._run(self._store.next_due_at)

    async def claim_due(
        self,
        *,
        worker_id: str,
        limit: int = 100,
        lease: timedelta = DEFAULT_LEASE,
        platforms: Iterable[str] | None = None,
        now: datetime | None = None,
    ) -> builtins.list[Job]:
        return await self._run(
            self._store.claim_due,
            worker_id=worker_id,
            limit=limit,
            lease=lease,
            platforms=platforms,
            now=now,
        )

    async def sweep_and_claim(
        self,
        *,
        worker_id: str,
        limit: int = 100,
        lease: timedelta = DEFAULT_LEASE,
        platforms: Iterable[str] | None = None,
        now: datetime | None = None,
    ) -> Claimed:
        return await self._run(
            self._store.sweep_and_claim,
            worker_id=worker_id,
            limit=limit,
            lease=lease,
            platforms=platforms,
            now=now,
        )

    async def extend(
        self, jobs: Iterable[Job], *, lease: timedelta, now: datetime | None = None
    ) -> builtins.list[Job]:
        return await self._run(self._store.extend, jobs, lease=lease, now=now)

    async def begin_publish(self, job: Job, *, now: datetime | None = None) -> Job:
        return await self._run(self._store.begin_publish, job, now=now)

    async def begin_publish_many(
        self, jobs: Iterable[Job], *, now: datetime | None = None
    ) -> builtins.list[Job]:
        return await self._run(self._store.begin_publish_many, jobs, now=now)

    async def mark_posted(
        self, job: Job, remote_id: str | None = None, *, now: datetime | None = None
    ) -> Job:
        return await self._run(self._store.mark_posted, job, remote_id, now=now)

    async def mark_failed(
        self,
        job: Job,
        error: str,
        *,
        retry_at: datetime | None = None,
        retryable: bool = True,
        now: datetime | None = None,
    ) -> Job:
        return await self._run(
            self._store.mark_failed, job, error, retry_at=retry_at, retryable=retryable, now=now
        )

    async def mark_unknown(self, job: Job, error: str, *, now: datetime | None = None) -> Job:
        return await self._run(self._store.mark_unknown, job, error, now=now)

    async def snooze(self, job: Job, until: datetime, *, now: datetime | None = None) -> Job:
        return await self._run(self._store.snooze, job, until, now=now)

    async def release(self, job: Job, *, now: datetime | None = None) -> Job:
        return await self._run(self._store.release, job, now=now)

    async def settle(self, outcomes: Iterable[Outcome], *, now: datetime | None = None) -> Settled:
        return await self._run(self._store.settle, outcomes, now=now)

    async def rescue_expired(self, *, limit: int = 100, now: datetime | None = None) -> builtins.list[Job]:
        return await self._run(self._store.rescue_expired, limit=limit, now=now)

    async def dead_letters(
        self, *, platform: str | None = None, after: Job | int | None = None, limit: int = 100
    ) -> builtins.list[Job]:
        return await self._run(self._store.dead_letters, platform=platform, after=after, limit=limit)

    async def resolve(
        self,
        id: int,
        *,
        posted: bool,
        remote_id: str | None = None,
        claim: int | None = None,
        now: datetime | None = None,
    ) -> Job:
        return await self._run(
            self._store.resolve, id, posted=posted, remote_id=remote_id, claim=claim, now=now
        )

    async def cancel(self, id: int, *, now: datetime | None = None) -> Job:
        return await self._run(self._store.cancel, id, now=now)

    async def checkpoint(self, job: Job, data: Json, *, now: datetime | None = None) -> Job:
        return await self._run(self._store.checkpoint, job, data, now=now)

    async def replay(
        self, id: int, *, scheduled_at: datetime | None = None, now: datetime | None = None
    ) -> Job | None:
        return await self._run(self._store.replay, id, scheduled_at=scheduled_at, now=now)

    async def replay_all(
        self,
        *,
        platform: str | None = None,
        limit: int | None = None,
        unknown: bool = False,
        missed: bool = False,
        now: datetime | None = None,
    ) -> int:
        return await self._run(
            self._store.replay_all, platform=platform, limit=limit, unknown=unknown, missed=missed, now=now
        )

    async def wait(self, timeout: float | timedelta, *, platforms: Iterable[str] | None = None) -> bool:
        return await self._waiter.wait(check.seconds("timeout", timeout), check.names("platforms", platforms))
