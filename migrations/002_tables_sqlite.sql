-- An index ends with the rowid (seq, id) by itself: idx_approvals_created orders by it too.

CREATE TABLE assistly_sessions (
    user_id TEXT NOT NULL PRIMARY KEY,
    session TEXT NOT NULL,
    version INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE INDEX idx_sessions_updated ON assistly_sessions (updated_at);

CREATE TABLE assistly_approvals (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    decided_at INTEGER,
    payload TEXT NOT NULL
) STRICT;

CREATE INDEX idx_approvals_created ON assistly_approvals (created_at);
CREATE INDEX idx_approvals_status ON assistly_approvals (status, created_at, seq);

CREATE TABLE assistly_idempotency (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    saved_at INTEGER NOT NULL,
    value TEXT,
    completed INTEGER NOT NULL,
    fingerprint TEXT,
    token INTEGER,
    lease_until INTEGER
) STRICT;

CREATE INDEX idx_idempotency_saved ON assistly_idempotency (saved_at);

CREATE TABLE assistly_nonces (
    nonce TEXT NOT NULL PRIMARY KEY,
    timestamp_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX idx_nonces_timestamp ON assistly_nonces (timestamp_ms);

CREATE TABLE assistly_metrics (
    id INTEGER PRIMARY KEY,
    payload TEXT NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- acquired_at and expires_at are in milliseconds; held_since and held_until decide.
CREATE TABLE assistly_worker_lock (
    id INTEGER PRIMARY KEY,
    owner_id TEXT,
    acquired_at INTEGER,
    expires_at INTEGER,
    name TEXT NOT NULL,
    fence INTEGER NOT NULL,
    held_since INTEGER NOT NULL,
    held_until INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX idx_worker_lock_name ON assistly_worker_lock (name);

CREATE TABLE assistly_queue_jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    status TEXT NOT NULL,
    retries INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    platform TEXT NOT NULL,
    scheduled_at INTEGER NOT NULL,
    content TEXT NOT NULL,
    idempotency_key TEXT,
    next_retry_at INTEGER,
    remote_id TEXT,
    posted_at INTEGER,
    last_error TEXT,
    dead_letter_at INTEGER,
    dead_letter_reason TEXT,
    replayed_at INTEGER,
    updated_at INTEGER NOT NULL,
    metadata TEXT NOT NULL DEFAULT '{}',
    max_retries INTEGER NOT NULL DEFAULT 3,
    due_at INTEGER NOT NULL,
    claim INTEGER NOT NULL DEFAULT 0,
    worker_id TEXT,
    lease_until INTEGER,
    publish_started_at INTEGER,
    max_lateness INTEGER,
    late_after INTEGER,
    attempts TEXT NOT NULL DEFAULT '[]'
) STRICT;

CREATE INDEX idx_queue_due ON assistly_queue_jobs (scheduled_at, next_retry_at)
    WHERE status IN ('scheduled', 'retrying');
CREATE INDEX idx_queue_conflict ON assistly_queue_jobs (platform, scheduled_at)
    WHERE status IN ('scheduled', 'retrying', 'processing');
CREATE INDEX idx_queue_dead_letter ON assistly_queue_jobs (id)
    WHERE status = 'dead_letter';
CREATE UNIQUE INDEX idx_queue_idempotency_key ON assistly_queue_jobs (idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX idx_queue_due_at ON assistly_queue_jobs (due_at, id)
    WHERE status IN ('scheduled', 'retrying');
CREATE INDEX idx_queue_lease ON assistly_queue_jobs (lease_until, id)
    WHERE status = 'processing';
CREATE INDEX idx_queue_late ON assistly_queue_jobs (late_after)
    WHERE late_after IS NOT NULL AND status IN ('scheduled', 'retrying');
CREATE INDEX idx_queue_posted ON assistly_queue_jobs (posted_at)
    WHERE status = 'posted';

CREATE INDEX idx_events_created ON assistly_events (created_at, id);
CREATE INDEX idx_events_type_id ON assistly_events (event_type, id);

CREATE TABLE assistly_retention (
    id INTEGER PRIMARY KEY,
    pruned_at INTEGER
) STRICT;
