"""A second opinion on every call of an engine: the protocol in the simplest possible Python.

`Reference` has a method `{kind}_{method}` for each method of the protocol's stores. It takes the engine's
answer, of which it uses the ids alone, and what the engine was given, and returns what the engine should have
answered. It shares no code with the engines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from assistly.storage.engine.values import Document, IdempotencyRow, JobDraft, KeyClaim, LockRow, Settlement
from assistly.storage.records import (
    Approval,
    Attempt,
    Event,
    IdempotencyRecord,
    Job,
    JobStatus,
    Latency,
    Metrics,
    Session,
    Snapshot,
    WorkerLock,
)
from assistly.storage.testing.model_counts import ModelCounts

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
WAITING = (JobStatus.SCHEDULED, JobStatus.RETRYING)
ACTIVE = (*WAITING, JobStatus.PROCESSING)
LAST = datetime.max.replace(tzinfo=UTC)


def _in_any_order(answer: Sequence[Any], expected: Sequence[Any]) -> Sequence[Any]:
    """The answer if it has what is expected, and nothing else."""
    rows = [*expected]
    fits = len(answer) == len(rows) and all(row in rows for row in answer)
    return [*answer] if fits else rows


class Tables:
    """Everything that is stored. Records are replaced, never changed."""

    __slots__ = (
        "approvals",
        "counters",
        "documents",
        "events",
        "jobs",
        "keys",
        "last_approval",
        "last_event",
        "last_job",
        "latency",
        "locks",
        "nonces",
        "pruned_at",
        "replays",
        "sessions",
        "snapshots",
    )

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.sessions: dict[str, Session] = {}
        self.approvals: dict[str, Approval] = {}
        self.keys: dict[str, IdempotencyRow] = {}
        self.nonces: dict[str, int] = {}
        self.locks: dict[str, LockRow] = {}
        self.events: dict[int, Event] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.documents: dict[tuple[str, str], Document] = {}
        self.counters: dict[str, int] = {}
        self.latency = (0, 0, 0)
        self.pruned_at: datetime | None = None
        self.replays: dict[int, int] = {}
        self.last_job = 0
        self.last_event = 0
        self.last_approval = 0

    def copy(self) -> Tables:
        copy = Tables.__new__(Tables)
        for name in Tables.__slots__:
            value = getattr(self, name)
            setattr(copy, name, dict(value) if isinstance(value, dict) else value)
        return copy


class Reference:
    """The tables, and what each method of the protocol does to them."""

    def __init__(self) -> None:
        self.tables = Tables()

    # Jobs

    def _job(self, job: Job) -> Job:
        job = replace(job, due_at=job.next_retry_at or job.scheduled_at)
        self.tables.jobs[job.id] = job
        return job

    def jobs_insert(self, answer: Any, drafts: Sequence[JobDraft], *, now: datetime) -> list[Job | None]:
        expected: list[Job | None] = []
        for place, draft in enumerate(drafts):
            key = draft.idempotency_key
            if key is not None and any(job.idempotency_key == key for job in self.tables.jobs.values()):
                expected.append(None)
                continue
            given = answer[place] if place < len(answer) else None
            id = given.id if given is not None and given.id > self.tables.last_job else -1
            self.tables.last_job = max(id, self.tables.last_job)
            expected.append(
                self._job(
                    Job(
                        id=id,
                        status=JobStatus.SCHEDULED,
                        platform=draft.platform,
                        content=draft.content,
                        metadata=json.loads(draft.metadata),
                        scheduled_at=draft.scheduled_at,
                        created_at=now,
                        updated_at=now,
                        retries=0,
                        max_retries=draft.max_retries,
                        next_retry_at=None,
                        due_at=draft.scheduled_at,
                        idempotency_key=key,
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
                )
            )
        return expected

    def jobs_prepare_gap_checks(self, answer: Any) -> None:
        return None

    def jobs_lock_platforms(self, answer: Any, platforms: Sequence[str]) -> None:
        return None

    def jobs_in_window(
        self, answer: Any, platform: str, earliest: datetime, latest: datetime, *, exclude: int | None = None
    ) -> Job | None:
        near = [
            job
            for job in self.tables.jobs.values()
            if job.platform == platform
            and job.status in ACTIVE
            and earliest <= job.scheduled_at <= latest
            and job.id != exclude
        ]
        return min(near, key=lambda job: (job.scheduled_at, job.id), default=None)

    def jobs_by_key(self, answer: Any, idempotency_key: str) -> Job | None:
        for job in self.tables.jobs.values():
            if job.idempotency_key == idempotency_key:
                return job
        return None

    def jobs_get(self, answer: Any, id: int, *, lock: bool = False) -> Job | None:
        return self.tables.jobs.get(id)

    def jobs_save(self, answer: Any, job: Job) -> None:
        self._job(job)

    def jobs_reschedule(
        self,
        answer: Any,
        id: int,
        scheduled_at: datetime,
        *,
        content: str | None,
        metadata: str | None,
        now: datetime,
    ) -> Job | None:
        job = self.tables.jobs.get(id)
        if job is None or job.status not in WAITING:
            return None
        return self._job(
            replace(
                job,
                scheduled_at=scheduled_at,
                next_retry_at=None,
                content=job.content if content is None else content,
                metadata=job.metadata if metadata is None else json.loads(metadata),
                updated_at=now,
            )
        )

    def _sorted(self) -> list[Job]:
        return [self.tables.jobs[id] for id in sorted(self.tables.jobs)]

    def jobs_list(
        self, answer: Any, *, status: JobStatus | None, platform: str | None, after: int, limit: int
    ) -> list[Job]:
        return [
            job
            for job in self._sorted()
            if status in (None, job.status) and platform in (None, job.platform) and job.id > after
        ][:limit]

    def jobs_counts(self, answer: Any, *, posted: bool = True) -> dict[JobStatus, int]:
        counts: dict[JobStatus, int] = {}
        for job in self.tables.jobs.values():
            if posted or job.status is not JobStatus.POSTED:
                counts[job.status] = counts.get(job.status, 0) + 1
        return counts

    def jobs_depths(self, answer: Any, *, limit: int, now: datetime) -> Any:
        return _in_any_order(answer, self._counts(now).depths(limit=limit))

    def jobs_timeline(self, answer: Any, edges: Sequence[datetime], *, limit: int) -> Any:
        return _in_any_order(answer, self._counts(LAST).timeline(edges, limit=limit))

    def _counts(self, now: datetime) -> ModelCounts:
        return ModelCounts(cast("Any", SimpleNamespace(tables=self.tables, now=lambda: now)))

    def jobs_remove(self, answer: Any, id: int) -> bool:
        return self.tables.jobs.pop(id, None) is not None

    def jobs_waiting(
        self,
        answer: Any,
        *,
        until: datetime | None,
        platforms: Sequence[str] | None,
        after: tuple[datetime, int] | None,
        limit: int,
    ) -> list[Job]:
        due = self._due(platforms, LAST if until is None else until)
        return [job for job in due if after is None or (job.due_at, job.id) > after][:limit]

    def jobs_next_due_at(
        self, answer: Any, *, platforms: Sequence[str] | None = None, now: datetime | None = None
    ) -> datetime | None:
        pauses = {} if now is None else self.pauses(now)
        moments = [job.due_at for job in self._due(platforms, LAST) if job.platform not in pauses]
        return min([*moments, *(end for end in pauses.values() if end is not None)], default=None)

    def pauses(self, now: datetime) -> dict[str, datetime | None]:
        """The platforms that are paused at this time, and until when."""
        found = {}
        for (collection, key), document in self.tables.documents.items():
            until = document.data["until"] if collection == "pauses" else 0
            end = None if until is None else EPOCH + timedelta(microseconds=until)
            if end is None or end > now:
                found[key] = end
        return found

    def _due(self, platforms: Sequence[str] | None, now: datetime) -> list[Job]:
        due = [
            job
            for job in self.tables.jobs.values()
            if job.status in WAITING
            and job.due_at <= now
            and (platforms is None or job.platform in platforms)
        ]
        return sorted(due, key=lambda job: (job.due_at, job.id))

    @staticmethod
    def _last_moment(job: Job) -> datetime:
        if job.max_lateness is None or job.max_lateness > LAST - job.scheduled_at:
            return LAST
        return job.scheduled_at + job.max_lateness

    def jobs_claim(
        self,
        answer: Any,
        *,
        worker_id: str,
        limit: int,
        lease_until: datetime,
        platforms: Sequence[str] | None,
        now: datetime,
        unless_overdue: bool = False,
    ) -> list[Job]:
        due = self._due(platforms, now)
        in_time = [job for job in due if self._last_moment(job) >= now]
        if unless_overdue and (len(in_time) < len(due) or self._expired(now)):
            return []
        return [
            self._job(
                replace(
                    job,
                    status=JobStatus.PROCESSING,
                    claim=job.claim + 1,
                    worker_id=worker_id,
                    lease_until=lease_until,
                    updated_at=now,
                )
            )
            for job in [job for job in in_time if job.platform not in self.pauses(now)][:limit]
        ]

    def _late(self, platforms: Sequence[str] | None, now: datetime) -> list[Job]:
        late = [job for job in self._due(platforms, now) if self._last_moment(job) < now]
        return sorted(late, key=lambda job: (self._last_moment(job), job.id))

    def jobs_late(
        self, answer: Any, *, limit: int, platforms: Sequence[str] | None, now: datetime
    ) -> list[Job]:
        return self._late(platforms, now)[:limit]

    def jobs_dead_letter_late(
        self, answer: Any, *, limit: int, platforms: Sequence[str] | None, reason: str, now: datetime
    ) -> list[Job]:
        late = self._late(platforms, now)[:limit]
        return [
            self._job(
                replace(
                    job,
                    status=JobStatus.DEAD_LETTER,
                    next_retry_at=None,
                    dead_letter_at=now,
                    dead_letter_reason=reason,
                    updated_at=now,
                )
            )
            for job in late
        ]

    def _expired(self, now: datetime) -> list[Job]:
        expired = [
            job
            for job in self.tables.jobs.values()
            if job.status is JobStatus.PROCESSING and job.lease_until is not None and job.lease_until <= now
        ]
        return sorted(expired, key=lambda job: (job.lease_until or LAST, job.id))

    def jobs_expired(self, answer: Any, *, limit: int, now: datetime) -> list[Job]:
        return self._expired(now)[:limit]

    def _held(self, id: int, claim: int) -> Job | None:
        job = self.tables.jobs.get(id)
        if job is None or job.status is not JobStatus.PROCESSING or job.claim != claim:
            return None
        return job

    def _leased(self, id: int, claim: int, now: datetime) -> Job | None:
        job = self._held(id, claim)
        return None if job is None or job.lease_until is None or job.lease_until <= now else job

    def jobs_extend(
        self, answer: Any, claims: Sequence[tuple[int, int]], *, lease_until: datetime, now: datetime
    ) -> list[Job]:
        held = [self._leased(id, claim, now) for id, claim in sorted(set(claims))]
        return [
            self._job(replace(job, lease_until=lease_until, updated_at=now))
            for job in held
            if job is not None
        ]

    def jobs_begin_publish(self, answer: Any, id: int, claim: int, *, now: datetime) -> Job | None:
        job = self._leased(id, claim, now)
        if job is None:
            return None
        return self._job(replace(job, publish_started_at=job.publish_started_at or now, updated_at=now))

    def jobs_begin_publish_many(
        self, answer: Any, claims: Sequence[tuple[int, int]], *, now: datetime
    ) -> list[Job | None]:
        return [self.jobs_begin_publish(None, id, claim, now=now) for id, claim in claims]

    def jobs_settle(
        self, answer: Any, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
    ) -> list[Job | None]:
        return [self._settled(one, now, expired_only) for one in settlements]

    def _settled(self, one: Settlement, now: datetime, expired_only: bool) -> Job | None:
        job = self._held(one.job.id, one.job.claim)
        if job is None:
            return None
        if expired_only:
            if job.lease_until is None or job.lease_until > now:
                return None
            if job.publish_started_at is not None and not one.keep_publish:
                return None
        free = replace(job, worker_id=None, lease_until=None, updated_at=now)
        if one.kind == "posted":
            return self._job(
                replace(
                    free,
                    status=JobStatus.POSTED,
                    posted_at=now,
                    remote_id=one.remote_id,
                    next_retry_at=None,
                    checkpoint=None,
                )
            )
        if one.kind in ("snoozed", "released"):
            return self._job(
                replace(
                    free,
                    status=JobStatus.RETRYING if job.retries else JobStatus.SCHEDULED,
                    next_retry_at=one.at if one.kind == "snoozed" else job.next_retry_at,
                    publish_started_at=None,
                )
            )
        retries = job.retries + 1
        failed = replace(
            free,
            retries=retries,
            last_error=one.error,
            attempts=(*job.attempts, Attempt(retries, now, job.worker_id, one.error[:4096]))[-20:],
            publish_started_at=job.publish_started_at if one.keep_publish else None,
        )
        if one.final or retries >= job.max_retries:
            return self._job(
                replace(
                    failed,
                    status=JobStatus.DEAD_LETTER,
                    next_retry_at=None,
                    dead_letter_at=now,
                    dead_letter_reason=one.error,
                )
            )
        return self._job(replace(failed, status=JobStatus.RETRYING, next_retry_at=one.at))

    def jobs_replay(self, answer: Any, id: int, scheduled_at: datetime, *, now: datetime) -> Job | None:
        job = self.tables.jobs.get(id)
        if job is None or job.status not in (JobStatus.DEAD_LETTER, JobStatus.CANCELLED):
            return None
        self.tables.replays[id] = self.tables.replays.get(id, 0) + 1
        return self._job(
            replace(
                job,
                status=JobStatus.SCHEDULED,
                scheduled_at=scheduled_at,
                retries=0,
                next_retry_at=None,
                last_error=None,
                dead_letter_at=None,
                dead_letter_reason=None,
                publish_started_at=None,
                checkpoint=None,
                replayed_at=now,
                updated_at=now,
            )
        )

    def jobs_replay_many(
        self,
        answer: Any,
        *,
        platform: str | None,
        limit: int | None,
        unknown: bool,
        missed: bool,
        scheduled_at: datetime,
        now: datetime,
    ) -> int:
        dead = [
            job.id
            for job in self._sorted()
            if job.status is JobStatus.DEAD_LETTER
            and platform in (None, job.platform)
            and (unknown or job.publish_started_at is None)
            and (missed or job.publish_started_at is not None or not self._was_missed(job))
        ][:limit]
        for id in dead:
            self.jobs_replay(None, id, scheduled_at, now=now)
        return len(dead)

    @staticmethod
    def _was_missed(job: Job) -> bool:
        reason = job.dead_letter_reason or ""
        return reason.startswith("missed: ") and reason != job.last_error

    # Sessions

    def sessions_get(self, answer: Any, user_id: str, *, lock: bool = False) -> Session | None:
        return self.tables.sessions.get(user_id)

    def sessions_put(
        self, answer: Any, user_id: str, data: str, *, expected_version: int | None, now: datetime
    ) -> Session | None:
        current = self.tables.sessions.get(user_id)
        version = current.version if current else 0
        if expected_version is not None and expected_version != version:
            return None
        session = Session(user_id, json.loads(data), version + 1, now)
        self.tables.sessions[user_id] = session
        return session

    def sessions_delete(self, answer: Any, user_id: str) -> bool:
        return self.tables.sessions.pop(user_id, None) is not None

    def sessions_list(self, answer: Any, *, after: str | None, limit: int) -> list[Session]:
        names = sorted(name for name in self.tables.sessions if after is None or name > after)
        return [self.tables.sessions[name] for name in names[:limit]]

    # Approvals

    def approvals_add(
        self, answer: Any, id: str, payload: str, *, status: str, created_at: datetime
    ) -> Approval | None:
        if id in self.tables.approvals:
            return None
        sequence = (
            answer.sequence if answer is not None and answer.sequence > self.tables.last_approval else -1
        )
        self.tables.last_approval = max(sequence, self.tables.last_approval)
        approval = Approval(id, status, json.loads(payload), created_at, None, sequence)
        self.tables.approvals[id] = approval
        return approval

    def approvals_get(self, answer: Any, id: str, *, lock: bool = False) -> Approval | None:
        return self.tables.approvals.get(id)

    def approvals_list(
        self, answer: Any, *, status: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> list[Approval]:
        rows = [
            row
            for row in self.tables.approvals.values()
            if status in (None, row.status) and (before is None or (row.created_at, row.sequence) < before)
        ]
        return sorted(rows, key=lambda row: (row.created_at, row.sequence), reverse=True)[:limit]

    def approvals_decide(
        self, answer: Any, id: str, status: str, *, expected: str, payload: str | None, now: datetime
    ) -> Approval | None:
        row = self.tables.approvals.get(id)
        if row is None or row.status != expected:
            return None
        data = row.payload if payload is None else json.loads(payload)
        decided = replace(row, status=status, decided_at=now, payload=data)
        self.tables.approvals[id] = decided
        return decided

    # Idempotency keys

    def idempotency_claim(
        self,
        answer: Any,
        key: str,
        *,
        fingerprint: str | None,
        token: int,
        lease_until: datetime,
        now: datetime,
    ) -> IdempotencyRow:
        row = self.tables.keys.get(key)
        if row is not None:
            other = None not in (row.fingerprint, fingerprint) and row.fingerprint != fingerprint
            if row.completed or other or row.lease_until is None or row.lease_until > now:
                return row
            fingerprint = row.fingerprint or fingerprint
        taken = IdempotencyRow(key, False, None, now, fingerprint, token, lease_until)
        self.tables.keys[key] = taken
        return taken

    def idempotency_claim_many(self, answer: Any, claims: Sequence[KeyClaim]) -> list[IdempotencyRow]:
        return [
            self.idempotency_claim(
                None,
                claim.key,
                fingerprint=claim.fingerprint,
                token=claim.token,
                lease_until=claim.lease_until,
                now=claim.now,
            )
            for claim in claims
        ]

    def _in_progress(self, key: str, token: int) -> IdempotencyRow | None:
        row = self.tables.keys.get(key)
        return row if row is not None and not row.completed and row.token == token else None

    def idempotency_complete(self, answer: Any, key: str, token: int, value: str, *, now: datetime) -> bool:
        row = self._in_progress(key, token)
        if row is None:
            return False
        self.tables.keys[key] = IdempotencyRow(key, True, json.loads(value), now, row.fingerprint, None, None)
        return True

    def idempotency_abandon(self, answer: Any, key: str, token: int) -> bool:
        if self._in_progress(key, token) is None:
            return False
        del self.tables.keys[key]
        return True

    def idempotency_put(self, answer: Any, key: str, value: str, *, saved_at: datetime) -> IdempotencyRecord:
        data = json.loads(value)
        self.tables.keys[key] = IdempotencyRow(key, True, data, saved_at, None, None, None)
        return IdempotencyRecord(key, data, saved_at, None)

    def idempotency_put_many(self, answer: Any, results: Sequence[tuple[str, str, datetime]]) -> None:
        for key, value, saved_at in results:
            self.idempotency_put(None, key, value, saved_at=saved_at)

    def idempotency_get(self, answer: Any, key: str) -> IdempotencyRecord | None:
        row = self.tables.keys.get(key)
        if row is None or not row.completed:
            return None
        return IdempotencyRecord(key, row.value, row.saved_at, row.fingerprint)

    def idempotency_row(self, answer: Any, key: str) -> IdempotencyRow | None:
        return self.tables.keys.get(key)

    def idempotency_forget(self, answer: Any, key: str) -> bool:
        return self.tables.keys.pop(key, None) is not None

    # Nonces

    def nonces_register(self, answer: Any, nonce: str, timestamp_ms: int) -> bool:
        if nonce in self.tables.nonces:
            return False
        self.tables.nonces[nonce] = timestamp_ms
        return True

    def nonces_register_many(self, answer: Any, nonces: Sequence[tuple[str, int]]) -> list[bool]:
        return [self.nonces_register(None, nonce, timestamp_ms) for nonce, timestamp_ms in nonces]

    def nonces_seen(self, answer: Any, nonce: str) -> bool:
        return nonce in self.tables.nonces

    # Metrics

    def metrics_increment(self, answer: Any, name: str, by: int) -> None:
        self.tables.counters[name] = self.tables.counters.get(name, 0) + by

    def metrics_increment_many(self, answer: Any, by_name: Mapping[str, int]) -> None:
        for name, by in by_name.items():
            self.metrics_increment(None, name, by)

    def metrics_observe_latency(self, answer: Any, nanoseconds: int) -> None:
        self.metrics_observe_latencies(None, 1, nanoseconds, nanoseconds)

    def metrics_observe_latencies(self, answer: Any, count: int, total: int, longest: int) -> None:
        counted, sum, max_ = self.tables.latency
        self.tables.latency = (counted + count, sum + total, max(max_, longest))

    def metrics_read(self, answer: Any) -> Metrics:
        count, total, longest = self.tables.latency
        return Metrics(dict(self.tables.counters), Latency(count, total / 1e6, longest / 1e6))

    # Locks

    def _lock(self, name: str, now: datetime) -> LockRow | None:
        row = self.tables.locks.get(name)
        return row if row is not None and row.owner_id is not None and row.expires_at > now else None

    @staticmethod
    def _as_lock(row: LockRow) -> WorkerLock:
        return WorkerLock(row.name, row.owner_id or "", row.fence, row.acquired_at, row.expires_at)

    def lock_acquire(
        self, answer: Any, name: str, owner_id: str, *, expires_at: datetime, now: datetime
    ) -> WorkerLock | None:
        held = self._lock(name, now)
        if held is not None and held.owner_id != owner_id:
            return None
        if held is None:
            before = self.tables.locks.get(name)
            held = LockRow(name, owner_id, before.fence + 1 if before else 1, now, expires_at)
        row = replace(held, expires_at=expires_at)
        self.tables.locks[name] = row
        return self._as_lock(row)

    def lock_renew(
        self, answer: Any, name: str, owner_id: str, fence: int, *, expires_at: datetime, now: datetime
    ) -> WorkerLock | None:
        held = self._lock(name, now)
        if held is None or held.owner_id != owner_id or held.fence != fence:
            return None
        row = replace(held, expires_at=expires_at)
        self.tables.locks[name] = row
        return self._as_lock(row)

    def lock_release(self, answer: Any, name: str, owner_id: str, fence: int, *, now: datetime) -> bool:
        held = self._lock(name, now)
        if held is None or held.owner_id != owner_id or held.fence != fence:
            return False
        self.tables.locks[name] = replace(held, owner_id=None)
        return True

    def lock_current(self, answer: Any, name: str, *, now: datetime) -> WorkerLock | None:
        held = self._lock(name, now)
        return None if held is None else self._as_lock(held)

    def lock_list(self, answer: Any, *, now: datetime) -> list[WorkerLock]:
        held = [self._lock(name, now) for name in sorted(self.tables.locks)]
        return [self._as_lock(row) for row in held if row is not None]

    # Events

    def events_append(self, answer: Any, events: Sequence[tuple[str, str, datetime]]) -> list[Event]:
        appended: list[Event] = []
        for place, (event_type, payload, created_at) in enumerate(events):
            id = answer[place].id if place < len(answer) and answer[place].id > self.tables.last_event else -1
            self.tables.last_event = max(id, self.tables.last_event)
            event = Event(id, event_type, json.loads(payload), created_at)
            self.tables.events[id] = event
            appended.append(event)
        return appended

    def events_get(self, answer: Any, id: int) -> Event | None:
        return self.tables.events.get(id)

    def events_list(
        self, answer: Any, *, event_type: str | None, before: tuple[datetime, int] | None, limit: int
    ) -> list[Event]:
        rows = [
            row
            for row in self.tables.events.values()
            if event_type in (None, row.event_type) and (before is None or (row.created_at, row.id) < before)
        ]
        return sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)[:limit]

    def events_read_after(self, answer: Any, id: int, *, event_type: str | None, limit: int) -> list[Event]:
        rows = [
            row for row in self.tables.events.values() if row.id > id and event_type in (None, row.event_type)
        ]
        return sorted(rows, key=lambda row: row.id)[:limit]

    # Snapshots

    def snapshots_put(self, answer: Any, kind: str, payload: str, *, now: datetime) -> Snapshot:
        snapshot = Snapshot(kind, json.loads(payload), now)
        self.tables.snapshots[kind] = snapshot
        return snapshot

    def snapshots_get(self, answer: Any, kind: str) -> Snapshot | None:
        return self.tables.snapshots.get(kind)

    def snapshots_list(self, answer: Any) -> list[Snapshot]:
        return [self.tables.snapshots[kind] for kind in sorted(self.tables.snapshots)]

    # Documents

    def documents_get(self, answer: Any, collection: str, key: str, *, lock: bool = False) -> Document | None:
        return self.tables.documents.get((collection, key))

    def documents_put(
        self,
        answer: Any,
        collection: str,
        key: str,
        data: str,
        *,
        expected_version: int | None,
        now: datetime,
    ) -> Document | None:
        stored = self.tables.documents.get((collection, key))
        version = 0 if stored is None else stored.version
        if expected_version not in (None, version):
            return None
        document = Document(collection, key, json.loads(data), version + 1, now)
        self.tables.documents[collection, key] = document
        return document

    def documents_delete(self, answer: Any, collection: str, key: str) -> bool:
        return self.tables.documents.pop((collection, key), None) is not None

    def documents_list(
        self, answer: Any, collection: str, *, after: str | None, limit: int
    ) -> list[Document]:
        found = [
            document
            for (name, key), document in sorted(self.tables.documents.items())
            if name == collection and (after is None or key > after)
        ]
        return found[:limit]

    # Retention

    def retention_begin_prune(self, answer: Any, *, now: datetime, interval: timedelta) -> bool:
        stamp = self.tables.pruned_at
        if stamp is not None and abs(now - stamp) < interval:
            return False
        self.tables.pruned_at = now
        return True

    def retention_reset_prune(self, answer: Any, *, now: datetime) -> None:
        if self.tables.pruned_at == now:
            self.tables.pruned_at = None

    def _by_age(self, kind: str) -> list[tuple[Any, Any, Any]]:
        """The time, the insertion and the key of each row, oldest first."""
        tables = self.tables
        found: list[tuple[Any, Any, Any]]
        if kind == "approvals":
            found = [(row.created_at, row.sequence, row.id) for row in tables.approvals.values()]
        elif kind == "idempotency":
            found = [(row.saved_at, place, key) for place, (key, row) in enumerate(tables.keys.items())]
        elif kind == "nonces":
            found = [(ms, nonce, nonce) for nonce, ms in tables.nonces.items()]
        elif kind == "posted":
            posted = [job for job in tables.jobs.values() if job.status is JobStatus.POSTED]
            found = [(job.posted_at, job.id, job.id) for job in posted]
        elif kind == "events":
            found = [(event.created_at, event.id, event.id) for event in tables.events.values()]
        else:
            found = [(row.updated_at, name, name) for name, row in tables.sessions.items()]
        return sorted(found)

    def _table(self, kind: str) -> dict[Any, Any]:
        names = {"idempotency": "keys", "posted": "jobs"}
        table: dict[Any, Any] = getattr(self.tables, names.get(kind, kind))
        return table

    def retention_delete_older(self, answer: Any, kind: str, cutoff: datetime, *, limit: int) -> int:
        edge: Any = (cutoff - EPOCH) // MILLISECOND if kind == "nonces" else cutoff
        old = [key for time, _, key in self._by_age(kind) if time < edge][:limit]
        for key in old:
            del self._table(kind)[key]
        return len(old)

    def retention_newest_beyond(self, answer: Any, kind: str, cap: int) -> tuple[datetime, int] | None:
        beyond = self._by_age(kind)[::-1][cap:]
        if not beyond:
            return None
        # Only the engine knows by which number it counts the insertion of keys.
        number = answer[1] if kind == "idempotency" and answer is not None else beyond[0][1]
        return beyond[0][0], number

    def retention_delete_up_to(
        self, answer: Any, kind: str, edge: tuple[datetime, int], *, limit: int
    ) -> int:
        rows = self._by_age(kind)
        if kind == "idempotency":
            # The edge is that of the last `newest_beyond`, so what is older goes, and of those equally old as
            # many as the engine says.
            older = [key for time, _, key in rows if time < edge[0]]
            same = [key for time, _, key in rows if time == edge[0]]
            count = min(max(0, answer - len(older)), len(same))
            gone = (older + same[:count])[:limit]
        else:
            gone = [key for time, number, key in rows if (time, number) <= edge][:limit]
        for key in gone:
            del self._table(kind)[key]
        return len(gone)
