"""`assistly doctor` on Postgres: each check has a trouble that it finds.

Two troubles cannot be had in a test, so what is looked at is replaced: an old transaction (the limit), and a
clock that is wrong (that of this machine). The pooler is the stand-in of the other tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from assistly.doctor import postgres as checks
from assistly.doctor import postgres_connections as connections
from assistly.doctor import postgres_locks
from assistly.storage import NewJob, open_storage
from assistly.storage.engines.postgres.inspection import Inspection
from backends.hostile_settings import HOSTILE, OF_TRANSACTIONS
from postgres_pooler import TransactionPooler
from postgres_server import TemporaryServer
from waiting import until

Finding = dict[str, Any]
Check = Callable[..., list[Finding]]
Run = Callable[..., tuple[int, str, str]]
Sql = Callable[[str], list[Any]]

pytestmark = pytest.mark.parametrize("engine", ["postgres"], indirect=True)


@pytest.fixture(autouse=True)
def _migrated(engine: str) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.migrate()


def verdict(found: list[Finding]) -> str:
    (one,) = found
    return str(one["verdict"])


def test_autovacuum_is_off(check: Check, sql: Sql) -> None:
    assert verdict(check("vacuum")) == "ok"
    sql("ALTER TABLE assistly_queue_jobs SET (autovacuum_enabled = off)")
    (found,) = check("vacuum")
    assert found["verdict"] == "warning"
    sql(found["mend"])
    assert verdict(check("vacuum")) == "ok"


def test_autovacuum_is_off_for_the_server(
    check: Check, server: TemporaryServer, monkeypatch: pytest.MonkeyPatch, schema: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", server.url)
    with open_storage(auto_prune=False), psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET autovacuum = off")
        connection.execute("SELECT pg_reload_conf()")
        until(lambda: connection.execute("SHOW autovacuum").fetchall() == [("off",)])
        (found,) = check("vacuum")
        connection.execute("ALTER SYSTEM RESET autovacuum")
        connection.execute("SELECT pg_reload_conf()")
    assert (found["verdict"], "autovacuum = off" in found["reason"]) == ("warning", True)


def test_dead_rows(check: Check, sql: Sql) -> None:
    assert verdict(check("dead-rows")) == "ok"
    sql("ALTER TABLE assistly_queue_jobs SET (autovacuum_enabled = off)")
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule_many([NewJob("x", "a")] * 1500, returning="none")
    for _ in range(2):
        sql("UPDATE assistly_queue_jobs SET retries = retries + 1")
    sql("SELECT pg_stat_force_next_flush()")
    until(lambda: verdict(check("dead-rows")) == "warning")
    (found,) = check("dead-rows")
    assert found["mend"].startswith("assistly maintain")
    sql("VACUUM assistly_queue_jobs")
    until(lambda: verdict(check("dead-rows")) == "ok")


def test_long_transactions(check: Check, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(database_url, application_name="a report") as connection:
        connection.execute("SELECT pg_current_xact_id()")
        assert verdict(check("long-transactions")) == "ok"
        monkeypatch.setattr(checks, "LONG", timedelta(0))
        found = [each for each in check("long-transactions") if "(a report)" in each["reason"]]
        assert verdict(found) == "warning"
        assert f"pg_terminate_backend({connection.info.backend_pid})" in found[0]["mend"]
        monkeypatch.setattr(checks, "VERY_LONG", timedelta(0))
        found = [each for each in check("long-transactions") if "(a report)" in each["reason"]]
        assert verdict(found) == "problem"


def test_a_locked_table(
    run: Run, check: Check, sql: Sql, schema: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verdict(check("locks")) == "ok"
    lock = f'LOCK TABLE "{schema}".assistly_queue_jobs IN ACCESS EXCLUSIVE MODE'
    with (
        psycopg.connect(database_url, application_name="an import") as holder,
        closing(psycopg.connect(database_url, application_name="a migration")) as waiting,
    ):
        pid = holder.info.backend_pid
        holder.execute(lock.encode())
        waiting.execute("SELECT 1")
        waiting.pgconn.send_query(lock.encode())
        until(lambda: len(check("locks")) == 2)
        report = json.loads(run("doctor", "--json")[1])["findings"]
        monkeypatch.setattr(postgres_locks, "LONG", timedelta(0))
        late = check("locks")
        holder.rollback()
    found = {each["check"]: each for each in report if each["check"] != "locks"}
    holds, waits = (each for each in report if each["check"] == "locks")
    assert f"session {pid} of " in holds["reason"]
    assert "(an import) blocks assistly_queue_jobs" in holds["reason"]
    assert "its state is idle in transaction" in holds["reason"]
    assert f"pg_terminate_backend({pid})" in holds["mend"]
    assert f"waits for {pid} to lock assistly_queue_jobs" in waits["reason"]
    assert [each["verdict"] for each in late] == ["problem"] * 2
    for name in ("schema", "prune", "platforms", "unfinished-copy", "foreign-indexes"):
        assert found[name]["reason"] == "a lock blocks assistly_queue_jobs: see the check locks", name
    assert {each["verdict"] for each in found.values()} == {"ok", "not checked"}


def test_a_prepared_transaction(
    check: Check, server: TemporaryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", server.url)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET max_prepared_transactions = 2")
        server.stop()
    server.start()
    monkeypatch.setattr(checks, "LONG", timedelta(0))
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'left'")
        (found,) = [each for each in check("long-transactions") if "prepared" in each["reason"]]
        connection.execute("ROLLBACK PREPARED 'left'")
    assert found["verdict"] == "warning"
    assert "ROLLBACK PREPARED 'left'" in found["mend"]


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [(timedelta(0), "ok"), (timedelta(seconds=5), "warning"), (-timedelta(minutes=5), "problem")],
)
def test_a_wrong_clock(
    check: Check, monkeypatch: pytest.MonkeyPatch, ahead: timedelta, expected: str
) -> None:
    monkeypatch.setattr(checks, "machine_time", lambda: datetime.now(UTC) - ahead)
    (found,) = check("clock")
    assert found["verdict"] == expected
    assert not ahead or ("ahead of" in found["reason"]) == (ahead > timedelta(0))


def test_rights(
    run: Run, check: Check, sql: Sql, role: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verdict(check("rights")) == "ok"
    monkeypatch.setenv("DATABASE_URL", make_conninfo(database_url, user=role))
    found = check("rights")
    assert {each["verdict"] for each in found} == {"problem"}
    assert any("lacks INSERT, UPDATE, DELETE on assistly_queue_jobs" in each["reason"] for each in found)
    assert any("lacks USAGE on assistly_events_id_seq" in each["reason"] for each in found)
    assert run("doctor", "--only", "rights")[0] == 1
    for each in found:
        sql(each["mend"])
    (found_then,) = check("rights")
    assert (found_then["verdict"], "may not vacuum" in found_then["reason"]) == ("warning", True)
    sql(found_then["mend"])
    assert verdict(check("rights")) == "ok"


def test_a_standby(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none, so the server's answer is replaced."""
    monkeypatch.setattr(checks, "ROLE", checks.ROLE.replace("pg_catalog.pg_is_in_recovery()", "TRUE"))
    (found,) = check("rights")
    assert (found["verdict"], "the server is a standby" in found["reason"]) == ("problem", True)


def test_a_schema_that_may_not_be_used(
    check: Check, sql: Sql, role: str, schema: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql(f'REVOKE USAGE ON SCHEMA "{schema}" FROM "{role}"')
    monkeypatch.setenv("DATABASE_URL", make_conninfo(database_url, user=role))
    found = check("rights")
    assert "may not use the schema" in found[0]["reason"]
    sql(found[0]["mend"])
    assert "may not use the schema" not in check("rights")[0]["reason"]


@pytest.mark.parametrize(("sessions", "is_known_by_its_pid"), [(2, True), (2, False), (1, False)])
def test_a_pooler(
    check: Check,
    server: TemporaryServer,
    monkeypatch: pytest.MonkeyPatch,
    sessions: int,
    is_known_by_its_pid: bool,
) -> None:
    assert [each["verdict"] for each in check("pooler", "prepared-statements", "listener")] == ["ok"] * 3
    options: Any = {"sessions": sessions, "is_known_by_its_pid": is_known_by_its_pid}
    with closing(TransactionPooler(server.socket, **options)) as pooler:
        monkeypatch.setenv("DATABASE_URL", pooler.url)
        found = {each["check"]: each for each in check("pooler", "prepared-statements", "listener")}
        sent = b"".join(pooler.sent)
    assert found["pooler"]["verdict"] == "warning"
    # The mode of a pooler cannot be seen, so nothing names it.
    assert not any("mode" in f"{each['reason']} {each['mend']}" for each in found.values())
    assert ("no statement is prepared" in found["pooler"]["reason"]) == is_known_by_its_pid
    assert ("so no connection listens" in found["listener"]["reason"]) == is_known_by_its_pid
    assert found["listener"]["verdict"] == "warning"
    assert b"LISTEN" not in sent
    statements = found["prepared-statements"]
    assert statements["verdict"] == ("ok" if is_known_by_its_pid else "warning")


class SessionPooler(TransactionPooler):
    """Lends a session for as long as the client is connected, under a process id of its own."""

    def _answer(self, client: Any, session: Any, to: bytes) -> bytes:
        super()._answer(client, session, to)
        return b""


def test_a_pooler_in_session_mode_looks_like_any_other(
    check: Check, server: TemporaryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(SessionPooler(server.socket, sessions=20)) as pooler:
        monkeypatch.setenv("DATABASE_URL", pooler.url)
        found = check("pooler", "prepared-statements", "listener")
    assert [each["verdict"] for each in found] == ["warning", "ok", "warning"]
    assert "mode" not in f"{found[0]['reason']} {found[0]['mend']}"


class StatementPooler(TransactionPooler):
    """Refuses transactions."""

    def _transaction(self, client: Any, session: Any, first: tuple[bytes, bytes]) -> None:
        if b"BEGIN" not in first[1]:
            super()._transaction(client, session, first)
            return
        fields = b"SERROR\0C08P01\0Mtransaction blocks not allowed in statement pooling mode\0\0"
        client.send(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields + b"Z\0\0\0\5I")


def test_a_pooler_in_statement_mode(
    run: Run, check: Check, server: TemporaryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(StatementPooler(server.socket)) as pooler:
        monkeypatch.setenv("DATABASE_URL", pooler.url)
        (found,) = check("pooler")
        assert run("doctor", "--only", "pooler")[0] == 1
    assert (found["verdict"], "in statement mode" in found["reason"]) == ("problem", True)


def test_notifications_that_do_not_arrive(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "NOTIFICATION_SECONDS", 0.05)
    monkeypatch.setattr(Inspection, "notify", lambda *_: None)
    assert verdict(check("listener")) == "problem"


def test_hostile_settings_of_the_role(
    run: Run, check: Check, sql: Sql, schema: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = f"hostile_{schema}"
    ((database,),) = sql("SELECT quote_ident(current_database())")
    sql(f'CREATE ROLE "{owner}" LOGIN')
    try:
        for name, value in (HOSTILE | OF_TRANSACTIONS).items():
            sql(f"ALTER ROLE \"{owner}\" SET {name} = '{value}'")
        sql(f'GRANT CREATE ON DATABASE {database} TO "{owner}"')
        sql(f'ALTER SCHEMA "{schema}" OWNER TO "{owner}"')
        for (table,) in sql("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"):
            sql(f'ALTER TABLE "{table}" OWNER TO "{owner}"')
        monkeypatch.setenv("DATABASE_URL", make_conninfo(database_url, user=owner))
        report = json.loads(run("doctor", "--json")[1])
        assert [each for each in report["findings"] if each["verdict"] != "ok"] == []
        sql(f'REVOKE CREATE ON DATABASE {database} FROM "{owner}"')
        assert verdict(check("schema")) == "ok"
    finally:
        sql(f'REVOKE ALL ON DATABASE {database} FROM "{owner}"')
        sql(f'REASSIGN OWNED BY "{owner}" TO CURRENT_USER')
        sql(f'DROP OWNED BY "{owner}"')
        sql(f'DROP ROLE "{owner}"')


def test_nothing_is_left_behind(run: Run, sql: Sql, schema: str) -> None:
    ours = f"""
        SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname IN ('{schema}') OR nspname LIKE 'assistly_doctor_%' OR nspname LIKE 'pg_temp_%'
        ORDER BY relname
    """
    before = sql(ours)
    assert run("doctor")[0] == 0
    assert sql(ours) == before
    doctors = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'assistly doctor'"
    until(lambda: sql(doctors) == [(0,)])
