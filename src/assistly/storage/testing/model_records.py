"""Every kind of record of the model but the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction

from ..errors import (
    AlreadyExists,
    ClaimLost,
    Conflict,
    IdempotencyMismatch,
    InvalidValue,
    LockLost,
    NotFound,
    StatusConflict,
    VersionConflict,
)
from ..records import (
    Approval,
    ClaimState,
    Event,
    IdempotencyClaim,
    IdempotencyRecord,
    Json,
    JsonValue,
    NewEvent,
    Platform,
    Session,
    Snapshot,
    WorkerLock,
)
from .model_state import ModelBucket, ModelKey, ModelMutex, ModelPause, ModelState, copied


class ModelSessions:
    def __init__(self, state: ModelState) -> None:
        self._state = state

    def get(self, user_id: str) -> Session | None:
        return copied(self._state.tables.sessions.get(user_id))

    def put(self, user_id: str, data: Json, *, expected_version: int | None = None) -> Session:
        current = self.get(user_id)
        version = current.version if current else 0
        if expected_version is not None and expected_version != version:
            raise VersionConflict("another version", current)
        session = Session(user_id, copied(data), version + 1, self._state.now())
        self._state.tables.sessions[user_id] = session
        return copied(session)

    def update(self, user_id: str, change: Callable[[Json], Json], *, default: Json = None) -> Session:
        current = self.get(user_id)
        data = change(current.data if current else copied(default))
        if data is None:
            raise InvalidValue("no data")
        return self.put(user_id, data)

    def delete(self, user_id: str) -> bool:
        return self._state.tables.sessions.pop(user_id, None) is not None

    def list(self, *, after: str | None = None, limit: int = 100) -> Sequence[Session]:
        sessions = self._state.tables.sessions
        names = sorted(name for name in sessions if after is None or name > after)
        return [copied(sessions[name]) for name in names[:limit]]


class ModelApprovals:
    """The list is in insertion order."""

    def __init__(self, state: ModelState) -> None:
        self._state = state

    def add(
        self, id: str, payload: Json, *, status: str = "pending", created_at: datetime | None = None
    ) -> Approval:
        if self.get(id) is not None:
            raise AlreadyExists("the id is taken")
        created = created_at or self._state.now()
        approval = Approval(id, status, copied(payload), created, None, self._state.number())
        self._state.tables.approvals.append(approval)
        return copied(approval)

    def get(self, id: str) -> Approval | None:
        for approval in self._state.tables.approvals:
            if approval.id == id:
                return copied(approval)
        return None

    def list(
        self, *, status: str | None = None, before: str | None = None, limit: int = 100
    ) -> Sequence[Approval]:
        newest_first = sorted(self._state.tables.approvals, key=lambda row: (row.created_at, row.sequence))
        newest_first.reverse()
        if before is not None:
            ids = [row.id for row in newest_first]
            if before not in ids:
                raise NotFound("no such approval")
            newest_first = newest_first[ids.index(before) + 1 :]
        return copied([row for row in newest_first if status is None or row.status == status][:limit])

    def decide(
        self, id: str, status: str, *, expected: str = "pending", patch: dict[str, Json] | None = None
    ) -> Approval:
        current = self.get(id)
        if current is None:
            raise NotFound("no such approval")
        if current.status != expected:
            raise StatusConflict("another status", current)
        payload = current.payload if patch is None else {**current.payload, **copied(patch)}
        decided = replace(current, status=status, payload=payload, decided_at=self._state.now())
        rows = self._state.tables.approvals
        rows[[row.id for row in rows].index(id)] = decided
        return copied(decided)


class ModelIdempotency:
    """The list is in insertion order."""

    def __init__(self, state: ModelState) -> None:
        self._state = state

    def _row(self, key: str) -> ModelKey | None:
        for row in self._state.tables.keys:
            if row.key == key:
                return row
        return None

    def claim(
        self, key: str, *, fingerprint: str | None = None, lease: timedelta = timedelta(seconds=60)
    ) -> IdempotencyClaim:
        now = self._state.now()
        row = self._row(key)
        if row is None:
            row = ModelKey(key, now, fingerprint, self._state.number(), now + lease)
            self._state.tables.keys.append(row)
            return self._claim(row, ClaimState.ACQUIRED)
        if fingerprint is not None and row.fingerprint is not None and fingerprint != row.fingerprint:
            raise IdempotencyMismatch("used for something else", key)
        if row.completed:
            return self._claim(row, ClaimState.COMPLETED)
        assert row.lease_until is not None
        if row.lease_until > now:
            return self._claim(row, ClaimState.IN_PROGRESS)
        row.saved_at, row.token, row.lease_until = now, self._state.number(), now + lease
        row.fingerprint = row.fingerprint or fingerprint
        return self._claim(row, ClaimState.ACQUIRED)

    def _claim(self, row: ModelKey, state: ClaimState) -> IdempotencyClaim:
        token = row.token if state is ClaimState.ACQUIRED else -1
        return IdempotencyClaim(row.key, state, copied(row.value), row.fingerprint, row.lease_until, token)

    def _held(self, claim: IdempotencyClaim) -> ModelKey:
        row = self._row(claim.key)
        if row is None or row.completed or row.token != claim.token:
            raise ClaimLost("not held")
        return row

    def complete(self, claim: IdempotencyClaim, value: Json) -> None:
        row = self._held(claim)
        self._completed(row, value, row.fingerprint, self._state.now())

    def abandon(self, claim: IdempotencyClaim) -> None:
        self._state.tables.keys.remove(self._held(claim))

    def put(self, key: str, value: Json, *, saved_at: datetime | None = None) -> IdempotencyRecord:
        saved = saved_at or self._state.now()
        row = self._row(key)
        if row is None:
            row = ModelKey(key, saved, None, -1, None)
            self._state.tables.keys.append(row)
        return self._completed(row, value, None, saved)

    def _completed(
        self, row: ModelKey, value: Json, fingerprint: str | None, saved_at: datetime
    ) -> IdempotencyRecord:
        row.completed, row.value, row.fingerprint, row.saved_at = True, copied(value), fingerprint, saved_at
        row.lease_until = None
        return IdempotencyRecord(row.key, copied(value), saved_at, fingerprint)

    def get(self, key: str) -> IdempotencyRecord | None:
        row = self._row(key)
        if row is None or not row.completed:
            return None
        return IdempotencyRecord(key, copied(row.value), row.saved_at, row.fingerprint)

    def peek(self, key: str) -> IdempotencyClaim | None:
        row = self._row(key)
        if row is None:
            return None
        return self._claim(row, ClaimState.COMPLETED if row.completed else ClaimState.IN_PROGRESS)

    def forget(self, key: str) -> bool:
        row = self._row(key)
        if row is not None:
            self._state.tables.keys.remove(row)
        return row is not None

    def run_once(
        self,
        key: str,
        function: Callable[[], Json],
        *,
        fingerprint: str | None = None,
        lease: timedelta = timedelta(seconds=60),
    ) -> JsonValue:
        claim = self.claim(key, fingerprint=fingerprint, lease=lease)
        if claim.state is ClaimState.IN_PROGRESS:
            raise Conflict("in progress elsewhere")
        if claim.state is ClaimState.COMPLETED:
            return claim.value
        try:
            value = function()
        except BaseException:
            self.abandon(claim)
            raise
        self.complete(claim, value)
        return value


class ModelNonces:
    def __init__(self, state: ModelState) -> None:
        self._state = state

    def register(self, nonce: str, timestamp: datetime | None = None) -> bool:
        if self.seen(nonce):
            return False
        moment = timestamp or self._state.now()
        epoch = datetime.fromtimestamp(0, moment.tzinfo)
        self._state.tables.nonces[nonce] = (moment - epoch) // timedelta(milliseconds=1)
        return True

    def seen(self, nonce: str) -> bool:
        return nonce in self._state.tables.nonces


class ModelLock:
    def __init__(self, state: ModelState) -> None:
        self._state = state

    def acquire(self, owner_id: str, *, ttl: timedelta, name: str = "worker") -> WorkerLock | None:
        now = self._state.now()
        holder = self.current(name)
        if holder is not None and holder.owner_id != owner_id:
            return None
        mutex = self._state.tables.locks.setdefault(name, ModelMutex(0, None))
        if holder is not None:
            mutex.holder = replace(holder, expires_at=now + ttl)
        else:
            mutex.fence += 1
            mutex.holder = WorkerLock(name, owner_id, mutex.fence, now, now + ttl)
        return mutex.holder

    def _is_held(self, lock: WorkerLock) -> bool:
        holder = self.current(lock.name)
        return holder is not None and (holder.owner_id, holder.fence) == (lock.owner_id, lock.fence)

    def renew(self, lock: WorkerLock, *, ttl: timedelta) -> WorkerLock:
        if not self._is_held(lock):
            raise LockLost("not held")
        renewed = self.acquire(lock.owner_id, ttl=ttl, name=lock.name)
        assert renewed is not None
        return renewed

    def release(self, lock: WorkerLock) -> bool:
        if not self._is_held(lock):
            return False
        self._state.tables.locks[lock.name].holder = None
        return True

    def current(self, name: str = "worker") -> WorkerLock | None:
        mutex = self._state.tables.locks.get(name)
        if mutex is None or mutex.holder is None or mutex.holder.expires_at <= self._state.now():
            return None
        return mutex.holder

    def list(self) -> Sequence[WorkerLock]:
        held = [self.current(name) for name in sorted(self._state.tables.locks)]
        return [lock for lock in held if lock is not None]


class ModelEvents:
    """The list is in insertion order."""

    def __init__(self, state: ModelState) -> None:
        self._state = state

    def append(self, event_type: str, payload: Json, *, created_at: datetime | None = None) -> Event:
        event = Event(self._state.number(), event_type, copied(payload), created_at or self._state.now())
        self._state.tables.events.append(event)
        return copied(event)

    def append_many(self, events: Sequence[NewEvent]) -> Sequence[Event]:
        return [self.append(new.event_type, new.payload, created_at=new.created_at) for new in events]

    def list(
        self, *, event_type: str | None = None, before: int | None = None, limit: int = 100
    ) -> Sequence[Event]:
        newest_first = sorted(self._state.tables.events, key=lambda event: (event.created_at, event.id))
        newest_first.reverse()
        if before is not None:
            ids = [event.id for event in newest_first]
            if before not in ids:
                raise NotFound("no such event")
            newest_first = newest_first[ids.index(before) + 1 :]
        return self._page(newest_first, event_type, limit)

    def read_after(self, id: int, *, event_type: str | None = None, limit: int = 100) -> Sequence[Event]:
        later = [event for event in self._state.tables.events if event.id > id]
        return self._page(later, event_type, limit)

    def _page(self, events: Sequence[Event], event_type: str | None, limit: int) -> Sequence[Event]:
        return copied([event for event in events if event_type in (None, event.event_type)][:limit])


class ModelSnapshots:
    def __init__(self, state: ModelState) -> None:
        self._state = state

    def put(self, kind: str, payload: Json) -> Snapshot:
        snapshot = Snapshot(kind, copied(payload), self._state.now())
        self._state.tables.snapshots[kind] = snapshot
        return copied(snapshot)

    def get(self, kind: str) -> Snapshot | None:
        return copied(self._state.tables.snapshots.get(kind))

    def list(self) -> Sequence[Snapshot]:
        snapshots = self._state.tables.snapshots
        return [copied(snapshots[kind]) for kind in sorted(snapshots)]


class ModelPlatforms:
    """Tokens are fractions: what a bucket gained is computed from the time that passed, and never rounded."""

    def __init__(self, state: ModelState) -> None:
        self._state = state

    def get(self, platform: str) -> Platform | None:
        tables, now = self._state.tables, self._state.now()
        note, bucket = tables.pause_notes.get(platform), tables.buckets.get(platform)
        if note is None and bucket is None:
            return None
        set_at = max(row.set_at for row in (note, bucket) if row is not None)
        limit = None if bucket is None else bucket.limit
        if note is None or not self._is_paused(platform, now):
            return Platform(platform, False, None, None, None, limit, set_at)
        return Platform(platform, True, tables.pauses[platform], note.reason, note.by, limit, set_at)

    def _is_paused(self, platform: str, now: datetime) -> bool:
        pauses = self._state.tables.pauses
        until = pauses.get(platform)
        return platform in pauses and (until is None or until > now)

    def list(self) -> Sequence[Platform]:
        tables = self._state.tables
        platforms = [self.get(name) for name in sorted({*tables.pause_notes, *tables.buckets})]
        return [platform for platform in platforms if platform is not None]

    def pause(
        self,
        platform: str,
        *,
        until: datetime | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> Platform:
        tables = self._state.tables
        tables.pauses[platform] = until
        tables.pause_notes[platform] = ModelPause(reason, by, self._state.now())
        return self._existing(platform)

    def pause_at_least(
        self, platform: str, until: datetime, *, reason: str | None = None, by: str | None = None
    ) -> Platform:
        pauses = self._state.tables.pauses
        current = pauses.get(platform)
        if platform in pauses and (current is None or current >= until):
            return self._existing(platform)
        return self.pause(platform, until=until, reason=reason, by=by)

    def resume(self, platform: str) -> bool:
        tables, now = self._state.tables, self._state.now()
        if not self._is_paused(platform, now):
            return False
        del tables.pauses[platform]
        tables.pause_notes[platform] = ModelPause(None, None, now)
        return True

    def limit(self, platform: str, count: int | None, per: timedelta | None = None) -> Platform:
        buckets, now = self._state.tables.buckets, self._state.now()
        bucket = buckets.get(platform)
        if count is None or per is None:
            buckets[platform] = ModelBucket(None, now)
        elif bucket is None or bucket.limit is None:
            buckets[platform] = ModelBucket((count, per), now, Fraction(count), now)
        elif bucket.limit == (count, per):
            bucket.set_at = now
        else:
            self._fill(bucket)
            bucket.limit, bucket.set_at = (count, per), now
            bucket.tokens = Fraction(min(count, bucket.tokens // 1))
        return self._existing(platform)

    def _existing(self, platform: str) -> Platform:
        found = self.get(platform)
        assert found is not None
        return found

    def _fill(self, bucket: ModelBucket) -> None:
        """Add what the time since has brought."""
        assert bucket.limit is not None
        assert bucket.at is not None
        count, per = bucket.limit
        now = max(bucket.at, self._state.now())
        tick = timedelta(microseconds=1)
        gained = Fraction(count * ((now - bucket.at) // tick), per // tick)
        bucket.tokens, bucket.at = min(Fraction(count), bucket.tokens + gained), now

    def take(self, platform: str, most: int) -> int:
        bucket = self._state.tables.buckets.get(platform)
        if bucket is None or bucket.limit is None:
            return most
        self._fill(bucket)
        taken = min(most, bucket.tokens // 1)
        bucket.tokens -= taken
        return taken

    def give_back(self, platform: str, tokens: int) -> None:
        bucket = self._state.tables.buckets.get(platform)
        if bucket is not None and bucket.limit is not None:
            self._fill(bucket)
            bucket.tokens = min(Fraction(bucket.limit[0]), bucket.tokens + tokens)
