from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from assistly.operations import audit
from assistly.storage import Schedule, Storage, StorageUnavailable, open_storage

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
    assert code == 0
    assert err.startswith("storage: sqlite ")
    assert "0 9 * * MON Europe/Berlin" in out
    assert "09:00:00+0" in out
    weekly = only(storage)
    assert (weekly.id, weekly.platform, weekly.content) == ("weekly", "mastodon", "Good morning")
    assert (weekly.cron, weekly.zone, weekly.enabled) == ("0 9 * * MON", "Europe/Berlin", True)

    options = "--every 6h --from 2026-03-01T09:00+01:00 --until 2036-03-01T08:00Z --max-lateness 90m"
    more = ["--max-retries", "4", "--catch-up", "last", "--disabled", "--metadata", '{"a": [1]}']
    code, out, _ = schedules("put", "weekly", "x", "other", *options.split(), *more)
    assert code == 0
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
        (["--every", "6"], "'6' is not a duration: write 90s"),
        (["--every", ""], "is not a duration"),
        (["--every", "1.5h"], "is not a duration"),
        (["--every", "9" * 30 + "w"], "is not a duration"),
        (["--every", "1d", "--from", "2026-03-01"], "not a time with an offset"),
        (["--every", "1d", "--from", "monday"], "not a time with an offset"),
        (["--every", "1d", "--metadata", "[1]"], "must be a JSON object"),
        (["--every", "1d", "--metadata", "{"], "it is not JSON"),
        (["--every", "1d", "--metadata", "[" * 100_000], "it is not JSON"),
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
        (["--cron", "0 9 * *"], "has 4 fields"),
        (["--cron", "0 9 * * FRI-MON"], "(bad day-of-week; a range goes upwards, and a week from SUN to SAT"),
        (["--cron", "0 9 * * FRY"], "(bad day-of-week):"),
        (["--cron", "0 9 * * *", "--zone", "Berlin"], "Europe/Berlin"),
        (["--every", "1d", "--catch-up", "some"], "none, last, all"),
    ],
)
def test_what_the_storage_refuses_is_one_line(
    schedules: Run, storage: Storage, options: list[str], words: str
) -> None:
    code, out, err = schedules("put", "a", "x", "hello", *options)
    assert (code, out) == (1, "")
    place, error = err.splitlines()
    assert place.startswith("storage: ")
    assert error.startswith("assistly: ")
    assert words in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "give either --cron '0 9 * * MON' or --every 6h"),
        (["--cron", "0 9 * * MON", "--every", "6h"], "give either --cron '0 9 * * MON' or --every 6h"),
        (["--every", "0s"], "'--every': it must be greater than zero: 90s, 30m, 1h"),
    ],
)
def test_options_that_do_not_fit_are_wrong_usage(
    schedules: Run, storage: Storage, options: list[str], words: str
) -> None:
    code, out, err = schedules("put", "a", "x", "hello", *options)
    assert (code, out) == (2, "")
    assert words in " ".join(err.split())
    assert storage.schedules.list() == []


def test_first_and_last_time_may_be_given_from_now(schedules: Run, storage: Storage) -> None:
    before = datetime.now(UTC)
    assert schedules("put", "a", "x", "hello", "--every", "90m", "--from", "+2h", "--until", "+2d")[0] == 0
    schedule = only(storage)
    assert schedule.ends_at is not None
    for time, ahead in ((schedule.starts_at, timedelta(hours=2)), (schedule.ends_at, timedelta(days=2))):
        assert timedelta(0) <= time - before - ahead < timedelta(minutes=1)
    assert "every 1 h 30 min" in schedules("show", "a")[1]


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
    assert "every 6 h " in rows["b"]
    assert "disabled" in rows["b"]
    assert "ended" in rows["c"]
    assert "there may be more: --after a" in schedules("list", "--limit", "1")[2]
    assert "two" in schedules("list", "--after", "a")[1]


def test_show_and_preview(schedules: Run, storage: Storage) -> None:
    storage.schedules.put("a", "x", "hello", cron="0 9 * * *", zone="Asia/Tokyo", metadata={"k": "é"})
    out = schedules("show", "a")[1]
    assert '{"k": "é"}' in out
    assert "0 9 * * * Asia/Tokyo" in out
    code, out, _ = schedules("preview", "a", "3")
    assert code == 0
    assert [line[10:] for line in out.splitlines()] == [" 09:00:00+09:00"] * 3
    assert [line[10:] for line in schedules("preview", "a", "2", "--utc")[1].splitlines()] == [
        " 00:00:00Z"
    ] * 2
    storage.schedules.put("a", "x", "hello", every=timedelta(1), ends_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert schedules("preview", "a")[1] == "the schedule has ended\n"


def test_run_makes_jobs_once(schedules: Run, storage: Storage) -> None:
    storage.schedules.put("a", "x", "hello", cron="0 * * * *")
    assert schedules("run", "--ahead", "5h")[:2] == (0, "5 jobs created\n")
    assert schedules("run", "--ahead", "5h")[:2] == (0, "0 jobs created\n")
    assert schedules("run")[:2] == (0, "19 jobs created\n")
    assert len(storage.queue.upcoming()) == 24


def test_enable_disable_and_remove(schedules: Run, storage: Storage) -> None:
    storage.schedules.put("a", "x", "hello", cron="0 * * * *")
    storage.schedules.run()
    assert "disabled" in schedules("disable", "a")[1]
    assert storage.queue.upcoming() == []
    assert "disabled" not in schedules("enable", "a")[1]
    assert schedules("remove", "a")[:2] == (0, "removed the schedule 'a' and 0 waiting jobs\n")
    assert storage.schedules.list() == []


def test_it_is_said_how_many_waiting_jobs_went(schedules: Run, storage: Storage) -> None:
    for id in ("a", "a:b"):
        storage.schedules.put(id, "x", "hello", cron="0 * * * *")
    storage.queue.schedule("x", "by hand", idempotency_key="schedule:a:b")
    storage.schedules.run(ahead=timedelta(hours=5))
    assert "removed 5 waiting jobs of this schedule" in schedules("disable", "a")[2]
    assert len(storage.queue.upcoming()) == 6
    removed = json.loads(schedules("remove", "a:b", "--json")[1])
    assert removed == {"removed": "a:b", "removed_jobs": 5}
    assert [job.content for job in storage.queue.upcoming()] == ["by hand"]
    assert [event.payload["removed_jobs"] for event in storage.events.list()] == [5, 5]


@pytest.mark.parametrize("command", ["show", "enable", "disable", "remove", "preview"])
def test_a_schedule_that_does_not_exist(schedules: Run, storage: Storage, command: str) -> None:
    code, out, err = schedules(command, "nothing")
    assert (code, out) == (1, "")
    assert err.splitlines()[1:] == ["assistly: there is no schedule 'nothing'"]
    assert storage.events.list() == []


def test_json(schedules: Run, storage: Storage) -> None:
    assert json.loads(schedules("list", "--json")[1]) == {"schedules": [], "next": None}
    code, out, _ = schedules(*WEEKLY, "--json")
    weekly = json.loads(out)
    assert (code, weekly["id"], weekly["zone"], weekly["no_next"]) == (0, "weekly", "Europe/Berlin", None)
    (slot,) = storage.schedules.preview("weekly", 1)
    assert datetime.fromisoformat(weekly["next_at"]) == slot
    assert json.loads(schedules("show", "weekly", "--json")[1]) == weekly
    assert json.loads(schedules("list", "--limit", "1", "--json")[1]) == {
        "schedules": [weekly],
        "next": "weekly",
    }
    preview = json.loads(schedules("preview", "weekly", "1", "--json")[1])
    assert preview == {"id": "weekly", "zone": "Europe/Berlin", "times": [weekly["next_at"]]}
    made = json.loads(schedules("run", "--ahead", "2w", "--json")[1])
    assert made == {"made": 2, "jobs": [job.id for job in storage.queue.upcoming()]}
    disabled = json.loads(schedules("disable", "weekly", "--json")[1])
    assert (disabled["enabled"], disabled["next_at"], disabled["no_next"]) == (False, None, "disabled")
    assert json.loads(schedules("remove", "weekly", "--json")[1]) == {
        "removed": "weekly",
        "removed_jobs": 0,
    }


def test_changes_leave_events(engine: str, run: Run) -> None:
    who = ("--by", "ann", "--note", "why")
    long = [*WEEKLY[:3], "Good morning" + "!" * 1000, *WEEKLY[4:]]
    with open_storage(auto_prune=False) as storage:
        assert run("schedules", *long, *who)[0] == 0
        for command in ("disable", "enable", "remove"):
            assert run("schedules", command, "weekly", *who)[0] == 0
        assert run("schedules", "run")[0] == 0
        events = storage.events.read_after(0)
    assert [event.event_type for event in events] == [
        "operator.schedules.put",
        "operator.schedules.disable",
        "operator.schedules.enable",
        "operator.schedules.remove",
    ]
    assert all(
        event.payload.items() >= {"by": "ann", "note": "why", "schedule": "weekly"}.items()
        for event in events
    )
    for event in (events[0], events[3]):
        assert event.payload["times"] == "0 9 * * MON Europe/Berlin"
        assert event.payload["platform"] == "mastodon"
        assert event.payload["content"] == "Good morning" + "!" * 988
    assert events[1].payload["removed_jobs"] == events[3].payload["removed_jobs"] == 0


@pytest.mark.parametrize(
    "arguments", [("put", "a", "x", "other", "--every", "1d"), ("disable", "a"), ("remove", "a")]
)
def test_a_change_without_its_event_is_undone(
    schedules: Run, storage: Storage, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    before = storage.schedules.put("a", "x", "hello", cron="0 9 * * *")

    def fail(*_: object, **__: object) -> None:
        raise StorageUnavailable("no events today")

    monkeypatch.setattr(audit, "record", fail)
    assert schedules(*arguments)[0] == 3
    assert only(storage) == before


@pytest.mark.parametrize("command", [("list",), ("run",), ("put", "a", "x", "hello", "--every", "1d")])
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_no_database_is_made(engine: str, run: Run, command: tuple[str, ...]) -> None:
    code, out, err = run("schedules", *command)
    assert (code, out) == (1, "")
    assert "there is no database yet" in err
    assert not Path("cli.db").exists()
