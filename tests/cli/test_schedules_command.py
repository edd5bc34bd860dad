from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from assistly.storage import Schedule, Storage, open_storage

Run = Callable[..., tuple[int, str, str]]

WEEKLY = ("put", "weekly", "mastodon", "Good morning", "--cron", "0 9 * * MON", "--zone", "Europe/Berlin")


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Storage]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORAGE_ENGINE", "sqlite")
    monkeypatch.setenv("SQLITE_PATH", "cli.db")
    with open_storage(auto_prune=False) as storage:
        yield storage


@pytest.fixture
def schedules(storage: Storage, run: Run) -> Run:
    """Runs `assistly schedules`."""
    return partial(run, "schedules")


def only(storage: Storage) -> Schedule:
    (schedule,) = storage.schedules.list()
    return schedule


def test_put_stores_all_that_is_given(schedules: Run, storage: Storage) -> None:
    code, out, err = schedules(*WEEKLY)
    assert (code, err) == (0, "")
    assert "0 9 * * MON Europe/Berlin" in out
    assert "09:00:00+0" in out
    weekly = only(storage)
    assert (weekly.id, weekly.platform, weekly.content) == ("weekly", "mastodon", "Good morning")
    assert (weekly.cron, weekly.zone, weekly.enabled) == ("0 9 * * MON", "Europe/Berlin", True)

    options = "--every 6h --from 2026-03-01T09:00+01:00 --until 2036-03-01T08:00Z --max-lateness 90m"
    more = ["--max-retries", "4", "--catch-up", "last", "--disabled", "--metadata", '{"a": [1]}']
    code, out, err = schedules("put", "weekly", "x", "other", *options.split(), *more)
    assert (code, err) == (0, "")
    assert "disabled" in out
    changed = only(storage)
    assert (changed.every, changed.cron) == (timedelta(hours=6), None)
    assert changed.starts_at == datetime(2026, 3, 1, 8, tzinfo=UTC)
    assert changed.ends_at == datetime(2036, 3, 1, 8, tzinfo=UTC)
    assert (changed.max_lateness, changed.max_retries) == (timedelta(minutes=90), 4)
    assert (changed.catch_up, changed.enabled, changed.metadata) == ("last", False, {"a": [1]})


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("6h", timedelta(hours=6)),
        ("1d", timedelta(days=1)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_durations(schedules: Run, storage: Storage, text: str, duration: timedelta) -> None:
    assert schedules("put", "a", "x", "hello", "--every", text)[0] == 0
    assert only(storage).every == duration


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--every", "6"], "'6' is no duration: write 90s"),
        (["--every", ""], "is no duration"),
        (["--every", "1.5h"], "is no duration"),
        (["--every", "9" * 30 + "w"], "is no duration"),
        (["--every", "1d", "--from", "2026-03-01"], "no time with an offset"),
        (["--every", "1d", "--from", "monday"], "no time with an offset"),
        (["--every", "1d", "--metadata", "[1]"], "must be a JSON object"),
        (["--every", "1d", "--metadata", "{"], "it is not JSON"),
        (["--every", "1d", "--max-retries", "0"], "max-retries"),
    ],
)
def test_wrong_options_are_refused(schedules: Run, storage: Storage, options: list[str], words: str) -> None:
    code, out, err = schedules("put", "a", "x", "hello", *options)
    assert (code, out) == (2, "")
    assert words in " ".join(err.split())
    assert storage.schedules.list() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "give either cron"),
        (["--cron", "0 9 * *"], "has 4 fields"),
        (["--cron", "0 9 * * *", "--zone", "Berlin"], "Europe/Berlin"),
        (["--every", "1d", "--catch-up", "some"], "none, last, all"),
    ],
)
def test_what_the_storage_refuses_is_one_line(
    schedules: Run, storage: Storage, options: list[str], words: str
) -> None:
    code, out, err = schedules("put", "a", "x", "hello", *options)
    assert (code, out) == (1, "")
    assert err.startswith("assistly: ")
    assert words in err
    assert "\n" not in err


def test_list(schedules: Run, storage: Storage) -> None:
    assert schedules("list")[:2] == (0, "no schedules\n")
    storage.schedules.put("a", "x", "one\x1b[31m", cron="0 9 * * *", zone="Asia/Tokyo")
    storage.schedules.put("b", "x", "two", every=timedelta(hours=6), enabled=False)
    now = datetime.now(UTC)
    storage.schedules.put("c", "x", "three", every=timedelta(1), ends_at=now - timedelta(1))
    code, out, _ = schedules("list")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0
    assert "09:00:00+09:00" in rows["a"]
    assert "\x1b" not in out
    assert "every 6:00:00" in rows["b"]
    assert "disabled" in rows["b"]
    assert "ended" in rows["c"]
    out = schedules("list", "--limit", "1")[1]
    assert "there may be more: --after a" in out
    assert "two" in schedules("list", "--after", "a")[1]


def test_show_and_preview(schedules: Run, storage: Storage) -> None:
    storage.schedules.put("a", "x", "hello", cron="0 9 * * *", zone="Asia/Tokyo", metadata={"k": "é"})
    out = schedules("show", "a")[1]
    assert '{"k": "é"}' in out
    assert "0 9 * * * Asia/Tokyo" in out
    code, out, _ = schedules("preview", "a", "3")
    assert code == 0
    assert [line[10:] for line in out.splitlines()] == [" 09:00:00+09:00"] * 3
    storage.schedules.put("a", "x", "hello", every=timedelta(1), ends_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert schedules("preview", "a")[1] == "it has ended\n"


def test_run_makes_jobs_once(schedules: Run, storage: Storage) -> None:
    storage.schedules.put("a", "x", "hello", cron="0 * * * *")
    assert schedules("run", "--ahead", "5h")[:2] == (0, "5 made\n")
    assert schedules("run", "--ahead", "5h")[:2] == (0, "0 made\n")
    assert schedules("run")[:2] == (0, "19 made\n")
    assert len(storage.queue.upcoming()) == 24


def test_enable_disable_and_remove(schedules: Run, storage: Storage) -> None:
    storage.schedules.put("a", "x", "hello", cron="0 * * * *")
    storage.schedules.run()
    assert "disabled" in schedules("disable", "a")[1]
    assert storage.queue.upcoming() == []
    assert "disabled" not in schedules("enable", "a")[1]
    assert schedules("remove", "a")[:2] == (0, "removed\n")
    assert storage.schedules.list() == []


@pytest.mark.parametrize("command", ["show", "enable", "disable", "remove", "preview"])
def test_a_schedule_that_does_not_exist(schedules: Run, command: str) -> None:
    assert schedules(command, "nothing") == (1, "", "assistly: there is no schedule 'nothing'")
