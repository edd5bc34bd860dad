-- The tables and indexes that the original system created by itself: a database of that system
-- has them already.

CREATE TABLE IF NOT EXISTS assistly_sessions (
    user_id text PRIMARY KEY,
    session jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS assistly_approvals (
    id text PRIMARY KEY,
    status text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    payload jsonb NOT NULL
);

CREATE TABLE IF NOT EXISTS assistly_idempotency (
    key text PRIMARY KEY,
    saved_at timestamptz NOT NULL DEFAULT now(),
    value jsonb
);

CREATE TABLE IF NOT EXISTS assistly_nonces (
    nonce text PRIMARY KEY,
    timestamp_ms bigint NOT NULL
);

CREATE TABLE IF NOT EXISTS assistly_metrics (
    id smallint PRIMARY KEY,
    payload jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS assistly_worker_lock (
    id smallint PRIMARY KEY,
    owner_id text,
    acquired_at bigint,
    expires_at bigint
);

CREATE TABLE IF NOT EXISTS assistly_queue_jobs (
    id bigserial PRIMARY KEY,
    status text NOT NULL,
    retries integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    platform text NOT NULL,
    scheduled_at timestamptz NOT NULL,
    content text NOT NULL,
    idempotency_key text,
    next_retry_at timestamptz,
    remote_id text,
    posted_at timestamptz,
    last_error text,
    dead_letter_at timestamptz,
    dead_letter_reason text,
    replayed_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX IF NOT EXISTS idx_queue_due ON assistly_queue_jobs (scheduled_at, next_retry_at)
    WHERE status IN ('scheduled', 'retrying');
CREATE INDEX IF NOT EXISTS idx_queue_conflict ON assistly_queue_jobs (platform, scheduled_at)
    WHERE status IN ('scheduled', 'retrying', 'processing');
CREATE INDEX IF NOT EXISTS idx_queue_dead_letter ON assistly_queue_jobs (id)
    WHERE status = 'dead_letter';
CREATE INDEX IF NOT EXISTS idx_approvals_created ON assistly_approvals (created_at);
CREATE INDEX IF NOT EXISTS idx_idempotency_saved ON assistly_idempotency (saved_at);
CREATE INDEX IF NOT EXISTS idx_nonces_timestamp ON assistly_nonces (timestamp_ms);
