-- What a worker noted about how far publishing is.
ALTER TABLE assistly_queue_jobs ADD COLUMN checkpoint jsonb;

CREATE INDEX idx_queue_cancelled ON assistly_queue_jobs (id)
    WHERE status = 'cancelled';

-- Small JSON documents by collection and key, such as pauses of platforms and schedules.
CREATE TABLE assistly_documents (
    collection text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    data jsonb NOT NULL,
    version bigint NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (collection, key)
);
