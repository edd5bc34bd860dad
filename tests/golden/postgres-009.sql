CREATE TABLE assistly_approvals (
    id text NOT NULL,
    status text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    payload jsonb NOT NULL,
    seq bigint NOT NULL,
    decided_at timestamp with time zone
);
CREATE SEQUENCE assistly_approvals_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE assistly_approvals_seq_seq OWNED BY assistly_approvals.seq;
CREATE TABLE assistly_documents (
    collection text NOT NULL COLLATE pg_catalog."C",
    key text NOT NULL COLLATE pg_catalog."C",
    data jsonb NOT NULL,
    version bigint NOT NULL,
    updated_at timestamp with time zone NOT NULL
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
    value jsonb,
    completed boolean DEFAULT true NOT NULL,
    fingerprint text,
    token bigint,
    lease_until timestamp with time zone,
    seq bigint NOT NULL
);
CREATE SEQUENCE assistly_idempotency_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE assistly_idempotency_seq_seq OWNED BY assistly_idempotency.seq;
CREATE TABLE assistly_metrics (
    id smallint NOT NULL,
    payload jsonb NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE assistly_migrations (
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
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
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    max_retries bigint DEFAULT 3 NOT NULL,
    due_at timestamp with time zone NOT NULL,
    claim bigint DEFAULT 0 NOT NULL,
    worker_id text,
    lease_until timestamp with time zone,
    publish_started_at timestamp with time zone,
    max_lateness bigint,
    attempts jsonb DEFAULT '[]'::jsonb NOT NULL,
    attention_at timestamp with time zone,
    checkpoint jsonb
)
WITH (autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='1000', vacuum_index_cleanup='on');
COMMENT ON COLUMN assistly_queue_jobs.max_lateness IS 'microseconds';
COMMENT ON COLUMN assistly_queue_jobs.attention_at IS 'lease_until of a job that is held; scheduled_at + max_lateness of one that waits; else none';
CREATE SEQUENCE assistly_queue_jobs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE assistly_queue_jobs_id_seq OWNED BY assistly_queue_jobs.id;
CREATE TABLE assistly_retention (
    id smallint NOT NULL,
    pruned_at timestamp with time zone
);
CREATE TABLE assistly_sessions (
    user_id text NOT NULL COLLATE pg_catalog."C",
    session jsonb NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    version bigint DEFAULT 1 NOT NULL
);
CREATE TABLE assistly_store (
    kind text NOT NULL COLLATE pg_catalog."C",
    payload jsonb NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE assistly_worker_lock (
    id bigint NOT NULL,
    owner_id text,
    acquired_at bigint,
    expires_at bigint,
    name text NOT NULL,
    fence bigint DEFAULT 1 NOT NULL,
    held_since timestamp with time zone NOT NULL,
    held_until timestamp with time zone NOT NULL
);
ALTER TABLE ONLY assistly_approvals ALTER COLUMN seq SET DEFAULT nextval('assistly_approvals_seq_seq'::regclass);
ALTER TABLE ONLY assistly_events ALTER COLUMN id SET DEFAULT nextval('assistly_events_id_seq'::regclass);
ALTER TABLE ONLY assistly_idempotency ALTER COLUMN seq SET DEFAULT nextval('assistly_idempotency_seq_seq'::regclass);
ALTER TABLE ONLY assistly_queue_jobs ALTER COLUMN id SET DEFAULT nextval('assistly_queue_jobs_id_seq'::regclass);
INSERT INTO assistly_approvals (id, status, created_at, payload, seq, decided_at) VALUES
	('approval 00', 'pending', '2026-03-01 06:50:00.123456-05', 'null', 1, NULL),
	('approval 03', 'pending', '2026-03-01 06:50:03.123456-05', '0', 4, NULL),
	('approval 04', 'pending', '2026-03-01 06:50:04.123456-05', '-1', 5, NULL),
	('approval 05', 'pending', '2026-03-01 06:50:05.123456-05', '9007199254740993', 6, NULL),
	('approval 06', 'pending', '2026-03-01 06:50:06.123456-05', '-9223372036854775808', 7, NULL),
	('approval 07', 'pending', '2026-03-01 06:50:07.123456-05', '10000000000000000000000', 8, NULL),
	('approval 08', 'pending', '2026-03-01 06:50:08.123456-05', '0.1', 9, NULL),
	('approval 09', 'pending', '2026-03-01 06:50:09.123456-05', '0.0000001', 10, NULL),
	('approval 10', 'pending', '2026-03-01 06:50:10.123456-05', '""', 11, NULL),
	('approval 11', 'pending', '2026-03-01 06:50:11.123456-05', '"text   🐝 %s"', 12, NULL),
	('approval 12', 'pending', '2026-03-01 06:50:12.123456-05', '[]', 13, NULL),
	('approval 13', 'pending', '2026-03-01 06:50:13.123456-05', '{}', 14, NULL),
	('approval 14', 'pending', '2026-03-01 06:50:14.123456-05', '[null, [[]], {"": {}}]', 15, NULL),
	('approval 15', 'pending', '2026-03-01 06:50:15.123456-05', '{" ": " ", "é": "é", "a.b": [1, 2.5], "__proto__": {"a": 1}}', 16, NULL),
	('approval 01', 'approved', '2026-03-01 06:50:01.123456-05', 'true', 2, '2026-03-01 06:50:16.123456-05'),
	('approval 02', 'rejected', '2026-03-01 06:50:02.123456-05', 'false', 3, '2026-03-01 06:50:16.123456-05');
INSERT INTO assistly_documents (collection, key, data, version, updated_at) VALUES
	('pauses', 'paused', '{"by": "ann", "until": null, "reason": "maintenance"}', 1, '2026-03-01 07:00:00.123456-05'),
	('pauses', 'paused for a while', '{"by": null, "until": 1772366460123456, "reason": null}', 1, '2026-03-01 07:00:00.123456-05'),
	('pauses', 'resumed', '{"by": null, "until": 0, "reason": null}', 2, '2026-03-01 07:00:00.123456-05'),
	('limits', 'limited   🐝', '{"at": 1772366400123456, "per": 60000000, "count": 100, "level": 2400000000, "set_at": 1772366400123456}', 2, '2026-03-01 07:00:00.123456-05');
INSERT INTO assistly_events (id, event_type, payload, created_at) VALUES
	(1, 'type 0', 'null', '2026-03-01 06:50:00.123456-05'),
	(2, 'type 1', 'true', '2026-03-01 06:50:01.123456-05'),
	(3, 'type 2', 'false', '2026-03-01 06:50:02.123456-05'),
	(4, 'type 0', '0', '2026-03-01 06:50:03.123456-05'),
	(5, 'type 1', '-1', '2026-03-01 06:50:04.123456-05'),
	(6, 'type 2', '9007199254740993', '2026-03-01 06:50:05.123456-05'),
	(7, 'type 0', '-9223372036854775808', '2026-03-01 06:50:06.123456-05'),
	(8, 'type 1', '10000000000000000000000', '2026-03-01 06:50:07.123456-05'),
	(9, 'type 2', '0.1', '2026-03-01 06:50:08.123456-05'),
	(10, 'type 0', '0.0000001', '2026-03-01 06:50:09.123456-05'),
	(11, 'type 1', '""', '2026-03-01 06:50:10.123456-05'),
	(12, 'type 2', '"text   🐝 %s"', '2026-03-01 06:50:11.123456-05'),
	(13, 'type 0', '[]', '2026-03-01 06:50:12.123456-05'),
	(14, 'type 1', '{}', '2026-03-01 06:50:13.123456-05'),
	(15, 'type 2', '[null, [[]], {"": {}}]', '2026-03-01 06:50:14.123456-05'),
	(16, 'type 0', '{" ": " ", "é": "é", "a.b": [1, 2.5], "__proto__": {"a": 1}}', '2026-03-01 06:50:15.123456-05'),
	(17, 'later', '{"id": "goes on"}', '2026-02-28 07:00:00.123456-05');
INSERT INTO assistly_idempotency (key, saved_at, value, completed, fingerprint, token, lease_until, seq) VALUES
	('result 00', '2026-03-01 06:50:00.123456-05', 'null', true, NULL, NULL, NULL, 1),
	('result 01', '2026-03-01 06:50:01.123456-05', 'true', true, NULL, NULL, NULL, 2),
	('result 02', '2026-03-01 06:50:02.123456-05', 'false', true, NULL, NULL, NULL, 3),
	('result 03', '2026-03-01 06:50:03.123456-05', '0', true, NULL, NULL, NULL, 4),
	('result 04', '2026-03-01 06:50:04.123456-05', '-1', true, NULL, NULL, NULL, 5),
	('result 05', '2026-03-01 06:50:05.123456-05', '9007199254740993', true, NULL, NULL, NULL, 6),
	('result 06', '2026-03-01 06:50:06.123456-05', '-9223372036854775808', true, NULL, NULL, NULL, 7),
	('result 07', '2026-03-01 06:50:07.123456-05', '10000000000000000000000', true, NULL, NULL, NULL, 8),
	('result 08', '2026-03-01 06:50:08.123456-05', '0.1', true, NULL, NULL, NULL, 9),
	('result 09', '2026-03-01 06:50:09.123456-05', '0.0000001', true, NULL, NULL, NULL, 10),
	('result 10', '2026-03-01 06:50:10.123456-05', '""', true, NULL, NULL, NULL, 11),
	('result 11', '2026-03-01 06:50:11.123456-05', '"text   🐝 %s"', true, NULL, NULL, NULL, 12),
	('result 12', '2026-03-01 06:50:12.123456-05', '[]', true, NULL, NULL, NULL, 13),
	('result 13', '2026-03-01 06:50:13.123456-05', '{}', true, NULL, NULL, NULL, 14),
	('result 14', '2026-03-01 06:50:14.123456-05', '[null, [[]], {"": {}}]', true, NULL, NULL, NULL, 15),
	('result 15', '2026-03-01 06:50:15.123456-05', '{" ": " ", "é": "é", "a.b": [1, 2.5], "__proto__": {"a": 1}}', true, NULL, NULL, NULL, 16),
	('completed', '2026-03-01 06:50:16.123456-05', '{"answer": 42}', true, 'digest', NULL, NULL, 17),
	('in progress', '2026-03-01 06:50:16.123456-05', NULL, false, 'digest', 7501020172813273184, '2026-03-02 06:50:16.123456-05', 18),
	('left in progress', '2026-03-01 06:50:16.123456-05', NULL, false, NULL, 2411111359211650523, '2026-03-01 06:50:17.123456-05', 19);
INSERT INTO assistly_metrics (id, payload, updated_at) VALUES
	(8, '{"latency": {"count": 2, "max_ns": 120250000, "total_ns": 120250001}, "counters": {"requestCount": 1200, "Ünïcode 🐝 %s": 3}}', '2026-11-30 04:58:31.645316-05');
INSERT INTO assistly_migrations (name, checksum, applied_at) VALUES
	('001_init_postgres.sql', 'ddacdd8cc6ffe10ce3db54e20b427b712ab134c83669a60a93ebcf05b3667c1a', '2026-11-30 04:58:31.509045-05'),
	('002_tables_postgres.sql', '30d6f4ad4ceed0edff3394ab43e4c96136464b7b221e94c2eb675f49bdb46e67', '2026-11-30 04:58:31.520435-05'),
	('003_contract_postgres.sql', '2e0cee597e8f19a730dd854c49aff14113bbb2d8376ca5d1ab96bad2d92b1b68', '2026-11-30 04:58:31.538163-05'),
	('004_autovacuum_postgres.sql', 'eefed48e203b87cda5a0fb593016aa317208030e3184550730c62c20cd8aa22f', '2026-11-30 04:58:31.542108-05'),
	('005_fewer_indexes_postgres.sql', 'ff2db47cb4c20fbf4b4ac478677708e28f325edac31c43026ec368d3e8f79893', '2026-11-30 04:58:31.544262-05'),
	('006_vacuum_indexes_postgres.sql', '94e574bfca818b3faf13b71ea27845a82098a41d28e8251954643f50197910d0', '2026-11-30 04:58:31.545827-05'),
	('007_decisions_postgres.sql', '905e7452e7151e048542d08c89cf137e8cfbfaf3e61dcfbbd04b78bc83f9e155', '2026-11-30 04:58:31.548084-05'),
	('008_displaced_keys_postgres.sql', 'b185c1224bfdb7e0cf6ead17f28360cdb2ab74cd1829e3b45e1249b79f009fb0', '2026-11-30 04:58:31.551204-05'),
	('009_lock_numbers_postgres.sql', 'e6cd14b41a5f971092f5bd4b6d69654dd527f5ddfbd480ab24e77ff7c6f3c754', '2026-11-30 04:58:31.555069-05');
INSERT INTO assistly_nonces (nonce, timestamp_ms) VALUES
	('leading and trailing', 1772365816123),
	('Ünïcode 🐝 é   ‏', 1772365816123),
	('100 % %s :name {t} ?1 ''single'' "double" \ -- /* ; */', 1772365816123),
	('line
line
	tab ', 1772365816123),
	('NULL', 1772365816123),
	('one', 1772365816123),
	('two', 1772365816123),
	('old', 1772280000123);
INSERT INTO assistly_queue_jobs (id, status, retries, created_at, platform, scheduled_at, content, idempotency_key, next_retry_at, remote_id, posted_at, last_error, dead_letter_at, dead_letter_reason, replayed_at, updated_at, metadata, max_retries, due_at, claim, worker_id, lease_until, publish_started_at, max_lateness, attempts, attention_at, checkpoint) VALUES
	(1, 'posted', 0, '2026-02-28 07:00:00.123456-05', 'x', '2026-02-28 07:00:00.123456-05', 'posted', NULL, NULL, 'remote-1', '2026-02-28 07:00:00.123456-05', NULL, NULL, NULL, NULL, '2026-02-28 07:00:00.123456-05', '{}', 3, '2026-02-28 07:00:00.123456-05', 1, NULL, NULL, NULL, NULL, '[]', NULL, NULL),
	(2, 'posted', 0, '2026-02-28 07:00:00.123456-05', 'x', '2026-02-28 07:00:00.123456-05', 'posted without an id', 'posted', NULL, NULL, '2026-02-28 07:00:00.123456-05', NULL, NULL, NULL, NULL, '2026-02-28 07:00:00.123456-05', '{}', 3, '2026-02-28 07:00:00.123456-05', 1, NULL, NULL, '2026-02-28 07:00:00.123456-05', NULL, '[]', NULL, NULL),
	(3, 'dead_letter', 1, '2026-02-28 07:00:00.123456-05', 'x', '2026-02-28 07:00:00.123456-05', 'dead letter', NULL, NULL, NULL, NULL, '401 Unauthorized', '2026-02-28 07:00:00.123456-05', '401 Unauthorized', NULL, '2026-02-28 07:00:00.123456-05', '{}', 3, '2026-02-28 07:00:00.123456-05', 1, NULL, NULL, NULL, NULL, '[{"at": 1772280000123456, "error": "401 Unauthorized", "number": 1, "worker_id": "worker-1"}]', NULL, NULL),
	(4, 'dead_letter', 1, '2026-02-28 07:00:00.123456-05', 'x', '2026-02-28 07:00:00.123456-05', 'dead letter after one attempt', NULL, NULL, NULL, NULL, '500 long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long ', '2026-02-28 07:00:00.123456-05', '500 long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long ', NULL, '2026-02-28 07:00:00.123456-05', '{}', 1, '2026-02-28 07:00:00.123456-05', 1, NULL, NULL, NULL, NULL, '[{"at": 1772280000123456, "error": "500 long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long ", "number": 1, "worker_id": "worker-1"}]', NULL, NULL),
	(5, 'dead_letter', 1, '2026-02-28 07:00:00.123456-05', 'x', '2026-02-28 07:00:00.123456-05', 'unknown outcome', NULL, NULL, NULL, NULL, 'outcome unknown: the connection was cut', '2026-02-28 07:00:00.123456-05', 'outcome unknown: the connection was cut', NULL, '2026-02-28 07:00:00.123456-05', '{}', 3, '2026-02-28 07:00:00.123456-05', 1, NULL, NULL, '2026-02-28 07:00:00.123456-05', NULL, '[{"at": 1772280000123456, "error": "outcome unknown: the connection was cut", "number": 1, "worker_id": "worker-1"}]', NULL, NULL),
	(6, 'scheduled', 0, '2026-02-28 07:00:00.123456-05', 'x', '2026-03-02 07:00:00.123456-05', 'replayed', 'replayed', NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:00:00.123456-05', '2026-02-28 07:00:00.123456-05', '{}', 3, '2026-03-02 07:00:00.123456-05', 1, NULL, NULL, NULL, NULL, '[{"at": 1772280000123456, "error": "refused", "number": 1, "worker_id": "worker-1"}]', NULL, NULL),
	(7, 'dead_letter', 0, '2026-02-28 07:00:00.123456-05', 'x', '2026-02-28 07:00:00.123456-05', 'too late', NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:00.123456-05', 'missed: later than its max_lateness when it was met at 2026-02-28T12:01:00.123456+00:00', NULL, '2026-02-28 07:01:00.123456-05', '{}', 3, '2026-02-28 07:00:00.123456-05', 0, NULL, NULL, NULL, 1000000, '[]', NULL, NULL),
	(24, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', '2026-03-01 07:06:00.123456-05', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', '6 xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": -9223372036854775808, "xxxxxxxxxx": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}', 3, '2026-03-01 07:06:00.123456-05', 0, NULL, NULL, NULL, NULL, '[]', NULL, NULL),
	(25, 'cancelled', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'cancelled', 'cancelled', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 0, NULL, NULL, NULL, 1000000, '[]', NULL, NULL),
	(26, 'cancelled', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'cancelled while it was held', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, NULL, NULL, NULL, NULL, '[]', NULL, NULL),
	(27, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 00', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', NULL),
	(32, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 05', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', '9007199254740993'),
	(28, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 01', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', 'true'),
	(30, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 03', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', '0'),
	(29, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 02', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', 'false'),
	(31, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 04', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', '-1'),
	(35, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 08', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', '0.1'),
	(34, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 07', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', '10000000000000000000000'),
	(33, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 06', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', '-9223372036854775808'),
	(36, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 09', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', '0.0000001'),
	(37, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 10', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', '""'),
	(38, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 11', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', '"text   🐝 %s"'),
	(39, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 12', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', '[]'),
	(40, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 13', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', '{}'),
	(41, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 14', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', '[null, [[]], {"": {}}]'),
	(42, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps 15', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', '{" ": " ", "é": "é", "a.b": [1, 2.5], "__proto__": {"a": 1}}'),
	(43, 'dead_letter', 1, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps, unknown outcome', NULL, NULL, NULL, NULL, 'outcome unknown: no answer', '2026-02-28 07:01:25.123456-05', 'outcome unknown: no answer', NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, NULL, NULL, '2026-02-28 07:01:25.123456-05', NULL, '[{"at": 1772280085123456, "error": "outcome unknown: no answer", "number": 1, "worker_id": "worker-1"}]', NULL, '{"container": "17 🐝"}'),
	(44, 'retrying', 1, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'in steps, retrying', NULL, '2026-03-01 07:01:00.123456-05', NULL, NULL, 'busy', NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-03-01 07:01:00.123456-05', 1, NULL, NULL, NULL, NULL, '[{"at": 1772280085123456, "error": "busy", "number": 1, "worker_id": "worker-1"}]', NULL, '{"container": 18}'),
	(45, 'posted', 1, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'resolved, posted: True', NULL, NULL, 'remote-2', '2026-02-28 07:01:25.123456-05', 'outcome unknown: no answer', NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, NULL, NULL, '2026-02-28 07:01:25.123456-05', NULL, '[{"at": 1772280085123456, "error": "outcome unknown: no answer", "number": 1, "worker_id": "worker-1"}]', NULL, NULL),
	(46, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'resolved, posted: False', NULL, '2026-03-02 07:00:00.123456-05', NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-03-02 07:00:00.123456-05', 2, NULL, NULL, NULL, NULL, '[{"at": 1772280085123456, "error": "outcome unknown: no answer", "number": 1, "worker_id": "worker-1"}]', NULL, '[1, 2.0]'),
	(47, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 0', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": null}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(48, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 1', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": true}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(49, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 2', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": false}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(50, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 3', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": 0}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(51, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 4', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": -1}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(52, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 5', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": 9007199254740993}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(53, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 6', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": -9223372036854775808}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(54, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 7', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": 10000000000000000000000}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(55, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 8', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": 0.1}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(56, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 9', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": 0.0000001}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(57, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 10', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": ""}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(58, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 11', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": "text   🐝 %s"}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(59, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 12', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": []}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(60, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 13', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": {}}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(61, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 14', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": [null, [[]], {"": {}}]}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(62, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'many', '2026-03-01 07:00:00.123455-05', 'job 15', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": {" ": " ", "é": "é", "a.b": [1, 2.5], "__proto__": {"a": 1}}}', 3, '2026-03-01 07:00:00.123455-05', 0, NULL, NULL, NULL, 86400000000, '[]', '2026-03-02 07:00:00.123455-05', NULL),
	(63, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'far', '8999-12-31 19:00:00-05', 'the end of time', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '8999-12-31 19:00:00-05', 0, NULL, NULL, NULL, NULL, '[]', NULL, NULL),
	(8, 'retrying', 25, '2026-02-28 07:01:00.123456-05', 'x', '2026-03-01 06:59:00.123456-05', 'long history', NULL, NULL, NULL, NULL, 'attempt 24 🐝', NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"attempts": 25}', 100, '2026-03-01 06:59:00.123456-05', 25, NULL, NULL, NULL, NULL, '[{"at": 1772280065123456, "error": "attempt 5 🐝", "number": 6, "worker_id": "worker-4"}, {"at": 1772280066123456, "error": "attempt 6 🐝", "number": 7, "worker_id": "worker-5"}, {"at": 1772280067123456, "error": "attempt 7 🐝", "number": 8, "worker_id": "worker-6"}, {"at": 1772280068123456, "error": "attempt 8 🐝", "number": 9, "worker_id": "worker-7"}, {"at": 1772280069123456, "error": "attempt 9 🐝", "number": 10, "worker_id": "worker-8"}, {"at": 1772280070123456, "error": "attempt 10 🐝", "number": 11, "worker_id": "worker-9"}, {"at": 1772280071123456, "error": "attempt 11 🐝", "number": 12, "worker_id": "worker-10"}, {"at": 1772280072123456, "error": "attempt 12 🐝", "number": 13, "worker_id": "worker-11"}, {"at": 1772280073123456, "error": "attempt 13 🐝", "number": 14, "worker_id": "worker-12"}, {"at": 1772280074123456, "error": "attempt 14 🐝", "number": 15, "worker_id": "worker-13"}, {"at": 1772280075123456, "error": "attempt 15 🐝", "number": 16, "worker_id": "worker-14"}, {"at": 1772280076123456, "error": "attempt 16 🐝", "number": 17, "worker_id": "worker-15"}, {"at": 1772280077123456, "error": "attempt 17 🐝", "number": 18, "worker_id": "worker-16"}, {"at": 1772280078123456, "error": "attempt 18 🐝", "number": 19, "worker_id": "worker-17"}, {"at": 1772280079123456, "error": "attempt 19 🐝", "number": 20, "worker_id": "worker-18"}, {"at": 1772280080123456, "error": "attempt 20 🐝", "number": 21, "worker_id": "worker-19"}, {"at": 1772280081123456, "error": "attempt 21 🐝", "number": 22, "worker_id": "worker-20"}, {"at": 1772280082123456, "error": "attempt 22 🐝", "number": 23, "worker_id": "worker-21"}, {"at": 1772280083123456, "error": "attempt 23 🐝", "number": 24, "worker_id": "worker-22"}, {"at": 1772280084123456, "error": "attempt 24 🐝", "number": 25, "worker_id": "worker-23"}]', NULL, NULL),
	(9, 'retrying', 1, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'retrying later', NULL, '2026-03-01 07:01:00.123456-05', NULL, NULL, '429', NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-03-01 07:01:00.123456-05', 1, NULL, NULL, NULL, NULL, '[{"at": 1772280085123456, "error": "429", "number": 1, "worker_id": "worker-1"}]', NULL, NULL),
	(10, 'retrying', 1, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'retrying with a limit', NULL, '2026-03-01 07:00:00.123457-05', NULL, NULL, '429', NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-03-01 07:00:00.123457-05', 1, NULL, NULL, NULL, 259200000000, '[{"at": 1772280085123456, "error": "429", "number": 1, "worker_id": "worker-1"}]', '2026-03-03 07:01:25.123456-05', NULL),
	(11, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'snoozed', NULL, '2026-03-01 07:01:00.123456-05', NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-03-01 07:01:00.123456-05', 1, NULL, NULL, NULL, NULL, '[]', NULL, NULL),
	(12, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'released', NULL, '2026-03-01 07:00:00.123456-05', NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-03-01 07:00:00.123456-05', 2, NULL, NULL, NULL, 259200000000, '[]', '2026-03-03 07:01:25.123456-05', NULL),
	(13, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'held', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', NULL, NULL, '[]', '2026-03-02 07:01:25.123456-05', NULL),
	(14, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'publishing', 'publishing', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'worker-1', '2026-03-02 07:01:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-03-02 07:01:25.123456-05', NULL),
	(15, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'left alone', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'dead Ünïcode', '2026-02-28 07:02:25.123456-05', NULL, NULL, '[]', '2026-02-28 07:02:25.123456-05', NULL),
	(16, 'processing', 0, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'left while publishing', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 1, 'dead', '2026-02-28 07:02:25.123456-05', '2026-02-28 07:01:25.123456-05', NULL, '[]', '2026-02-28 07:02:25.123456-05', NULL),
	(17, 'processing', 1, '2026-02-28 07:01:25.123456-05', 'x', '2026-02-28 07:01:25.123456-05', 'retried, then held', NULL, '2026-02-28 07:01:25.123456-05', NULL, NULL, 'busy', NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{}', 3, '2026-02-28 07:01:25.123456-05', 2, 'worker-3', '2026-03-02 07:01:25.123456-05', NULL, NULL, '[{"at": 1772280085123456, "error": "busy", "number": 1, "worker_id": "worker-1"}]', '2026-03-02 07:01:25.123456-05', NULL),
	(18, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'platform 0', '2026-03-01 07:00:00.123456-05', '', '0 ', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"": "", "value": null}', 3, '2026-03-01 07:00:00.123456-05', 0, NULL, NULL, NULL, NULL, '[]', NULL, NULL),
	(19, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'leading and trailing', '2026-03-01 07:01:00.123456-05', ' leading and trailing ', '1  leading and trailing ', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": true, " leading a": " leading and trailing "}', 3, '2026-03-01 07:01:00.123456-05', 0, NULL, NULL, NULL, NULL, '[]', NULL, NULL),
	(20, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'Ünïcode 🐝 é   ‏', '2026-03-01 07:02:00.123456-05', 'Ünïcode 🐝 é   ‏', '2 Ünïcode 🐝 é   ‏', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": false, "Ünïcode 🐝 ": "Ünïcode 🐝 é   ‏"}', 3, '2026-03-01 07:02:00.123456-05', 0, NULL, NULL, NULL, NULL, '[]', NULL, NULL),
	(21, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', '100 % %s :name {t} ?1 ''single'' "double" \ -- /* ; */', '2026-03-01 07:03:00.123456-05', '100 % %s :name {t} ?1 ''single'' "double" \ -- /* ; */', '3 100 % %s :name {t} ?1 ''single'' "double" \ -- /* ; */', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": 0, "100 % %s :": "100 % %s :name {t} ?1 ''single'' \"double\" \\ -- /* ; */"}', 3, '2026-03-01 07:03:00.123456-05', 0, NULL, NULL, NULL, NULL, '[]', NULL, NULL),
	(22, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'line
line
	tab ', '2026-03-01 07:04:00.123456-05', 'line
line
	tab ', '4 line
line
	tab ', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"value": -1, "line\nline\r": "line\nline\r\n\ttab \u0001"}', 3, '2026-03-01 07:04:00.123456-05', 0, NULL, NULL, NULL, NULL, '[]', NULL, NULL),
	(23, 'scheduled', 0, '2026-02-28 07:01:25.123456-05', 'NULL', '2026-03-01 07:05:00.123456-05', 'NULL', '5 NULL', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-02-28 07:01:25.123456-05', '{"NULL": "NULL", "value": 9007199254740993}', 3, '2026-03-01 07:05:00.123456-05', 0, NULL, NULL, NULL, NULL, '[]', NULL, NULL);
INSERT INTO assistly_sessions (user_id, session, updated_at, version) VALUES
	('user 01', 'true', '2026-03-01 06:50:01.123456-05', 1),
	('user 02', 'false', '2026-03-01 06:50:02.123456-05', 1),
	('user 03', '0', '2026-03-01 06:50:03.123456-05', 1),
	('user 04', '-1', '2026-03-01 06:50:04.123456-05', 1),
	('user 05', '9007199254740993', '2026-03-01 06:50:05.123456-05', 1),
	('user 06', '-9223372036854775808', '2026-03-01 06:50:06.123456-05', 1),
	('user 07', '10000000000000000000000', '2026-03-01 06:50:07.123456-05', 1),
	('user 08', '0.1', '2026-03-01 06:50:08.123456-05', 1),
	('user 09', '0.0000001', '2026-03-01 06:50:09.123456-05', 1),
	('user 10', '""', '2026-03-01 06:50:10.123456-05', 1),
	('user 11', '"text   🐝 %s"', '2026-03-01 06:50:11.123456-05', 1),
	('user 12', '[]', '2026-03-01 06:50:12.123456-05', 1),
	('user 13', '{}', '2026-03-01 06:50:13.123456-05', 1),
	('user 14', '[null, [[]], {"": {}}]', '2026-03-01 06:50:14.123456-05', 1),
	('user 15', '{" ": " ", "é": "é", "a.b": [1, 2.5], "__proto__": {"a": 1}}', '2026-03-01 06:50:15.123456-05', 1),
	('leading and trailing', '{"text": " leading and trailing "}', '2026-03-01 06:50:16.123456-05', 1),
	('Ünïcode 🐝 é   ‏', '{"text": "Ünïcode 🐝 é   ‏"}', '2026-03-01 06:50:16.123456-05', 1),
	('100 % %s :name {t} ?1 ''single'' "double" \ -- /* ; */', '{"text": "100 % %s :name {t} ?1 ''single'' \"double\" \\ -- /* ; */"}', '2026-03-01 06:50:16.123456-05', 1),
	('line
line
	tab ', '{"text": "line\nline\r\n\ttab \u0001"}', '2026-03-01 06:50:16.123456-05', 1),
	('NULL', '{"text": "NULL"}', '2026-03-01 06:50:16.123456-05', 1),
	('user 00', '{"was": {"version": 2}}', '2026-03-01 06:50:16.123456-05', 3);
INSERT INTO assistly_store (kind, payload, updated_at) VALUES
	('kind 01', 'true', '2026-03-01 06:50:01.123456-05'),
	('kind 02', 'false', '2026-03-01 06:50:02.123456-05'),
	('kind 03', '0', '2026-03-01 06:50:03.123456-05'),
	('kind 04', '-1', '2026-03-01 06:50:04.123456-05'),
	('kind 05', '9007199254740993', '2026-03-01 06:50:05.123456-05'),
	('kind 06', '-9223372036854775808', '2026-03-01 06:50:06.123456-05'),
	('kind 07', '10000000000000000000000', '2026-03-01 06:50:07.123456-05'),
	('kind 08', '0.1', '2026-03-01 06:50:08.123456-05'),
	('kind 09', '0.0000001', '2026-03-01 06:50:09.123456-05'),
	('kind 10', '""', '2026-03-01 06:50:10.123456-05'),
	('kind 11', '"text   🐝 %s"', '2026-03-01 06:50:11.123456-05'),
	('kind 12', '[]', '2026-03-01 06:50:12.123456-05'),
	('kind 13', '{}', '2026-03-01 06:50:13.123456-05'),
	('kind 14', '[null, [[]], {"": {}}]', '2026-03-01 06:50:14.123456-05'),
	('kind 15', '{" ": " ", "é": "é", "a.b": [1, 2.5], "__proto__": {"a": 1}}', '2026-03-01 06:50:15.123456-05'),
	('kind 00', '"replaced"', '2026-03-01 06:50:16.123456-05');
INSERT INTO assistly_worker_lock (id, owner_id, acquired_at, expires_at, name, fence, held_since, held_until) VALUES
	(1, 'third', 1772365936123, 1772452336123, 'worker', 3, '2026-03-01 06:52:16.123456-05', '2026-03-02 06:52:16.123456-05'),
	(2, NULL, 1772365816123, 1772365816123, 'released', 1, '2026-03-01 06:50:16.123456-05', '2026-03-01 06:50:16.123456-05'),
	(3, 'dead', 1772365816123, 1772365817123, 'run out', 1, '2026-03-01 06:50:16.123456-05', '2026-03-01 06:50:17.123456-05');
SELECT pg_catalog.setval('assistly_approvals_seq_seq', 16, true);
SELECT pg_catalog.setval('assistly_events_id_seq', 17, true);
SELECT pg_catalog.setval('assistly_idempotency_seq_seq', 20, true);
SELECT pg_catalog.setval('assistly_queue_jobs_id_seq', 64, true);
ALTER TABLE ONLY assistly_approvals
    ADD CONSTRAINT assistly_approvals_pkey PRIMARY KEY (id);
ALTER TABLE ONLY assistly_documents
    ADD CONSTRAINT assistly_documents_pkey PRIMARY KEY (collection, key);
ALTER TABLE ONLY assistly_events
    ADD CONSTRAINT assistly_events_pkey PRIMARY KEY (id);
ALTER TABLE ONLY assistly_idempotency
    ADD CONSTRAINT assistly_idempotency_pkey PRIMARY KEY (key);
ALTER TABLE ONLY assistly_metrics
    ADD CONSTRAINT assistly_metrics_pkey PRIMARY KEY (id);
ALTER TABLE ONLY assistly_migrations
    ADD CONSTRAINT assistly_migrations_pkey PRIMARY KEY (name);
ALTER TABLE ONLY assistly_nonces
    ADD CONSTRAINT assistly_nonces_pkey PRIMARY KEY (nonce);
ALTER TABLE ONLY assistly_queue_jobs
    ADD CONSTRAINT assistly_queue_jobs_pkey PRIMARY KEY (id) WITH (fillfactor='40', deduplicate_items=off);
ALTER TABLE ONLY assistly_retention
    ADD CONSTRAINT assistly_retention_pkey PRIMARY KEY (id);
ALTER TABLE ONLY assistly_sessions
    ADD CONSTRAINT assistly_sessions_pkey PRIMARY KEY (user_id);
ALTER TABLE ONLY assistly_store
    ADD CONSTRAINT assistly_store_pkey PRIMARY KEY (kind);
ALTER TABLE ONLY assistly_worker_lock
    ADD CONSTRAINT assistly_worker_lock_pkey PRIMARY KEY (id);
CREATE INDEX idx_approvals_created ON assistly_approvals USING btree (created_at);
CREATE INDEX idx_approvals_order ON assistly_approvals USING btree (created_at, seq);
CREATE INDEX idx_approvals_status ON assistly_approvals USING btree (status, created_at, seq);
CREATE INDEX idx_events_created ON assistly_events USING btree (created_at, id);
CREATE INDEX idx_events_type_created ON assistly_events USING btree (event_type, created_at);
CREATE INDEX idx_events_type_id ON assistly_events USING btree (event_type, id);
CREATE INDEX idx_idempotency_saved ON assistly_idempotency USING btree (saved_at);
CREATE INDEX idx_nonces_timestamp ON assistly_nonces USING btree (timestamp_ms);
CREATE INDEX idx_queue_attention ON assistly_queue_jobs USING btree (attention_at, id) INCLUDE (status) WHERE (attention_at IS NOT NULL);
CREATE INDEX idx_queue_cancelled ON assistly_queue_jobs USING btree (id) WHERE (status = 'cancelled'::text);
CREATE INDEX idx_queue_conflict ON assistly_queue_jobs USING btree (platform, scheduled_at) WITH (fillfactor='50', deduplicate_items=off) WHERE (status = ANY (ARRAY['scheduled'::text, 'retrying'::text, 'processing'::text]));
CREATE INDEX idx_queue_dead_letter ON assistly_queue_jobs USING btree (id) WHERE (status = 'dead_letter'::text);
CREATE INDEX idx_queue_due ON assistly_queue_jobs USING btree (scheduled_at, next_retry_at) WHERE (status = ANY (ARRAY['scheduled'::text, 'retrying'::text]));
CREATE INDEX idx_queue_due_at ON assistly_queue_jobs USING btree (due_at, id) INCLUDE (status) WHERE (status = ANY (ARRAY['scheduled'::text, 'retrying'::text]));
CREATE UNIQUE INDEX idx_queue_idempotency_key ON assistly_queue_jobs USING btree (idempotency_key) WHERE (idempotency_key IS NOT NULL);
CREATE INDEX idx_queue_posted ON assistly_queue_jobs USING btree (posted_at) WHERE (status = 'posted'::text);
CREATE INDEX idx_sessions_updated ON assistly_sessions USING btree (updated_at);
CREATE UNIQUE INDEX idx_worker_lock_name ON assistly_worker_lock USING btree (name);
