"""Every engine changes a job, a key and a lock as `transitions` does: each operation, status and column."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from itertools import count, product
from typing import Any

import pytest

from assistly.storage import StorageBackend, transitions
from assistly.storage.engine.values import (
    IdempotencyRow,
    JobDraft,
    JsonText,
    KeyClaim,
    LockRow,
    Settlement,
)
from assistly.storage.records import Attempt, Job, JobStatus

NOW = datetime(2026, 1, 15, 12, 0, 0, 123456, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
UNTIL = NOW + 5 * MINUTE
ERROR = "missed: the train"
REASONS = ("a reason", ERROR, "missed: later than its max_lateness", "missed", None)
METADATA = JsonText('{"new":[1,2.5,null]}')


@pytest.fixture
def backend(make_backend: Callable[[int], StorageBackend]) -> StorageBackend:
    return make_backend(1)


def variants(status: JobStatus, id: int) -> Iterator[Job]:
    """Jobs in this status in which every condition of every operation is met, and is not met."""
    is_held = status is JobStatus.PROCESSING
    is_dead = status is JobStatus.DEAD_LETTER
    may_retry = status in transitions.ACTIVE
    for (retries, attempts), retry_in, started, lateness, ends_in, reason in product(
        ((0, 1), (2, 20 if is_held else 1)),
        (None, -MINUTE, MINUTE) if may_retry else (None,),
        (None, NOW - 3 * MINUTE),
        (None, timedelta(days=1)) if is_dead else (None, MINUTE, timedelta(days=1)),
        (-MINUTE, timedelta(0), MINUTE) if is_held else (None,),
        REASONS if is_dead else (None,),
    ):
        scheduled_at = NOW - 10 * MINUTE
        next_retry_at = None if retry_in is None else NOW + retry_in
        yield Job(
            id=id,
            status=status,
            platform="x",
            content="hello",
            metadata={"a": [1, "é"]},
            scheduled_at=scheduled_at,
            created_at=NOW - 30 * MINUTE,
            updated_at=NOW - 20 * MINUTE,
            retries=retries,
            max_retries=3,
            next_retry_at=next_retry_at,
            due_at=next_retry_at or scheduled_at,
            idempotency_key=f"key {id}",
            remote_id="remote" if status is JobStatus.POSTED else None,
            posted_at=NOW - 4 * MINUTE if status is JobStatus.POSTED else None,
            last_error=ERROR if retries else None,
            dead_letter_at=NOW - 2 * MINUTE if is_dead else None,
            dead_letter_reason=reason,
            replayed_at=NOW - 15 * MINUTE if retries else None,
            claim=4,
            worker_id="holder" if is_held else None,
            lease_until=None if ends_in is None else NOW + ends_in,
            publish_started_at=started,
            max_lateness=lateness,
            attempts=tuple(Attempt(n, NOW - 7 * MINUTE, "w", f"error {n}") for n in range(1, attempts + 1)),
            checkpoint={"step": 1.0} if retries or started else None,
        )


@dataclass(frozen=True)
class Operation:
    """What an engine is asked to do with a stored job, and what `transitions` makes of the record.

    `found` tells the job, or None, from what the engine returned; a count stands for a job that the
    operation does not return.
    """

    run: Callable[[StorageBackend, Job], Any]
    expected: Callable[[Job], Job | None]
    found: Callable[[Any], Any] = lambda answer: answer


def settling(kind: Any, *, expired_only: bool = False, claim: int = 4, **values: Any) -> Operation:
    def settlement(job: Job) -> Settlement:
        return Settlement(kind, replace(job, claim=claim), **values)

    return Operation(
        lambda backend, job: backend.jobs.settle([settlement(job)], now=NOW, expired_only=expired_only),
        lambda job: transitions.settled(job, settlement(job), now=NOW, expired_only=expired_only),
        lambda answer: answer[0],
    )


def replaying_many(*, unknown: bool, missed: bool, limit: int | None) -> Operation:
    def expected(job: Job) -> Job | None:
        is_dead = job.status is JobStatus.DEAD_LETTER
        is_wanted = (unknown or not job.outcome_unknown) and (missed or not job.missed)
        return transitions.replayed(job, UNTIL, now=NOW) if is_dead and is_wanted else None

    return Operation(
        lambda backend, _: backend.jobs.replay_many(
            platform=None if limit is None else "x",
            limit=limit,
            unknown=unknown,
            missed=missed,
            scheduled_at=UNTIL,
            now=NOW,
        ),
        expected,
        bool,
    )


def first(answer: Any) -> Any:
    return answer[0] if answer else None


OPERATIONS = {
    "claim": Operation(
        lambda backend, _: backend.jobs.claim(
            worker_id="w", limit=5, lease_until=UNTIL, platforms=None, now=NOW
        ),
        lambda job: transitions.claimed(job, worker_id="w", lease_until=UNTIL, now=NOW),
        first,
    ),
    "claim on a platform": Operation(
        lambda backend, _: backend.jobs.claim(
            worker_id="w", limit=5, lease_until=UNTIL, platforms=["x"], now=NOW
        ),
        lambda job: transitions.claimed(job, worker_id="w", lease_until=UNTIL, now=NOW),
        first,
    ),
    "dead_letter_late": Operation(
        lambda backend, _: backend.jobs.dead_letter_late(limit=5, platforms=None, reason="late", now=NOW),
        lambda job: transitions.dead_lettered_late(job, reason="late", now=NOW),
        bool,
    ),
    "extend": Operation(
        lambda backend, _: backend.jobs.extend([(1, 4)], lease_until=UNTIL, now=NOW),
        lambda job: transitions.extended(job, 4, lease_until=UNTIL, now=NOW),
        first,
    ),
    "extend another claim": Operation(
        lambda backend, _: backend.jobs.extend([(1, 3)], lease_until=UNTIL, now=NOW),
        lambda job: transitions.extended(job, 3, lease_until=UNTIL, now=NOW),
        first,
    ),
    "begin_publish": Operation(
        lambda backend, job: backend.jobs.begin_publish(job.id, 4, now=NOW),
        lambda job: transitions.publish_begun(job, 4, now=NOW),
    ),
    "begin_publish of another claim": Operation(
        lambda backend, job: backend.jobs.begin_publish(job.id, 5, now=NOW),
        lambda job: transitions.publish_begun(job, 5, now=NOW),
    ),
    "begin_publish_many": Operation(
        lambda backend, job: backend.jobs.begin_publish_many([(job.id, 4)], now=NOW)[0],
        lambda job: transitions.publish_begun(job, 4, now=NOW),
    ),
    "begin_publish_many of another claim": Operation(
        lambda backend, job: backend.jobs.begin_publish_many([(job.id, 5)], now=NOW)[0],
        lambda job: transitions.publish_begun(job, 5, now=NOW),
    ),
    "posted": settling("posted", remote_id="there"),
    "posted without an id": settling("posted"),
    "posted by another claim": settling("posted", claim=3, remote_id="there"),
    "failed": settling("failed", error="no", at=UNTIL),
    "failed at length": settling("failed", error="é" * 5000, at=UNTIL),
    "failed for good": settling("failed", error="no", at=UNTIL, final=True),
    "failed, publishing kept": settling("failed", error="no", at=UNTIL, final=True, keep_publish=True),
    "failed by another claim": settling("failed", claim=3, error="no", at=UNTIL),
    "expired": settling("failed", expired_only=True, error="no", at=UNTIL),
    "expired, publishing kept": settling(
        "failed", expired_only=True, error="no", at=UNTIL, final=True, keep_publish=True
    ),
    "snoozed": settling("snoozed", at=UNTIL),
    "released": settling("released"),
    "replay": Operation(
        lambda backend, job: backend.jobs.replay(job.id, UNTIL, now=NOW),
        lambda job: transitions.replayed(job, UNTIL, now=NOW),
    ),
    **{
        f"replay_many, unknown={unknown}, missed={missed}, limit={limit}": replaying_many(
            unknown=unknown, missed=missed, limit=limit
        )
        for unknown in (False, True)
        for missed in (False, True)
        for limit in (None, 5)
    },
    "reschedule": Operation(
        lambda backend, job: backend.jobs.reschedule(job.id, UNTIL, content=None, metadata=None, now=NOW),
        lambda job: transitions.rescheduled(job, UNTIL, content=None, metadata=None, now=NOW),
    ),
    "reschedule with contents": Operation(
        lambda backend, job: backend.jobs.reschedule(
            job.id, UNTIL, content="new", metadata=METADATA, now=NOW
        ),
        lambda job: transitions.rescheduled(job, UNTIL, content="new", metadata=METADATA, now=NOW),
    ),
}


def columns(job: Job | None) -> dict[str, Any] | None:
    return None if job is None else {field.name: getattr(job, field.name) for field in fields(job)}


@pytest.mark.parametrize("status", JobStatus)
def test_jobs(backend: StorageBackend, status: JobStatus) -> None:
    draft = JobDraft("x", "a", JsonText("{}"), NOW, None, 3, None)
    (inserted,) = backend.jobs.insert([draft], now=NOW)
    assert inserted is not None
    assert columns(inserted) == columns(transitions.new(draft, inserted.id, NOW))
    assert inserted.id == 1, "the operations name this id"
    for name, operation in OPERATIONS.items():
        changed_some = 0
        for number, job in enumerate(variants(status, inserted.id)):
            with backend.transaction() as tx:
                assert tx.jobs.get(job.id, lock=True) is not None
                tx.jobs.save(job)
            assert columns(backend.jobs.get(job.id)) == columns(job), "a saved job comes back as it was"
            expected = operation.expected(job)
            found = operation.found(operation.run(backend, job))
            if not isinstance(found, bool):
                assert columns(found) == columns(expected), (name, number)
            else:
                assert found is (expected is not None), (name, number)
            assert columns(backend.jobs.get(job.id)) == columns(expected or job), (name, number)
            changed_some += expected is not None
        _check_reach(name, status, changed_some)


_REACH = {
    JobStatus.SCHEDULED: {"claim", "dead_letter_late", "reschedule"},
    JobStatus.RETRYING: {"claim", "dead_letter_late", "reschedule"},
    JobStatus.PROCESSING: {"extend", "begin_publish", "begin_publish_many"}
    | {"posted", "failed", "expired", "snoozed", "released"},
    JobStatus.POSTED: set[str](),
    JobStatus.DEAD_LETTER: {"replay", "replay_many"},
    JobStatus.CANCELLED: {"replay"},
}


def _check_reach(name: str, status: JobStatus, changed: int) -> None:
    """The variants are good enough to see each operation change something where it may."""
    is_strange = "another claim" in name
    kind = name.split(",")[0].split(" ")[0]
    assert bool(changed) is (kind in _REACH[status] and not is_strange), (name, status)


def new_name(names: Iterator[int] = count()) -> str:  # noqa: B008 - one count for all
    return f"name {next(names)}"


def stored_key(backend: StorageBackend, state: str, fingerprint: str | None) -> IdempotencyRow | None:
    """A key in a state, and what is stored of it. It has a name of its own."""
    key = new_name()
    if state == "free":
        return None
    if state == "put":
        backend.idempotency.put(key, JsonText("[1]"), saved_at=NOW - MINUTE)
        return IdempotencyRow(key, True, [1], NOW - MINUTE, None, None, None)
    ends_at = NOW + {"held": MINUTE, "over": timedelta(0)}.get(state, MINUTE)
    row = backend.idempotency.claim(
        key, fingerprint=fingerprint, token=7, lease_until=ends_at, now=NOW - 2 * MINUTE
    )
    assert row == IdempotencyRow(key, False, None, NOW - 2 * MINUTE, fingerprint, 7, ends_at)
    if state == "completed":
        assert backend.idempotency.complete(key, 7, JsonText('{"a":1}'), now=NOW - MINUTE)
        return transitions.key_completed(row, 7, {"a": 1}, now=NOW - MINUTE)
    return row


@pytest.mark.parametrize("state", ["free", "held", "over", "completed", "put"])
@pytest.mark.parametrize("stored", [None, "a"])
@pytest.mark.parametrize("asked", [None, "a", "b"])
def test_taking_a_key(backend: StorageBackend, state: str, stored: str | None, asked: str | None) -> None:
    for together in (False, True):
        row = stored_key(backend, state, stored)
        claim = KeyClaim(row.key if row else new_name(), asked, 8, UNTIL, NOW)
        expected = transitions.key_taken(row, claim) or row
        if together:
            (found,) = backend.idempotency.claim_many([claim])
        else:
            found = backend.idempotency.claim(
                claim.key, fingerprint=asked, token=8, lease_until=UNTIL, now=NOW
            )
        assert found == expected


@pytest.mark.parametrize("state", ["free", "held", "over", "completed", "put"])
@pytest.mark.parametrize("token", [7, 8])
def test_completing_and_abandoning_a_key(backend: StorageBackend, state: str, token: int) -> None:
    row = stored_key(backend, state, "a")
    key = row.key if row else new_name()
    expected = transitions.key_completed(row, token, [5], now=NOW)
    assert backend.idempotency.complete(key, token, JsonText("[5]"), now=NOW) is (expected is not None)
    stored = expected or row
    found = backend.idempotency.get(key)
    if stored is None or not stored.completed:
        assert found is None
    else:
        assert found is not None
        assert (found.value, found.saved_at, found.fingerprint) == (
            stored.value,
            stored.saved_at,
            stored.fingerprint,
        )
    row = stored_key(backend, state, "a")
    key = row.key if row else new_name()
    assert backend.idempotency.abandon(key, token) is transitions.holds_key(row, token)
    again = backend.idempotency.claim(key, fingerprint=None, token=9, lease_until=UNTIL, now=NOW)
    left = None if transitions.holds_key(row, token) else row
    assert again == (transitions.key_taken(left, KeyClaim(key, None, 9, UNTIL, NOW)) or left)


@pytest.mark.parametrize("state", ["free", "held", "over", "completed", "put"])
def test_putting_a_key(backend: StorageBackend, state: str) -> None:
    row = stored_key(backend, state, "a")
    key = row.key if row else new_name()
    expected = transitions.key_put(key, json.loads(METADATA), saved_at=NOW)
    assert backend.idempotency.put(key, METADATA, saved_at=NOW).value == expected.value
    assert backend.idempotency.claim(key, fingerprint="z", token=9, lease_until=UNTIL, now=UNTIL) == expected


def stored_lock(backend: StorageBackend, state: str) -> LockRow | None:
    name = new_name()
    if state == "free":
        return None
    expires_at = NOW if state == "expired" else NOW + MINUTE
    for _ in range(2):
        backend.lock.acquire(name, "before", expires_at=NOW - 5 * MINUTE, now=NOW - 9 * MINUTE)
    lock = backend.lock.acquire(name, "owner", expires_at=expires_at, now=NOW - 2 * MINUTE)
    assert lock is not None
    row = LockRow(name, "owner", lock.fence, NOW - 2 * MINUTE, expires_at)
    if state == "released":
        assert backend.lock.release(name, "owner", lock.fence, now=NOW - MINUTE)
        return transitions.lock_released(row, "owner", lock.fence, now=NOW - MINUTE)
    return row


@pytest.mark.parametrize("state", ["free", "held", "expired", "released"])
@pytest.mark.parametrize("owner", ["owner", "other"])
@pytest.mark.parametrize("off", [0, 1])
def test_locks(backend: StorageBackend, state: str, owner: str, off: int) -> None:
    row = stored_lock(backend, state)
    name, fence = (row.name, row.fence + off) if row else (new_name(), 1)
    renewed = transitions.lock_renewed(row, owner, fence, expires_at=UNTIL, now=NOW)
    found = backend.lock.renew(name, owner, fence, expires_at=UNTIL, now=NOW)
    assert found == transitions.lock_held(renewed, now=NOW)
    row = renewed or row
    assert backend.lock.current(name, now=NOW) == transitions.lock_held(row, now=NOW)
    released = transitions.lock_released(row, owner, fence, now=NOW)
    assert backend.lock.release(name, owner, fence, now=NOW) is (released is not None)
    row = released or row
    assert backend.lock.current(name, now=NOW) == transitions.lock_held(row, now=NOW)
    acquired = transitions.lock_acquired(row, name, owner, expires_at=UNTIL - MINUTE, now=NOW)
    taken = backend.lock.acquire(name, owner, expires_at=UNTIL - MINUTE, now=NOW)
    assert taken == transitions.lock_held(acquired, now=NOW)
    assert backend.lock.current(name, now=NOW) == transitions.lock_held(acquired or row, now=NOW)
