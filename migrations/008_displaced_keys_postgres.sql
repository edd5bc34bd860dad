-- No version reads the keys that jobs had to give up when keys became unique. As documents they move with all
-- other records to any engine; a column of one engine would stay behind.
INSERT INTO assistly_documents (collection, key, data, version, updated_at)
SELECT 'displaced_idempotency_key', id::text, to_jsonb(displaced_idempotency_key), 1, now()
FROM assistly_queue_jobs
WHERE displaced_idempotency_key IS NOT NULL;

ALTER TABLE assistly_queue_jobs DROP COLUMN displaced_idempotency_key;
