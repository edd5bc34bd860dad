"""An application has objects with our names, or with the names of the server's own functions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from assistly.storage import ConfigurationError, PostgresBackend, Storage
from assistly.storage.engines.sql.migrations import discover
from assistly.storage.engines.sql.objects import indexes_of, tables_of


@dataclass(frozen=True)
class Application:
    """One that was there first. Its tables are in the schema that the storage is given."""

    url: str
    schema: str

    def run(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'SET search_path = "{self.schema}"'.encode())
            for statement in statements:
                connection.execute(statement.encode())

    def objects(self) -> list[tuple[Any, ...]]:
        """All relations of the schema, with what an ALTER would change."""
        query = """
            SELECT c.oid, c.relname, c.relkind, c.reloptions, pg_get_indexdef(c.oid), a.attname,
                format_type(a.atttypid, a.atttypmod)
            FROM pg_class AS c LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
            WHERE c.relnamespace = %s::regnamespace ORDER BY c.oid, a.attnum
        """
        with psycopg.connect(self.url) as connection:
            return connection.execute(query, [f'"{self.schema}"']).fetchall()

    def open(self, **options: Any) -> Storage:
        url = options.pop("url", self.url)
        return Storage(PostgresBackend(url, pool_size=2, schema=self.schema, **options), auto_prune=False)

    def is_refused(self, *words: str) -> None:
        before = self.objects()
        with self.open() as storage:
            for _ in range(2):
                with pytest.raises(ConfigurationError) as caught:
                    storage.ping()
                text = str(caught.value)
                assert "STORAGE_SCHEMA" in text
                assert self.schema in text
                assert [word for word in words if word not in text] == []
        assert self.objects() == before


@pytest.fixture
def application(database_url: str, schema: str) -> Application:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA "{schema}"'.encode())
    return Application(database_url, schema)


INDEXES = sorted({index.name for each in discover("postgres") for index in indexes_of(each.sql)})
TABLES = sorted({table.name for each in discover("postgres") for table in tables_of(each.sql)})


def test_there_are_names() -> None:
    assert {"idx_queue_due", "idx_queue_cancelled", "assistly_queue_jobs_pkey"} <= set(INDEXES)
    assert {"assistly_store", "assistly_queue_jobs", "assistly_documents"} <= set(TABLES)


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_of_another_table(application: Application, name: str) -> None:
    application.run("CREATE TABLE posts (id integer)", f"CREATE INDEX {name} ON posts (id)")
    application.is_refused(name, "posts", "index")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_another_shape(application: Application, name: str) -> None:
    application.run(f"CREATE TABLE {name} (title varchar)")
    application.is_refused(name, "table")


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "CREATE TABLE assistly_nonces (nonce text PRIMARY KEY, timestamp_ms integer)",
            ["int4", "bigint"],
        ),
        ("CREATE TABLE assistly_nonces (nonce text, timestamp_ms bigint)", ["key", "nonce"]),
        ("CREATE TABLE assistly_migrations (version integer)", ["assistly_migrations", "table"]),
        ("CREATE VIEW assistly_migrations AS SELECT 'a' AS name, 'b' AS checksum", ["view"]),
        ("CREATE VIEW assistly_store AS SELECT 1 AS kind", ["assistly_store", "view"]),
        ("CREATE SEQUENCE idx_queue_due", ["idx_queue_due", "sequence"]),
        ("CREATE TABLE idx_queue_posted (id integer)", ["idx_queue_posted", "table"]),
        ("CREATE TYPE assistly_events AS ENUM ('a')", ["assistly_events", "type"]),
        ("CREATE TYPE assistly_events AS (a integer)", ["assistly_events", "composite type"]),
        ("CREATE DOMAIN assistly_sessions AS text", ["assistly_sessions", "type"]),
        ("CREATE TABLE assistly_store (kind text PRIMARY KEY) PARTITION BY HASH (kind)", ["partitioned"]),
    ],
)
def test_another_object(application: Application, statement: str, words: list[str]) -> None:
    application.run(statement)
    application.is_refused(*words)


def test_an_index_of_ours_on_another_of_our_tables(application: Application) -> None:
    application.run(
        "CREATE TABLE assistly_nonces (nonce text PRIMARY KEY, timestamp_ms bigint)",
        "CREATE INDEX idx_queue_due ON assistly_nonces (timestamp_ms)",
    )
    application.is_refused("idx_queue_due", "assistly_nonces")


def test_a_name_that_a_later_migration_uses(application: Application) -> None:
    with application.open() as storage:
        storage.ping()
    application.run(
        "DELETE FROM assistly_migrations WHERE name >= '005'",
        "DROP TABLE assistly_documents",
        "DROP INDEX idx_queue_cancelled",
        "ALTER TABLE assistly_queue_jobs DROP COLUMN checkpoint",
        "DROP INDEX idx_queue_attention",
        "CREATE TABLE posts (id integer)",
        "CREATE INDEX idx_queue_lease ON posts (id)",
    )
    application.is_refused("idx_queue_lease", "posts")


def use(storage: Storage) -> None:
    queue = storage.queue
    queue.schedule("x", "one", min_gap=timedelta(minutes=1), max_lateness=timedelta(hours=1))
    (job,) = queue.claim_due(worker_id="w")
    queue.mark_failed(job, "refused", retry_at=job.scheduled_at)
    (job,) = queue.claim_due(worker_id="w")
    queue.mark_posted(job)
    assert sum(queue.counts().values()) == 1
    storage.metrics.increment("a", 2)
    assert storage.metrics.read().counters == {"a": 2}
    storage.idempotency.put_many([("a", 1), ("b", 2)])
    storage.nonces.register_many(["a", "b"])
    assert storage.lock.acquire("me") is not None
    storage.events.append("a", 1)
    assert len(storage.events.read_after(0, event_type="a")) == 1
    storage.approvals.add("a", {})
    assert storage.prune(force=True).ran
    storage.ping()


def test_sequences_and_constraints_of_our_names_are_left_alone(application: Application) -> None:
    application.run(
        "CREATE SEQUENCE assistly_queue_jobs_id_seq START 1000",
        "CREATE SEQUENCE assistly_events_id_seq START 1000",
        "CREATE TABLE posts (id integer CONSTRAINT assistly_store_pkey PRIMARY KEY)",
    )
    before = application.objects()
    with application.open() as storage:
        use(storage)
        assert storage.queue.schedule("x", "two").id == 2
    assert application.objects()[: len(before)] == before


FAILS = "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not the server''s own'; END $$"
FUNCTIONS = [
    "cardinality(anyarray) RETURNS integer",
    "clock_timestamp() RETURNS timestamptz",
    "current_setting(text) RETURNS text",
    "generate_series(bigint, bigint) RETURNS SETOF bigint",
    "jsonb_array_elements(jsonb) RETURNS SETOF jsonb",
    "jsonb_array_length(jsonb) RETURNS integer",
    "jsonb_build_object(text, bigint) RETURNS jsonb",
    "jsonb_each_text(jsonb) RETURNS SETOF jsonb",
    "lower(text) RETURNS text",
    "nextval(regclass) RETURNS bigint",
    "now() RETURNS timestamptz",
    "octet_length(text) RETURNS integer",
    "pg_advisory_xact_lock(bigint) RETURNS void",
    "pg_advisory_xact_lock_shared(bigint) RETURNS void",
    "pg_get_serial_sequence(text, text) RETURNS text",
    "pg_notify(text, text) RETURNS void",
    "set_config(text, text, boolean) RETURNS text",
    "unnest(anyarray) RETURNS SETOF integer",
    "fail(bigint) RETURNS bigint",
    "fail(bigint, bigint) RETURNS bigint",
    "fail(bigint, smallint) RETURNS bigint",
    "fail(bigint, timestamptz) RETURNS bigint",
]
AGGREGATES = ["count(*)", "max(bigint)", "max(timestamptz)", "max(smallint)", "array_agg(bigint)"]


@pytest.mark.parametrize("is_bound", [False, True])
def test_functions_that_come_before_the_servers_own(
    application: Application, database_url: str, is_bound: bool
) -> None:
    """The whole of what an application may do to itself with a search path; all of these functions fail."""
    application.run(
        *(f"CREATE FUNCTION {each} {FAILS}" for each in FUNCTIONS),
        *(f"CREATE AGGREGATE {each} (sfunc = fail, stype = bigint, initcond = 0)" for each in AGGREGATES),
    )
    url = make_conninfo(database_url, options=f'-c search_path="{application.schema}",pg_catalog')
    with psycopg.connect(url) as connection:
        with pytest.raises(psycopg.errors.RaiseException):
            connection.execute("SELECT count(*) FROM pg_class")
        connection.rollback()
        if is_bound:
            with application.open() as storage:
                use(storage.bind(connection))
        else:
            with application.open(url=url) as storage:
                use(storage)


TYPES = ["text", "bigint", "integer", "smallint", "boolean", "timestamptz", "jsonb", "name", "oid"]
COMPARISONS = ["=", "<>", "<", "<=", ">", ">="]


def test_operators_and_types_that_come_before_the_servers_own(
    application: Application, database_url: str
) -> None:
    application.run(
        *(f"CREATE FUNCTION fail({each}, {each}) RETURNS boolean {FAILS}" for each in TYPES),
        *(
            f"CREATE OPERATOR {operator} (leftarg = {each}, rightarg = {each}, function = fail)"
            for each in TYPES
            for operator in COMPARISONS
        ),
        f"CREATE FUNCTION fail(timestamptz, interval) RETURNS timestamptz {FAILS}",
        "CREATE OPERATOR + (leftarg = timestamptz, rightarg = interval, function = fail)",
        "CREATE OPERATOR - (leftarg = timestamptz, rightarg = interval, function = fail)",
        *(
            f"CREATE DOMAIN {each} AS pg_catalog.{each} CHECK (FALSE)"
            for each in ("jsonb", "text", "timestamptz")
        ),
    )
    url = make_conninfo(database_url, options=f'-c search_path="{application.schema}",pg_catalog')
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.RaiseException):
        connection.execute("SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text")
    with application.open(url=url) as storage:
        use(storage)
        storage.maintain()
