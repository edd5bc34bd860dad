"""`assistly platforms`: what it refuses, what it remarks, and how it words limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from assistly.storage import Storage, open_storage

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Storage]:
    monkeypatch.setenv("STORAGE_ENGINE", "sqlite")
    monkeypatch.setenv("SQLITE_PATH", str(tmp_path / "cli.db"))
    with open_storage(auto_prune=False) as storage:
        yield storage


@pytest.mark.parametrize("until", ["2026-01-02T01:00+01:00", "+0s"])
def test_a_pause_until_a_past_time_is_refused_and_ends_none(storage: Storage, run: Run, until: str) -> None:
    paused = storage.platforms.pause("blog", reason="they are down")
    code, out, err = run("platforms", "pause", "blog", "--until", until, "--utc")
    assert (code, out) == (1, "")
    time, _, rest = err.splitlines()[1].partition(" is in the past: nothing was changed; ")
    assert rest == "`assistly platforms resume blog` ends a pause"
    assert time == "assistly: --until 2026-01-02 00:00:00Z" or until == "+0s"
    assert storage.platforms.get("blog") == paused
    assert storage.events.list() == []


@pytest.mark.parametrize("command", [("pause", "blgo"), ("limit", "blgo", "5", "--per", "1h")])
def test_a_name_without_jobs_is_remarked(storage: Storage, run: Run, command: tuple[str, ...]) -> None:
    storage.queue.schedule("blog", "hello")
    code, out, err = run("platforms", *command, "--json")
    assert (code, json.loads(out)["name"]) == (0, "blgo")
    assert err.splitlines()[1:] == [
        "note: blgo has no jobs, and was never paused or limited; did you mean blog?"
    ]
    assert run("platforms", *command)[2].count("\n") == 0  # it is known now


def test_a_name_that_is_like_no_other_is_remarked_without_a_question(storage: Storage, run: Run) -> None:
    storage.queue.schedule("blog", "hello")
    _, _, err = run("platforms", "pause", "x")
    assert err.endswith("note: x has no jobs, and was never paused or limited")


def test_names_of_jobs_and_schedules_are_not_remarked(storage: Storage, run: Run) -> None:
    storage.queue.cancel(storage.queue.schedule("blog", "hello").id)
    storage.schedules.put("weekly", "gallery", "hello", every=timedelta(days=7), enabled=False)
    for name in ("blog", "gallery"):
        code, _, err = run("platforms", "pause", name)
        assert (code, "note" in err) == (0, False)


def test_limits_are_worded_as_by_status(storage: Storage, run: Run) -> None:
    storage.queue.schedule("blog", "hello")
    assert run("platforms", "limit", "blog", "3", "--per", "90s")[1] == (
        "blog: not paused, limit 3 jobs in 1 min 30 s\n"
    )
    assert "3 jobs in 1 min 30 s" in run("platforms", "list")[1]
    assert "limit 3 jobs in 1 min 30 s, 3 free now" in run("status")[1]


def test_who_has_paused_is_said_before_until_when(storage: Storage, run: Run) -> None:
    job = storage.queue.schedule("blog", "hello")
    run("platforms", "pause", "blog", "--by", "ada", "--note", "they are down")
    assert "paused by ada until somebody resumes it: they are down" in run("status")[1]
    assert (
        "is paused by ada until somebody resumes it: they are down. `assistly" in run("why", str(job.id))[1]
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["limit", "x", "3", "--per", "0s"], "'--per': it must be greater than zero: 90s, 30m, 1h"),
        (["pause", "x", "--until", "tomorrow"], "2026-03-01T08:00Z, or +2h for two hours from now"),
        (["pause", "x", "--until", "+999999w"], "out of range"),
    ],
)
@pytest.mark.usefixtures("storage")
def test_what_is_no_duration_and_no_time(run: Run, command: list[str], words: str) -> None:
    code, out, err = run("platforms", *command)
    assert (code, out) == (2, "")
    assert words in " ".join(err.split())


def test_platforms_that_have_jobs_are_listed(storage: Storage, run: Run) -> None:
    storage.queue.schedule("blog", "hello")
    storage.platforms.pause("gallery")
    listed = json.loads(run("platforms", "list", "--json")[1])["platforms"]
    assert [(platform["name"], platform["paused"]) for platform in listed] == [
        ("blog", False),
        ("gallery", True),
    ]
    assert [*listed[0]] == [*listed[1]]
    lines = run("platforms", "list")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["platform", "blog", "gallery"]
