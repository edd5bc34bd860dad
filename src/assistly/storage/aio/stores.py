"""The other stores with `await`."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Literal, overload

from .. import validation as check
from ..errors import InvalidValue, StorageError
from ..records import (
    Approval,
    ClaimState,
    Event,
    IdempotencyClaim,
    IdempotencyRecord,
    Job,
    Json,
    JsonResult,
    JsonValue,
    Metrics,
    NewEvent,
    Platform,
    Schedule,
    Session,
    Snapshot,
    WorkerLock,
)
from ..stores.approvals import Approvals
from ..stores.events import Events, checked
from ..stores.idempotency import DEFAULT_LEASE, Idempotency, claim_request, put_request, replayed, result_text
from ..stores.lock import Locks
from ..stores.metrics import MetricsStore, increment, nanoseconds
from ..stores.nonces import Nonces, registration
from ..stores.platforms import Platforms
from ..stores.schedules import DEFAULT_AHEAD, Schedules
from ..stores.sessions import Sessions
from ..stores.snapshots import Snapshots
from .base import AsyncStore
from .batching import is_light


class AsyncSessions(AsyncStore[Sessions], mirrors=Sessions):
    async def get(self, user_id: str) -> Session | None:
        return await self._run(self._store.get, user_id)

    async def put(
        self, user_id: str, data: Json, *, expected_version: int | None = None, now: datetime | None = None
    ) -> Session:
        return await self._run(self._store.put, user_id, data, expected_version=expected_version, now=now)

    async def update(
        self,
        user_id: str,
        change: Callable[[JsonValue], Json],
        *,
        default: Json = None,
        now: datetime | None = None,
    ) -> Session:
        """Read, change and store a user's session as one atomic step; no concurrent update is lost.

        `change` gets a copy of the data (of `default` if there is no session) and returns the new data. It
        runs in a thread (in memory: on the event loop) and inside a transaction that locks the session: keep
        it short, and do not call this storage in it (TransactionOpen). It may run again if two callers create
        one session at once, or after a deadlock. If it raises, nothing is changed and the exception is raised
        again. Raises InvalidValue for an async function, which would keep the session locked while it awaits,
        and for a result that is None or not JSON.
        """
        if _is_async(change):
            raise InvalidValue(
                "change must be a plain function, not async: it runs while the session is locked"
            )
        check.function("change", change)
        return await self._run(self._store.update, user_id, change, default=default, now=now)

    async def delete(self, user_id: str) -> bool:
        return await self._run(self._store.delete, user_id)

    async def list(self, *, after: Session | str | None = None, limit: int = 100) -> builtins.list[Session]:
        return await self._run(self._store.list, after=after, limit=limit)


class AsyncApprovals(AsyncStore[Approvals], mirrors=Approvals):
    async def add(
        self, id: str, payload: Json, *, status: str = "pending", created_at: datetime | None = None
    ) -> Approval:
        return await self._run(self._store.add, id, payload, status=status, created_at=created_at)

    async def get(self, id: str) -> Approval | None:
        return await self._run(self._store.get, id)

    async def list(
        self, *, status: str | None = None, before: Approval | str | None = None, limit: int = 100
    ) -> builtins.list[Approval]:
        return await self._run(self._store.list, status=status, before=before, limit=limit)

    async def decide(
        self,
        id: str,
        status: str,
        *,
        expected: str = "pending",
        patch: Mapping[str, Json] | None = None,
        now: datetime | None = None,
    ) -> Approval:
        return await self._run(self._store.decide, id, status, expected=expected, patch=patch, now=now)


class AsyncIdempotency(AsyncStore[Idempotency], mirrors=Idempotency):
    async def claim(
        self,
        key: str,
        *,
        fingerprint: str | None = None,
        lease: timedelta = DEFAULT_LEASE,
        now: datetime | None = None,
    ) -> IdempotencyClaim:
        return await self._batch(self._store._claiming, claim_request(key, fingerprint, lease, now))

    async def complete(self, claim: IdempotencyClaim, value: Json, *, now: datetime | None = None) -> None:
        await self._run(self._store.complete, claim, value, now=now)

    async def abandon(self, claim: IdempotencyClaim) -> None:
        await self._run(self._store.abandon, claim)

    async def put(self, key: str, value: Json, *, saved_at: datetime | None = None) -> IdempotencyRecord:
        if not is_light(value):
            return await self._run(self._store.put, key, value, saved_at=saved_at)
        return await self._batch(self._store._putting, put_request(key, value, saved_at))

    async def put_many(
        self,
        results: Iterable[tuple[str, Json] | tuple[str, Json, datetime | None]],
        *,
        saved_at: datetime | None = None,
    ) -> builtins.list[IdempotencyRecord]:
        return await self._run(self._store.put_many, results, saved_at=saved_at)

    async def get(self, key: str) -> IdempotencyRecord | None:
        return await self._run(self._store.get, key)

    async def peek(self, key: str) -> IdempotencyClaim | None:
        return await self._run(self._store.peek, key)

    async def forget(self, key: str) -> bool:
        return await self._run(self._store.forget, key)

    @overload
    async def run_once(
        self,
        key: str,
        function: Callable[[], Coroutine[Any, Any, JsonResult]],
        *,
        fingerprint: str | None = ...,
        lease: timedelta = ...,
    ) -> JsonResult: ...

    @overload
    async def run_once(
        self,
        key: str,
        function: Callable[[], JsonResult],
        *,
        fingerprint: str | None = ...,
        lease: timedelta = ...,
    ) -> JsonResult: ...

    async def run_once(
        self,
        key: str,
        function: Callable[[], Any],
        *,
        fingerprint: str | None = None,
        lease: timedelta = DEFAULT_LEASE,
    ) -> Any:
        """Run `function` unless the key has a result already, and return the result.

        An async function is awaited; a plain one runs in a thread (in memory: on the event loop), to its
        end even if the caller is cancelled. If the function raises or is cancelled, the key is abandoned and
        the exception is raised again. Raises Conflict while another caller runs the command of the key,
        ClaimLost if the function took longer than `lease` (default: 60 seconds) and another caller took the
        key, IdempotencyMismatch as `claim` does, and InvalidValue for a result that is not JSON.
        """
        if _is_async(function):
            return await self._await_once(key, function, fingerprint, lease)
        plain = _plain(function) if callable(function) else function
        return await self._run(self._store.run_once, key, plain, fingerprint=fingerprint, lease=lease)

    async def _await_once(
        self, key: str, function: Callable[[], Any], fingerprint: str | None, lease: timedelta
    ) -> JsonValue:
        claims: builtins.list[IdempotencyClaim] = []

        def claim_key() -> IdempotencyClaim:
            claims.append(self._store.claim(key, fingerprint=fingerprint, lease=lease))
            return claims[0]

        try:
            claim = await self._finish(claim_key)
            if claim.state is not ClaimState.ACQUIRED:
                return replayed(claim)
            value = await function()
            text = result_text(value)
        except BaseException:
            if claims and claims[0].state is ClaimState.ACQUIRED:
                with suppress(StorageError):
                    await self._finish(self._store.abandon, claims[0])
            raise
        await self._finish(self._store._complete, claim, text)
        return value


class AsyncNonces(AsyncStore[Nonces], mirrors=Nonces):
    async def register(self, nonce: str, timestamp: datetime | None = None) -> bool:
        return await self._batch(self._store._batched, registration(nonce, timestamp))

    async def register_many(
        self, nonces: Iterable[str | tuple[str, datetime | None]], *, timestamp: datetime | None = None
    ) -> list[bool]:
        return await self._run(self._store.register_many, nonces, timestamp=timestamp)

    async def seen(self, nonce: str) -> bool:
        return await self._run(self._store.seen, nonce)


class AsyncMetrics(AsyncStore[MetricsStore], mirrors=MetricsStore):
    async def increment(self, name: str, by: int = 1) -> None:
        await self._batch(self._store._incrementing, increment(name, by))

    async def observe_latency(self, milliseconds: float) -> None:
        await self._batch(self._store._observing, nanoseconds(milliseconds))

    async def read(self) -> Metrics:
        return await self._run(self._store.read)


class AsyncLocks(AsyncStore[Locks], mirrors=Locks):
    async def acquire(
        self,
        owner_id: str,
        *,
        ttl: timedelta | None = None,
        name: str = "worker",
        now: datetime | None = None,
    ) -> WorkerLock | None:
        return await self._run(self._store.acquire, owner_id, ttl=ttl, name=name, now=now)

    async def renew(
        self, lock: WorkerLock, *, ttl: timedelta | None = None, now: datetime | None = None
    ) -> WorkerLock:
        return await self._run(self._store.renew, lock, ttl=ttl, now=now)

    async def release(self, lock: WorkerLock, *, now: datetime | None = None) -> bool:
        return await self._run(self._store.release, lock, now=now)

    async def current(self, name: str = "worker", *, now: datetime | None = None) -> WorkerLock | None:
        return await self._run(self._store.current, name, now=now)

    async def list(self, *, now: datetime | None = None) -> builtins.list[WorkerLock]:
        return await self._run(self._store.list, now=now)


class AsyncEvents(AsyncStore[Events], mirrors=Events):
    async def append(self, event_type: str, payload: Json, *, created_at: datetime | None = None) -> Event:
        if not is_light(payload):
            return await self._run(self._store.append, event_type, payload, created_at=created_at)
        return await self._batch(self._store._batched, checked(NewEvent(event_type, payload, created_at)))

    async def append_many(
        self, events: Iterable[NewEvent | tuple[str, Json] | tuple[str, Json, datetime | None]]
    ) -> builtins.list[Event]:
        return await self._run(self._store.append_many, events)

    async def list(
        self, *, event_type: str | None = None, before: Event | int | None = None, limit: int = 100
    ) -> builtins.list[Event]:
        return await self._run(self._store.list, event_type=event_type, before=before, limit=limit)

    async def read_after(
        self, id: Event | int, *, event_type: str | None = None, limit: int = 100
    ) -> builtins.list[Event]:
        return await self._run(self._store.read_after, id, event_type=event_type, limit=limit)


class AsyncSnapshots(AsyncStore[Snapshots], mirrors=Snapshots):
    async def put(self, kind: str, payload: Json, *, now: datetime | None = None) -> Snapshot:
        return await self._run(self._store.put, kind, payload, now=now)

    async def get(self, kind: str) -> Snapshot | None:
        return await self._run(self._store.get, kind)

    async def list(self) -> builtins.list[Snapshot]:
        return await self._run(self._store.list)


class AsyncPlatforms(AsyncStore[Platforms], mirrors=Platforms):
    async def get(self, platform: str, *, now: datetime | None = None) -> Platform | None:
        return await self._run(self._store.get, platform, now=now)

    async def list(self, *, now: datetime | None = None) -> builtins.list[Platform]:
        return await self._run(self._store.list, now=now)

    async def pause(
        self,
        platform: str,
        *,
        until: datetime | None = None,
        reason: str | None = None,
        by: str | None = None,
        now: datetime | None = None,
    ) -> Platform:
        return await self._run(self._store.pause, platform, until=until, reason=reason, by=by, now=now)

    async def pause_at_least(
        self, platform: str, until: datetime, *, reason: str | None = None, by: str | None = None
    ) -> Platform:
        return await self._run(self._store.pause_at_least, platform, until, reason=reason, by=by)

    async def resume(self, platform: str, *, now: datetime | None = None) -> bool:
        return await self._run(self._store.resume, platform, now=now)

    async def limit(
        self,
        platform: str,
        count: int | None,
        per: timedelta | None = None,
        *,
        now: datetime | None = None,
    ) -> Platform:
        return await self._run(self._store.limit, platform, count, per, now=now)

    async def take(self, platform: str, most: int, *, now: datetime | None = None) -> int:
        return await self._run(self._store.take, platform, most, now=now)

    async def give_back(self, platform: str, tokens: int, *, now: datetime | None = None) -> None:
        await self._run(self._store.give_back, platform, tokens, now=now)

    async def available(self, platform: str, *, now: datetime | None = None) -> int | None:
        return await self._run(self._store.available, platform, now=now)


class AsyncSchedules(AsyncStore[Schedules], mirrors=Schedules):
    async def put(
        self,
        id: str,
        platform: str,
        content: str,
        *,
        cron: str | None = None,
        every: timedelta | None = None,
        zone: str = "UTC",
        starts_at: datetime | None = None,
        ends_at: datetime | None = None,
        metadata: Mapping[str, Json] | None = None,
        max_lateness: timedelta | None = None,
        max_retries: int | None = None,
        catch_up: Literal["none", "last", "all"] = "none",
        enabled: bool = True,
        now: datetime | None = None,
    ) -> Schedule:
        return await self._run(
            self._store.put,
            id,
            platform,
            content,
            cron=cron,
            every=every,
            zone=zone,
            starts_at=starts_at,
            ends_at=ends_at,
            metadata=metadata,
            max_lateness=max_lateness,
            max_retries=max_retries,
            catch_up=catch_up,
            enabled=enabled,
            now=now,
        )

    async def get(self, id: str) -> Schedule | None:
        return await self._run(self._store.get, id)

    async def list(self, *, after: Schedule | str | None = None, limit: int = 100) -> builtins.list[Schedule]:
        return await self._run(self._store.list, after=after, limit=limit)

    async def remove(self, id: str, *, now: datetime | None = None) -> bool:
        return await self._run(self._store.remove, id, now=now)

    async def enable(self, id: str, *, now: datetime | None = None) -> Schedule:
        return await self._run(self._store.enable, id, now=now)

    async def disable(self, id: str, *, now: datetime | None = None) -> Schedule:
        return await self._run(self._store.disable, id, now=now)

    async def preview(self, id: str, count: int, *, now: datetime | None = None) -> builtins.list[datetime]:
        return await self._run(self._store.preview, id, count, now=now)

    async def waiting(self, id: str) -> builtins.list[Job]:
        return await self._run(self._store.waiting, id)

    async def run(
        self, *, ahead: timedelta = DEFAULT_AHEAD, now: datetime | None = None
    ) -> builtins.list[Job]:
        return await self._run(self._store.run, ahead=ahead, now=now)


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - is that method async?
    )


def _plain(function: Callable[[], Json]) -> Callable[[], Json]:
    def call() -> Json:
        value = function()
        if inspect.iscoroutine(value):
            value.close()
            raise InvalidValue("function returned a coroutine: pass the async function itself")
        return value

    return call
