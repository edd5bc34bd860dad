"""A database of the system that this schema comes from is upgraded in place, and loses nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from assistly.storage import (
    Approval,
    ClaimState,
    Event,
    IdempotencyRecord,
    Job,
    JobStatus,
    Latency,
    PostgresBackend,
    Session,
    Snapshot,
    Storage,
    WorkerLock,
)

THEN = datetime(2024, 5, 1, 12, 0, 0, 123_456, tzinfo=UTC)
NOW = THEN + timedelta(hours=6)
MINUTE = timedelta(minutes=1)

INIT_TABLES = """
CREATE TABLE assistly_store (
    kind text PRIMARY KEY, payload jsonb REQUIRED, updated_at timestamptz REQUIRED CURRENT
);
CREATE TABLE assistly_events (
    id bigserial PRIMARY KEY, event_type text REQUIRED, payload jsonb REQUIRED,
    created_at timestamptz REQUIRED CURRENT
);
CREATE INDEX idx_events_type_created ON assistly_events (event_type, created_at);
"""

AUTO_CREATED_TABLES = """
CREATE TABLE assistly_sessions (
    user_id text PRIMARY KEY, session jsonb REQUIRED, updated_at timestamptz REQUIRED CURRENT
);
CREATE TABLE assistly_approvals (
    id text PRIMARY KEY, status text REQUIRED, created_at timestamptz REQUIRED CURRENT, payload jsonb REQUIRED
);
CREATE TABLE assistly_idempotency (
    key text PRIMARY KEY, saved_at timestamptz REQUIRED CURRENT, value jsonb REQUIRED
);
CREATE TABLE assistly_nonces (nonce text PRIMARY KEY, timestamp_ms bigint REQUIRED);
CREATE TABLE assistly_metrics (
    id smallint PRIMARY KEY, payload jsonb REQUIRED, updated_at timestamptz REQUIRED CURRENT
);
CREATE TABLE assistly_worker_lock (
    id smallint PRIMARY KEY, owner_id text REQUIRED, acquired_at bigint REQUIRED, expires_at bigint REQUIRED
);
CREATE TABLE assistly_queue_jobs (
    id bigserial PRIMARY KEY,
    status text REQUIRED,
    retries integer REQUIRED ZERO,
    created_at timestamptz REQUIRED CURRENT,
    platform text REQUIRED,
    scheduled_at timestamptz REQUIRED,
    content text REQUIRED,
    idempotency_key text,
    next_retry_at timestamptz,
    remote_id text,
    posted_at timestamptz,
    last_error text,
    dead_letter_at timestamptz,
    dead_letter_reason text,
    replayed_at timestamptz,
    updated_at timestamptz REQUIRED CURRENT
);
CREATE INDEX idx_queue_due ON assistly_queue_jobs (scheduled_at, next_retry_at)
    WHERE status IN ('scheduled', 'retrying');
CREATE INDEX idx_queue_conflict ON assistly_queue_jobs (platform, scheduled_at)
    WHERE status IN ('scheduled', 'retrying', 'processing');
CREATE INDEX idx_queue_dead_letter ON assistly_queue_jobs (id) WHERE status = 'dead_letter';
CREATE INDEX idx_approvals_created ON assistly_approvals (created_at);
CREATE INDEX idx_idempotency_saved ON assistly_idempotency (saved_at);
CREATE INDEX idx_nonces_timestamp ON assistly_nonces (timestamp_ms);
"""

VARIANTS: Mapping[str, Mapping[str, str]] = {
    "strict": {"REQUIRED": "NOT NULL", "CURRENT": "DEFAULT now()", "ZERO": "DEFAULT 0"},
    "loose": {"REQUIRED": "", "CURRENT": "", "ZERO": ""},
}

Row = dict[str, Any]

ODD_JSON = (
    '{"step": "draft", "items": [1, 2.5, true, null, "é \\u2028 🐝"], "empty": {}}',
    "[]",
    "{}",
    '""',
    "0",
    "false",
    "null",
    "1.0",
    "1e16",
    "12345678901234567890123",
    "-0.0",
    "1e-320",
    '{"": {"": [[[[]]]]}, "__proto__": 1, "é": "e\\u0301"}',
    '"\\u0001 \\u007f \\\\ \\" %s :name {t}"',
)


def job(status: str, *, after: timedelta, **columns: Any) -> Row:
    row = {
        "status": status,
        "retries": 0,
        "platform": "mastodon",
        "scheduled_at": THEN + after,
        "content": f"{status} after {after}",
        "created_at": THEN - timedelta(days=2),
        "updated_at": THEN - timedelta(days=1),
    }
    return row | columns


JOBS: Sequence[Row] = [
    job("scheduled", after=timedelta(days=1)),
    job("scheduled", after=-5 * MINUTE, idempotency_key="morning"),
    job("scheduled", after=-4 * MINUTE, idempotency_key="morning", platform="x"),
    job(
        "retrying",
        after=-9 * MINUTE,
        retries=2,
        next_retry_at=THEN + MINUTE,
        last_error="503 from the platform",
        idempotency_key="noon",
    ),
    job("retrying", after=-8 * MINUTE, retries=1, last_error="timeout"),
    job("retrying", after=-7 * MINUTE, retries=2, next_retry_at=NOW + MINUTE, last_error="429"),
    job("processing", after=-3 * MINUTE, idempotency_key="evening"),
    job("processing", after=-2 * MINUTE, retries=2, last_error="reset", idempotency_key="morning"),
    job(
        "posted",
        after=-60 * MINUTE,
        remote_id="109501",
        posted_at=THEN - 59 * MINUTE,
        idempotency_key="evening",
    ),
    job("posted", after=-50 * MINUTE, retries=1, posted_at=THEN - 40 * MINUTE, last_error="timeout"),
    job(
        "dead_letter",
        after=-40 * MINUTE,
        retries=3,
        last_error="401 Unauthorized",
        dead_letter_at=THEN - 30 * MINUTE,
        dead_letter_reason="max retries",
        idempotency_key="noon",
    ),
    job("dead_letter", after=-41 * MINUTE, retries=3),
    job("scheduled", after=2 * MINUTE, replayed_at=THEN, content="", platform="Ünïcode 🐝"),
    job("scheduled", after=3 * MINUTE, content="100 % of {t} :name 'quoted' \\ \n\t", idempotency_key="night"),
]

GAPS: Sequence[Row] = [
    job("scheduled", after=MINUTE, retries=None, created_at=None, updated_at=None),
    job("retrying", after=MINUTE, scheduled_at=None, next_retry_at=THEN + 2 * MINUTE),
    job("processing", after=MINUTE, created_at=None, updated_at=None, idempotency_key="evening"),
    job("posted", after=MINUTE, updated_at=None, posted_at=THEN),
    job("cancelled", after=MINUTE),
]

SESSIONS = [
    {"user_id": f"user {place:02}", "session": text, "updated_at": THEN + place * MINUTE}
    for place, text in enumerate(ODD_JSON)
] + [{"user_id": "Ünïcode 🐝", "session": "{}", "updated_at": THEN}]

APPROVALS = [
    {"id": f"approval {place}", "status": status, "created_at": THEN + minutes * MINUTE, "payload": text}
    for place, (status, minutes, text) in enumerate(
        [
            ("pending", 5, '{"id": "approval 0", "status": "pending", "text": "Hello"}'),
            ("approved", 5, "{}"),
            ("rejected", 5, "[]"),
            ("pending", 1, '{"decision": null}'),
            ("needs a second look", 9, '"free text"'),
        ]
    )
]

IDEMPOTENCY = [
    {"key": f"command {place}", "saved_at": THEN + place * MINUTE, "value": text}
    for place, text in enumerate(ODD_JSON)
]

NONCES = [
    {"nonce": "n-1", "timestamp_ms": 1_714_560_000_123},
    {"nonce": "n-2", "timestamp_ms": 0},
    {"nonce": "ñ 🐝", "timestamp_ms": 1_714_560_000_124},
]

METRICS = {
    "requestCount": 1200,
    "errorCount": 7,
    "commandCount": 340,
    "latencyMs": {"count": 4, "total": 250.5, "max": 120.25},
}

LOCK = {
    "id": 1,
    "owner_id": "host-a:4711",
    "acquired_at": int((NOW - 3 * MINUTE).timestamp() * 1000),
    "expires_at": int((NOW + MINUTE).timestamp() * 1000),
}

STORE = [
    {"kind": kind, "payload": text, "updated_at": THEN}
    for kind, text in zip(["queue", "state", "logs"], ODD_JSON, strict=False)
]

EVENTS = [
    {"event_type": f"type {place % 3}", "payload": text, "created_at": THEN - place * MINUTE}
    for place, text in enumerate(ODD_JSON)
]


class Original:
    """A database as the original leaves it: no record of any migration."""

    def __init__(self, url: str, schema: str, variant: str) -> None:
        self.url = url
        self.schema = schema
        self._types = VARIANTS[variant]
        self.jobs = [*JOBS, *GAPS] if variant == "loose" else JOBS

    def create(self, *scripts: str) -> None:
        with self.connect() as connection:
            for script in scripts:
                for word, meaning in self._types.items():
                    script = script.replace(word, meaning)
                connection.execute(script.encode())

    def fill(self) -> None:
        self.insert("store", STORE)
        self.insert("events", EVENTS)
        self.insert("sessions", SESSIONS)
        self.insert("approvals", APPROVALS)
        self.insert("idempotency", IDEMPOTENCY)
        self.insert("nonces", NONCES)
        self.insert("metrics", [{"id": 1, "payload": json.dumps(METRICS), "updated_at": THEN}])
        self.insert("worker_lock", [LOCK])
        self.insert("queue_jobs", self.jobs)
        with self.connect() as connection:
            connection.execute("DELETE FROM assistly_events WHERE id IN (2, 3)")

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        with self.connect() as connection:
            for row in rows:
                statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                    sql.Identifier(f"assistly_{table}"),
                    sql.SQL(", ").join(map(sql.Identifier, row)),
                    sql.SQL(", ").join([sql.Placeholder()] * len(row)),
                )
                connection.execute(statement, [*row.values()])

    def rows(self, table: str) -> list[Row]:
        with self.connect() as connection:
            name = sql.Identifier(f"assistly_{table}")
            return connection.execute(sql.SQL("SELECT * FROM {} ORDER BY 1").format(name)).fetchall()

    def open(self) -> Storage:
        return Storage(PostgresBackend(self.url, schema=self.schema), clock=lambda: NOW, auto_prune=False)

    def connect(self) -> psycopg.Connection[Row]:
        connection = psycopg.connect(self.url, row_factory=dict_row)
        connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(self.schema)))
        connection.execute("SET TIME ZONE 'UTC'")
        return connection


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


def jobs_by_content(storage: Storage) -> dict[str, Job]:
    return {job.content: job for job in storage.queue.list(limit=1000)}


def test_no_row_and_no_value_changes_but_what_the_contract_adds(original: Original) -> None:
    tables = ["store", "events", "sessions", "approvals", "idempotency", "nonces", "metrics", "worker_lock"]
    before = {table: original.rows(table) for table in [*tables, "queue_jobs"]}
    with original.open() as storage:
        storage.ping()
    for table in tables:
        after = [
            {column: row[column] for column in before[table][0]} for row in original.rows(table)
        ]
        assert after == before[table], table
    for old, new in zip(before["queue_jobs"], original.rows("queue_jobs"), strict=True):
        key = new["idempotency_key"] or new["displaced_idempotency_key"]
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
        expected = dict.fromkeys(
            ["next_retry_at", "remote_id", "posted_at", "last_error", "dead_letter_at"]
            + ["dead_letter_reason", "replayed_at"]
        )
        expected |= {column: value for column, value in row.items() if column != "idempotency_key"}
        assert {column: getattr(job, column) for column in expected} == expected
        assert job.due_at == (row.get("next_retry_at") or row["scheduled_at"])
        assert (job.metadata, job.max_retries, job.max_lateness, job.attempts) == ({}, 3, None, ())
        assert job.worker_id is None


def test_gaps_in_old_jobs_are_filled_from_what_they_have(original: Original, storage: Storage) -> None:
    if len(original.jobs) == len(JOBS):
        pytest.skip("the columns of this variant allow no gaps")
    fresh, retrying, processing, posted, cancelled = storage.queue.list(after=len(JOBS))
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
    newest = storage.approvals.add("new", {}, created_at=THEN + 5 * MINUTE)
    assert newest.sequence > max(approval.sequence for approval in storage.approvals.list()[1:])


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
    original.insert("queue_jobs", [job("posted", after=MINUTE, idempotency_key=incompressible)])
    with original.open() as storage:
        assert len(storage.queue.list()) == len(original.jobs) + 1
    assert incompressible in original.rows("queue_jobs")[-1].values()


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
