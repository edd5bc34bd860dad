-- A claim begins at the front of idx_queue_due_at, where the entries of the jobs claimed before it
-- stay until VACUUM comes by. By default it waits for a fifth of the table to change: with five
-- million jobs, a million.
ALTER TABLE assistly_queue_jobs SET (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000
);
