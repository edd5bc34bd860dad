"""A database of the system that the schema comes from, as its documentation describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from assistly.storage import PostgresBackend, Storage

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


def job_row(status: str, *, after: timedelta, **columns: Any) -> Row:
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
    job_row("scheduled", after=timedelta(days=1)),
    job_row("scheduled", after=-5 * MINUTE, idempotency_key="morning"),
    job_row("scheduled", after=-4 * MINUTE, idempotency_key="morning", platform="x"),
    job_row(
        "retrying",
        after=-9 * MINUTE,
        retries=2,
        next_retry_at=THEN + MINUTE,
        last_error="503 from the platform",
        idempotency_key="noon",
    ),
    job_row("retrying", after=-8 * MINUTE, retries=1, last_error="timeout"),
    job_row("retrying", after=-7 * MINUTE, retries=2, next_retry_at=NOW + MINUTE, last_error="429"),
    job_row("processing", after=-3 * MINUTE, idempotency_key="evening"),
    job_row("processing", after=-2 * MINUTE, retries=2, last_error="reset", idempotency_key="morning"),
    job_row(
        "posted",
        after=-60 * MINUTE,
        remote_id="109501",
        posted_at=THEN - 59 * MINUTE,
        idempotency_key="evening",
    ),
    job_row("posted", after=-50 * MINUTE, retries=1, posted_at=THEN - 40 * MINUTE, last_error="timeout"),
    job_row(
        "dead_letter",
        after=-40 * MINUTE,
        retries=3,
        last_error="401 Unauthorized",
        dead_letter_at=THEN - 30 * MINUTE,
        dead_letter_reason="max retries",
        idempotency_key="noon",
    ),
    job_row("dead_letter", after=-41 * MINUTE, retries=3),
    job_row("scheduled", after=2 * MINUTE, replayed_at=THEN, content="", platform="Ünïcode 🐝"),
    job_row(
        "scheduled", after=3 * MINUTE, content="100 % of {t} :name 'quoted' \\ \n\t", idempotency_key="night"
    ),
]

GAPS: Sequence[Row] = [
    job_row("scheduled", after=MINUTE, retries=None, created_at=None, updated_at=None),
    job_row("retrying", after=MINUTE, scheduled_at=None, next_retry_at=THEN + 2 * MINUTE),
    job_row("processing", after=MINUTE, created_at=None, updated_at=None, idempotency_key="evening"),
    job_row("posted", after=MINUTE, updated_at=None, posted_at=THEN),
    job_row("cancelled", after=MINUTE),
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
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self.schema)))
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
