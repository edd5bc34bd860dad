CREATE TABLE assistly_approvals (
    id text NOT NULL,
    status text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    payload jsonb NOT NULL
);
CREATE TABLE assistly_events (
    id bigint NOT NULL,
    event_type text NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE SEQUENCE assistly_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE assistly_events_id_seq OWNED BY assistly_events.id;
CREATE TABLE assistly_idempotency (
    key text NOT NULL,
    saved_at timestamp with time zone DEFAULT now() NOT NULL,
    value jsonb NOT NULL
);
CREATE TABLE assistly_metrics (
    id smallint NOT NULL,
    payload jsonb NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE assistly_nonces (
    nonce text NOT NULL,
    timestamp_ms bigint NOT NULL
);
CREATE TABLE assistly_queue_jobs (
    id bigint NOT NULL,
    status text NOT NULL,
    retries integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    platform text NOT NULL,
    scheduled_at timestamp with time zone NOT NULL,
    content text NOT NULL,
    idempotency_key text,
    next_retry_at timestamp with time zone,
    remote_id text,
    posted_at timestamp with time zone,
    last_error text,
    dead_letter_at timestamp with time zone,
    dead_letter_reason text,
    replayed_at timestamp with time zone,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE SEQUENCE assistly_queue_jobs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE assistly_queue_jobs_id_seq OWNED BY assistly_queue_jobs.id;
CREATE TABLE assistly_sessions (
    user_id text NOT NULL,
    session jsonb NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE assistly_store (
    kind text NOT NULL,
    payload jsonb NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE assistly_worker_lock (
    id smallint NOT NULL,
    owner_id text NOT NULL,
    acquired_at bigint NOT NULL,
    expires_at bigint NOT NULL
);
ALTER TABLE ONLY assistly_events ALTER COLUMN id SET DEFAULT nextval('assistly_events_id_seq'::regclass);
ALTER TABLE ONLY assistly_queue_jobs ALTER COLUMN id SET DEFAULT nextval('assistly_queue_jobs_id_seq'::regclass);
INSERT INTO assistly_approvals (id, status, created_at, payload) VALUES
	('approval 0', 'pending', '2024-05-01 08:05:00.123456-04', '{"id": "approval 0", "text": "Hello", "status": "pending"}'),
	('approval 1', 'approved', '2024-05-01 08:05:00.123456-04', '{}'),
	('approval 2', 'rejected', '2024-05-01 08:05:00.123456-04', '[]'),
	('approval 3', 'pending', '2024-05-01 08:01:00.123456-04', '{"decision": null}'),
	('approval 4', 'needs a second look', '2024-05-01 08:09:00.123456-04', '"free text"');
INSERT INTO assistly_events (id, event_type, payload, created_at) VALUES
	(1, 'type 0', '{"step": "draft", "empty": {}, "items": [1, 2.5, true, null, "é   🐝"]}', '2024-05-01 08:00:00.123456-04'),
	(4, 'type 0', '""', '2024-05-01 07:57:00.123456-04'),
	(5, 'type 1', '0', '2024-05-01 07:56:00.123456-04'),
	(6, 'type 2', 'false', '2024-05-01 07:55:00.123456-04'),
	(7, 'type 0', 'null', '2024-05-01 07:54:00.123456-04'),
	(8, 'type 1', '1.0', '2024-05-01 07:53:00.123456-04'),
	(9, 'type 2', '10000000000000000', '2024-05-01 07:52:00.123456-04'),
	(10, 'type 0', '12345678901234567890123', '2024-05-01 07:51:00.123456-04'),
	(11, 'type 1', '0.0', '2024-05-01 07:50:00.123456-04'),
	(12, 'type 2', '0.00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001', '2024-05-01 07:49:00.123456-04'),
	(13, 'type 0', '{"": {"": [[[[]]]]}, "é": "é", "__proto__": 1}', '2024-05-01 07:48:00.123456-04'),
	(14, 'type 1', '"\u0001  \\ \" %s :name {t}"', '2024-05-01 07:47:00.123456-04');
INSERT INTO assistly_idempotency (key, saved_at, value) VALUES
	('command 0', '2024-05-01 08:00:00.123456-04', '{"step": "draft", "empty": {}, "items": [1, 2.5, true, null, "é   🐝"]}'),
	('command 1', '2024-05-01 08:01:00.123456-04', '[]'),
	('command 2', '2024-05-01 08:02:00.123456-04', '{}'),
	('command 3', '2024-05-01 08:03:00.123456-04', '""'),
	('command 4', '2024-05-01 08:04:00.123456-04', '0'),
	('command 5', '2024-05-01 08:05:00.123456-04', 'false'),
	('command 6', '2024-05-01 08:06:00.123456-04', 'null'),
	('command 7', '2024-05-01 08:07:00.123456-04', '1.0'),
	('command 8', '2024-05-01 08:08:00.123456-04', '10000000000000000'),
	('command 9', '2024-05-01 08:09:00.123456-04', '12345678901234567890123'),
	('command 10', '2024-05-01 08:10:00.123456-04', '0.0'),
	('command 11', '2024-05-01 08:11:00.123456-04', '0.00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001'),
	('command 12', '2024-05-01 08:12:00.123456-04', '{"": {"": [[[[]]]]}, "é": "é", "__proto__": 1}'),
	('command 13', '2024-05-01 08:13:00.123456-04', '"\u0001  \\ \" %s :name {t}"');
INSERT INTO assistly_metrics (id, payload, updated_at) VALUES
	(1, '{"latencyMs": {"max": 120.25, "count": 4, "total": 250.5}, "errorCount": 7, "commandCount": 340, "requestCount": 1200}', '2024-05-01 08:00:00.123456-04');
INSERT INTO assistly_nonces (nonce, timestamp_ms) VALUES
	('n-1', 1714560000123),
	('n-2', 0),
	('ñ 🐝', 1714560000124);
INSERT INTO assistly_queue_jobs (id, status, retries, created_at, platform, scheduled_at, content, idempotency_key, next_retry_at, remote_id, posted_at, last_error, dead_letter_at, dead_letter_reason, replayed_at, updated_at) VALUES
	(1, 'scheduled', 0, '2024-04-29 08:00:00.123456-04', 'mastodon', '2024-05-02 08:00:00.123456-04', 'scheduled after 1 day, 0:00:00', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2024-04-30 08:00:00.123456-04'),
	(2, 'scheduled', 0, '2024-04-29 08:00:00.123456-04', 'mastodon', '2024-05-01 07:55:00.123456-04', 'scheduled after -1 day, 23:55:00', 'morning', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2024-04-30 08:00:00.123456-04'),
	(3, 'scheduled', 0, '2024-04-29 08:00:00.123456-04', 'x', '2024-05-01 07:56:00.123456-04', 'scheduled after -1 day, 23:56:00', 'morning', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2024-04-30 08:00:00.123456-04'),
	(4, 'retrying', 2, '2024-04-29 08:00:00.123456-04', 'mastodon', '2024-05-01 07:51:00.123456-04', 'retrying after -1 day, 23:51:00', 'noon', '2024-05-01 08:01:00.123456-04', NULL, NULL, '503 from the platform', NULL, NULL, NULL, '2024-04-30 08:00:00.123456-04'),
	(5, 'retrying', 1, '2024-04-29 08:00:00.123456-04', 'mastodon', '2024-05-01 07:52:00.123456-04', 'retrying after -1 day, 23:52:00', NULL, NULL, NULL, NULL, 'timeout', NULL, NULL, NULL, '2024-04-30 08:00:00.123456-04'),
	(6, 'retrying', 2, '2024-04-29 08:00:00.123456-04', 'mastodon', '2024-05-01 07:53:00.123456-04', 'retrying after -1 day, 23:53:00', NULL, '2024-05-01 14:01:00.123456-04', NULL, NULL, '429', NULL, NULL, NULL, '2024-04-30 08:00:00.123456-04'),
	(7, 'processing', 0, '2024-04-29 08:00:00.123456-04', 'mastodon', '2024-05-01 07:57:00.123456-04', 'processing after -1 day, 23:57:00', 'evening', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2024-04-30 08:00:00.123456-04'),
	(8, 'processing', 2, '2024-04-29 08:00:00.123456-04', 'mastodon', '2024-05-01 07:58:00.123456-04', 'processing after -1 day, 23:58:00', 'morning', NULL, NULL, NULL, 'reset', NULL, NULL, NULL, '2024-04-30 08:00:00.123456-04'),
	(9, 'posted', 0, '2024-04-29 08:00:00.123456-04', 'mastodon', '2024-05-01 07:00:00.123456-04', 'posted after -1 day, 23:00:00', 'evening', NULL, '109501', '2024-05-01 07:01:00.123456-04', NULL, NULL, NULL, NULL, '2024-04-30 08:00:00.123456-04'),
	(10, 'posted', 1, '2024-04-29 08:00:00.123456-04', 'mastodon', '2024-05-01 07:10:00.123456-04', 'posted after -1 day, 23:10:00', NULL, NULL, NULL, '2024-05-01 07:20:00.123456-04', 'timeout', NULL, NULL, NULL, '2024-04-30 08:00:00.123456-04'),
	(11, 'dead_letter', 3, '2024-04-29 08:00:00.123456-04', 'mastodon', '2024-05-01 07:20:00.123456-04', 'dead_letter after -1 day, 23:20:00', 'noon', NULL, NULL, NULL, '401 Unauthorized', '2024-05-01 07:30:00.123456-04', 'max retries', NULL, '2024-04-30 08:00:00.123456-04'),
	(12, 'dead_letter', 3, '2024-04-29 08:00:00.123456-04', 'mastodon', '2024-05-01 07:19:00.123456-04', 'dead_letter after -1 day, 23:19:00', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2024-04-30 08:00:00.123456-04'),
	(13, 'scheduled', 0, '2024-04-29 08:00:00.123456-04', 'Ünïcode 🐝', '2024-05-01 08:02:00.123456-04', '', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2024-05-01 08:00:00.123456-04', '2024-04-30 08:00:00.123456-04'),
	(14, 'scheduled', 0, '2024-04-29 08:00:00.123456-04', 'mastodon', '2024-05-01 08:03:00.123456-04', '100 % of {t} :name ''quoted'' \ 
	', 'night', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2024-04-30 08:00:00.123456-04');
INSERT INTO assistly_sessions (user_id, session, updated_at) VALUES
	('user 00', '{"step": "draft", "empty": {}, "items": [1, 2.5, true, null, "é   🐝"]}', '2024-05-01 08:00:00.123456-04'),
	('user 01', '[]', '2024-05-01 08:01:00.123456-04'),
	('user 02', '{}', '2024-05-01 08:02:00.123456-04'),
	('user 03', '""', '2024-05-01 08:03:00.123456-04'),
	('user 04', '0', '2024-05-01 08:04:00.123456-04'),
	('user 05', 'false', '2024-05-01 08:05:00.123456-04'),
	('user 06', 'null', '2024-05-01 08:06:00.123456-04'),
	('user 07', '1.0', '2024-05-01 08:07:00.123456-04'),
	('user 08', '10000000000000000', '2024-05-01 08:08:00.123456-04'),
	('user 09', '12345678901234567890123', '2024-05-01 08:09:00.123456-04'),
	('user 10', '0.0', '2024-05-01 08:10:00.123456-04'),
	('user 11', '0.00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001', '2024-05-01 08:11:00.123456-04'),
	('user 12', '{"": {"": [[[[]]]]}, "é": "é", "__proto__": 1}', '2024-05-01 08:12:00.123456-04'),
	('user 13', '"\u0001  \\ \" %s :name {t}"', '2024-05-01 08:13:00.123456-04'),
	('Ünïcode 🐝', '{}', '2024-05-01 08:00:00.123456-04');
INSERT INTO assistly_store (kind, payload, updated_at) VALUES
	('queue', '{"step": "draft", "empty": {}, "items": [1, 2.5, true, null, "é   🐝"]}', '2024-05-01 08:00:00.123456-04'),
	('state', '[]', '2024-05-01 08:00:00.123456-04'),
	('logs', '{}', '2024-05-01 08:00:00.123456-04');
INSERT INTO assistly_worker_lock (id, owner_id, acquired_at, expires_at) VALUES
	(1, 'host-a:4711', 1714586220123, 1714586460123);
SELECT pg_catalog.setval('assistly_events_id_seq', 14, true);
SELECT pg_catalog.setval('assistly_queue_jobs_id_seq', 14, true);
ALTER TABLE ONLY assistly_approvals
    ADD CONSTRAINT assistly_approvals_pkey PRIMARY KEY (id);
ALTER TABLE ONLY assistly_events
    ADD CONSTRAINT assistly_events_pkey PRIMARY KEY (id);
ALTER TABLE ONLY assistly_idempotency
    ADD CONSTRAINT assistly_idempotency_pkey PRIMARY KEY (key);
ALTER TABLE ONLY assistly_metrics
    ADD CONSTRAINT assistly_metrics_pkey PRIMARY KEY (id);
ALTER TABLE ONLY assistly_nonces
    ADD CONSTRAINT assistly_nonces_pkey PRIMARY KEY (nonce);
ALTER TABLE ONLY assistly_queue_jobs
    ADD CONSTRAINT assistly_queue_jobs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY assistly_sessions
    ADD CONSTRAINT assistly_sessions_pkey PRIMARY KEY (user_id);
ALTER TABLE ONLY assistly_store
    ADD CONSTRAINT assistly_store_pkey PRIMARY KEY (kind);
ALTER TABLE ONLY assistly_worker_lock
    ADD CONSTRAINT assistly_worker_lock_pkey PRIMARY KEY (id);
CREATE INDEX idx_approvals_created ON assistly_approvals USING btree (created_at);
CREATE INDEX idx_events_type_created ON assistly_events USING btree (event_type, created_at);
CREATE INDEX idx_idempotency_saved ON assistly_idempotency USING btree (saved_at);
CREATE INDEX idx_nonces_timestamp ON assistly_nonces USING btree (timestamp_ms);
CREATE INDEX idx_queue_conflict ON assistly_queue_jobs USING btree (platform, scheduled_at) WHERE (status = ANY (ARRAY['scheduled'::text, 'retrying'::text, 'processing'::text]));
CREATE INDEX idx_queue_dead_letter ON assistly_queue_jobs USING btree (id) WHERE (status = 'dead_letter'::text);
CREATE INDEX idx_queue_due ON assistly_queue_jobs USING btree (scheduled_at, next_retry_at) WHERE (status = ANY (ARRAY['scheduled'::text, 'retrying'::text]));
