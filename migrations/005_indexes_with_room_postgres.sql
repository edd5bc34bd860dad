-- A job enters these two again with each claim and each end, under the key that it had before, until
-- VACUUM takes the old entries away. Pages with room for them need not be split, nor searched for
-- entries to drop. docs/performance.md has the figures. An index that is there keeps its pages; those
-- that are added, or REINDEX, have the room.
ALTER INDEX IF EXISTS idx_queue_conflict SET (fillfactor = 50, deduplicate_items = off);
ALTER INDEX IF EXISTS assistly_queue_jobs_pkey SET (fillfactor = 40, deduplicate_items = off);
