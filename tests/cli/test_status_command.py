"""`assistly status`."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from assistly.storage import Job, MemoryBackend, NewJob, Storage, open_storage
from assistly.storage.engine import LockStoreBase
from assistly.storage.stores.queue import Queue
from assistly.storage.testing.fixtures import START, FakeClock
from assistly.views import status as view
from assistly.views.metrics import collect
from assistly.web import create_app
from contract.mutants.stores import NaiveEngine, NaiveLocks
from web.browsing import Browser
from worker.worker_harness import HANDLES_SIGINT

Run = Callable[..., tuple[int, str, str]]

MINUTE = timedelta(minutes=1)
NEEDS = ("dead_letters", "missed", "pending_approvals", "expired_leases")

PROGRAM = f"{HANDLES_SIGINT}; from assistly.cli import main; main()"

sqlite_only = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


def test_the_state_of_a_busy_storage() -> None:
    clock = FakeClock(START)
    with Storage(MemoryBackend(), clock=clock, auto_prune=False) as storage:
        storage.queue.schedule("posted", "a")
        storage.queue.mark_posted(storage.queue.claim_due(worker_id="w")[0])
        storage.queue.schedule("busy", "a")
        (busy,) = storage.queue.claim_due(worker_id="w")
        storage.queue.mark_failed(busy, "try later", retry_at=START + 60 * MINUTE)
        storage.queue.schedule("lost", "a")
        (lost,) = storage.queue.claim_due(worker_id="w")
        unknown = storage.queue.mark_unknown(storage.queue.begin_publish(lost), "no answer")
        for platform in ("alone", "paused", "paused", "limited"):
            storage.queue.schedule(platform, "a")
        storage.platforms.pause("paused", reason="down", by="ann")
        storage.platforms.limit("limited", 5, MINUTE)
        storage.platforms.take("limited", 5)
        for name, minutes in (("worker", 60), ("nightly", 60), ("expired", 11)):
            storage.lock.acquire("me", ttl=minutes * MINUTE, name=name)
        clock.advance(11 * MINUTE)
        found = view.status(storage, now=clock())
    assert {name: count.count for name, count in found.counts.items() if count.count} == {
        "scheduled": 4,
        "retrying": 1,
        "dead_letter": 1,
        "posted": 1,
    }
    assert (found.next_due_at, found.oldest_due_age) == (START + 60 * MINUTE, 11 * MINUTE)
    platforms = {platform.name: platform for platform in found.platforms}
    assert sorted(platforms) == ["alone", "busy", "limited", "lost", "paused", "posted"]
    assert found.without_worker == ["alone", "limited"]
    paused = platforms["paused"]
    assert (paused.paused, paused.pause_reason, paused.due.count, paused.worker_seen) == (
        *(True, "down", 2),
        None,
    )
    assert (platforms["limited"].limit, platforms["limited"].available) == ((5, MINUTE), 5)
    assert [job.last_error for job in found.retrying] == ["try later"]
    assert (found.unknown_count.count, found.unknown) == (1, [unknown])
    assert [lock.name for lock in found.locks] == ["nightly", "worker"]
    assert (found.size_bytes, found.sizes) == (None, {})


def test_paused_platforms_are_left_out_of_what_is_due() -> None:
    clock = FakeClock(START)
    with Storage(MemoryBackend(), clock=clock, auto_prune=False) as storage:
        for platform, minutes in (("paused", 0), ("paused", 20), ("x", 5), ("x", 30)):
            storage.queue.schedule(platform, "a", START + minutes * MINUTE)
        storage.platforms.pause("paused")
        clock.advance(11 * MINUTE)
        found = view.status(storage, now=clock())
        assert (found.oldest_due_age, found.next_due_at) == (6 * MINUTE, START + 30 * MINUTE)
        assert collect(storage, now=clock()).oldest_due_age == 6 * MINUTE
        storage.platforms.pause("x")
        found = view.status(storage, now=clock())
        assert (found.oldest_due_age, found.next_due_at) == (None, None)
        assert collect(storage, now=clock()).oldest_due_age is None


@sqlite_only
def test_what_needs_somebody_is_said_with_the_command(
    run: Run, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("migrate")
    assert "needs attention" not in run("status")[1]
    past = datetime.now(UTC) - 60 * MINUTE
    with open_storage(auto_prune=False) as storage:
        queue = storage.queue
        queue.schedule("x", "late", past, max_lateness=MINUTE)
        assert queue.claim_due(worker_id="w") == []
        [late] = queue.list(status="dead_letter")
        assert "." not in (late.dead_letter_reason or "."), "people read no microseconds"
        for _ in range(2):
            queue.schedule("x", "refused")
            queue.mark_failed(queue.claim_due(worker_id="w")[0], "no such account", retryable=False)
        queue.schedule("x", "held")
        assert len(queue.claim_due(worker_id="here", lease=60 * MINUTE)) == 1
        queue.schedule("x", "lost", past)
        assert len(queue.claim_due(worker_id="gone", lease=MINUTE, now=past)) == 1
        for name in ("a1", "a2", "a3"):
            storage.approvals.add(name, {})
        storage.approvals.decide("a3", "approved")
    found = json.loads(run("status", "--json")[1])
    assert [found[key]["count"] for key in NEEDS] == [2, 1, 2, 1]
    out = run("status")[1]
    for words in (
        "2 other dead letters: `assistly jobs list --kind other`",
        "1 missed job, which no worker claimed in time: `assistly jobs list --kind missed`",
        "2 approvals are pending: `assistly approvals list --status pending`",
        "1 job is held under an expired lease: ",
    ):
        assert f"\n  {words}" in out
    for kind, count in (("other", 2), ("missed", 1), ("unknown", 0)):
        for command in (["jobs", "list"], ["dead-letters"]):
            jobs = json.loads(run(*command, "--kind", kind, "--json")[1])["jobs"]
            assert len(jobs) == count, kind
    assert run("jobs", "list", "--kind", "else")[0] == 2
    assert json.loads(run("jobs", "list", "--kind", "other", "--status", "posted", "--json")[1])["jobs"] == []
    monkeypatch.setattr(view, "COUNT_LIMIT", 1)
    assert "\n  1+ approvals are pending" in run("status")[1]


def test_what_is_large_is_counted_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "COUNT_LIMIT", 3)
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        for n in range(4):
            storage.queue.schedule("x", str(n), START)
            storage.queue.mark_posted(storage.queue.claim_due(worker_id="w")[0])
        for n in range(5):
            storage.queue.schedule("x", str(n), START)
        found = view.status(storage)
    assert (found.counts["posted"].count, found.counts["posted"].exact) == (3, False)
    assert (found.counts["scheduled"].count, found.counts["scheduled"].exact) == (3, False)
    assert (found.counts["retrying"].count, found.counts["retrying"].exact) == (0, False)
    assert (found.counts["cancelled"].count, found.counts["cancelled"].exact) == (0, True)
    (platform,) = found.platforms
    assert (platform.due.count, platform.due.exact) == (3, False)


@sqlite_only
def test_that_not_all_waiting_jobs_were_counted_is_said(
    run: Run, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule("retried", "c")
        (job,) = storage.queue.claim_due(worker_id="w")
        storage.queue.mark_failed(job, "a fault", retry_at=datetime.now(UTC) + timedelta(days=3))
        storage.queue.schedule_many(NewJob("x", "c") for _ in range(3))
        storage.platforms.pause("once")
        storage.platforms.resume("once")
        storage.schedules.put("s", "planned", "c", every=timedelta(days=7), enabled=False)
    assert engine == "sqlite"
    sentence = "More than 10,000 jobs wait: only the first 10,000 are counted"
    assert sentence not in run("status")[1] + run("metrics")[1]
    assert json.loads(run("status", "--json")[1])["waiting_truncated"] is False
    monkeypatch.setattr(view, "COUNT_LIMIT", 3)
    assert sentence in run("status")[1]
    assert sentence in run("metrics")[1]
    found = json.loads(run("status", "--json")[1])
    assert found["waiting_truncated"] is json.loads(run("metrics", "--json")[1])["waiting_truncated"] is True
    assert len(found["retrying"]) == 1
    assert found["counts"]["retrying"] == {"count": 1, "exact": False}
    assert [platform["name"] for platform in found["platforms"]] == ["once", "planned", "x"]
    with open_storage(auto_prune=False) as storage:
        browser = Browser(create_app(storage))
        assert sentence in browser.open("/").text
        page = browser.open("/platforms").text
    assert sentence in page
    assert "planned" in page


def test_all_due_jobs_were_counted_if_one_was_that_is_not_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "COUNT_LIMIT", 3)
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        for minutes in (-2, -1, 5, 6):
            storage.queue.schedule("x", "a", START + minutes * MINUTE)
        (platform,) = view.status(storage, now=START).platforms
        assert (platform.counts["scheduled"].exact, platform.due.count, platform.due.exact) == (
            *(False, 2),
            True,
        )
        (platform,) = view.status(storage, now=START + 5 * MINUTE).platforms
        assert (platform.due.count, platform.due.exact) == (3, False)


@pytest.mark.parametrize(("looked_at", "shown"), [(1000, "xxyz"), (14, "xx")])
def test_unknown_outcomes_are_shown_though_many_dead_letters_come_first(
    monkeypatch: pytest.MonkeyPatch, looked_at: int, shown: str
) -> None:
    monkeypatch.setattr(view, "_DEAD_LETTERS", looked_at)
    monkeypatch.setattr(view, "_LETTERS_AT_ONCE", 4)
    with Storage(MemoryBackend(), clock=FakeClock(START), auto_prune=False) as storage:
        storage.queue.schedule_many(NewJob("a", "refused") for _ in range(30))
        storage.queue.schedule_many(NewJob("x", "x") for _ in range(14))
        storage.queue.schedule_many(NewJob(name, "x") for name in "zy")
        jobs = storage.queue.claim_due(worker_id="w")
        lost = {jobs[30].id, *(job.id for job in jobs[-3:])}
        for job in jobs:
            if job.id in lost:
                storage.queue.mark_unknown(storage.queue.begin_publish(job), "no answer")
            else:
                storage.queue.mark_failed(job, "refused", retryable=False)
        found = view.status(storage, now=START)
    assert found.unknown_count == view.JobCount(4)
    assert sorted(job.platform for job in found.unknown) == [*shown]
    assert [job.id for job in found.unknown] == sorted(job.id for job in found.unknown)
    assert {job.id for job in found.unknown} <= lost


def test_few_jobs_are_read_of_many_platforms_without_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"platform {n:02}" for n in range(40)]
    with Storage(MemoryBackend(), clock=FakeClock(START), auto_prune=False) as storage:
        for place, name in enumerate(names):
            storage.queue.schedule(name, "a", START - 60 * MINUTE)
            if place % 2:
                storage.queue.schedule_many(NewJob("later", "a", START + 60 * MINUTE) for _ in range(300))
        read: list[int] = []
        for method in ("list", "upcoming"):
            _count_jobs(monkeypatch, storage.queue, method, read)
        found = view.status(storage, now=START)
        assert found.without_worker == names
        assert sum(read) < 1500
        storage.queue.mark_posted(storage.queue.claim_due(worker_id="w", limit=1)[0])
        assert view.status(storage, now=START).without_worker == names[1:]


def _count_jobs(monkeypatch: pytest.MonkeyPatch, queue: Queue, method: str, read: list[int]) -> None:
    original = getattr(queue, method)

    def counted(**options: Any) -> list[Job]:
        jobs: list[Job] = original(**options)
        read.append(len(jobs))
        return jobs

    monkeypatch.setattr(queue, method, counted)


def test_the_command(run: Run, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run("migrate")
    code, out, err = run("status")
    assert (code, "nothing" in out, "free" in out) == (0, True, True)
    assert err.startswith(f"storage: {engine} ")
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule("x", "a", datetime.now(UTC) - timedelta(hours=2))
        job = storage.queue.schedule("y", "b")
        storage.queue.mark_unknown(
            storage.queue.begin_publish(*storage.queue.claim_due(worker_id="w", platforms=["y"])), "no answer"
        )
    code, out, _ = run("status", "--utc")
    assert code == 0
    assert "has waited 2 h" in out
    assert "no worker was seen on: x" in out
    assert "1 with an unknown outcome" in out
    found = json.loads(run("status", "--json")[1])
    assert (found["engine"], found["without_worker"]) == (engine, ["x"])
    assert found["unknown"][0]["id"] == job.id
    assert found["schema"].endswith(f"_{engine}")
    assert found["size_bytes"] == sum(found["sizes"].values()) > 0
    assert ("cli.db" if engine == "sqlite" else "assistly_queue_jobs") in found["sizes"]
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule("z", "c")
    monkeypatch.setattr(view, "COUNT_LIMIT", 1)
    assert "1+" in run("status")[1]


def test_locks_and_sizes(run: Run, engine: str) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.lock.acquire("host-a:1", ttl=60 * MINUTE, name="nightly")
        out = run("status", "--utc")[1]
        assert ["lock", "nightly", "host-a:1,", "fence", "1,"] in [
            line.split()[:5] for line in out.splitlines()
        ]
        assert ["lock", "worker", "free"] in [line.split() for line in out.splitlines()]
        found = json.loads(run("status", "--json")[1])
        assert [lock["name"] for lock in found["locks"]] == ["nightly"]
        assert [*found["sizes"].values()] == sorted(found["sizes"].values(), reverse=True)
        names = (
            ["cli.db", "cli.db-wal"] if engine == "sqlite" else ["assistly_events", "assistly_worker_lock"]
        )
        assert {*names} <= {*found["sizes"]}
        assert all(f"\n{name} " in out for name in names)
        assert len(found["sizes"]) == (2 if engine == "sqlite" else 12)


def test_an_engine_that_lists_no_locks_shows_that_of_the_worker() -> None:
    backend = NaiveEngine()
    backend.lock = _UnlistedLocks(backend)
    with Storage(backend, auto_prune=False) as storage:
        assert view.status(storage).locks == []
        lock = storage.lock.acquire("me", ttl=60 * MINUTE)
        storage.lock.acquire("me", ttl=60 * MINUTE, name="nightly")
        assert view.status(storage).locks == [lock]


class _UnlistedLocks(NaiveLocks):
    list = LockStoreBase.list  # type: ignore[assignment]


@sqlite_only
@pytest.mark.usefixtures("engine")
def test_watching_needs_a_terminal_or_json(run: Run) -> None:
    run("migrate")
    code, out, err = run("status", "--watch", "1")
    assert (code, out) == (2, "")
    assert "--watch needs a terminal" in err
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "status", "--watch", "0.1", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert [line["engine"] for line in lines] == ["sqlite"] * 2


@sqlite_only
@pytest.mark.usefixtures("engine")
def test_watching_in_a_terminal_ends_cleanly(run: Run) -> None:
    run("migrate")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "status", "--watch", "0.1"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "80", "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    while shown.count(b"\x1b[H\x1b[2J") < 2:
        shown += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    with suppress(OSError):
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert process.wait(30) == 0
    assert b"Traceback" not in shown
    assert b"lock worker" in shown
