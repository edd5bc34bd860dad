"""`assistly doctor`: the command, and the checks that are the same on every engine."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from assistly.doctor import checks, common, runner
from assistly.storage import StorageCorrupt, StorageUnavailable, open_storage
from assistly.storage.engine.values import JsonText
from assistly.storage.engines.sql.migrations import discover
from assistly.storage.engines.sqlite.driver import sqlite3
from assistly.storage.factory import open_backend
from assistly.storage.settings import load_settings
from assistly.storage.unfinished import COPY_COLLECTION, COPY_KEY

Finding = dict[str, Any]
Check = Callable[..., list[Finding]]
Run = Callable[..., tuple[int, str, str]]
Sql = Callable[[str], list[Any]]

MINUTE = timedelta(minutes=1)

sqlite_only = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
postgres_only = pytest.mark.parametrize("engine", ["postgres"], indirect=True)


@pytest.fixture
def _migrated(engine: str) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.migrate()


def ago(time: timedelta) -> datetime:
    return datetime.now(UTC) - time


@pytest.mark.usefixtures("_migrated")
def test_a_healthy_storage(run: Run, engine: str) -> None:
    code, out, err = run("doctor", "--json")
    found = json.loads(out)
    assert (code, err.startswith(f"storage: {engine} ")) == (0, True)
    assert found["verdict"] in ("ok", "warning")
    assert {each["check"] for each in found["findings"] if each["verdict"] == "warning"} <= {"sqlite-version"}
    assert [each["check"] for each in found["findings"]] == [
        name for name in runner.NAMES if name in runner.names_for(engine)
    ]
    assert all(set(each) == {"check", "verdict", "reason", "mend"} for each in found["findings"])
    code, out, _ = run("doctor", "--utc")
    assert code == 0
    assert "ok          migrations: all " in out


@sqlite_only
def test_memory(run: Run, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_ENGINE", "memory")
    code, out, _ = run("doctor", "--json")
    found = json.loads(out)["findings"]
    assert (code, {each["verdict"] for each in found}) == (0, {"ok"})
    assert [each["check"] for each in found] == [*runner.names_for("memory")]


@sqlite_only
def test_it_is_folded_on_a_terminal_but_not_what_is_to_be_copied(
    run: Run, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    run("migrate")
    with closing(sqlite3.connect("cli.db")) as connection:
        connection.execute("DROP INDEX idx_queue_attention")
    lines = run("doctor")[1].splitlines()
    mend = next(line for line in lines if "CREATE INDEX" in line)
    assert mend.strip() == (
        "CREATE INDEX idx_queue_attention ON assistly_queue_jobs (attention_at, status) "
        "WHERE attention_at IS NOT NULL"
    )
    assert [line for line in lines if len(line) > 80] == [mend]


@sqlite_only
def test_an_empty_folder_stays_empty(run: Run, engine: str) -> None:
    code, out, err = run("doctor")
    assert code == 1
    assert "problem     connection: there is no database yet" in out
    assert "assistly migrate" in out
    assert "not checked integrity: there is no connection" in out
    assert "Traceback" not in out + err
    assert list(Path().iterdir()) == []


@postgres_only
def test_a_server_that_is_down(run: Run, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://bot:canary@127.0.0.1:1/bot")
    for options in ((), ("--json",), ("--only", "rights")):
        code, out, err = run("doctor", *options)
        assert (code, "canary" in out + err, "Traceback" in err) == (3, False, False)
        assert "cannot connect" in out
    found = {each["check"]: each["verdict"] for each in json.loads(run("doctor", "--json")[1])["findings"]}
    assert found.pop("settings") == "ok"
    assert found.pop("connection") == "problem"
    assert set(found.values()) == {"not checked"}


@postgres_only
def test_a_wrong_role_is_exit_code_1(
    run: Run, engine: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", make_conninfo(database_url, user="nobody", password="canary"))
    code, out, err = run("doctor", "--only", "connection")
    assert (code, "canary" in out + err) == (1, False)
    assert 'role "nobody" does not exist' in out


@sqlite_only
def test_wrong_arguments(run: Run, engine: str) -> None:
    code, out, err = run("doctor", "--only", "nonsense")
    assert (code, out) == (2, "")
    assert "no check is named nonsense" in err
    assert "unknown-outcomes" in err


@sqlite_only
def test_a_check_of_another_engine_is_not_checked(run: Run, check: Check, engine: str) -> None:
    run("migrate")
    (found,) = check("rights")
    assert (found["verdict"], found["reason"]) == (
        "not checked",
        "this check is for postgres, and the engine is sqlite",
    )


@sqlite_only
def test_wrong_settings(run: Run, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_POOL_SIZE", "many")
    code, out, err = run("doctor", "--json")
    found = json.loads(out)
    assert (code, err, found["place"]) == (1, "", None)
    assert "STORAGE_POOL_SIZE" in found["findings"][0]["reason"]
    assert {each["verdict"] for each in found["findings"][1:]} == {"not checked"}


@sqlite_only
def test_a_variable_that_nothing_reads(check: Check, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check("settings")[0]["verdict"] == "ok"
    monkeypatch.setenv("STORAGE_BUCKET", "the application's own")
    Path(".env").write_text("RETENTION_NONCE_DAYS=3\n")
    (found, *_) = check("settings")
    assert (found["verdict"], found["mend"]) == (
        "warning",
        "rename RETENTION_NONCE_DAYS to RETENTION_NONCES_DAYS",
    )
    monkeypatch.setenv("WEBHOOK_SECRT", "canary")
    assert "rename WEBHOOK_SECRT to WEBHOOK_SECRET" in [found["mend"] for found in check("settings")]


@postgres_only
@pytest.mark.usefixtures("_migrated")
def test_an_old_server(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """No old one is installed, so its answer is replaced."""
    assert check("version")[0]["verdict"] == "ok"
    monkeypatch.setattr(common, "SERVER_VERSION", "SELECT '14.9', '140009'")
    (found,) = check("version")
    assert (found["verdict"], "PostgreSQL 14.9" in found["reason"]) == ("problem", True)


@pytest.mark.usefixtures("_migrated")
def test_migrations_of_another_version(check: Check, sql: Sql, engine: str) -> None:
    sql(f"UPDATE assistly_migrations SET checksum = '0' WHERE name = '001_init_{engine}.sql'")
    (found,) = check("migrations")
    assert (found["verdict"], "was changed after it was applied" in found["reason"]) == ("problem", True)
    sql("UPDATE assistly_migrations SET name = '999_later.sql' WHERE checksum = '0'")
    newer, platforms = check("migrations", "platforms")
    assert (newer["verdict"], newer["mend"]) == ("problem", "upgrade assistly")
    assert platforms["verdict"] == "not checked"


@pytest.mark.usefixtures("_migrated")
@pytest.mark.parametrize("which", [0, -2, -1])
def test_a_migration_whose_record_is_lost(check: Check, sql: Sql, engine: str, which: int) -> None:
    name = discover(engine)[which].name
    sql(f"DELETE FROM assistly_migrations WHERE name = '{name}'")
    migrations, schema = check("migrations", "schema")
    lost = f"has no record of the migrations {name}, although the tables show that they were applied"
    assert lost in migrations["reason"]
    assert schema["verdict"] == "ok"
    sql(migrations["mend"])
    assert [each["verdict"] for each in check("migrations", "schema")] == ["ok", "ok"]


@pytest.mark.usefixtures("_migrated")
def test_an_unfinished_copy(run: Run, check: Check) -> None:
    assert check("unfinished-copy")[0]["verdict"] == "ok"
    with closing(open_backend(load_settings())) as backend:
        backend.documents.put(
            COPY_COLLECTION,
            COPY_KEY,
            JsonText('{"source":"sqlite /old.db"}'),
            expected_version=None,
            now=ago(MINUTE),
        )
    (found,) = check("unfinished-copy")
    assert found["verdict"] == "problem"
    assert "a copy of sqlite /old.db into this storage is not finished" in found["reason"]
    code, out, _ = run("doctor", "--json")
    assert code == 1
    assert json.loads(out)["findings"][2]["check"] == "unfinished-copy"


@pytest.mark.usefixtures("_migrated")
def test_leases_that_ran_out(check: Check, sql: Sql, engine: str) -> None:
    assert check("expired-leases")[0]["verdict"] == "ok"
    with open_storage(auto_prune=False) as storage:
        for _ in range(2):
            storage.queue.schedule("x", "a")
        storage.queue.claim_due(worker_id="w", limit=1, lease=timedelta(hours=1))
        storage.queue.claim_due(worker_id="w", limit=1, lease=timedelta(milliseconds=1))
    (found,) = check("expired-leases")
    assert (found["verdict"], "expired leases: 1" in found["reason"]) == ("warning", True)
    past = "1" if engine == "sqlite" else "'epoch'"
    sql(f"UPDATE assistly_queue_jobs SET lease_until = {past} WHERE id = 2")
    assert check("expired-leases")[0]["verdict"] == "problem"


@pytest.mark.usefixtures("_migrated")
def test_due_jobs_and_platforms_without_a_worker(check: Check) -> None:
    assert [each["verdict"] for each in check("platforms", "oldest-due")] == ["ok", "ok"]
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule("paused", "a", ago(timedelta(hours=3)))
        storage.platforms.pause("paused")
        storage.queue.schedule("served", "a", ago(2 * MINUTE))
        (job,) = storage.queue.claim_due(worker_id="w", platforms=["served"])
        storage.queue.mark_posted(job)
        storage.queue.schedule("served", "b", ago(2 * MINUTE))
    platforms, oldest = check("platforms", "oldest-due")
    assert (platforms["verdict"], oldest["verdict"]) == ("ok", "warning")
    assert "has waited 2 min" in oldest["reason"]
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule("alone", "a", ago(timedelta(hours=2)))
    platforms, oldest = check("platforms", "oldest-due")
    assert (platforms["verdict"], oldest["verdict"]) == ("problem", "problem")
    assert "no worker was seen on alone, where 1 job has been due for 2 h" in platforms["reason"]
    assert platforms["mend"] == "assistly worker --publish alone=PUBLISHER"
    assert oldest["reason"] == "the oldest due job has waited 2 h, on alone"


@pytest.mark.usefixtures("_migrated")
def test_unknown_outcomes_are_all_counted(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistly.views.status._PAGE", 2)
    assert check("unknown-outcomes")[0]["verdict"] == "ok"
    with open_storage(auto_prune=False) as storage:
        for _ in range(5):
            storage.queue.schedule("x", "a")
        first, *others = storage.queue.claim_due(worker_id="w", limit=5)
        storage.queue.mark_failed(first, "no", retryable=False)
        for job in others:
            storage.queue.mark_unknown(storage.queue.begin_publish(job), "no answer")
    (found,) = check("unknown-outcomes")
    assert found["verdict"] == "warning"
    assert found["reason"] == "jobs with an unknown outcome: 4, the first is 2 on x"


@pytest.mark.usefixtures("_migrated")
def test_what_should_have_been_pruned(check: Check, sql: Sql, engine: str) -> None:
    assert check("prune")[0]["reason"] == "never pruned; nothing is overdue for deletion"
    with open_storage(auto_prune=False) as storage:
        storage.nonces.register("a")
        storage.approvals.add("a", {})
        storage.prune()
    assert check("prune")[0]["verdict"] == "ok"
    sql("UPDATE assistly_nonces SET timestamp_ms = timestamp_ms - 86400000 - 60000")
    assert check("prune")[0]["verdict"] == "ok"
    sql("UPDATE assistly_nonces SET timestamp_ms = timestamp_ms - 7140000")
    (found,) = check("prune")
    assert (found["verdict"], "nonces (for 2 h" in found["reason"]) == ("warning", True)
    with open_storage(auto_prune=False) as storage:
        storage.prune(force=True)
    assert check("prune")[0]["verdict"] == "ok"


@pytest.mark.usefixtures("_migrated")
def test_more_records_than_are_kept(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.approvals.add("a", {})
        storage.approvals.add("b", {})
    assert check("prune")[0]["verdict"] == "ok"
    monkeypatch.setenv("RETENTION_MAX_APPROVALS", "1")
    (found,) = check("prune")
    assert (found["verdict"], "approvals (above 1)" in found["reason"]) == ("warning", True)


@sqlite_only
@pytest.mark.usefixtures("_migrated")
def test_an_error_of_a_check_is_a_finding(
    run: Run, check: Check, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> Any:
        raise error

    monkeypatch.setattr(runner, "CHECKS", [checks.Check("version", fail)])
    for error, code in ((StorageCorrupt("it is bad"), 1), (StorageUnavailable("it is gone"), 3)):
        exit_code, out, _ = run("doctor")
        assert (exit_code, f"the check failed: {error}" in out) == (code, True)


def test_the_page_names_each_check() -> None:
    page = Path(__file__).parents[2] / "docs" / "doctor.md"
    table = page.read_text(encoding="utf-8").partition("## The checks")[2]
    named = re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)
    assert named == [*runner.NAMES]
