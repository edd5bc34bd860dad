-- What a worker noted about how far publishing is, as JSON.
ALTER TABLE assistly_queue_jobs ADD COLUMN checkpoint TEXT;

-- It was made with another condition, and is made anew when jobs are first kept apart.
DROP INDEX IF EXISTS idx_queue_conflict;

CREATE INDEX idx_queue_cancelled ON assistly_queue_jobs (id)
    WHERE status = 'cancelled';

-- Small JSON documents by collection and key, such as pauses of platforms and schedules.
CREATE TABLE assistly_documents (
    collection TEXT NOT NULL,
    key TEXT NOT NULL,
    data TEXT NOT NULL,
    version INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (collection, key)
) STRICT, WITHOUT ROWID;
