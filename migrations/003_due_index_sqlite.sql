-- Claims go by idx_queue_due_at; this one was read by nothing, and written by every change of a job.

DROP INDEX idx_queue_due;
