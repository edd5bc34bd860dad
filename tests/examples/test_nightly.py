"""examples/nightly.py: run, run twice, run at once, and killed."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from assistly.storage import JobStatus, Storage, open_storage
from examples import nightly

ROOT = Path(__file__).resolve().parents[2]
DAY = date(2031, 3, 2)
MORNING = datetime(2031, 3, 2, 8, tzinfo=UTC)
PATIENCE = 60.0


def post(command: str, at: datetime = MORNING, **changes: Any) -> dict[str, Any]:
    return {
        "command": command,
        "platform": "mastodon",
        "content": f"The post {command}",
        "at": at.isoformat(),
    } | changes


POSTS = [
    post("bread"),
    post("rolls", MORNING + timedelta(minutes=10)),
    post("bread"),
    post("tomorrow", MORNING + timedelta(days=1)),
]


def scheduled(storage: Storage) -> dict[str | None, datetime]:
    return {job.idempotency_key: job.scheduled_at for job in storage.queue.list(limit=1000)}


def write(folder: Path, posts: list[dict[str, Any]]) -> str:
    path = folder / "calendar.jsonl"
    path.write_text("\n".join(map(json.dumps, posts)) + "\n", encoding="utf-8")
    return str(path)


def test_the_posts_of_the_day_are_scheduled_with_a_gap(storage: Storage) -> None:
    report = nightly.run(storage, POSTS, DAY)
    assert report is not None
    assert scheduled(storage) == {"bread": MORNING, "rolls": MORNING + nightly.MIN_GAP}
    assert (report["scheduled"], report["refused"], report["queue"]["scheduled"]) == (2, [], 2)
    snapshot = storage.snapshots.get("nightly")
    assert snapshot is not None
    assert snapshot.payload == report
    assert storage.lock.current("nightly") is None
    assert not storage.prune().ran


def test_the_shipped_calendar_fits(storage: Storage) -> None:
    posts = [json.loads(line) for line in nightly.POSTS.read_text("utf-8").splitlines()]
    busiest = date(2026, 3, 3)
    expected = {
        entry["command"]
        for entry in posts
        if entry["at"].startswith(busiest.isoformat()) and not entry.get("approval")
    }
    report = nightly.run(storage, posts, busiest)
    assert report is not None
    assert report["scheduled"] == len(expected) > 5
    assert {*scheduled(storage)} == expected


def test_a_second_run_on_the_day_schedules_nothing(storage: Storage) -> None:
    first = nightly.run(storage, POSTS, DAY)
    second = nightly.run(storage, [*POSTS, post("late", MORNING + timedelta(hours=5))], DAY)
    assert second == first
    assert len(scheduled(storage)) == 2
    third = nightly.run(storage, POSTS, DAY + timedelta(days=1))
    assert third is not None
    assert {*scheduled(storage)} == {"bread", "rolls", "tomorrow"}


def test_what_needs_a_person_is_left_out(storage: Storage) -> None:
    storage.queue.schedule("mastodon", "Something else", idempotency_key="taken")
    report = nightly.run(storage, [post("draft", approval=True), post("taken"), post("bread")], DAY)
    assert report is not None
    assert (report["scheduled"], report["refused"]) == (1, ["taken"])
    assert {*scheduled(storage)} == {"bread", "taken"}


def test_a_run_leaves_it_to_the_one_that_holds_the_lock(storage: Storage) -> None:
    lock = storage.lock.acquire("another", name="nightly")
    assert lock is not None
    assert nightly.run(storage, POSTS, DAY) is None
    assert scheduled(storage) == {}
    assert storage.lock.current("nightly") == lock


def test_a_run_that_lost_the_lock_stores_nothing(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    acquire = storage.lock.acquire

    def lapse(*arguments: Any, **options: Any) -> Any:
        lock = acquire(*arguments, **options)
        assert lock is not None
        storage.lock.release(lock)
        acquire("another", name="nightly")
        return lock

    monkeypatch.setattr(storage.lock, "acquire", lapse)
    assert nightly.run(storage, POSTS, DAY) is None
    assert scheduled(storage) == {}
    current = storage.lock.current("nightly")
    assert current is not None
    assert current.owner_id == "another"


def test_a_failure_in_the_middle_leaves_the_day_to_the_next_run(storage: Storage) -> None:
    with pytest.raises(KeyError):
        nightly.run(storage, [*POSTS, {"at": MORNING.isoformat()}], DAY)
    assert scheduled(storage) == {}
    assert storage.lock.current("nightly") is None
    report = nightly.run(storage, POSTS, DAY)
    assert report is not None
    assert report["scheduled"] == 2


def test_runs_at_once_schedule_the_day_once(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = itertools.count()
    monkeypatch.setattr(socket, "gethostname", lambda: f"host-{next(hosts)}")
    reports: list[Any] = []
    start = threading.Barrier(6)

    def one() -> None:
        start.wait(PATIENCE)
        reports.append(nightly.run(storage, POSTS, DAY))

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    ran = [report for report in reports if report]
    assert len(reports) == 6
    assert len(ran) > 0
    assert all(report["scheduled"] == 2 for report in ran)
    assert len(scheduled(storage)) == 2


KILL_IT = """
import os, signal, sys
from examples import nightly

schedule = nightly.schedule

def schedule_and_die(tx, post, at):
    schedule(tx, post, at)
    if post["command"] == "rolls":
        os.kill(os.getpid(), signal.SIGKILL)

nightly.schedule = schedule_and_die
nightly.main(sys.argv[1:])
"""


@pytest.mark.parametrize("engine", ["sqlite", "postgres"], indirect=True)
def test_a_killed_run_leaves_the_day_to_the_next_one(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCHEDULE_WORKER_LOCK_SECONDS", "4")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arguments = [write(tmp_path, POSTS), "--day", f"{DAY}"]
    killed = subprocess.run(
        [sys.executable, "-c", KILL_IT, *arguments], timeout=PATIENCE, check=False, capture_output=True
    )
    assert killed.returncode == -9, killed.stderr.decode()
    with open_storage() as storage:
        assert storage.queue.counts()[JobStatus.SCHEDULED] == 0
        assert (
            storage.idempotency.claim(f"nightly:{DAY}", lease=timedelta(microseconds=1)).state == "acquired"
        )
        deadline = time.monotonic() + PATIENCE
        while storage.lock.current("nightly") is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    nightly.main(arguments)
    assert json.loads(capsys.readouterr().out)["scheduled"] == 2


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_script_prints_a_report_or_that_another_run_is_in_progress(engine: str, tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "nightly.py")
    command = [sys.executable, script, write(tmp_path, POSTS), "--day", f"{DAY}"]
    first = subprocess.run(command, timeout=PATIENCE, check=True, capture_output=True, text=True)
    assert json.loads(first.stdout)["scheduled"] == 2
    with open_storage() as storage:
        storage.lock.acquire("another", name="nightly", ttl=timedelta(hours=1))
    second = subprocess.run(command, timeout=PATIENCE, check=True, capture_output=True, text=True)
    assert second.stdout == ""
    assert second.stderr == "another run is in progress, or was killed less than 45 s ago\n"


@pytest.mark.parametrize("content", [None, "{"])
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    path = tmp_path / "calendar.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as caught:
        nightly.main([str(path)])
    assert caught.value.code == 2
    assert f"error: {path} cannot be read: " in capsys.readouterr().err
