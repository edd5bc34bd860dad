"""A database of the system that this schema comes from is upgraded in place, and loses nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from assistly.storage import (
    Approval,
    ClaimState,
    Event,
    IdempotencyRecord,
    JobStatus,
    Latency,
    Session,
    Snapshot,
    Storage,
    WorkerLock,
)
from backends.original_system import (
    APPROVALS,
    AUTO_CREATED_TABLES,
    EVENTS,
    IDEMPOTENCY,
    INIT_TABLES,
    JOBS,
    LOCK,
    MINUTE,
    NONCES,
    NOW,
    SESSIONS,
    STORE,
    THEN,
    VARIANTS,
    Original,
    job_row,
)

NULLABLE = (
    "next_retry_at",
    "remote_id",
    "posted_at",
    "last_error",
    "dead_letter_at",
    "dead_letter_reason",
    "replayed_at",
)


@pytest.fixture(params=[*VARIANTS])
def original(request: pytest.FixtureRequest, database_url: str, new_schema: Callable[[], str]) -> Original:
    database = Original(database_url, new_schema(), request.param)
    database.create(INIT_TABLES, AUTO_CREATED_TABLES)
    database.fill()
    return database


@pytest.fixture
def storage(original: Original) -> Iterator[Storage]:
    with closing(original.open()) as storage:
        yield storage


def exact(value: object) -> str:
    """Text that tells 1 from 1.0 and from True."""
    return json.dumps(value, sort_keys=True)


def stored(text: str) -> Any:
    """JSON as Postgres keeps it: exponents are written out, and there is one zero."""
    return {"1e16": 10**16, "-0.0": 0.0, "1e-320": 1e-320}.get(text, json.loads(text))


def test_no_row_and_no_value_changes_but_what_the_contract_adds(original: Original) -> None:
    tables = ["store", "events", "sessions", "approvals", "idempotency", "nonces", "metrics", "worker_lock"]
    before = {table: original.rows(table) for table in [*tables, "queue_jobs"]}
    with original.open() as storage:
        storage.ping()
    for table in tables:
        after = [{column: row[column] for column in before[table][0]} for row in original.rows(table)]
        assert after == before[table], table
    documents = original.rows("documents")
    assert {row["collection"] for row in documents} == {"displaced_idempotency_key"}
    displaced = {row["key"]: row["data"] for row in documents}
    for old, new in zip(before["queue_jobs"], original.rows("queue_jobs"), strict=True):
        key = new["idempotency_key"] or displaced.get(str(new["id"]))
        kept = {
            column: value
            for column, value in old.items()
            if value is not None and (column, value) != ("status", "cancelled")
        }
        assert {column: (new | {"idempotency_key": key})[column] for column in kept} == kept


def test_every_job_is_read_as_it_was(original: Original, storage: Storage) -> None:
    jobs = storage.queue.list(limit=1000)
    assert [job.id for job in jobs] == [*range(1, len(original.jobs) + 1)]
    for row, job in zip(JOBS, jobs, strict=False):
        expected: dict[str, Any] = dict.fromkeys(NULLABLE)
        expected |= {column: value for column, value in row.items() if column != "idempotency_key"}
        assert {column: getattr(job, column) for column in expected} == expected
        assert job.due_at == (row.get("next_retry_at") or row["scheduled_at"])
        assert (job.metadata, job.max_retries, job.max_lateness, job.attempts) == ({}, 3, None, ())
        assert job.worker_id is None


def test_gaps_in_old_jobs_are_filled_from_what_they_have(
    database_url: str, new_schema: Callable[[], str]
) -> None:
    original = Original(database_url, new_schema(), "loose")
    original.create(INIT_TABLES, AUTO_CREATED_TABLES)
    original.insert("queue_jobs", original.jobs)
    with original.open() as storage:
        jobs = storage.queue.list(after=len(JOBS))
    fresh, retrying, processing, posted, cancelled = jobs
    assert (fresh.status, fresh.retries, fresh.due_at) == (JobStatus.SCHEDULED, 0, THEN + MINUTE)
    assert fresh.created_at == fresh.updated_at == THEN + MINUTE
    assert retrying.due_at == retrying.scheduled_at == retrying.next_retry_at == THEN + 2 * MINUTE
    assert processing.publish_started_at == THEN + MINUTE
    assert (posted.posted_at, posted.updated_at) == (THEN, THEN)
    assert cancelled.status is JobStatus.DEAD_LETTER
    assert "cancelled" in str(cancelled.dead_letter_reason)


def test_a_repeated_idempotency_key_stays_with_the_first_job(original: Original, storage: Storage) -> None:
    jobs = storage.queue.list(limit=1000)
    seen: set[str] = set()
    for row, job in zip(original.jobs, jobs, strict=True):
        key = row.get("idempotency_key")
        assert job.idempotency_key == (None if key in seen else key)
        seen.add(key or "")
    first = jobs[1]
    again = storage.queue.schedule(first.platform, first.content, idempotency_key="morning")
    assert again == first


def test_interrupted_jobs_become_dead_letters_with_an_unknown_outcome(
    original: Original, storage: Storage
) -> None:
    interrupted = storage.queue.list(status="processing")
    assert len(interrupted) == sum(row["status"] == "processing" for row in original.jobs)
    for job in interrupted:
        assert job.publish_started_at is not None
        assert job.lease_until is not None
        assert job.lease_until < NOW
    rescued = storage.queue.rescue_expired()
    assert sorted(job.id for job in rescued) == [job.id for job in interrupted]
    for before, after in zip(interrupted, sorted(rescued, key=lambda job: job.id), strict=True):
        assert after.status is JobStatus.DEAD_LETTER
        assert str(after.dead_letter_reason).startswith("outcome unknown: ")
        assert after.retries == before.retries + 1
        assert after.publish_started_at == before.publish_started_at
    assert storage.queue.rescue_expired() == []


def test_what_is_due_is_claimed_and_nothing_else(original: Original, storage: Storage) -> None:
    due = [
        (row.get("next_retry_at") or row["scheduled_at"], place)
        for place, row in enumerate(original.jobs, start=1)
        if row["status"] in ("scheduled", "retrying")
    ]
    claimed = storage.queue.claim_due(worker_id="new")
    assert [(job.due_at, job.id) for job in claimed] == sorted(entry for entry in due if entry[0] <= NOW)
    settled = storage.queue.mark_failed(claimed[0], "again")
    assert settled.attempts[0].number == settled.retries == claimed[0].retries + 1


def test_dead_letters_and_their_replay(storage: Storage) -> None:
    reasons = {job.id: job.dead_letter_reason for job in storage.queue.dead_letters()}
    assert reasons.items() >= {11: "max retries", 12: None}.items()
    replayed = storage.queue.replay(11)
    assert replayed is not None
    assert (replayed.status, replayed.retries, replayed.replayed_at) == (JobStatus.SCHEDULED, 0, NOW)


def test_counts(original: Original, storage: Storage) -> None:
    counts = storage.queue.counts()
    assert sum(counts.values()) == len(original.jobs)
    assert counts[JobStatus.POSTED] == sum(row["status"] == "posted" for row in original.jobs)


def test_sessions(storage: Storage) -> None:
    expected = [
        Session(str(row["user_id"]), stored(str(row["session"])), 1, row["updated_at"])  # type: ignore[arg-type]
        for row in SESSIONS
    ]
    found = storage.sessions.list()
    assert found == expected
    assert [exact(session.data) for session in found] == [exact(session.data) for session in expected]
    assert storage.sessions.put("user 00", {}, expected_version=1).version == 2


def test_approvals(storage: Storage) -> None:
    newest_first = sorted(enumerate(APPROVALS), key=lambda entry: (entry[1]["created_at"], entry[0]))[::-1]
    found = storage.approvals.list()
    assert [approval.id for approval in found] == [row["id"] for _, row in newest_first]
    for approval, (_, row) in zip(found, newest_first, strict=True):
        expected = Approval(decided_at=None, sequence=approval.sequence, **row)  # type: ignore[arg-type]
        assert approval == replace(expected, payload=stored(str(row["payload"])))
    assert storage.approvals.decide("approval 0", "approved").status == "approved"


def test_idempotency(storage: Storage) -> None:
    for row in IDEMPOTENCY:
        key, value = str(row["key"]), stored(str(row["value"]))
        record = storage.idempotency.get(key)
        assert record == IdempotencyRecord(key, value, row["saved_at"], None)  # type: ignore[arg-type]
        assert exact(record.value) == exact(value)
        claim = storage.idempotency.claim(key, fingerprint="any")
        assert (claim.state, exact(claim.value)) == (ClaimState.COMPLETED, exact(value))


def test_nonces(storage: Storage) -> None:
    for row in NONCES:
        assert storage.nonces.seen(row["nonce"])  # type: ignore[arg-type]
        assert not storage.nonces.register(row["nonce"])  # type: ignore[arg-type]
    assert storage.nonces.register("n-3")


def test_metrics_go_on_from_the_old_sums(storage: Storage) -> None:
    old = storage.metrics.read()
    assert old.counters == {"requestCount": 1200, "errorCount": 7, "commandCount": 340}
    assert old.latency == Latency(4, 250.5, 120.25)
    storage.metrics.increment("requestCount", 5)
    storage.metrics.observe_latency(200)
    new = storage.metrics.read()
    assert new.counters == {"requestCount": 1205, "errorCount": 7, "commandCount": 340}
    assert new.latency == Latency(5, 450.5, 200.0)


def test_the_lock_is_still_held(storage: Storage) -> None:
    acquired, expires = (
        datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int(LOCK[column]))  # type: ignore[call-overload]
        for column in ("acquired_at", "expires_at")
    )
    held = WorkerLock("worker", "host-a:4711", 1, acquired, expires)
    assert storage.lock.current() == held
    assert storage.lock.acquire("host-b:1") is None
    renewed = storage.lock.acquire("host-a:4711")
    assert renewed is not None
    assert (renewed.fence, renewed.acquired_at) == (1, acquired)
    taken = storage.lock.acquire("host-b:1", now=NOW + timedelta(hours=1))
    assert taken is not None
    assert taken.fence == 2


def test_snapshots(storage: Storage) -> None:
    expected = [
        Snapshot(str(row["kind"]), stored(str(row["payload"])), THEN)
        for row in sorted(STORE, key=lambda row: str(row["kind"]))
    ]
    assert storage.snapshots.list() == expected


def test_events(storage: Storage) -> None:
    expected = [
        Event(id, str(row["event_type"]), stored(str(row["payload"])), row["created_at"])  # type: ignore[arg-type]
        for id, row in enumerate(EVENTS, start=1)
        if id not in (2, 3)
    ]
    assert storage.events.read_after(0) == expected
    assert [exact(event.payload) for event in storage.events.read_after(0)] == [
        exact(event.payload) for event in expected
    ]
    assert storage.events.list() == sorted(expected, key=lambda event: event.created_at, reverse=True)


def test_ids_go_on_after_the_old_ones(original: Original, storage: Storage) -> None:
    assert storage.queue.schedule("x", "new").id == len(original.jobs) + 1
    assert storage.events.append("new", None).id > len(EVENTS)
    old = storage.approvals.list()
    assert storage.approvals.add("new", {}).sequence > max(approval.sequence for approval in old)


def test_pruning_applies_to_the_old_rows(storage: Storage) -> None:
    report = storage.prune(force=True, now=THEN + timedelta(days=400))
    assert (report.approvals, report.idempotency, report.nonces) == (
        len(APPROVALS),
        len(IDEMPOTENCY),
        len(NONCES),
    )
    assert len(storage.sessions.list()) == len(SESSIONS)


def test_the_second_open_applies_nothing(original: Original) -> None:
    with original.open() as storage:
        applied = storage.migrate()
    assert applied[0] == "001_init_postgres.sql"
    recorded = original.rows("migrations")
    assert [row["name"] for row in recorded] == applied
    with original.open() as storage:
        assert storage.migrate() == []
    assert original.rows("migrations") == recorded


def test_what_the_original_left_can_be_decided_about(original: Original) -> None:
    with original.open() as storage:
        queue = storage.queue
        unknown = [job for job in queue.rescue_expired(now=NOW) if job.outcome_unknown]
        assert len(unknown) >= 2
        posted = queue.resolve(unknown[0].id, posted=True, remote_id="found")
        assert (posted.status, posted.posted_at) == (JobStatus.POSTED, unknown[0].publish_started_at)
        again = queue.resolve(unknown[1].id, posted=False, now=NOW)
        assert (again.status, again.due_at, again.checkpoint) == (JobStatus.SCHEDULED, NOW, None)
        assert [job.id for job in queue.upcoming(until=NOW)].count(again.id) == 1
        cancelled = queue.cancel(again.id)
        assert queue.counts()[JobStatus.CANCELLED] == 1
        assert queue.list(status=JobStatus.CANCELLED) == [cancelled]
        storage.platforms.pause(cancelled.platform)
        assert [platform.name for platform in storage.platforms.list()] == [cancelled.platform]


def test_several_processes_may_upgrade_at_once(original: Original) -> None:
    storages = [original.open() for _ in range(4)]
    applied: list[str] = []
    barrier = threading.Barrier(len(storages))

    def upgrade(storage: Storage) -> None:
        barrier.wait()
        applied.extend(storage.migrate())

    threads = [threading.Thread(target=upgrade, args=(storage,)) for storage in storages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for storage in storages:
        assert len(storage.queue.list()) == len(original.jobs)
        storage.close()
    assert sorted(applied) == [row["name"] for row in original.rows("migrations")]


def test_an_old_key_too_long_for_an_index_does_not_stop_the_upgrade(original: Original) -> None:
    incompressible = "".join(chr(0x4E00 + place * 7919 % 20_000) for place in range(4000))
    original.insert("queue_jobs", [job_row("posted", after=MINUTE, idempotency_key=incompressible)])
    with original.open() as storage:
        assert len(storage.queue.list()) == len(original.jobs) + 1
    assert incompressible in [row["data"] for row in original.rows("documents")]


@pytest.mark.parametrize("variant", [*VARIANTS])
@pytest.mark.parametrize(
    "script", [INIT_TABLES, AUTO_CREATED_TABLES], ids=["001 alone", "auto-created alone"]
)
def test_half_of_the_original(
    script: str, variant: str, database_url: str, new_schema: Callable[[], str]
) -> None:
    original = Original(database_url, new_schema(), variant)
    original.create(script)
    if script is INIT_TABLES:
        original.insert("events", EVENTS)
    else:
        original.insert("queue_jobs", original.jobs)
    with original.open() as storage:
        assert storage.queue.schedule("x", "new").id == len(storage.queue.list())
        assert storage.events.append("new", None).id == len(storage.events.list())
        assert len(storage.queue.list()) + len(storage.events.list()) > 2


def test_an_empty_original(database_url: str, new_schema: Callable[[], str]) -> None:
    original = Original(database_url, new_schema(), "strict")
    original.create(INIT_TABLES, AUTO_CREATED_TABLES)
    with original.open() as storage:
        assert storage.lock.current() is None
        lock = storage.lock.acquire("first")
        assert lock is not None
        assert lock.fence == 1
        assert storage.metrics.read().counters == {}


def test_a_lock_that_the_original_released(database_url: str, new_schema: Callable[[], str]) -> None:
    original = Original(database_url, new_schema(), "loose")
    original.create(INIT_TABLES, AUTO_CREATED_TABLES)
    original.insert("worker_lock", [dict.fromkeys(LOCK) | {"id": 1}])
    with original.open() as storage:
        assert storage.lock.current() is None
        lock = storage.lock.acquire("next")
        assert lock is not None
        assert storage.lock.current() == lock
    assert [row["id"] for row in original.rows("worker_lock")] == [1]
