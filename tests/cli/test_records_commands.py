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
    assert "no terminal to ask on, so nothing was done: Delete the session of the user 'ann'?" in err
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
    assert run("approvals", "approve", "a1", "--by", "ann", "--note", "fine")[:2] == (
        0,
        "the approval 'a1' is approved\n",
    )
    assert run("approvals", "reject", "a2", "--by", "ann")[:2] == (0, "the approval 'a2' is rejected\n")
    code, out, err = run("approvals", "reject", "a1")
    assert (code, out) == (1, "")
    assert "it is already decided" in err
    assert run("approvals", "approve", "a3")[0] == 1
    assert json.loads(run("approvals", "show", "a1", "--json")[1])["status"] == "approved"
    found = json.loads(run("events", "list", "--json")[1])["events"]
    assert [(event["event_type"], event["payload"]) for event in found] == [
        ("operator.approvals.reject", {"by": "ann", "approval_id": "a2"}),
        ("operator.approvals.approve", {"by": "ann", "note": "fine", "approval_id": "a1"}),
    ]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_it_is_shown_who_has_decided(run: Run) -> None:
    with open_storage(auto_prune=False) as storage:
        for name in ("a1", "a2", "a3"):
            storage.approvals.add(name, {})
        storage.approvals.decide("a3", "approved")
    for name, by in (("a1", "ann"), ("a2", "bob")):
        run("approvals", "approve", name, "--by", by, "--note", f"by {by}")
    shown = json.loads(run("approvals", "show", "a1", "--json")[1])
    assert (shown["decided_by"], shown["decision_note"]) == ("ann", "by ann")
    rows = [line.split(maxsplit=2) for line in run("approvals", "show", "a2")[1].splitlines()]
    assert ["decided", "by", "bob"] in rows
    assert ["note", "by", "bob"] in rows
    assert json.loads(run("approvals", "show", "a3", "--json")[1])["decided_by"] is None
    assert "decided by" not in run("approvals", "show", "a3")[1]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_status_that_no_approval_has_names_those_there_are(run: Run) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.approvals.add("a1", {})
        storage.approvals.add("a2", {})
        storage.approvals.decide("a2", "approved")
    code, out, err = run("approvals", "list", "--status", "open")
    assert (code, out) == (0, "no approvals\n")
    assert err.splitlines()[1:] == [
        "none of the newest 2 has the status open; their statuses: approved, pending"
    ]
    assert len(run("approvals", "list", "--status", "pending")[2].splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--type", "operator.*"], [4, 2]),
        (["--type", "operator"], []),
        (["--by", "ann"], [4, 3]),
        (["--by", "ann", "--type", "operator.*"], [4]),
        (["--type", "*", "--before", "3"], [2, 1]),
        (["--since", "1h"], [4, 3]),
        (["--since", "2d", "--by", "bob", "--limit", "1"], [2]),
    ],
)
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_events_are_found_by_their_type_name_and_time(
    run: Run, sql: Sql, monkeypatch: pytest.MonkeyPatch, options: list[str], expected: list[int]
) -> None:
    monkeypatch.setattr("assistly.views.events._PAGE", 2)
    with open_storage(auto_prune=False) as storage:
        for type, payload in (
            ("post.liked", ["by", "ann"]),
            ("operator.prune", {"by": "bob"}),
            ("post.liked", {"by": "ann"}),
            ("operator.jobs.cancel", {"by": "ann"}),
        ):
            storage.events.append(type, payload)
    sql("UPDATE assistly_events SET created_at = created_at - 86400000000 WHERE id <= 2")
    found = json.loads(run("events", "list", "--json", *options)[1])
    assert [event["id"] for event in found["events"]] == expected


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_pause_names_the_login_where_nobody_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "lee")
    migrated()
    assert json.loads(run("platforms", "pause", "x", "--json")[1])["by"] == "lee"
    [event] = json.loads(run("events", "list", "--by", "lee", "--json")[1])["events"]
    assert event["event_type"] == "operator.platforms.pause"
