-- What the storage contract adds to the original's tables. Rows that are there already keep what
-- they hold; gaps in columns that were nullable are filled from the row's other times.

ALTER TABLE assistly_queue_jobs
    ADD COLUMN metadata jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN max_retries bigint NOT NULL DEFAULT 3,
    ADD COLUMN due_at timestamptz,
    ADD COLUMN claim bigint NOT NULL DEFAULT 0,
    ADD COLUMN worker_id text,
    ADD COLUMN lease_until timestamptz,
    ADD COLUMN publish_started_at timestamptz,
    ADD COLUMN max_lateness bigint,
    ADD COLUMN late_after timestamptz,
    ADD COLUMN attempts jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN displaced_idempotency_key text;

COMMENT ON COLUMN assistly_queue_jobs.max_lateness IS 'microseconds';
COMMENT ON COLUMN assistly_queue_jobs.late_after IS 'scheduled_at + max_lateness';
COMMENT ON COLUMN assistly_queue_jobs.displaced_idempotency_key IS
    'the key of a job from before keys were unique: of several jobs with one key the first keeps it, '
    'and keys that are empty or longer than 512 bytes are no longer keys';

UPDATE assistly_queue_jobs
SET displaced_idempotency_key = idempotency_key, idempotency_key = NULL
WHERE octet_length(idempotency_key) NOT BETWEEN 1 AND 512;

UPDATE assistly_queue_jobs
SET displaced_idempotency_key = idempotency_key, idempotency_key = NULL
WHERE id IN (
    SELECT id
    FROM (
        SELECT id, row_number() OVER (PARTITION BY idempotency_key ORDER BY id) AS place
        FROM assistly_queue_jobs
        WHERE idempotency_key IS NOT NULL
    ) AS keyed
    WHERE place > 1
);

-- A status that nothing worked on is left to a person: it must not start to be published.
UPDATE assistly_queue_jobs
SET status = CASE WHEN posted_at IS NULL THEN 'dead_letter' ELSE 'posted' END,
    dead_letter_reason = CASE
        WHEN posted_at IS NULL THEN
            coalesce(dead_letter_reason, 'unknown status: ' || coalesce(status, 'none'))
        ELSE dead_letter_reason
    END
WHERE status IS NULL OR status NOT IN ('scheduled', 'retrying', 'processing', 'posted', 'dead_letter');

-- Nobody knows whether jobs that were being worked on got published: a claim that ran out after
-- publishing began is what the rescue reports as such.
UPDATE assistly_queue_jobs
SET claim = 1,
    lease_until = 'epoch',
    publish_started_at = coalesce(updated_at, created_at, scheduled_at, now())
WHERE status = 'processing';

UPDATE assistly_queue_jobs
SET due_at = coalesce(next_retry_at, scheduled_at, created_at, updated_at, now()),
    scheduled_at = coalesce(scheduled_at, next_retry_at, created_at, updated_at, now()),
    created_at = coalesce(created_at, updated_at, scheduled_at, now()),
    updated_at = coalesce(updated_at, posted_at, dead_letter_at, created_at, scheduled_at, now()),
    retries = coalesce(retries, 0),
    platform = coalesce(platform, 'unknown'),
    content = coalesce(content, '');

ALTER TABLE assistly_queue_jobs
    ALTER COLUMN status SET NOT NULL,
    ALTER COLUMN platform SET NOT NULL,
    ALTER COLUMN content SET NOT NULL,
    ALTER COLUMN retries SET DEFAULT 0,
    ALTER COLUMN retries SET NOT NULL,
    ALTER COLUMN scheduled_at SET NOT NULL,
    ALTER COLUMN created_at SET NOT NULL,
    ALTER COLUMN updated_at SET NOT NULL,
    ALTER COLUMN due_at SET NOT NULL;

CREATE UNIQUE INDEX idx_queue_idempotency_key ON assistly_queue_jobs (idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX idx_queue_due_at ON assistly_queue_jobs (due_at, id) INCLUDE (status)
    WHERE status IN ('scheduled', 'retrying');
CREATE INDEX idx_queue_lease ON assistly_queue_jobs (lease_until, id)
    WHERE status = 'processing';
CREATE INDEX idx_queue_late ON assistly_queue_jobs (late_after)
    WHERE late_after IS NOT NULL AND status IN ('scheduled', 'retrying');
CREATE INDEX idx_queue_posted ON assistly_queue_jobs (posted_at)
    WHERE status = 'posted';

UPDATE assistly_sessions
SET session = coalesce(session, 'null'), updated_at = coalesce(updated_at, now())
WHERE session IS NULL OR updated_at IS NULL;

ALTER TABLE assistly_sessions
    ALTER COLUMN user_id TYPE text COLLATE "C",
    ALTER COLUMN session SET NOT NULL,
    ALTER COLUMN updated_at SET NOT NULL,
    ADD COLUMN version bigint NOT NULL DEFAULT 1;

CREATE INDEX idx_sessions_updated ON assistly_sessions (updated_at);

UPDATE assistly_approvals
SET status = coalesce(status, 'pending'),
    created_at = coalesce(created_at, now()),
    payload = coalesce(payload, 'null')
WHERE status IS NULL OR created_at IS NULL OR payload IS NULL;

ALTER TABLE assistly_approvals
    ALTER COLUMN status SET NOT NULL,
    ALTER COLUMN created_at SET NOT NULL,
    ALTER COLUMN payload SET NOT NULL,
    ADD COLUMN seq bigserial,
    ADD COLUMN decided_at timestamptz;

CREATE INDEX idx_approvals_order ON assistly_approvals (created_at, seq);
CREATE INDEX idx_approvals_status ON assistly_approvals (status, created_at, seq);

UPDATE assistly_idempotency
SET saved_at = coalesce(saved_at, now()), value = coalesce(value, 'null')
WHERE saved_at IS NULL OR value IS NULL;

ALTER TABLE assistly_idempotency
    ALTER COLUMN saved_at SET NOT NULL,
    ALTER COLUMN value DROP NOT NULL,
    ADD COLUMN completed boolean NOT NULL DEFAULT true,
    ADD COLUMN fingerprint text,
    ADD COLUMN token bigint,
    ADD COLUMN lease_until timestamptz,
    ADD COLUMN seq bigserial;

CREATE INDEX idx_idempotency_order ON assistly_idempotency (saved_at, seq);

UPDATE assistly_nonces
SET timestamp_ms = floor(extract(epoch FROM now()) * 1000)
WHERE timestamp_ms IS NULL;

ALTER TABLE assistly_nonces ALTER COLUMN timestamp_ms SET NOT NULL;

-- acquired_at and expires_at stay written, in milliseconds; held_since and held_until decide.
ALTER TABLE assistly_worker_lock
    ALTER COLUMN owner_id DROP NOT NULL,
    ALTER COLUMN acquired_at DROP NOT NULL,
    ALTER COLUMN expires_at DROP NOT NULL,
    ADD COLUMN name text,
    ADD COLUMN fence bigint NOT NULL DEFAULT 1,
    ADD COLUMN held_since timestamptz,
    ADD COLUMN held_until timestamptz;

UPDATE assistly_worker_lock
SET name = CASE WHEN id = 1 THEN 'worker' ELSE 'worker-' || id END,
    held_since = 'epoch'::timestamptz
        + greatest(0, least(coalesce(acquired_at, 0), 253402300799000)) * interval '1 millisecond',
    held_until = 'epoch'::timestamptz
        + greatest(0, least(coalesce(expires_at, 0), 253402300799000)) * interval '1 millisecond';

ALTER TABLE assistly_worker_lock
    ALTER COLUMN name SET NOT NULL,
    ALTER COLUMN held_since SET NOT NULL,
    ALTER COLUMN held_until SET NOT NULL;

CREATE UNIQUE INDEX idx_worker_lock_name ON assistly_worker_lock (name);

UPDATE assistly_store
SET payload = coalesce(payload, 'null'), updated_at = coalesce(updated_at, now())
WHERE payload IS NULL OR updated_at IS NULL;

ALTER TABLE assistly_store
    ALTER COLUMN kind TYPE text COLLATE "C",
    ALTER COLUMN payload SET NOT NULL,
    ALTER COLUMN updated_at SET NOT NULL;

UPDATE assistly_events
SET event_type = coalesce(event_type, 'unknown'),
    payload = coalesce(payload, 'null'),
    created_at = coalesce(created_at, now())
WHERE event_type IS NULL OR payload IS NULL OR created_at IS NULL;

ALTER TABLE assistly_events
    ALTER COLUMN event_type SET NOT NULL,
    ALTER COLUMN payload SET NOT NULL,
    ALTER COLUMN created_at SET NOT NULL;

CREATE INDEX idx_events_created ON assistly_events (created_at, id);
CREATE INDEX idx_events_type_id ON assistly_events (event_type, id);

CREATE TABLE assistly_retention (
    id smallint PRIMARY KEY,
    pruned_at timestamptz
);
