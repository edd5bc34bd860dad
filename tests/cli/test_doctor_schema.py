"""`assistly doctor --only schema`: each difference is found, and what it prints mends it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from assistly.doctor import tables
from assistly.storage import NewJob, open_storage
from assistly.storage.engines.sql.migrations import Migration, discover
from backends.original_system import AUTO_CREATED_TABLES, INIT_TABLES, Original
from golden.making import open_postgres, open_sqlite

Finding = dict[str, Any]
Check = Callable[..., list[Finding]]
Run = Callable[..., tuple[int, str, str]]
Sql = Callable[[str], list[Any]]

sqlite_only = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
postgres_only = pytest.mark.parametrize("engine", ["postgres"], indirect=True)

# What is done to the tables, and a piece of what is said about it.
BOTH = {
    "DROP TABLE assistly_nonces": "the table assistly_nonces is missing",
    "ALTER TABLE assistly_queue_jobs DROP COLUMN worker_id": "assistly_queue_jobs.worker_id is missing",
    "ALTER TABLE assistly_queue_jobs DROP COLUMN max_retries": "assistly_queue_jobs.max_retries is missing",
    "DROP INDEX idx_queue_due": "the index idx_queue_due of assistly_queue_jobs is missing",
    "DROP INDEX idx_queue_posted": "idx_queue_posted has another definition: it is unique",
    "CREATE UNIQUE INDEX idx_queue_posted ON assistly_queue_jobs (posted_at) WHERE status = 'posted'": "",
}
ON_SQLITE = {
    **BOTH,
    "DROP TABLE assistly_queue_newest": "the table assistly_queue_newest is missing",
    "DROP TRIGGER assistly_queue_newest_deleted": "the trigger assistly_queue_newest_deleted is missing",
}
ON_POSTGRES = {
    **BOTH,
    "ALTER TABLE assistly_events ALTER payload DROP NOT NULL": "assistly_events.payload accepts NULL",
    "ALTER TABLE assistly_approvals ALTER decided_at SET NOT NULL": "approvals.decided_at refuses NULL",
    "ALTER TABLE assistly_queue_jobs ALTER retries SET DEFAULT 7": "retries has the default 7, not 0",
    "ALTER TABLE assistly_store ADD COLUMN theirs text NOT NULL": "no record can be added",
    "DROP SEQUENCE assistly_events_id_seq CASCADE": "assistly_events.id has the default NULL",
    "SELECT setval('assistly_queue_jobs_id_seq', 1)": "assistly_queue_jobs_id_seq is behind",
    "ALTER TABLE assistly_metrics DROP CONSTRAINT assistly_metrics_pkey": "lost its primary key (id)",
    "UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = 'idx_events_created'::regclass": "not valid",
    "ALTER TABLE assistly_queue_jobs RESET (vacuum_index_cleanup)": "lacks vacuum_index_cleanup = on",
    "ALTER INDEX idx_queue_conflict RESET (fillfactor)": "idx_queue_conflict lacks fillfactor = 50",
    "ALTER INDEX assistly_queue_jobs_pkey RESET (fillfactor)": "jobs_pkey lacks fillfactor = 40",
}


@pytest.fixture(autouse=True)
def _migrated(engine: str) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.migrate()


def mend(sql: Sql, found: list[Finding]) -> None:
    for finding in found:
        for statement in finding["mend"].split(";\n"):
            sql(statement)


def test_what_it_prints_mends_it(check: Check, sql: Sql, engine: str) -> None:
    assert [finding["verdict"] for finding in check("schema")] == ["ok"]
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule("x", "kept")
        storage.queue.schedule("x", "kept, too")
        storage.events.append("kept", 1)
    troubles = ON_SQLITE if engine == "sqlite" else ON_POSTGRES
    for trouble in troubles:
        sql(trouble)
    found = check("schema")
    for said in filter(None, troubles.values()):
        assert any(said in finding["reason"] for finding in found), said
    assert len(found) == sum(map(bool, troubles.values()))
    assert {finding["verdict"] for finding in found} <= {"problem", "warning"}
    mend(sql, found)
    assert [finding["verdict"] for finding in check("schema")] == ["ok"]
    with open_storage(auto_prune=False) as storage:
        new = storage.queue.schedule("x", "new")
        storage.queue.remove(new.id)
        assert 2 < new.id < storage.queue.schedule("x", "newer").id
        assert storage.nonces.register("new")
        assert storage.events.append("new", 1).id > 1


@postgres_only
@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("SELECT setval('assistly_events_id_seq', 2, false)", "assistly_events_id_seq is behind"),
        ("SELECT setval('assistly_events_id_seq', 3, false)", ""),
        (
            "ALTER SEQUENCE assistly_events_id_seq OWNED BY NONE RESTART WITH 2",
            "assistly_events_id_seq is behind",
        ),
        (
            "ALTER SEQUENCE assistly_events_id_seq OWNED BY NONE",
            "numbers assistly_events.id but is not owned by it",
        ),
        ("ALTER SEQUENCE assistly_events_id_seq MAXVALUE 2", "has reached its MAXVALUE (2)"),
    ],
)
def test_a_sequence_that_refuses_the_next_record(check: Check, sql: Sql, trouble: str, said: str) -> None:
    with open_storage(auto_prune=False) as storage:
        events = storage.events.append("a", 1), storage.events.append("a", 2)
    sql(trouble)
    found = check("schema")
    assert said in found[0]["reason"]
    assert (found[0]["verdict"] == "ok") == (said == "")
    if said:
        mend(sql, found)
    assert [finding["verdict"] for finding in check("schema")] == ["ok"]
    with open_storage(auto_prune=False) as storage:
        assert storage.events.append("a", 3).id > events[-1].id


@sqlite_only
@pytest.mark.parametrize("trouble", ["DROP TABLE assistly_queue_newest", "DELETE FROM assistly_queue_newest"])
def test_ids_of_removed_jobs_do_not_come_again(run: Run, check: Check, sql: Sql, trouble: str) -> None:
    with open_storage(auto_prune=False) as storage:
        ids = [storage.queue.schedule("x", "a").id for _ in range(3)]
        storage.queue.remove(ids[-1])
        sql(trouble)
        (found,) = check("schema")
        assert "the numbers of removed records are not known" in found["reason"]
        if trouble.startswith("DELETE"):
            many = storage.queue.schedule_many([NewJob("x", "b"), NewJob("x", "c")])
            assert [job.id for job in many] == [3, 4]
            run("export", "all.gz")
            assert '["jobs",4]' in gzip.decompress(Path("all.gz").read_bytes()).decode()
        mend(sql, [found])
        assert check("schema")[0]["verdict"] == "ok"
        assert storage.queue.schedule("x", "d").id > 1000


FOREIGN = {
    "sqlite": {
        "CREATE TRIGGER theirs AFTER INSERT ON assistly_queue_jobs BEGIN SELECT 1; END": "a trigger theirs",
        "ALTER TABLE assistly_events ADD COLUMN a INTEGER CHECK (a > (1 + 1))": "the CHECK (a > (1 + 1))",
        "ALTER TABLE assistly_events ADD COLUMN b INTEGER REFERENCES orders (id)": "from b to orders",
    },
    "postgres": {
        "CREATE TRIGGER theirs AFTER INSERT ON assistly_queue_jobs FOR EACH ROW EXECUTE FUNCTION "
        "suppress_redundant_updates_trigger()": "a trigger theirs",
        "ALTER TABLE assistly_events ADD CHECK (id > 0)": "assistly_events_id_check: CHECK ((id > 0))",
        "ALTER TABLE assistly_events ADD FOREIGN KEY (id) REFERENCES orders": "key assistly_events_id_fkey",
        "ALTER TABLE orders ADD FOREIGN KEY (id) REFERENCES assistly_queue_jobs": "orders_id_fkey of ",
        "CREATE RULE theirs AS ON DELETE TO assistly_nonces DO INSTEAD NOTHING": "the rule theirs",
        "ALTER TABLE assistly_sessions ENABLE ROW LEVEL SECURITY": "has row level security",
        "ALTER TABLE assistly_sessions FORCE ROW LEVEL SECURITY": "has forced row level security",
        "ALTER TABLE assistly_store SET UNLOGGED": "has no write-ahead log (UNLOGGED)",
    },
}


def test_what_others_attached(check: Check, sql: Sql, engine: str) -> None:
    sql("CREATE TABLE orders (id bigint PRIMARY KEY)")
    for trouble in FOREIGN[engine]:
        sql(trouble)
    found = check("schema")
    for said in FOREIGN[engine].values():
        assert any(said in each["reason"] for each in found), said
    assert len(found) == len(FOREIGN[engine])
    severe = [each["reason"] for each in found if each["verdict"] == "problem"]
    assert ["UNLOGGED" in reason for reason in severe] == [True] * (engine == "postgres")
    if engine == "postgres":
        sql("DROP TRIGGER theirs ON assistly_queue_jobs")
        mend(sql, [each for each in found if "a trigger" not in each["reason"]])
        assert check("schema")[0]["verdict"] == "ok"


def test_a_column_that_was_renamed_is_not_added(check: Check, sql: Sql) -> None:
    sql("ALTER TABLE assistly_queue_jobs RENAME COLUMN worker_id TO worker")
    (found,) = check("schema")
    assert found["reason"].startswith(
        "the column assistly_queue_jobs.worker_id is missing, and there is worker"
    )
    assert "ADD COLUMN" not in found["mend"]
    assert "rename it to worker_id" in found["mend"]


def test_an_empty_table_of_numbered_records_gives_numbers_again(check: Check, sql: Sql, engine: str) -> None:
    cascade = "" if engine == "sqlite" else "CASCADE"
    sql(f"DROP TABLE assistly_events {cascade}")
    (found,) = check("schema")
    assert "numbers start at 1 again" in found["reason"]


@postgres_only
def test_an_export_says_that_no_sequence_belongs_to_the_column(run: Run, sql: Sql, engine: str) -> None:
    sql("ALTER SEQUENCE assistly_events_id_seq OWNED BY NONE")
    code, _, err = run("export", "all.gz")
    assert code == 1
    assert "no sequence is owned by " in err
    assert "run `assistly doctor`" in err


@postgres_only
def test_a_check_that_fails_leaves_the_next_ones_as_they_are(
    check: Check, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_TIMEOUT_SECONDS", "0.2")
    slow = Migration("001_init_postgres.sql", "SELECT pg_sleep(30)", "0")
    monkeypatch.setattr(tables, "discover", lambda _: (slow,))
    found = check("schema", "expired-leases", "vacuum", "rights", "listener")
    assert [each["verdict"] for each in found] == ["not checked", *["ok"] * 4]


def test_tables_that_are_all_lost(check: Check, sql: Sql, engine: str) -> None:
    listed = "sqlite_master WHERE type = 'table'" if engine == "sqlite" else "pg_tables WHERE TRUE"
    column, schema = (
        ("name", "") if engine == "sqlite" else ("tablename", "AND schemaname = current_schema()")
    )
    tables = {
        name for (name,) in sql(f"SELECT {column} FROM {listed} {schema} AND {column} LIKE 'assistly_%'")
    }
    tables.remove("assistly_migrations")
    for table in tables:
        sql(f"DROP TABLE {table}")
    found = check("schema")
    assert {each["reason"].split()[2] for each in found} == tables
    mend(sql, found)
    assert [finding["verdict"] for finding in check("schema")] == ["ok"]
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule("x", "a", min_gap=timedelta(minutes=1))
        (job,) = storage.queue.claim_due(worker_id="w")
        assert storage.queue.mark_posted(job).status == "posted"


def test_what_no_statement_mends_is_said_in_words(check: Check, sql: Sql, engine: str) -> None:
    sql("ALTER TABLE assistly_queue_jobs DROP COLUMN content")
    if engine == "sqlite":
        sql("ALTER TABLE assistly_sessions RENAME TO old")
        sql(
            "CREATE TABLE assistly_sessions (user_id TEXT, session TEXT NOT NULL, version INTEGER NOT NULL, "
            "updated_at REAL NOT NULL DEFAULT 7) STRICT"
        )
        sql(
            "CREATE TABLE new (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, status TEXT NOT NULL, created_at "
            "INTEGER NOT NULL, decided_at INTEGER, payload TEXT NOT NULL)"
        )
        sql("DROP TABLE assistly_approvals")
        sql("ALTER TABLE new RENAME TO assistly_approvals")
        expected = [
            "lost its primary key (user_id)",
            "accepts NULL",
            "the type REAL, not INTEGER",
            "created with no options, not STRICT",
            "lost its unique constraint (id)",
        ]
    else:
        sql("ALTER TABLE assistly_queue_jobs ALTER retries TYPE numeric")
        sql('ALTER TABLE assistly_sessions ALTER user_id TYPE text COLLATE "POSIX"')
        sql(
            "ALTER TABLE assistly_nonces DROP CONSTRAINT assistly_nonces_pkey, ADD PRIMARY KEY (timestamp_ms)"
        )
        sql("CREATE UNIQUE INDEX theirs ON assistly_approvals (status)")
        expected = [
            "the type numeric, not integer",
            'COLLATE "POSIX", not text COLLATE "C"',
            "the primary key of assistly_nonces is (timestamp_ms)",
            "it may refuse records",
        ]
    found = check("schema")
    for said in ["content is missing", *expected]:
        (finding,) = [each for each in found if said in each["reason"]]
        assert finding["mend"].startswith(
            ("restore", "SQLite cannot", "no single statement", "drop the index")
        )


@sqlite_only
def test_the_index_of_gaps_may_be_missing_but_not_another(check: Check, sql: Sql) -> None:
    sql("CREATE INDEX idx_queue_conflict ON assistly_queue_jobs (platform)")
    found = check("schema")
    assert "idx_queue_conflict has another definition" in found[0]["reason"]
    mend(sql, found)
    assert check("schema")[0]["verdict"] == "ok"


@postgres_only
def test_a_function_and_its_trigger(
    check: Check, sql: Sql, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No migration makes one yet, so a further one is added."""
    body = "RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"
    script = f"""
        CREATE FUNCTION assistly_note() {body};
        CREATE TRIGGER assistly_noted BEFORE INSERT ON assistly_events
            FOR EACH ROW EXECUTE FUNCTION assistly_note();
    """
    more = (*discover("postgres"), Migration("099_more_postgres.sql", script, "0"))
    monkeypatch.setattr(tables, "discover", lambda _: more)
    sql("INSERT INTO assistly_migrations VALUES ('099_more_postgres.sql', '0')")
    found = check("schema")
    assert [finding["reason"] for finding in found] == [
        "the function assistly_note is missing",
        "the trigger assistly_noted is missing",
    ]
    mend(sql, found)
    assert check("schema")[0]["verdict"] == "ok"
    sql(f"CREATE OR REPLACE FUNCTION assistly_note() {body.replace('NEW', 'NULL')}")
    sql(
        "CREATE OR REPLACE TRIGGER assistly_noted AFTER INSERT ON assistly_events "
        "FOR EACH ROW EXECUTE FUNCTION assistly_note()"
    )
    found = check("schema")
    assert [finding["reason"] for finding in found] == [
        "the function assistly_note has another definition",
        "the trigger assistly_noted has another definition",
    ]
    mend(sql, found)
    assert check("schema")[0]["verdict"] == "ok"


@postgres_only
def test_it_needs_the_right_to_make_temporary_tables(
    check: Check, sql: Sql, role: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", make_conninfo(database_url, user=role))
    assert check("schema")[0]["verdict"] == "ok"
    ((database,),) = sql("SELECT quote_ident(current_database())")
    sql(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
    try:
        (found,) = check("schema")
    finally:
        sql(f"GRANT TEMPORARY ON DATABASE {database} TO PUBLIC")
    assert found["verdict"] == "not checked"
    assert "cannot create the tables to compare with: the role lacks a privilege" in found["reason"]


@postgres_only
def test_it_waits_for_no_writer(check: Check, sql: Sql, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(f"SET search_path = {sql('SHOW search_path')[0][0]}".encode())
        connection.execute("LOCK TABLE assistly_queue_jobs, assistly_events IN EXCLUSIVE MODE")
        assert check("schema")[0]["verdict"] == "ok"


def test_an_index_of_another_table_with_our_name(check: Check, sql: Sql, engine: str) -> None:
    assert check("foreign-indexes")[0]["verdict"] == "ok"
    sql("DROP INDEX idx_queue_due")
    sql("CREATE TABLE orders (id integer)")
    sql("CREATE INDEX idx_orders ON orders (id)")
    sql("CREATE INDEX idx_queue_due ON orders (id)")
    theirs, ours = check("foreign-indexes", "schema")
    assert theirs["verdict"] == "problem"
    assert "the index idx_queue_due on the table orders" in theirs["reason"]
    assert "idx_queue_due of assistly_queue_jobs is missing" in ours["reason"]
    if engine == "sqlite":
        assert "DROP INDEX idx_queue_due, and create it again as idx_queue_due_orders" in theirs["mend"]
        sql("DROP INDEX idx_queue_due")
        theirs["mend"] = "CREATE INDEX idx_queue_due_orders ON orders (id)"
    mend(sql, [theirs, ours])
    assert [each["verdict"] for each in check("foreign-indexes", "schema")] == ["ok", "ok"]


@pytest.mark.parametrize("kind", ["TABLE", "VIEW"])
def test_a_table_or_view_with_the_name_of_our_index(check: Check, sql: Sql, engine: str, kind: str) -> None:
    sql("DROP INDEX idx_queue_due")
    sql(
        "CREATE TABLE idx_queue_due (id integer)"
        if kind == "TABLE"
        else "CREATE VIEW idx_queue_due AS SELECT 1"
    )
    (found,) = check("foreign-indexes")
    assert found["verdict"] == "problem"
    assert f"the {kind.lower()} idx_queue_due has the name of one of our indexes" in found["reason"]


@sqlite_only
def test_an_index_of_another_table_with_our_name_in_capitals(check: Check, sql: Sql) -> None:
    sql("DROP INDEX idx_queue_due")
    sql("CREATE TABLE orders (id integer)")
    sql("CREATE INDEX IDX_Queue_Due ON orders (id)")
    (found,) = check("foreign-indexes")
    assert "the index idx_queue_due on the table orders" in found["reason"]


class TestOldSchemas:
    """What the applied migrations make is compared, whatever is pending."""

    @pytest.fixture(autouse=True)
    def _migrated(self) -> None:
        """Not yet."""

    def test_pending_migrations_are_a_problem_and_the_rest_is_checked(
        self, run: Run, check: Check, engine: str, request: pytest.FixtureRequest
    ) -> None:
        if engine == "sqlite":
            open_sqlite("002", Path("cli.db"))
        else:
            open_postgres("003", request.getfixturevalue("database_url"), request.getfixturevalue("schema"))
        found = {each["check"]: each for each in check("migrations", "schema", "platforms", "prune")}
        assert found["migrations"]["verdict"] == "problem"
        assert found["migrations"]["mend"] == "assistly migrate"
        assert found["schema"]["verdict"] == "ok"
        assert found["platforms"]["verdict"] == "not checked"
        assert run("doctor")[0] == 1
        run("migrate")
        assert {each["verdict"] for each in check("migrations", "schema")} == {"ok"}
        assert {each["verdict"] for each in check("platforms")} == {"problem"}

    @postgres_only
    @pytest.mark.usefixtures("engine")
    @pytest.mark.parametrize("variant", ["strict", "loose"])
    def test_a_database_of_the_original_system_has_no_problem(
        self, run: Run, check: Check, database_url: str, schema: str, variant: str
    ) -> None:
        original = Original(database_url, schema, variant)
        original.create(INIT_TABLES, AUTO_CREATED_TABLES)
        run("migrate")
        found = check("schema")
        assert {each["verdict"] for each in found} == {"ok" if variant == "strict" else "warning"}
