"""Every command, as a process: on a filled and on an empty storage, in a terminal, piped, and in trouble."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer.main

from assistly.cli import app
from assistly.storage import Storage, open_storage
from cli.cli_processes import COLUMNS, CommandProcesses, Ended

CANARY = "canary-7f3a"
DONE, NOT_DONE, USAGE, UNAVAILABLE = range(4)


@dataclass(frozen=True)
class Case:
    """A call of a command that succeeds on the records of `fill`."""

    call: str
    on_empty: int = NOT_DONE
    creates: bool = False
    json: bool = True
    answers: bool = False
    """Whether it says on stdout, as its answer, what is wrong."""

    @property
    def name(self) -> str:
        """The words of the command itself."""
        words = self.call.split()
        return " ".join(words[:2] if words[0] in GROUPS else words[:1])


GROUPS = {"jobs", "approvals", "platforms", "schedules", "sessions", "events", "locks", "keys"}
CASES = [
    Case("status", DONE),
    Case("why {waiting}", answers=True),
    Case("jobs list", DONE),
    Case("jobs show {waiting}"),
    Case("jobs add mastodon hello", DONE),
    Case("jobs import posts.jsonl", DONE),
    Case("jobs cancel {waiting}"),
    Case("jobs move {waiting} +2h"),
    Case("jobs remove {waiting} --yes"),
    Case("jobs replay {dead}"),
    Case("jobs resolve {unknown} --posted --remote-id 17"),
    Case("approvals list", DONE),
    Case("approvals show {approval}"),
    Case("approvals approve {approval}"),
    Case("approvals reject {approval}"),
    Case("platforms list", DONE),
    Case("platforms pause mastodon --until +2h", DONE),
    Case("platforms resume bluesky"),
    Case("platforms limit mastodon 100 --per 1h", DONE),
    Case("schedules list", DONE),
    Case("schedules show weekly"),
    Case("schedules put daily mastodon hello --every 1d", DONE),
    Case("schedules preview weekly"),
    Case("schedules run", DONE),
    Case("schedules enable weekly"),
    Case("schedules disable weekly"),
    Case("schedules remove weekly"),
    Case("sessions list", DONE),
    Case("sessions show {user}"),
    Case("sessions delete {user} --yes"),
    Case("events list", DONE),
    Case("locks list", DONE),
    Case("locks release {lock} --yes"),
    Case("keys show {key}"),
    Case("keys forget {key}"),
    Case("metrics", DONE),
    Case("doctor", DONE, answers=True),
    Case("migrate", DONE, creates=True),
    Case("prune --force", DONE),
    Case("maintain", DONE),
    Case("export storage.gz", DONE),
    Case("worker --publish mastodon=stdout --drain", DONE, creates=True, json=False),
    Case("dead-letters", DONE),
    Case("replay {dead}"),
    Case("resolve {unknown} --not-posted"),
    Case("cancel {waiting}"),
]
ELSEWHERE = {
    "config": "below: it opens no storage",
    "import": "below: it is for an empty storage",
    "copy": "below: it takes its storages as arguments",
    "events follow": "below: it goes on until Ctrl-C",
    "web": "tests/web/test_web_command.py: it goes on until Ctrl-C",
    "demo": "tests/cli/test_demo.py: it makes a database of its own",
    "conformance": "tests/contract/test_conformance.py: it makes databases of its own",
}

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_every_command_is_here() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined] # it is a group
    names = set()
    for name, command in commands.items():
        parts = getattr(command, "commands", None)
        names |= {name} if parts is None else {f"{name} {part}" for part in parts}
        assert (name in GROUPS) == (parts is not None)
    assert names == {case.name for case in CASES} | set(ELSEWHERE)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandProcesses]:
    folder = tmp_path_factory.mktemp("commands")
    (folder / "dangling.db").symlink_to("nowhere.db")
    (folder / "posts.jsonl").write_text('{"platform": "mastodon", "content": "from a file"}\n')
    with closing(CommandProcesses(folder)) as running:
        yield running


Place = dict[str, str]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def new_place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Place]:
    """Gives the settings of a storage that does not exist yet. Its password on Postgres is the canary."""

    def on_sqlite() -> Place:
        return {"STORAGE_ENGINE": "sqlite", "SQLITE_PATH": str(tmp_path_factory.mktemp("place") / "a.db")}

    def on_postgres() -> Place:
        url = request.getfixturevalue("database_url")
        schema = request.getfixturevalue("new_schema")()
        return {
            "STORAGE_ENGINE": "postgres",
            "DATABASE_URL": url
            if os.environ.get("ASSISTLY_TEST_DATABASE_URL")
            else f"{url}&password={CANARY}",
            "STORAGE_SCHEMA": schema,
        }

    return on_sqlite if request.param == "sqlite" else on_postgres


@pytest.fixture(scope="module")
def absent(new_place: Callable[[], Place]) -> Place:
    return new_place()


@pytest.fixture(scope="module")
def empty(new_place: Callable[[], Place]) -> Place:
    place = new_place()
    _opened(place).close()
    return place


@pytest.fixture(scope="module")
def storage(new_place: Callable[[], Place]) -> Iterator[tuple[Place, Storage]]:
    place = new_place()
    with _opened(place) as opened:
        yield place, opened


@pytest.fixture
def filled(storage: tuple[Place, Storage]) -> tuple[Place, dict[str, str]]:
    place, opened = storage
    return place, fill(opened)


def _opened(place: Place) -> Storage:
    keywords: dict[str, Any] = {
        variable.lower().removeprefix("storage_"): value for variable, value in place.items()
    }
    return open_storage(auto_prune=False, **keywords)


def fill(storage: Storage) -> dict[str, str]:
    """Add a record of each kind, and return their ids."""
    queue = storage.queue
    waiting = queue.schedule("mastodon", "a post that waits", datetime.now(UTC) + timedelta(hours=1))
    ids = {"waiting": waiting.id}
    for name in ("dead", "unknown"):
        queue.schedule(name, f"a post that is {name}")
        [claimed] = queue.claim_due(worker_id="worker-1", limit=1, platforms=[name])
        begun = queue.begin_publish(claimed)
        settled = (
            queue.mark_failed(begun, "no such account", retryable=False)
            if name == "dead"
            else queue.mark_unknown(begun, "no answer")
        )
        ids[name] = settled.id
    storage.platforms.pause("bluesky", reason="maintenance")
    storage.schedules.put("weekly", "mastodon", "every week", cron="0 9 * * MON")
    number = waiting.id
    storage.approvals.add(f"approval-{number}", {"text": "may it be posted?"})
    storage.sessions.put(f"user-{number}", {"step": 1})
    storage.lock.acquire("worker-1", name=f"lock-{number}")
    storage.idempotency.put(f"key-{number}", {"text": "done"})
    return {key: str(id) for key, id in ids.items()} | {
        "approval": f"approval-{number}",
        "user": f"user-{number}",
        "lock": f"lock-{number}",
        "key": f"key-{number}",
    }


def no_secret_and_no_traceback(*ended: Ended) -> None:
    for one in ended:
        assert CANARY not in one.out + one.err
        assert "Traceback" not in one.out + one.err


def the_only_line(ended: Ended, case: Case) -> str:
    """What it says is wrong: one line on stderr, behind the one that names the storage, or its answer."""
    lines = [line for line in ended.err.splitlines() if not line.startswith("storage: ")]
    if case.answers and ended.out:
        assert lines == []
        return ended.out
    assert ended.out == ""
    assert len(lines) == 1, lines
    assert lines[0].startswith("assistly: ")
    return lines[0]


@each_case
def test_it_succeeds_in_a_pipe(
    processes: CommandProcesses, filled: tuple[Place, dict[str, str]], case: Case
) -> None:
    place, ids = filled
    arguments = case.call.format(**ids).split() + (["--json"] if case.json else [])
    ended = processes.piped(arguments, place)
    no_secret_and_no_traceback(ended)
    assert (ended.code, "\x1b" in ended.out + ended.err) == (DONE, False), ended.err
    if case.json:
        json.loads(ended.out)
        assert f"storage: {place['STORAGE_ENGINE']}" in ended.err


@each_case
@pytest.mark.parametrize("new_place", ["sqlite"], indirect=True)
def test_it_succeeds_in_a_terminal(
    processes: CommandProcesses, filled: tuple[Place, dict[str, str]], case: Case
) -> None:
    place, ids = filled
    ended = processes.in_terminal(case.call.format(**ids).split(), {**place, "NO_COLOR": "1"})
    no_secret_and_no_traceback(ended)
    assert (ended.code, ended.is_coloured) == (DONE, False), ended.out
    table = [line for line in ended.lines if not line.startswith("storage: ")]
    assert all(len(line) <= COLUMNS for line in table if " " in line), table


@each_case
def test_nothing_is_there(processes: CommandProcesses, empty: Place, case: Case) -> None:
    ended = processes.piped(case.call.format_map(Missing()).split(), empty)
    no_secret_and_no_traceback(ended)
    assert ended.code == case.on_empty, ended.err
    if case.on_empty == NOT_DONE:
        the_only_line(ended, case)


class Missing(dict[str, str]):
    """Ids of no record."""

    def __missing__(self, kind: str) -> str:
        return "999999"


@each_case
def test_no_database_is_created(
    processes: CommandProcesses, new_place: Callable[[], Place], case: Case
) -> None:
    place = new_place()
    ended = processes.piped(case.call.format_map(Missing()).split(), place)
    no_secret_and_no_traceback(ended)
    if case.creates:
        assert ended.code == DONE, ended.err
        return
    assert ended.code == NOT_DONE
    assert "assistly migrate" in the_only_line(ended, case)
    if place["STORAGE_ENGINE"] == "sqlite":
        assert not Path(place["SQLITE_PATH"]).exists()


@each_case
def test_wrong_arguments(processes: CommandProcesses, case: Case) -> None:
    ended = processes.piped([*case.name.split(), "a", "b", "c", "--nonsense"], {})
    no_secret_and_no_traceback(ended)
    assert (ended.code, ended.out) == (USAGE, "")
    assert f"Usage: assistly {case.name}" in ended.err


@each_case
def test_the_server_is_down(processes: CommandProcesses, case: Case) -> None:
    url = f"postgresql://somebody:{CANARY}@127.0.0.1:1/nothing?connect_timeout=1"
    arguments = case.call.format_map(Missing()).split()
    ended = processes.piped(arguments, {"STORAGE_ENGINE": "postgres", "DATABASE_URL": url})
    no_secret_and_no_traceback(ended)
    assert ended.code == UNAVAILABLE, ended.err
    assert "cannot connect to Postgres" in the_only_line(ended, case)


@pytest.mark.parametrize("case", [CASES[0], *(case for case in CASES if case.creates)])
def test_a_file_that_is_no_database(processes: CommandProcesses, tmp_path: Path, case: Case) -> None:
    file = tmp_path / "holiday.jpg"
    file.write_bytes(b"not a database" * 1000)
    arguments = case.call.format_map(Missing()).split()
    ended = processes.piped(arguments, {"STORAGE_ENGINE": "sqlite", "SQLITE_PATH": str(file)})
    no_secret_and_no_traceback(ended)
    assert ended.code == NOT_DONE, ended.err
    assert "the file is no SQLite database" in the_only_line(ended, case)
    assert file.read_bytes() == b"not a database" * 1000


@pytest.mark.parametrize("call", ["status", "export all.gz", "doctor"])
@pytest.mark.parametrize("path", ["x" * 300, "posts.jsonl/a.db", "dangling.db", "."])
def test_a_path_of_no_database(processes: CommandProcesses, path: str, call: str) -> None:
    ended = processes.piped(call.split(), {"STORAGE_ENGINE": "sqlite", "SQLITE_PATH": path})
    no_secret_and_no_traceback(ended)
    assert ended.code == NOT_DONE
    assert "SQLITE_PATH" in the_only_line(ended, Case(call, answers=True))


def test_config(processes: CommandProcesses, absent: Place) -> None:
    ended = processes.piped(["config", "--json"], absent)
    shown = processes.in_terminal(["config"], absent)
    no_secret_and_no_traceback(ended, shown)
    assert (ended.code, shown.code) == (DONE, DONE)
    assert json.loads(ended.out)


def test_events_are_followed_until_an_interrupt(
    processes: CommandProcesses, filled: tuple[Place, dict[str, str]]
) -> None:
    place, _ = filled
    processes.piped(["jobs", "add", "mastodon", "hello", "--by", "ann"], place)
    follow = ["events", "follow", "--since-id", "0"]
    ended = processes.in_terminal(follow, place, interrupt_after='"by": "ann"')
    no_secret_and_no_traceback(ended)
    assert ended.code == DONE


def test_a_storage_is_moved(
    processes: CommandProcesses, filled: tuple[Place, dict[str, str]], new_place: Callable[[], Place]
) -> None:
    """Exported, imported and copied; in a terminal with progress, and in a pipe without."""
    place, ids = filled
    target = new_place()
    ends = [
        processes.in_terminal(["export", "moved.gz"], place),
        processes.piped(["import", "moved.gz", "--create", "--json"], target),
        processes.piped(["jobs", "show", ids["dead"], "--json"], target),
        processes.piped(["import", "moved.gz"], place),
    ]
    no_secret_and_no_traceback(*ends)
    assert [one.code for one in ends] == [DONE, DONE, DONE, NOT_DONE]
    if place["STORAGE_ENGINE"] == "sqlite":
        copied = processes.in_terminal(["copy", place["SQLITE_PATH"], "copied.db"], {})
        again = processes.piped(["copy", place["SQLITE_PATH"], "copied.db"], {})
        no_secret_and_no_traceback(copied, again)
        assert (copied.code, again.code) == (DONE, NOT_DONE)
