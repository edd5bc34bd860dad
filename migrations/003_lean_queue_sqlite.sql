-- docs/decisions/0015 says what each of these saves.
--
-- The columns that conditions of indexes name come first: a column is found by way of those before it.
-- `attention_at` is when somebody has to look at a job though nobody asks for it: lease_until while it is
-- held, scheduled_at + max_lateness while it waits.
-- idx_queue_conflict is made by the first who keeps jobs apart.
-- AUTOINCREMENT writes a second table at each insert; the newest id that was deleted does as well.

CREATE TABLE assistly_queue_newest (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    deleted_id INTEGER NOT NULL
) STRICT;

INSERT INTO assistly_queue_newest (one, deleted_id)
SELECT 1, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'assistly_queue_jobs'), 0);

CREATE TABLE assistly_queue_lean (
    id INTEGER PRIMARY KEY,
    status TEXT NOT NULL,
    due_at INTEGER NOT NULL,
    lease_until INTEGER,
    posted_at INTEGER,
    attention_at INTEGER,
    idempotency_key TEXT,
    claim INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0,
    max_retries INTEGER NOT NULL DEFAULT 3,
    scheduled_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    platform TEXT NOT NULL,
    content TEXT NOT NULL,
    metadata TEXT NOT NULL DEFAULT '{}',
    worker_id TEXT,
    next_retry_at INTEGER,
    remote_id TEXT,
    last_error TEXT,
    dead_letter_at INTEGER,
    dead_letter_reason TEXT,
    replayed_at INTEGER,
    publish_started_at INTEGER,
    max_lateness INTEGER,
    attempts TEXT NOT NULL DEFAULT '[]'
) STRICT;

INSERT INTO assistly_queue_lean (
    id, status, due_at, lease_until, posted_at, attention_at, idempotency_key, claim, retries, max_retries,
    scheduled_at, created_at, updated_at, platform, content, metadata, worker_id, next_retry_at, remote_id,
    last_error, dead_letter_at, dead_letter_reason, replayed_at, publish_started_at, max_lateness, attempts
)
SELECT
    id, status, due_at, lease_until, posted_at,
    CASE
        WHEN status = 'processing' THEN lease_until
        WHEN status IN ('scheduled', 'retrying') THEN late_after
    END,
    idempotency_key, claim, retries, max_retries, scheduled_at, created_at, updated_at, platform, content,
    metadata, worker_id, next_retry_at, remote_id, last_error, dead_letter_at, dead_letter_reason,
    replayed_at, publish_started_at, max_lateness, attempts
FROM assistly_queue_jobs
ORDER BY id;

DROP TABLE assistly_queue_jobs;
ALTER TABLE assistly_queue_lean RENAME TO assistly_queue_jobs;

CREATE TRIGGER assistly_queue_newest_deleted AFTER DELETE ON assistly_queue_jobs
WHEN OLD.id > coalesce((SELECT max(id) FROM assistly_queue_jobs), 0)
BEGIN
    UPDATE assistly_queue_newest SET deleted_id = OLD.id WHERE deleted_id < OLD.id;
END;

CREATE INDEX idx_queue_due ON assistly_queue_jobs (due_at)
    WHERE status IN ('scheduled', 'retrying');
CREATE INDEX idx_queue_dead_letter ON assistly_queue_jobs (id)
    WHERE status = 'dead_letter';
CREATE UNIQUE INDEX idx_queue_idempotency_key ON assistly_queue_jobs (idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX idx_queue_attention ON assistly_queue_jobs (attention_at, status)
    WHERE attention_at IS NOT NULL;
CREATE INDEX idx_queue_posted ON assistly_queue_jobs (posted_at)
    WHERE status = 'posted';
