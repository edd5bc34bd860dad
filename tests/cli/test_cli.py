from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
import typer.main

from assistly.cli import app, conformance
from assistly.cli.commands import COMMANDS
from assistly.storage import Storage, factory, open_storage

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORAGE_ENGINE", "sqlite")
    monkeypatch.setenv("SQLITE_PATH", "cli.db")
    for variable in ("STORAGE_AUTO_MIGRATE", "DATABASE_URL", "SCHEDULE_MAX_RETRIES"):
        monkeypatch.delenv(variable, raising=False)


def dead_letter(storage: Storage, reason: str = "no such account") -> int:
    storage.queue.schedule("mastodon", "hello\x1b[31m\nthere")
    (job,) = storage.queue.claim_due(worker_id="w")
    return storage.queue.mark_failed(job, reason, retryable=False).id


def test_migrate_applies_what_is_pending_and_then_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_AUTO_MIGRATE", "false")
    assert run("status")[0] == 1
    code, out, _ = run("migrate")
    assert code == 0
    assert out.startswith("applied 001_init")
    assert run("migrate")[1] == "the schema is up to date\n"
    assert run("status")[0] == 0


def test_prune_runs_once_a_minute_unless_forced(run: Run) -> None:
    run("migrate")
    assert "nonces" in run("prune")[1]
    assert run("prune")[1].startswith("nothing was pruned")
    assert "nonces" in run("prune", "--force")[1]


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.is_char_device(), reason="the system has no device that is always full")
@pytest.mark.parametrize(
    "arguments", [["jobs", "cancel", "1"], ["status"], ["jobs", "list", "--json"], ["-h"]]
)
def test_output_that_cannot_be_written_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    run("migrate")
    run("jobs", "add", "mastodon", "hello")
    full = TextIOWrapper(FULL.open("wb", buffering=0), write_through=True)
    with full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        code, _, err = run(*arguments)
    assert code == 1
    said = [line for line in err.splitlines() if not line.startswith("storage: ")]
    assert said == ["assistly: could not write the output (No space left on device); the rest may be done"]
    assert ("is cancelled" in run("jobs", "cancel", "1")[2]) == ("cancel" in arguments)


@pytest.mark.skipif(not FULL.is_char_device(), reason="the system has no device that is always full")
def test_a_process_whose_output_cannot_be_written_says_nothing_more_at_its_end() -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-c", "from assistly.cli import main; main()", "--version"]
    with FULL.open("w") as full:
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False
        )
        assert ended.stderr == (
            "assistly: could not write the output (No space left on device); the rest may be done\n"
        )
        assert ended.returncode == 1
        command = [*command[:-1], "nothing"]
        ended = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=full, text=True, env=environment, check=False
        )
        assert (ended.stdout, ended.returncode) == ("", 1)


@pytest.fixture
def maintained(monkeypatch: pytest.MonkeyPatch) -> list[Storage]:
    """The storages whose `maintain` was called."""
    calls: list[Storage] = []
    monkeypatch.setattr(Storage, "maintain", lambda storage: calls.append(storage))
    return calls


def test_maintain_is_done_whatever_the_setting_says(
    run: Run, monkeypatch: pytest.MonkeyPatch, maintained: list[Storage]
) -> None:
    run("migrate")
    for vacuum in ("worker", "off"):
        monkeypatch.setenv("STORAGE_VACUUM", vacuum)
        assert run("maintain")[:2] == (0, "nothing to do on sqlite\n")
    assert len(maintained) == 2


def test_prune_maintains_too_unless_that_is_off(
    run: Run, monkeypatch: pytest.MonkeyPatch, maintained: list[Storage]
) -> None:
    run("migrate")
    assert run("prune")[0] == 0
    assert len(maintained) == 1
    assert run("prune")[1].startswith("nothing was pruned")
    assert len(maintained) == 1
    monkeypatch.setenv("STORAGE_VACUUM", "off")
    assert run("prune", "--force")[0] == 0
    assert len(maintained) == 1


@pytest.mark.parametrize("missing", [["pytest"], ["hypothesis"], ["pytest", "hypothesis"]])
def test_conformance_says_what_it_needs(
    run: Run, monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    monkeypatch.setattr(conformance, "find_spec", lambda module: None if module in missing else object())
    code, out, err = run("conformance", "memory")
    assert (code, out) == (1, "")
    needed = " and ".join(missing)
    assert err == f"assistly: the contract suite needs {needed}: python -m pip install 'assistly[contract]'"


def test_conformance_runs_the_suite_and_reports(run: Run) -> None:
    code, out, err = run("conformance", "memory", "--select", "Nonces and not Machine")
    assert (code, err) == (0, "")
    assert out.startswith("memory conforms: ")
    assert "protocol 2, in_process yes, durable no" in out


def test_an_engine_that_does_not_conform_exits_with_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from assistly.storage.testing import conformance as suite

    traits = suite.Traits(1, True, False, False, False, 0)
    result = suite.ContractResult("Nonces", 7, 0, (suite.FailedTest("test_it", "it did not"),), (), 0.5)
    report = suite.ConformanceReport("shelf", traits, (result,), 1.0)
    monkeypatch.setattr(suite, "run", lambda engine, **_: report)
    code, out, err = run("conformance", "shelf")
    assert (code, err) == (1, "")
    assert "shelf does not conform: 7 passed, 1 failed" in out
    assert "FAILED test_it: it did not" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nosuch"], 1, "assistly: STORAGE_ENGINE must be one of memory, sqlite, postgres"),
        (["memory", "--setting", "color=blue"], 1, "assistly: no such setting: 'color'"),
        (["memory", "--setting", "color"], 2, "KEY=VALUE"),
    ],
)
def test_conformance_names_a_mistake(run: Run, arguments: list[str], code: int, message: str) -> None:
    ended, out, err = run("conformance", *arguments)
    assert (ended, out) == (code, "")
    assert message in err


def test_dead_letters_are_listed_without_control_characters(run: Run) -> None:
    run("migrate")
    assert run("dead-letters")[1] == "no dead letters\n"
    with open_storage(auto_prune=False) as storage:
        dead_letter(storage, "not this page")
        id = dead_letter(storage, "[bold]no such account[/bold]")
        dead_letter(storage, "not this page")
    code, out, err = run("dead-letters", "--platform", "mastodon", "--limit", "1", "--after", str(id - 1))
    assert code == 0
    assert "[bold]no such account[/bold]" in out
    assert "\x1b" not in out
    assert f"--after {id}" in err
    assert run("dead-letters", "--after", str(id + 1))[1] == "no dead letters\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay"],
        ["replay", "1", "--all"],
        ["replay", "1", "--platform", "x"],
        ["replay", "x"],
        ["replay", "0"],
        ["dead-letters", "--limit", "0"],
        ["no-such-command"],
        ["status", "--no-such-option"],
    ],
)
def test_usage_errors_exit_with_2(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Error" in err


@pytest.mark.parametrize("command", ["status", "migrate", "prune", "maintain", "dead-letters", "demo"])
def test_a_mistake_is_one_line_and_exits_with_1(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("STORAGE_ENGINE", "mysql")
    code, out, err = run(command)
    assert (code, out) == (1, "")
    assert (
        err.splitlines()[-1]
        == "assistly: STORAGE_ENGINE must be one of memory, sqlite, postgres; got 'mysql'"
    )


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SQLITE_PATH": "x" * 300}, "too long"),
        ({"SQLITE_PATH": "file/a.db"}, "a folder of the path is a file"),
        ({"SQLITE_PATH": "link/a.db"}, "symbolic link to nothing"),
        ({"SQLITE_PATH": "sqlite:///a.db"}, "write the path alone, 'a.db'"),
        ({"SQLITE_PATH": "~no-such-user/a.db"}, "home folder"),
        ({"SQLITE_PATH": "postgres://me:Q@h/d"}, "STORAGE_ENGINE=postgres"),
        ({"STORAGE_ENGINE": "postgres://me:Q@h/d"}, "put a URL into DATABASE_URL"),
        ({"STORAGE_ENGINE": "", "DATABASE_URL": "postgres://me:Q@h/d"}, "the engine is ambiguous"),
        ({"STORAGE_ENGINE": "postgres", "DATABASE_URL": "mysql://me:Q@h/d"}, "begins with mysql://"),
    ],
)
@pytest.mark.parametrize("command", [["migrate"], ["worker", "--publish", "x=stdout"]])
def test_a_wrong_setting_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str, command: list[str]
) -> None:
    Path("file").touch()
    Path("link").symlink_to("nothing")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    *places, error = err.splitlines()
    assert words in error
    assert all(place.startswith("storage: ") for place in places)
    assert "Q@" not in err


def test_a_file_that_is_no_database_is_one_line(run: Run) -> None:
    Path("cli.db").write_bytes(b"this is no database, only text\n" * 100)
    code, out, err = run("status")
    assert (code, out) == (1, "")
    assert err.splitlines()[1].startswith("assistly: ")
    assert err.count("\n") == 1


def test_an_interrupt_exits_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> Storage:
        raise KeyboardInterrupt

    monkeypatch.setattr(factory, "build_storage", interrupted)
    assert run("migrate")[0] == 130


def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "assistly", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.split()[0], done.stderr) == ("assistly", "")


def test_the_version_is_the_distributions(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("assistly ")


def test_no_command_shows_the_help(run: Run) -> None:
    code, out, err = run()
    assert code == 2
    assert "jobs" in out + err


def test_the_help_loads_no_command() -> None:
    script = """
import atexit, sys
from assistly import cli
atexit.register(lambda: print([*sys.modules], file=sys.stderr))
sys.argv = ["assistly", "--help"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stderr))
    ours = {name for name in loaded if name.startswith("assistly.")}
    assert "assistly.cli.commands" in ours
    assert {name for name in ours if not name.startswith("assistly.cli")} <= {
        "assistly.lazy",
        "assistly.storage",
        "assistly.storage.errors",
    }
    assert ours.isdisjoint(f"assistly.cli.{entry.module}" for entry in COMMANDS.values())
    assert {"psycopg", "sqlite_utils", "pydantic", "asyncio"}.isdisjoint(loaded)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_help(run: Run, name: str) -> None:
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    assert f"assistly {name}" in out
    summaries = out.partition("\nCommands:\n")[2]
    assert "..." not in summaries, "a summary is cut"


def test_a_command_that_is_misspelt_is_named(run: Run) -> None:
    code, _, err = run("stats")
    assert (code, "Did you mean 'status'?" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("jobs mo", ["move"]),
        ("jobs list --status s", ["scheduled"]),
        ("jobs list --kind m", ["missed"]),
        ("approvals list --status ", ["pending", "approved", "rejected"]),
        ("doctor --only oldest", ["oldest-due"]),
    ],
)
def test_the_shell_can_complete(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: str, completed: list[str]
) -> None:
    monkeypatch.setenv("_ASSISTLY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"assistly {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" "))))
    code, out, err = run()
    assert (code, out.split(), err) == (0, completed, "")


def parameters(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """All options and arguments of a command and those under it, with the command's name."""
    yield from ((name, parameter) for parameter in command.params)
    for word, inner in (getattr(command, "commands", None) or {}).items():
        yield from parameters(inner, f"{name} {word}")


def test_each_option_and_argument_has_a_help_text_and_a_plain_name() -> None:
    found = [*parameters(typer.main.get_command(app), "assistly")]
    assert len(found) > 200
    without_help = [(name, each.name) for name, each in found if not (each.help or "").strip()]
    assert without_help == []
    names = {(name, each.name): each.metavar for name, each in found if not getattr(each, "is_flag", False)}
    odd = {where: metavar for where, metavar in names.items() if not metavar or metavar != metavar.upper()}
    assert odd == {}


def test_the_help_names_the_exit_codes(run: Run) -> None:
    out = " ".join(run("--help")[1].split())
    assert "Exit codes: 0 success, 1 failure, 2 wrong usage, 3 the storage cannot be reached." in out
