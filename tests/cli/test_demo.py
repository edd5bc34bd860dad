from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from assistly import cli
from assistly.cli.demo.calendar import CalendarPost, read_calendar, shipped_calendar
from assistly.cli.demo.outcome import DemoOutcome
from assistly.cli.demo.place import demo_storage
from assistly.cli.demo.report import live_progress
from assistly.cli.demo.scenario import Scenario, start_of
from assistly.cli.demo.simulation import FAULTS, SimulatedClock, plan_faults
from assistly.storage import InvalidValue, JobStatus, open_storage, plugins

Run = Callable[..., tuple[int, str, str]]
LINE = {"command": "a", "user": "u", "platform": "p", "at": "2026-03-02T08:30:00+01:00", "content": "hello"}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for variable in ("STORAGE_ENGINE", "SQLITE_PATH", "STORAGE_SCHEMA", "DATABASE_URL"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["assistly", "demo", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main(owns_process=False)
        out, err = capsys.readouterr()
        code = caught.value.code
        return (1, out, err + code) if isinstance(code, str) else (code or 0, out, err)

    return call


def calendar(tmp_path: Path, *lines: dict[str, Any] | str) -> str:
    path = tmp_path / "calendar.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return str(path)


def test_the_shipped_calendar_has_what_the_demo_shows() -> None:
    posts = read_calendar(shipped_calendar())
    commands = {post.command: post for post in posts}
    assert len(commands) >= 200
    assert len(posts) > len(commands), "commands that come twice"
    assert len({post.platform for post in posts}) >= 4
    assert sum(post.approval for post in commands.values()) >= 10
    slots = {(post.platform, post.at) for post in commands.values()}
    assert len(slots) < len(commands), "slots that collide"
    offsets = {json.loads(line)["at"][-6:] for line in shipped_calendar().read_text("utf-8").splitlines()}
    assert len(offsets) >= 4, "time zones"


def test_every_engine_tells_the_same_story(
    run: Run, monkeypatch: pytest.MonkeyPatch, database_url: str, schema: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("STORAGE_SCHEMA", schema)
    stories = {}
    for engine in ("memory", "sqlite", "postgres"):
        monkeypatch.setenv("STORAGE_ENGINE", engine)
        code, out, err = run("--json")
        assert (code, err) == (0, "")
        stories[engine] = json.loads(out)
    assert stories["sqlite"] == stories["memory"]
    assert stories["postgres"] == stories["memory"]


def test_the_shipped_calendar_shows_everything(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_ENGINE", "memory")
    code, out, _ = run("--json")
    assert code == 0
    summary = json.loads(out)
    assert summary["ok"] is True
    events = summary["events"]
    for expected in (
        "approval_decided_before",
        "approval_rejected",
        "claim_outcome_unknown",
        "claim_rescued",
        "command_repeated",
        "job_confirmed",
        "job_dead",
        "job_failed",
        "job_replayed",
        "job_snoozed",
        "slot_taken",
        "webhook_refused",
        "worker_killed",
    ):
        assert events[expected] >= 1, expected
    assert summary["jobs"]["posted"] == events["job_posted"] + events["job_confirmed"]
    assert summary["publications"] == summary["jobs"]["posted"]
    assert summary["metrics"]["commandCount"] == summary["calendar"]["commands"]
    assert summary["dead_letters"] == {"422": 2, "missed": 2}


def test_the_default_leaves_nothing_behind_and_keep_does(run: Run, tmp_path: Path) -> None:
    file = calendar(tmp_path, LINE)
    assert run(file)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calendar.jsonl"]
    code, out, _ = run(file, "--keep")
    assert code == 0
    (database,) = tmp_path.glob("assistly-demo-*/demo.db")
    assert f"kept: SQLITE_PATH={database} assistly status" in out


def test_the_table_ends_with_what_was_checked(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(calendar(tmp_path, LINE))
    assert code == 0
    assert out.splitlines()[-1].startswith(
        "checked: 1 commands against 1 publications: no post doubled, none lost"
    )


def test_a_set_path_is_used_again_and_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SQLITE_PATH", "mine.db")
    file = calendar(tmp_path, LINE, LINE | {"command": "b", "approval": True})
    _, first, _ = run(file, "--json")
    code, second, _ = run(file, "--json")
    assert (code, second) == (0, first)
    with open_storage(auto_prune=False) as storage:
        assert storage.queue.counts()[JobStatus.POSTED] == json.loads(first)["jobs"]["posted"]


def test_foreign_data_is_left_alone(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = calendar(tmp_path, LINE)
    monkeypatch.setenv("SQLITE_PATH", "real.db")
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule("x", "a real post")
    code, out, err = run(file)
    assert (code, out) == (1, "")
    assert "real.db" in err
    with open_storage(auto_prune=False) as storage:
        assert storage.queue.counts()[JobStatus.SCHEDULED] == 1
        assert storage.snapshots.list() == []


@pytest.mark.parametrize("size", [1, 2, 3, 8, 30])
def test_small_calendars_come_out_right(run: Run, tmp_path: Path, size: int) -> None:
    lines = [LINE | {"command": f"c{n}", "approval": n % 3 == 2} for n in range(size)]
    code, out, _ = run(calendar(tmp_path, *lines), "--json")
    summary = json.loads(out)
    assert (code, summary["ok"], summary["calendar"]["commands"]) == (0, True, size)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json}", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ({"command": "b"}, "user is missing"),
        (LINE | {"at": "2026-03-02T08:30:00"}, "at: the time needs an offset"),
        (LINE | {"at": "tomorrow"}, "at: "),
        (LINE | {"at": "0001-01-01T00:00:00+14:00"}, "at: its year must be"),
        (LINE | {"at": 1772000000}, "at: "),
        (LINE | {"command": ""}, "command: "),
        (LINE | {"platform": "p" * 513}, "platform: "),
        (LINE | {"content": " "}, "content: it must not be empty"),
        (LINE | {"content": "a\0b"}, "content: "),
        (LINE | {"approval": "yes"}, "approval: "),
        (LINE | {"valid_minutes": 0}, "valid_minutes: "),
        (LINE | {"colour": "blue"}, "colour is not a field"),
        (LINE | {"content": "another"}, "command 'a' names another post on line 1"),
        ('{"command": "b", "content": "\\ud800"}', "Invalid JSON"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_imported(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: dict[str, Any] | str, reason: str
) -> None:
    monkeypatch.setenv("SQLITE_PATH", "untouched.db")
    code, out, err = run(calendar(tmp_path, LINE, "", line))
    assert (code, out) == (1, "")
    assert "line 3: " in err
    assert reason in err
    assert not Path("untouched.db").exists()


def test_bad_files_are_one_line(run: Run, tmp_path: Path) -> None:
    assert "No such file" in run("nowhere.jsonl")[2]
    assert "Is a directory" in run(str(tmp_path))[2]
    assert "has no posts" in run(calendar(tmp_path, ""))[2]
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\n" * 9)
    err = run(str(binary))[2]
    assert "line 1: " in err
    assert "and 6 more" in err


def test_a_calendar_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "marked.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(LINE).encode() + b"\r\n")
    (post,) = read_calendar(path)
    assert post.at == datetime(2026, 3, 2, 7, 30, tzinfo=UTC)


def test_faults_are_planned_in_shares_and_repeatably() -> None:
    commands = [f"c{n}" for n in range(200)]
    plan = plan_faults(commands)
    assert plan == plan_faults(reversed(commands))
    assert set(plan.values()) == set(FAULTS)
    assert len(plan) < 50


def outcome(posts: list[CalendarPost]) -> DemoOutcome:
    clock = SimulatedClock(start_of(posts))
    with demo_storage(clock, keep=False) as (storage, _, _), live_progress(quiet=True) as progress:
        return Scenario(storage, clock, posts, progress).run()


def failed(outcome: DemoOutcome, **changes: Any) -> set[str]:
    changed = replace(outcome, **changes)
    assert changed.ok is not any(changed.checks.values())
    return {name for name, problems in changed.checks.items() if problems}


def test_the_checks_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_ENGINE", "memory")
    good = outcome(
        [CalendarPost.model_validate_json(json.dumps(LINE | {"command": f"c{n}"})) for n in range(9)]
    )
    disagreement = {"the storage agrees with the platforms"}
    assert good.ok
    assert failed(good) == set()
    published, stored = list(good.publications), good.stored
    assert failed(good, publications=[*published, published[0]]) == {"no post doubled"}
    assert failed(good, publications=published[1:]) == disagreement
    assert failed(good, publications=[published[0]._replace(content="other"), *published[1:]]) == disagreement
    assert (
        failed(good, publications=[published[0]._replace(remote_id="other"), *published[1:]]) == disagreement
    )
    assert "none lost" in failed(good, stored=replace(stored, jobs=stored.jobs[1:]))
    assert "none lost" in failed(good, stored=replace(stored, jobs=[*stored.jobs, stored.jobs[0]]))
    stuck = [replace(stored.jobs[0], status=JobStatus.PROCESSING), *stored.jobs[1:]]
    assert "none lost" in failed(good, stored=replace(stored, jobs=stuck))
    assert failed(good, attacks=0) == {"every attack refused"}
    assert "repeated commands ran once" in failed(good, posts=[*good.posts, good.posts[0]])
    retention = {"retention deleted what was due"}
    assert failed(good, pruned=replace(good.pruned, nonces=0)) == retention
    assert failed(good, pruned=replace(good.pruned, approvals=1)) == retention
    assert failed(good, kept=replace(good.kept, counts={})) == retention


def test_the_shipped_calendar_is_found_by_the_command() -> None:
    assert shipped_calendar().name == "posts.jsonl"
    with pytest.raises(InvalidValue):
        read_calendar(Path("nowhere.jsonl"))


def test_two_demos_keep_out_of_each_others_way(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SQLITE_PATH", "shared.db")
    file = calendar(tmp_path, LINE)
    clock = SimulatedClock(datetime(2026, 3, 1, tzinfo=UTC))
    with demo_storage(clock, keep=False):
        code, out, err = run(file)
        assert (code, out) == (1, "")
        assert "another demo is running" in err
    assert run(file)[0] == 0


def test_a_plug_in_is_not_filled_with_the_demos_data(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entries = EntryPoints([EntryPoint("shelf", "no_such_module:open", plugins.ENGINES)])
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: entries.select(group=group))
    monkeypatch.setenv("STORAGE_ENGINE", "shelf")
    code, out, err = run(calendar(tmp_path, LINE))
    assert (code, out) == (1, "")
    assert err.startswith("assistly: the demo runs on memory, sqlite, postgres: ")
    assert "'shelf'" in err


def test_progress_is_shown_on_a_terminal_only(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = calendar(tmp_path, *(LINE | {"command": f"c{n}"} for n in range(9)))
    assert run(file)[2] == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = run(file)[2]
    assert "webhooks" in shown
    assert "worker-1 is killed" in shown
