"""`assistly migrate` and its options, which change nothing."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from assistly.storage import ConfigurationError, MigrationError, NewJob, Storage, StorageError, open_storage
from assistly.storage.engines.postgres.migration_effects import effects_of
from assistly.storage.engines.sql.migrations import MigratedBackend, Migration, discover
from assistly.storage.factory import open_backend
from assistly.storage.settings import load_settings

Run = Callable[..., tuple[int, str, str]]

LOOKING = (["--plan"], ["--sql"], ["--status"])
OLD_EVENT = {"sqlite": "('old', '1', 1700000000000000)", "postgres": "('old', '1', now())"}
ODD_SCHEMA = 'An "odd" 100 % name'


def query(statement: str) -> list[tuple[Any, ...]]:
    """Run a script outside the storage, on the engine of the environment, and return the rows of a SELECT."""
    if os.environ["STORAGE_ENGINE"] == "sqlite":
        with closing(sqlite3.connect(os.environ["SQLITE_PATH"], isolation_level=None)) as file:
            if statement.startswith("SELECT"):
                return file.execute(statement).fetchall()
            file.executescript(statement)
        return []
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
        cursor = server.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def table(name: str) -> str:
    """The quoted name of a table."""
    if os.environ["STORAGE_ENGINE"] == "sqlite":
        return f"assistly_{name}"
    return sql.Identifier(os.environ["STORAGE_SCHEMA"], f"assistly_{name}").as_string()


def everything() -> object:
    """What is there: the bytes of all files, or the objects of all schemas, and what is recorded."""
    if os.environ["STORAGE_ENGINE"] == "sqlite":
        return {path.name: path.read_bytes() for path in Path().iterdir()}
    objects = query(
        "SELECT nspname, relname, relkind, reltuples, relfilenode FROM pg_namespace AS n "
        "LEFT JOIN pg_class AS c ON c.relnamespace = n.oid WHERE nspname !~ '^pg_' ORDER BY 1, 2"
    )
    return [row for row in objects if row[0] == os.environ["STORAGE_SCHEMA"]]


def script_up_to(level: int) -> str:
    """What --sql printed when there were so many migrations."""
    with closing(open_backend(load_settings())) as backend:
        assert isinstance(backend, MigratedBackend)
        return backend.on_schema(lambda target, migrations: target.script(migrations[:level]))


def use(storage: Storage) -> None:
    """A round of an application."""
    job = storage.queue.schedule("x", "Hello", min_gap=timedelta(0), idempotency_key="k")
    (claimed,) = storage.queue.claim_due(worker_id="w")
    storage.queue.mark_posted(storage.queue.begin_publish(claimed))
    assert len(storage.queue.schedule_many([NewJob("x", "one"), NewJob("x", "two")])) == 2
    storage.events.append("posted", {"id": job.id})
    storage.sessions.put("user", [1])
    storage.approvals.add("a", {})
    assert storage.idempotency.run_once("key", lambda: "value") == "value"
    assert storage.nonces.register_many(["one", "two"]) == [True, True]
    storage.metrics.increment("requests")
    lock = storage.lock.acquire("me")
    assert lock is not None
    assert storage.lock.release(lock)
    storage.platforms.pause("y")
    storage.schedules.put("s", "x", "again", every=timedelta(hours=1))
    assert storage.schedules.run()
    storage.snapshots.put("kind", 1)
    with storage.transaction() as tx:
        tx.queue.schedule("x", "in a transaction")
    assert storage.prunable(now=datetime.now(UTC) + timedelta(days=40)).nonces.total == 2
    assert storage.prune(now=datetime.now(UTC) + timedelta(days=40), force=True).nonces == 2


@pytest.mark.parametrize("arguments", LOOKING, ids=str)
def test_a_look_makes_nothing(engine: str, run: Run, arguments: list[str]) -> None:
    before = everything()
    code, out, err = run("migrate", *arguments)
    assert code == 0
    assert all(migration.name in out for migration in discover(engine))
    assert err.startswith(f"storage: {engine} ")
    assert everything() == before


@pytest.mark.parametrize("arguments", LOOKING, ids=str)
@pytest.mark.parametrize("level", [0, 2])
def test_a_look_leaves_what_there_is(engine: str, run: Run, level: int, arguments: list[str]) -> None:
    query(script_up_to(level) if level else "")
    before = everything()
    code, out, _ = run("migrate", *arguments)
    assert code == 0
    assert discover(engine)[level].name in out
    assert everything() == before


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_the_sql_that_is_printed_makes_the_schema(engine: str, run: Run, level: int) -> None:
    if level:
        query(script_up_to(level))
        query(f"INSERT INTO {table('events')} (event_type, payload, created_at) VALUES {OLD_EVENT[engine]}")
    migrations = discover(engine)
    code, script, _ = run("migrate", "--sql")
    assert code == 0
    assert [each.name in script for each in migrations] == [n >= level for n in range(len(migrations))]
    with pytest.raises(MigrationError), open_storage(auto_migrate=False, auto_prune=False):
        pass
    query(script)
    with open_storage(auto_migrate=False, auto_prune=False) as storage:
        assert [event.payload for event in storage.events.list()] == ([1] if level else [])
        use(storage)
        assert storage.migrate() == []
    assert run("migrate", "--sql")[:2] == (0, "")


def test_the_sql_fails_as_a_whole_where_another_was_faster(engine: str, run: Run) -> None:
    query(script_up_to(1))
    script = run("migrate", "--sql")[1]
    assert run("migrate")[0] == 0
    before = query(f"SELECT name, checksum, applied_at FROM {table('migrations')} ORDER BY name")
    with pytest.raises((sqlite3.IntegrityError, psycopg.errors.UniqueViolation)):
        query(script)
    assert query(f"SELECT name, checksum, applied_at FROM {table('migrations')} ORDER BY name") == before
    with open_storage(auto_migrate=False, auto_prune=False) as storage:
        use(storage)


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_a_schema_may_have_any_name(engine: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_SCHEMA", ODD_SCHEMA)
    drop = sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(ODD_SCHEMA)).as_string()
    query(drop)
    try:
        query(run("migrate", "--sql")[1])
        with open_storage(auto_migrate=False, auto_prune=False) as storage:
            use(storage)
    finally:
        query(drop)


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_tables_of_the_original_system_are_kept(engine: str, run: Run, schema: str) -> None:
    first, second, *_ = discover("postgres")
    query(f'CREATE SCHEMA "{schema}"; SET search_path = "{schema}"; {first.sql} {second.sql}')
    query(f"INSERT INTO {table('nonces')} (nonce, timestamp_ms) VALUES ('old', 1)")
    query(run("migrate", "--sql")[1])
    with open_storage(auto_migrate=False, auto_prune=False) as storage:
        assert storage.nonces.seen("old")


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_no_sql_that_would_change_a_table_of_somebody_else(engine: str, run: Run, schema: str) -> None:
    query(f'CREATE SCHEMA "{schema}"; CREATE VIEW {table("events")} AS SELECT 1 AS id')
    code, out, err = run("migrate", "--sql")
    assert (code, out) == (1, "")
    assert "assistly_events" in err.splitlines()[-1]


def test_status_says_what_was_applied_when(engine: str, run: Run) -> None:
    assert "there is no database, or it has no tables of Assistly" in run("migrate", "--status")[2]
    query(script_up_to(2))
    assert "there is no database, or" not in run("migrate", "--status")[2]
    names = [migration.name for migration in discover(engine)]
    found = json.loads(run("migrate", "--status", "--json")[1])["migrations"]
    assert [each["name"] for each in found] == names
    assert [each["checksum_ok"] for each in found] == [True, True] + [None] * (len(names) - 2)
    for each in found[:2]:
        age = datetime.now(UTC) - datetime.fromisoformat(each["applied_at"])
        assert timedelta(seconds=-1) < age < timedelta(minutes=5)
    assert {each["applied_at"] for each in found[2:]} == {None}
    rows = [line.split() for line in run("migrate", "--status", "--utc")[1].splitlines()]
    assert [row[:2] for row in rows[1:]] == [[name, "ok"] for name in names[:2]] + [
        [name, "pending"] for name in names[2:]
    ]
    assert rows[1][-1].endswith("Z")


def test_status_shows_what_keeps_a_storage_from_opening(engine: str, run: Run) -> None:
    run("migrate")
    first, second, *_ = [migration.name for migration in discover(engine)]
    query(f"UPDATE {table('migrations')} SET checksum = 'x' WHERE name = '{second}'")
    query(f"UPDATE {table('migrations')} SET name = '999_later.sql' WHERE name = '{first}'")
    found = {each["name"]: each for each in json.loads(run("migrate", "--status", "--json")[1])["migrations"]}
    assert (found[first]["applied_at"], found[second]["checksum_ok"]) == (None, False)
    assert (found["999_later.sql"]["is_known"], found["999_later.sql"]["checksum_ok"]) == (False, None)
    rows = {line.split()[0]: line for line in run("migrate", "--status")[1].splitlines()}
    assert "pending" in rows[first]
    assert "changed since it was applied" in rows[second]
    assert "newer than this version" in rows["999_later.sql"]
    for option in ("--plan", "--sql"):
        code, out, err = run("migrate", option)
        assert (code, out) == (1, "")
        assert "was changed after it was applied" in err.splitlines()[-1]


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_the_plan_says_what_is_locked_for_long(engine: str, run: Run) -> None:
    new = json.loads(run("migrate", "--plan", "--json")[1])["pending"]
    assert len(new) == len(discover("postgres"))
    assert {json.dumps(each["effects"]) for each in new} == {'{"locked_tables": [], "built_indexes": []}'}
    query(script_up_to(3))
    found = {
        each["name"]: each["effects"] for each in json.loads(run("migrate", "--plan", "--json")[1])["pending"]
    }
    assert found["004_autovacuum_postgres.sql"] == {"locked_tables": [], "built_indexes": []}
    assert found["005_fewer_indexes_postgres.sql"] == {
        "locked_tables": ["assistly_queue_jobs"],
        "built_indexes": ["idx_queue_attention"],
    }
    out = run("migrate", "--plan")[1]
    assert "004_autovacuum_postgres.sql\n  takes no long locks\n" in out
    assert "  locks assistly_queue_jobs for as long as a full scan takes\n" in out
    assert "  builds the index idx_queue_attention\n" in out
    run("migrate")
    assert run("migrate", "--plan")[:2] == (0, "the schema is up to date\n")
    assert json.loads(run("migrate", "--plan", "--json")[1]) == {"pending": []}


@pytest.mark.parametrize(
    ("statement", "locks", "indexes"),
    [
        ("ALTER TABLE t ADD COLUMN c text", (), ()),
        ("ALTER TABLE t\n    ADD COLUMN c bigserial", ("t",), ()),
        ("ALTER TABLE t ALTER COLUMN c SET NOT NULL", ("t",), ()),
        ('ALTER TABLE t ALTER COLUMN c TYPE text COLLATE "C"', ("t",), ()),
        ("ALTER TABLE t SET (vacuum_index_cleanup = on)", (), ()),
        ("ALTER TABLE t ADD CONSTRAINT c CHECK (x > 1)", ("t",), ()),
        ("-- Why.\nUPDATE t SET c = 1", ("t",), ()),
        ("-- UPDATE t SET c = 1;\nDROP INDEX i", (), ()),
        ("CREATE UNIQUE INDEX i ON t (c)", ("t",), ("i",)),
        ("CREATE INDEX IF NOT EXISTS i ON other (c)", (), ()),
        ("CREATE TABLE other (id bigserial PRIMARY KEY)", (), ()),
        ("COMMENT ON COLUMN t.c IS\n    'one; UPDATE t SET c = 1'", (), ()),
    ],
)
def test_what_a_statement_locks(statement: str, locks: tuple[str, ...], indexes: tuple[str, ...]) -> None:
    found = effects_of(Migration("001_x_postgres.sql", f"{statement};\n", ""), {"t"})
    assert (found.locked_tables, found.built_indexes) == (locks, indexes)


@pytest.fixture
def role(database_url: str, schema: str) -> Iterator[str]:
    """One that may do nothing; its name has to be quoted."""
    name = f'An "app" {schema}'
    quoted = sql.Identifier(name)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(quoted))
        yield name
        connection.execute(sql.SQL("DROP OWNED BY {}").format(quoted))
        connection.execute(sql.SQL("DROP ROLE {}").format(quoted))


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_grants_are_what_an_application_needs(engine: str, run: Run, role: str, schema: str) -> None:
    code, out, err = run("migrate", "--grants", role)
    assert (code, out) == (1, "")
    assert "run `assistly migrate`" in err
    run("migrate")
    before = everything()
    code, out, _ = run("migrate", "--grants", role)
    assert code == 0
    assert everything() == before
    url = make_conninfo(os.environ["DATABASE_URL"], user=role, password="secret")

    def opened() -> Storage:
        return open_storage(database_url=url, auto_prune=False)

    with pytest.raises(StorageError):
        opened()
    query(out)
    with opened() as storage:
        use(storage)
        assert storage.migrate() == []
    [altering] = [each.name for each in discover("postgres") if each.name.startswith("007")]
    query(f"DELETE FROM {table('migrations')} WHERE name = '{altering}'")
    with pytest.raises(ConfigurationError):
        opened()
    with psycopg.connect(url, autocommit=True) as connection:
        for refused in (
            f"CREATE TABLE {table('mine')} (id int)",
            f"DROP TABLE {table('events')}",
            f"TRUNCATE {table('events')}",
            f"DELETE FROM {table('migrations')}",
            f"UPDATE {table('migrations')} SET checksum = 'x'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused.encode())


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_each_grant_is_needed(engine: str, run: Run, role: str) -> None:
    run("migrate")
    statements = run("migrate", "--grants", role)[1].splitlines()
    url = make_conninfo(os.environ["DATABASE_URL"], user=role, password="secret")
    for left_out in statements:
        for statement in statements:
            query(statement)
        query(left_out.replace("GRANT", "REVOKE", 1).replace(" TO ", " FROM "))
        with pytest.raises(StorageError), open_storage(database_url=url, auto_prune=False) as storage:
            use(storage)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_files_have_no_roles(engine: str, run: Run) -> None:
    code, out, err = run("migrate", "--grants", "ann")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("assistly: SQLite has no roles")
    assert not Path("cli.db").exists()


@pytest.mark.parametrize("arguments", [*LOOKING, ["--grants", "ann"]], ids=str)
def test_other_engines_have_nothing_to_look_at(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("STORAGE_ENGINE", "memory")
    code, out, err = run("migrate", *arguments)
    assert (code, out) == (1, "")
    assert "the engine memory has neither SQL migrations nor roles" in err.splitlines()[-1]
    assert run("migrate")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plan", "--sql"], "give only one of"),
        (["--status", "--grants", "ann"], "give only one of"),
        (["--sql", "--json"], "omit --json"),
        (["--grants", "ann", "--json"], "omit --json"),
        (["--grants", " "], "the name of a role"),
    ],
)
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_wrong_options(engine: str, run: Run, arguments: list[str], words: str) -> None:
    code, out, err = run("migrate", *arguments)
    assert (code, out) == (2, "")
    assert words in " ".join(err.split())


@pytest.mark.parametrize("arguments", [[], ["--status"], ["--sql"]], ids=str)
def test_no_server_is_exit_code_3(run: Run, no_server: str, arguments: list[str]) -> None:
    code, out, err = run("migrate", *arguments)
    assert (code, out) == (3, "")
    assert no_server not in err


def test_what_was_applied_as_json(engine: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_AUTO_MIGRATE", "false")
    names = [migration.name for migration in discover(engine)]
    code, out, err = run("migrate", "--json")
    assert (code, json.loads(out)) == (0, {"applied": names})
    assert err.startswith(f"storage: {engine} ")
    assert json.loads(run("migrate", "--json")[1]) == {"applied": []}
