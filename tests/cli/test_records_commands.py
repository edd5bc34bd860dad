"""`assistly approvals`, `assistly platforms`, `assistly sessions` and `assistly events`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assistly.storage import open_storage

Run = Callable[..., tuple[int, str, str]]
Sql = Callable[[str], list[Any]]
READING = [
    ("approvals", "list"),
    ("approvals", "show", "a1"),
    ("platforms", "list"),
    ("sessions", "list"),
    ("sessions", "show", "ann"),
    ("events", "list"),
    ("locks", "list"),
    ("keys", "show", "k"),
    ("metrics",),
]


@pytest.fixture(autouse=True)
def _empty(engine: str) -> None:
    pass


def migrated() -> None:
    with open_storage(auto_prune=False) as storage:
        storage.migrate()


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("command", READING)
def test_reading_creates_no_database(run: Run, command: tuple[str, ...]) -> None:
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert "there is no database yet" in err
    assert not Path("cli.db").exists()


@pytest.mark.parametrize(
    "command",
    [("platforms", "list"), ("events", "list"), ("locks", "list"), ("keys", "forget", "k"), ("metrics",)],
)
def test_no_server_is_exit_code_3(run: Run, no_server: str, command: tuple[str, ...]) -> None:
    code, out, err = run(*command)
    assert (code, out) == (3, "")
    assert no_server not in err


def test_a_database_without_tables_or_migrations_says_so(engine: str, run: Run, sql: Sql) -> None:
    if engine == "sqlite":
        Path("cli.db").touch()
    variables = "SQLITE_PATH" if engine == "sqlite" else "DATABASE_URL, STORAGE_SCHEMA"
    code, _, err = run("status")
    assert code == 1
    line = err.splitlines()[-1]
    assert line.startswith(f"assistly: there are no tables of Assistly yet: {engine} ")
    assert line.endswith(f"If this is the right place ({variables}), `assistly migrate` creates them")
    run("migrate")
    [(last,)] = sql("SELECT max(name) FROM assistly_migrations")
    sql(f"DELETE FROM assistly_migrations WHERE name = '{last}'")
    code, _, err = run("jobs", "list")
    assert code == 1
    assert f"the database lacks the migrations {last}: `assistly migrate` applies them" in err


def test_a_pause_a_limit_and_their_events(run: Run) -> None:
    migrated()
    assert json.loads(run("platforms", "list", "--json")[1]) == {"platforms": []}
    code, out, _ = run("platforms", "pause", "x", "--by", "ann", "--note", "outage", "--json")
    assert code == 0
    paused = json.loads(out)
    assert (paused["paused"], paused["by"], paused["reason"]) == (True, "ann", "outage")
    code, out, _ = run("platforms", "limit", "x", "5", "--per", "1h", "--by", "ann")
    assert (code, out) == (0, "x: paused until somebody resumes it, limit 5 jobs in 1 h\n")
    assert run("platforms", "resume", "x", "--by", "ann")[0] == 0
    code, out, err = run("platforms", "resume", "x", "--by", "ann")
    assert (code, out) == (1, "")
    assert "platform 'x' is not paused" in err
    assert run("platforms", "limit", "x", "--none", "--by", "ann")[1] == "x: not paused, no limit\n"
    found = json.loads(run("events", "list", "--json")[1])["events"]
    assert [event["event_type"].removeprefix("operator.platforms.") for event in found] == [
        "limit",
        "resume",
        "limit",
        "pause",
    ]
    assert found[-1]["payload"] == {"by": "ann", "note": "outage", "platform": "x", "until": None}


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("arguments", [("5",), ("--per", "1h"), ("5", "--none"), (), ("5", "--per", "soon")])
def test_a_limit_that_is_not_one_is_wrong_usage(run: Run, arguments: tuple[str, ...]) -> None:
    migrated()
    code, out, _ = run("platforms", "limit", "x", *arguments)
    assert (code, out) == (2, "")


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_pause_until_no_time_is_wrong_usage(run: Run) -> None:
    migrated()
    assert run("platforms", "pause", "x", "--until", "soon")[:2] == (2, "")


def test_sessions_are_listed_shown_and_deleted(run: Run) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.sessions.put("ann", {"step": 1})
        storage.sessions.put("bob", {"step": 2})
    page = json.loads(run("sessions", "list", "--limit", "1", "--json")[1])
    assert ([session["user_id"] for session in page["sessions"]], page["next"]) == (["ann"], "ann")
    assert json.loads(run("sessions", "show", "bob", "--json")[1])["data"] == {"step": 2}
    code, out, err = run("sessions", "delete", "ann")
    assert (code, out) == (2, "")
    assert "no terminal to ask: Delete the session of the user 'ann'?" in err
    assert run("sessions", "delete", "ann", "--yes")[:2] == (0, "the session of the user 'ann' is deleted\n")
    assert run("sessions", "delete", "ann", "--yes")[0] == 1
    with open_storage(auto_prune=False) as storage:
        (event,) = storage.events.list()
        assert storage.sessions.get("ann") is None
    assert event.event_type == "operator.sessions.delete"


def test_following_prints_lines_and_ends_with_an_interrupt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_storage(auto_prune=False) as storage:
        first = storage.events.append("a", 1)
        storage.events.append("b", 2)
        storage.events.append("a", 3)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("assistly.cli.events.time.sleep", interrupted)
    code, out, _ = run("events", "follow", "--since-id", str(first.id), "--type", "a", "--json")
    assert code == 0
    assert [json.loads(line)["payload"] for line in out.splitlines()] == [3]
    assert run("events", "follow")[:2] == (0, "")


def test_an_approval_is_decided_once(run: Run) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.approvals.add("a1", {"post": "hello"})
        storage.approvals.add("a2", {"post": "bye"})
    page = json.loads(run("approvals", "list", "--status", "pending", "--limit", "1", "--json")[1])
    assert ([approval["id"] for approval in page["approvals"]], page["next"]) == (["a2"], "a2")
    assert run("approvals", "approve", "a1", "--by", "ann", "--note", "fine")[:2] == (0, "approved\n")
    assert run("approvals", "reject", "a2", "--by", "ann")[:2] == (0, "rejected\n")
    code, out, err = run("approvals", "reject", "a1")
    assert (code, out) == (1, "")
    assert "it was decided before" in err
    assert run("approvals", "approve", "a3")[0] == 1
    assert json.loads(run("approvals", "show", "a1", "--json")[1])["status"] == "approved"
    found = json.loads(run("events", "list", "--json")[1])["events"]
    assert [(event["event_type"], event["payload"]) for event in found] == [
        ("operator.approvals.reject", {"by": "ann", "approval_id": "a2"}),
        ("operator.approvals.approve", {"by": "ann", "note": "fine", "approval_id": "a1"}),
    ]
