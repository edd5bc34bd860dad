-- By default VACUUM leaves the indexes as they are while it found fewer than 2 % of the table's pages
-- changed. Claims walk over the dead entries of idx_queue_due_at, however few they are beside a history.
ALTER TABLE assistly_queue_jobs SET (vacuum_index_cleanup = on);
