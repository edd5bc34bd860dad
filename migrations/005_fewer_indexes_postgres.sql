-- docs/decisions/0015 says what each of these saves.
--
-- When somebody has to look at a job though nobody asks for it: while it is held, its lease_until; while
-- it waits, the time after which it is too late. So one index serves both, and no job is in it that is
-- neither held nor has a bound.
ALTER TABLE assistly_queue_jobs ADD COLUMN attention_at timestamptz;

UPDATE assistly_queue_jobs
SET attention_at = CASE WHEN status = 'processing' THEN lease_until ELSE late_after END
WHERE status = 'processing' OR (late_after IS NOT NULL AND status IN ('scheduled', 'retrying'));

DROP INDEX idx_queue_lease;
DROP INDEX idx_queue_late;
ALTER TABLE assistly_queue_jobs DROP COLUMN late_after;

CREATE INDEX idx_queue_attention ON assistly_queue_jobs (attention_at, id) INCLUDE (status)
    WHERE attention_at IS NOT NULL;

COMMENT ON COLUMN assistly_queue_jobs.attention_at IS
    'lease_until of a job that is held; scheduled_at + max_lateness of one that waits; else none';

-- A job enters these two again with each claim and each end, under the key that it had before, until
-- VACUUM takes the old entries away. Pages with room for them need not be split, nor searched for
-- entries to drop. What there is of an index keeps its pages until REINDEX.
ALTER INDEX idx_queue_conflict SET (fillfactor = 50, deduplicate_items = off);
ALTER INDEX IF EXISTS assistly_queue_jobs_pkey SET (fillfactor = 40, deduplicate_items = off);

-- idx_idempotency_saved, which the original made, has the same order but for equal times, and few are.
DROP INDEX idx_idempotency_order;
