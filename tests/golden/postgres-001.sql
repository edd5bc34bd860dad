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
CREATE TABLE assistly_store (
    kind text NOT NULL,
    payload jsonb NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);
ALTER TABLE ONLY assistly_events ALTER COLUMN id SET DEFAULT nextval('assistly_events_id_seq'::regclass);
INSERT INTO assistly_events (id, event_type, payload, created_at) VALUES
	(1, 'type 0', '{"step": "draft", "empty": {}, "items": [1, 2.5, true, null, "é   🐝"]}', '2024-05-01 08:00:00.123456-04'),
	(2, 'type 1', '[]', '2024-05-01 07:59:00.123456-04'),
	(3, 'type 2', '{}', '2024-05-01 07:58:00.123456-04'),
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
INSERT INTO assistly_store (kind, payload, updated_at) VALUES
	('queue', '{"step": "draft", "empty": {}, "items": [1, 2.5, true, null, "é   🐝"]}', '2024-05-01 08:00:00.123456-04'),
	('state', '[]', '2024-05-01 08:00:00.123456-04'),
	('logs', '{}', '2024-05-01 08:00:00.123456-04');
SELECT pg_catalog.setval('assistly_events_id_seq', 14, true);
ALTER TABLE ONLY assistly_events
    ADD CONSTRAINT assistly_events_pkey PRIMARY KEY (id);
ALTER TABLE ONLY assistly_store
    ADD CONSTRAINT assistly_store_pkey PRIMARY KEY (kind);
CREATE INDEX idx_events_type_created ON assistly_events USING btree (event_type, created_at);
