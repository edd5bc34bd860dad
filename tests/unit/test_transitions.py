"""The rules of every state change, for any stored job, key and lock."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistly.storage import transitions
from assistly.storage.engine.values import (
    IdempotencyRow,
    JobDraft,
    JsonText,
    KeyClaim,
    LockRow,
    Settlement,
)
from assistly.storage.records import Attempt, Job, JobStatus

START = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOLDER = ("worker_id", "lease_until")

moments = st.integers(-5, 5).map(lambda seconds: START + timedelta(seconds=seconds))
statuses = st.sampled_from(JobStatus)
texts = st.text(max_size=3)
checkpoints = st.sampled_from([None, False, {}, {"step": 1}])
spans = st.one_of(st.none(), st.integers(0, 5).map(lambda seconds: timedelta(seconds=seconds)))


@st.composite
def jobs(draw: st.DrawFn, status: st.SearchStrategy[JobStatus] = statuses) -> Job:
    """A job as operations leave it: what depends on the status is set as they set it."""
    now = draw(status)
    is_held = now is JobStatus.PROCESSING
    scheduled_at = draw(moments)
    may_retry = now in (JobStatus.RETRYING, JobStatus.SCHEDULED, JobStatus.PROCESSING)
    next_retry_at = draw(st.one_of(st.none(), moments)) if may_retry else None
    return Job(
        id=1,
        status=now,
        platform="x",
        content=draw(texts),
        metadata={"n": draw(st.integers(0, 3))},
        scheduled_at=scheduled_at,
        created_at=START,
        updated_at=START,
        retries=draw(st.integers(0, 4)),
        max_retries=draw(st.integers(1, 4)),
        next_retry_at=next_retry_at,
        due_at=next_retry_at or scheduled_at,
        idempotency_key=draw(st.one_of(st.none(), texts)),
        remote_id="r" if now is JobStatus.POSTED else None,
        posted_at=draw(moments) if now is JobStatus.POSTED else None,
        last_error=draw(st.one_of(st.none(), texts)),
        dead_letter_at=draw(moments) if now is JobStatus.DEAD_LETTER else None,
        dead_letter_reason=draw(texts) if now is JobStatus.DEAD_LETTER else None,
        replayed_at=draw(st.one_of(st.none(), moments)),
        claim=draw(st.integers(0, 3)),
        worker_id="w" if is_held else None,
        lease_until=draw(moments) if is_held else None,
        publish_started_at=draw(st.one_of(st.none(), moments)),
        max_lateness=draw(spans),
        attempts=tuple(
            Attempt(n, START, "w", f"error {n}") for n in range(draw(st.sampled_from([0, 1, 20])))
        ),
        checkpoint=draw(checkpoints),
    )


settlements = st.builds(
    Settlement,
    kind=st.sampled_from(["posted", "failed", "snoozed", "released"]),
    job=jobs(),
    remote_id=st.one_of(st.none(), texts),
    error=st.one_of(texts, st.just("e" * 5000)),
    at=moments,
    final=st.booleans(),
    keep_publish=st.booleans(),
)


def as_dict(job: Job) -> dict[str, Any]:
    return {field.name: getattr(job, field.name) for field in fields(job)}


def all_changes(job: Job, settlement: Settlement, now: datetime) -> list[Job | None]:
    """What every operation makes of the job."""
    claim = job.claim
    return [
        transitions.claimed(job, worker_id="v", lease_until=now, now=now),
        transitions.dead_lettered_late(job, reason="late", now=now),
        transitions.extended(job, claim, lease_until=now, now=now),
        transitions.publish_begun(job, claim, now=now),
        transitions.settled(job, settlement, now=now),
        transitions.settled(job, settlement, now=now, expired_only=True),
        transitions.replayed(job, now, now=now),
        transitions.rescheduled(job, now, content="new", metadata=None, now=now),
        transitions.checkpointed(job, claim, data={"step": 2}, now=now),
        transitions.cancelled(job, now=now),
        transitions.resolved_posted(job, remote_id="remote", now=now),
        transitions.resolved_unpublished(job, now=now),
    ]


@given(jobs(), settlements, moments)
def test_what_holds_after_every_change(job: Job, settlement: Settlement, now: datetime) -> None:
    before = as_dict(job)
    for changed in all_changes(job, settlement, now):
        if changed is None:
            continue
        assert changed is not job
        assert changed.updated_at == now
        is_held = changed.status is JobStatus.PROCESSING
        assert [getattr(changed, name) is not None for name in HOLDER] == [is_held, is_held]
        assert changed.due_at == (changed.next_retry_at or changed.scheduled_at)
        for name in ("id", "platform", "created_at", "max_retries", "max_lateness", "idempotency_key"):
            assert getattr(changed, name) == before[name]
        if changed.status in (JobStatus.POSTED, JobStatus.DEAD_LETTER, JobStatus.CANCELLED):
            assert changed.next_retry_at is None
        if changed.status is JobStatus.POSTED:
            assert changed.checkpoint is None
        is_dead = changed.status is JobStatus.DEAD_LETTER
        assert is_dead or not (changed.outcome_unknown or changed.missed)
    assert as_dict(job) == before, "a transition has no effect on what it is given"


@given(jobs(), settlements, moments)
def test_only_a_claim_makes_a_job_be_held(job: Job, settlement: Settlement, now: datetime) -> None:
    claimed, *others = all_changes(job, settlement, now)
    assert claimed is None or claimed.claim == job.claim + 1
    assert all(changed is None or changed.claim == job.claim for changed in others)
    if job.status is not JobStatus.PROCESSING:
        assert all(changed is None or changed.status is not JobStatus.PROCESSING for changed in others)


def test_a_new_job() -> None:
    draft = JobDraft("x", "hello", JsonText('{"a":1}'), START, "key", 3, timedelta(hours=1))
    now = START + timedelta(seconds=1)
    job = transitions.new(draft, 7, now)
    stored = {
        "id": 7,
        "status": JobStatus.SCHEDULED,
        "platform": "x",
        "content": "hello",
        "metadata": {"a": 1},
        "scheduled_at": START,
        "created_at": now,
        "updated_at": now,
        "retries": 0,
        "max_retries": 3,
        "due_at": START,
        "idempotency_key": "key",
        "claim": 0,
        "max_lateness": timedelta(hours=1),
        "attempts": (),
    }
    assert as_dict(job) == {**dict.fromkeys(as_dict(job)), **stored}


@pytest.mark.parametrize("text", ["{}", '{"a":[]}'])
def test_metadata_is_nobody_elses(text: str) -> None:
    draft = JobDraft("x", "hello", JsonText(text), START, None, 3, None)
    first, second = transitions.new(draft, 1, START), transitions.new(draft, 2, START)
    first.metadata["mine"] = True
    assert second.metadata == json.loads(text)


@given(jobs(), moments)
def test_who_may_be_claimed(job: Job, now: datetime) -> None:
    is_late = job.max_lateness is not None and job.scheduled_at + job.max_lateness < now
    may = job.status in (JobStatus.SCHEDULED, JobStatus.RETRYING) and job.due_at <= now and not is_late
    claimed = transitions.claimed(job, worker_id="v", lease_until=now + timedelta(1), now=now)
    assert (claimed is not None) is may
    if claimed is not None:
        assert as_dict(claimed) == as_dict(job) | {
            "status": JobStatus.PROCESSING,
            "claim": job.claim + 1,
            "worker_id": "v",
            "lease_until": now + timedelta(1),
            "updated_at": now,
        }


@given(jobs(), moments)
def test_who_is_late(job: Job, now: datetime) -> None:
    late = transitions.dead_lettered_late(job, reason="missed", now=now)
    claimed = transitions.claimed(job, worker_id="v", lease_until=now, now=now)
    is_due = job.status in (JobStatus.SCHEDULED, JobStatus.RETRYING) and job.due_at <= now
    assert (late is not None) + (claimed is not None) == is_due, "a due job is late or may be claimed"
    if late is not None:
        assert as_dict(late) == as_dict(job) | {
            "status": JobStatus.DEAD_LETTER,
            "next_retry_at": None,
            "due_at": job.scheduled_at,
            "dead_letter_at": now,
            "dead_letter_reason": "missed",
            "updated_at": now,
        }


def test_a_limit_beyond_the_calendar_is_never_passed() -> None:
    draft = JobDraft("x", "a", JsonText("{}"), START, None, 3, timedelta.max)
    job = transitions.new(draft, 1, START)
    latest = datetime.max.replace(tzinfo=UTC)
    assert transitions.late_after(job) == latest
    assert not transitions.is_late(job, latest)


@given(jobs())
def test_when_a_sweep_must_look(job: Job) -> None:
    at = transitions.check_at(job)
    if job.status is JobStatus.PROCESSING:
        assert at == job.lease_until
    elif job.status in (JobStatus.SCHEDULED, JobStatus.RETRYING) and job.max_lateness is not None:
        assert at == job.scheduled_at + job.max_lateness
    else:
        assert at is None


@given(jobs(), st.integers(0, 3), moments)
def test_a_lease_that_lasts(job: Job, claim: int, now: datetime) -> None:
    may = (
        job.status is JobStatus.PROCESSING
        and job.claim == claim
        and job.lease_until is not None
        and job.lease_until > now
    )
    until = now + timedelta(1)
    extended = transitions.extended(job, claim, lease_until=until, now=now)
    begun = transitions.publish_begun(job, claim, now=now)
    assert (extended is not None) is (begun is not None) is may
    if extended is not None and begun is not None:
        assert as_dict(extended) == as_dict(job) | {"lease_until": until, "updated_at": now}
        started = job.publish_started_at or now
        assert as_dict(begun) == as_dict(job) | {"publish_started_at": started, "updated_at": now}


@given(jobs(), settlements, moments, st.booleans())
def test_which_claims_can_be_settled(
    job: Job, settlement: Settlement, now: datetime, expired_only: bool
) -> None:
    may = job.status is JobStatus.PROCESSING and job.claim == settlement.claim
    if expired_only:
        assert job.status is not JobStatus.PROCESSING or job.lease_until is not None
        may = may and job.lease_until is not None and job.lease_until <= now
        may = may and (job.publish_started_at is None or settlement.keep_publish)
    settled = transitions.settled(job, settlement, now=now, expired_only=expired_only)
    assert (settled is not None) is may


@given(jobs(st.just(JobStatus.PROCESSING)), settlements, moments)
def test_what_a_settlement_does(job: Job, settlement: Settlement, now: datetime) -> None:
    settlement = Settlement(
        settlement.kind,
        job,
        settlement.remote_id,
        settlement.error,
        settlement.at,
        settlement.final,
        settlement.keep_publish,
    )
    settled = transitions.settled(job, settlement, now=now)
    assert settled is not None
    expected: dict[str, Any] = {"worker_id": None, "lease_until": None, "updated_at": now}
    before = JobStatus.RETRYING if job.retries else JobStatus.SCHEDULED
    match settlement.kind:
        case "posted":
            expected |= {
                "status": JobStatus.POSTED,
                "posted_at": now,
                "remote_id": settlement.remote_id,
                "next_retry_at": None,
                "due_at": job.scheduled_at,
                "checkpoint": None,
            }
        case "snoozed":
            expected |= {"status": before, "next_retry_at": settlement.at, "due_at": settlement.at}
            expected |= {"publish_started_at": None}
        case "released":
            expected |= {"status": before, "due_at": job.due_at, "publish_started_at": None}
        case "failed":
            is_final = settlement.final or job.retries + 1 >= job.max_retries
            attempt = Attempt(job.retries + 1, now, job.worker_id, settlement.error[:4096])
            expected |= {
                "status": JobStatus.DEAD_LETTER if is_final else JobStatus.RETRYING,
                "retries": job.retries + 1,
                "last_error": settlement.error,
                "attempts": (*job.attempts, attempt)[-20:],
                "next_retry_at": None if is_final else settlement.at,
                "due_at": job.scheduled_at if is_final else settlement.at,
                "publish_started_at": (job.publish_started_at or now) if settlement.keep_publish else None,
            }
            if is_final:
                expected |= {"dead_letter_at": now, "dead_letter_reason": settlement.error}
    assert as_dict(settled) == as_dict(job) | expected


def replayed(job: Job, scheduled_at: datetime, now: datetime) -> dict[str, Any]:
    """What a replay leaves of a job, but for the checkpoint."""
    cleared = ("last_error", "dead_letter_at", "dead_letter_reason", "publish_started_at", "next_retry_at")
    return (
        as_dict(job)
        | dict.fromkeys(cleared)
        | {
            "status": JobStatus.SCHEDULED,
            "scheduled_at": scheduled_at,
            "due_at": scheduled_at,
            "retries": 0,
            "replayed_at": now,
            "updated_at": now,
        }
    )


@given(jobs(), moments, moments)
def test_a_replay(job: Job, scheduled_at: datetime, now: datetime) -> None:
    changed = transitions.replayed(job, scheduled_at, now=now)
    assert (changed is not None) is (job.status in (JobStatus.DEAD_LETTER, JobStatus.CANCELLED))
    if changed is not None:
        assert as_dict(changed) == replayed(job, scheduled_at, now) | {"checkpoint": None}


@given(jobs(), st.integers(0, 3), checkpoints, moments)
def test_a_checkpoint(job: Job, claim: int, data: Any, now: datetime) -> None:
    changed = transitions.checkpointed(job, claim, data=data, now=now)
    is_held = job.status is JobStatus.PROCESSING and job.claim == claim
    assert (changed is not None) is (is_held and job.publish_started_at is not None)
    if changed is not None:
        assert as_dict(changed) == as_dict(job) | {"checkpoint": data, "updated_at": now}


@given(jobs(), moments)
def test_a_cancellation(job: Job, now: datetime) -> None:
    changed = transitions.cancelled(job, now=now)
    is_waiting = job.status in (JobStatus.SCHEDULED, JobStatus.RETRYING)
    is_held = job.status is JobStatus.PROCESSING and job.publish_started_at is None
    assert (changed is not None) is (is_waiting or is_held)
    if changed is not None:
        assert as_dict(changed) == as_dict(job) | {
            "status": JobStatus.CANCELLED,
            "next_retry_at": None,
            "due_at": job.scheduled_at,
            "worker_id": None,
            "lease_until": None,
            "updated_at": now,
        }


@given(jobs(st.just(JobStatus.CANCELLED)), settlements, moments)
def test_a_cancelled_job_only_comes_back_by_a_replay(job: Job, settlement: Settlement, now: datetime) -> None:
    changes = [changed for changed in all_changes(job, settlement, now) if changed is not None]
    assert [changed.status for changed in changes] == [JobStatus.SCHEDULED]
    assert changes[0] == transitions.replayed(job, now, now=now)


@given(jobs(), st.one_of(st.none(), texts), moments)
def test_an_answer(job: Job, remote_id: str | None, now: datetime) -> None:
    posted = transitions.resolved_posted(job, remote_id=remote_id, now=now)
    again = transitions.resolved_unpublished(job, now=now)
    is_unknown = job.status is JobStatus.DEAD_LETTER and job.publish_started_at is not None
    assert (posted is not None) is (again is not None) is is_unknown is job.outcome_unknown
    if posted is not None and again is not None:
        assert as_dict(posted) == as_dict(job) | {
            "status": JobStatus.POSTED,
            "posted_at": job.publish_started_at,
            "remote_id": remote_id,
            "dead_letter_at": None,
            "dead_letter_reason": None,
            "checkpoint": None,
            "updated_at": now,
        }
        assert as_dict(again) == replayed(job, now, now)


@given(
    jobs(), st.sampled_from(["missed: it", "missed", "no", "", None]), st.sampled_from([None, "missed: it"])
)
def test_which_jobs_were_missed(job: Job, reason: str | None, last_error: str | None) -> None:
    job = replace(job, dead_letter_reason=reason, last_error=last_error)
    is_dead = job.status is JobStatus.DEAD_LETTER and job.publish_started_at is None
    assert job.missed is (is_dead and reason == "missed: it" and last_error is None)


@given(jobs(), moments, st.one_of(st.none(), texts), st.sampled_from([None, "{}", '{"new":1}']), moments)
def test_a_reschedule(
    job: Job, scheduled_at: datetime, content: str | None, metadata: JsonText | None, now: datetime
) -> None:
    moved = transitions.rescheduled(job, scheduled_at, content=content, metadata=metadata, now=now)
    assert (moved is not None) is (job.status in (JobStatus.SCHEDULED, JobStatus.RETRYING))
    if moved is not None:
        assert as_dict(moved) == as_dict(job) | {
            "scheduled_at": scheduled_at,
            "due_at": scheduled_at,
            "next_retry_at": None,
            "content": job.content if content is None else content,
            "metadata": job.metadata if metadata is None else json.loads(metadata),
            "updated_at": now,
        }


keys = st.one_of(
    st.none(),
    st.builds(
        IdempotencyRow,
        key=st.just("key"),
        completed=st.just(False),
        value=st.none(),
        saved_at=moments,
        fingerprint=st.sampled_from([None, "a", "b"]),
        token=st.integers(1, 3),
        lease_until=moments,
    ),
    st.builds(
        IdempotencyRow,
        key=st.just("key"),
        completed=st.just(True),
        value=st.integers(),
        saved_at=moments,
        fingerprint=st.sampled_from([None, "a", "b"]),
        token=st.none(),
        lease_until=st.none(),
    ),
)


@given(keys, st.sampled_from([None, "a", "b"]), moments)
def test_who_takes_a_key(row: IdempotencyRow | None, fingerprint: str | None, now: datetime) -> None:
    until = now + timedelta(1)
    taken = transitions.key_taken(row, KeyClaim("key", fingerprint, 9, until, now))
    if row is None:
        assert taken == IdempotencyRow("key", False, None, now, fingerprint, 9, until)
        return
    is_over = row.lease_until is not None and row.lease_until <= now
    differs = {row.fingerprint, fingerprint} == {"a", "b"}
    if not is_over or differs:
        assert taken is None
    else:
        kept = row.fingerprint or fingerprint
        assert taken == IdempotencyRow("key", False, None, now, kept, 9, until)


@given(keys, st.integers(1, 3), moments)
def test_who_completes_a_key(row: IdempotencyRow | None, token: int, now: datetime) -> None:
    completed = transitions.key_completed(row, token, 5, now=now)
    may = row is not None and not row.completed and row.token == token
    assert transitions.holds_key(row, token) is may
    assert (completed is not None) is may
    if completed is not None and row is not None:
        assert completed == IdempotencyRow("key", True, 5, now, row.fingerprint, None, None)


def test_a_key_that_is_put() -> None:
    row = transitions.key_put("key", 5, saved_at=START)
    assert row == IdempotencyRow("key", True, 5, START, None, None, None)


locks = st.one_of(
    st.none(),
    st.builds(
        LockRow,
        name=st.just("lock"),
        owner_id=st.sampled_from([None, "a", "b"]),
        fence=st.integers(1, 3),
        acquired_at=moments,
        expires_at=moments,
    ),
)


def holder(row: LockRow | None, now: datetime) -> str | None:
    return row.owner_id if row is not None and row.expires_at > now else None


@given(locks, st.sampled_from(["a", "b"]), moments, moments)
def test_who_gets_a_lock(row: LockRow | None, owner: str, now: datetime, expires_at: datetime) -> None:
    acquired = transitions.lock_acquired(row, "lock", owner, expires_at=expires_at, now=now)
    held_by = holder(row, now)
    if held_by is None:
        assert acquired == LockRow("lock", owner, row.fence + 1 if row else 1, now, expires_at)
    elif held_by == owner:
        assert row is not None
        assert acquired == LockRow("lock", owner, row.fence, row.acquired_at, expires_at)
    else:
        assert acquired is None


@given(locks, st.sampled_from(["a", "b"]), st.integers(1, 3), moments, moments)
def test_who_renews_and_releases_a_lock(
    row: LockRow | None, owner: str, fence: int, now: datetime, expires_at: datetime
) -> None:
    may = row is not None and holder(row, now) == owner and row.fence == fence
    renewed = transitions.lock_renewed(row, owner, fence, expires_at=expires_at, now=now)
    released = transitions.lock_released(row, owner, fence, now=now)
    assert (renewed is not None) is (released is not None) is may
    if row is not None and renewed is not None and released is not None:
        assert renewed == LockRow("lock", owner, fence, row.acquired_at, expires_at)
        assert (released.owner_id, released.fence) == (None, fence)
        assert transitions.lock_held(released, now=now) is None
        again = transitions.lock_acquired(released, "lock", owner, expires_at=expires_at, now=now)
        assert again is not None
        assert again.fence == fence + 1


@given(st.one_of(st.none(), moments), moments, st.integers(0, 5))
def test_when_to_prune(stamp: datetime | None, now: datetime, seconds: int) -> None:
    may = transitions.may_prune(stamp, now=now, interval=timedelta(seconds=seconds))
    assert may is (stamp is None or not -seconds < (now - stamp).total_seconds() < seconds)
