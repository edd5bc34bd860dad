"""`assistly config`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


def test_each_setting_with_its_origin_and_no_secret(
    run: Run,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:canary-secret@db/x")
    monkeypatch.setenv("STORAGE_VACUUM", "")
    Path(".env").write_text(
        "RETENTION_POSTED_DAYS=7\nSQLITE_PATH=other.db\nSTORAGE_VACUUM=off\nWEBHOOK_SECRET=canary-secret\n"
    )
    code, out, err = run("config", "--json")
    assert (code, err) == (0, "")
    found = {entry["variable"]: (entry["value"], entry["origin"]) for entry in json.loads(out)["settings"]}
    assert found["STORAGE_ENGINE"] == ("sqlite", "environment")
    assert found["SQLITE_PATH"] == ("cli.db", "environment")
    assert found["RETENTION_POSTED_DAYS"] == ("7.0", ".env")
    assert found["STORAGE_VACUUM"] == ("worker", "default")
    assert found["RETENTION_EVENTS_DAYS"] == (None, "default")
    assert found["DATABASE_URL"][1] == "environment"
    assert found["WEBHOOK_SECRET"][1] == ".env"
    assert "canary-secret" not in out + run("config")[1]
    assert not Path("cli.db").exists()


def test_a_wrong_setting_is_one_line(run: Run, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_POOL_SIZE", "many")
    code, out, err = run("config")
    assert (code, out) == (1, "")
    assert err.count("\n") == 0
    assert "STORAGE_POOL_SIZE" in err
