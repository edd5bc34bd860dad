"""`assistly prune` and `assistly maintain`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from assistly.storage import Storage, open_storage

Run = Callable[..., tuple[int, str, str]]

KINDS = ["approvals", "idempotency", "nonces", "posted", "events", "sessions"]


@pytest.fixture
def filled(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage with two old approvals, two too many, and two old nonces."""
    monkeypatch.setenv("RETENTION_MAX_APPROVALS", "1")
    now = datetime.now(UTC)
    with open_storage(auto_prune=False) as storage:
        for days in (1, 2, 3, 40, 50):
            storage.approvals.add(str(days), {}, created_at=now - timedelta(days=days))
        for name in "ab":
            storage.nonces.register(name, now - timedelta(days=2))


def listed() -> list[str]:
    with open_storage(auto_prune=False) as storage:
        return [approval.id for approval in storage.approvals.list()]


@pytest.mark.usefixtures("filled")
def test_a_dry_run_says_what_a_prune_deletes_then(run: Run) -> None:
    for _ in range(2):
        code, out, err = run("prune", "--dry-run", "--json")
        found = json.loads(out)
        assert (code, [*found]) == (0, KINDS)
        assert found["approvals"] == {"by_age": 2, "by_cap": 2, "is_exact": True}
        assert found["nonces"] == {"by_age": 2, "by_cap": 0, "is_exact": True}
        assert {json.dumps(found[kind]) for kind in KINDS if kind not in ("approvals", "nonces")} == {
            '{"by_age": 0, "by_cap": 0, "is_exact": true}'
        }
        assert err.startswith("storage: ")
        assert len(listed()) == 5
    code, out, _ = run("prune", "--json")
    assert code == 0
    assert json.loads(out) == {"ran": True, **dict.fromkeys(KINDS, 0), "approvals": 4, "nonces": 2}
    assert listed() == ["1"]
    assert json.loads(run("prune", "--json")[1])["ran"] is False
    assert json.loads(run("prune", "--dry-run", "--json")[1])["approvals"]["by_age"] == 0


@pytest.mark.usefixtures("filled")
def test_a_prune_of_somebody_leaves_an_event(run: Run) -> None:
    run("prune", "--force", "--dry-run", "--by", "ann")
    assert run("prune", "--force", "--by", "ann", "--note", "disk full")[0] == 0
    run("prune", "--by", "ann")  # too early: nothing is done
    run("prune", "--force")
    with open_storage(auto_prune=False) as storage:
        [event] = storage.events.list()
    deleted = {**dict.fromkeys(KINDS, 0), "approvals": 4, "nonces": 2}
    assert event.event_type == "operator.prune"
    assert event.payload == {"by": "ann", "note": "disk full", "deleted": deleted}


@pytest.mark.usefixtures("filled")
def test_a_dry_run_for_people(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {line.split()[0]: line.split() for line in run("prune", "--dry-run")[1].splitlines()}
    assert rows["approvals"] == ["approvals", "2", "2"]
    assert rows["sessions"] == ["sessions", "0", "0"]
    monkeypatch.setattr("assistly.storage.engines.sql.retention.MOST_COUNTED", 2)
    code, out, err = run("prune", "--dry-run")
    assert code == 0
    assert "at least 2" in out
    assert "nothing was deleted" in err
    assert len(listed()) == 5


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("filled")
def test_a_dry_run_maintains_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def maintain(storage: Storage) -> None:
        raise AssertionError

    monkeypatch.setattr(Storage, "maintain", maintain)
    assert run("prune", "--dry-run", "--force")[0] == 0


def test_maintain_as_json(engine: str, run: Run) -> None:
    run("migrate")
    code, out, err = run("maintain", "--json")
    assert (code, json.loads(out)) == (0, {"done": True})
    assert err.startswith(f"storage: {engine} ")


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("command", [("prune",), ("prune", "--dry-run"), ("maintain",)])
def test_no_database_is_made(engine: str, run: Run, command: tuple[str, ...]) -> None:
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert "there is no database yet" in err
    assert not Path("cli.db").exists()


@pytest.mark.parametrize("command", [("prune",), ("prune", "--dry-run"), ("maintain",)])
def test_no_server_is_exit_code_3(run: Run, no_server: str, command: tuple[str, ...]) -> None:
    code, out, err = run(*command)
    assert (code, out) == (3, "")
    assert no_server not in err
