"""`assistly locks`, `assistly keys` and `assistly metrics`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from io import StringIO

import pytest
from prometheus_client.parser import text_string_to_metric_families

from assistly.storage import Event, LockLost, Storage, WorkerLock, open_storage
from assistly.storage.stores.lock import Locks
from assistly.views import status as status_view

Run = Callable[..., tuple[int, str, str]]
HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)

sqlite_only = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


class Terminal(StringIO):
    """What a person types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _empty(engine: str) -> None:
    pass


def opened() -> Storage:
    return open_storage(auto_prune=False)


def held(name: str, owner: str = "host-a:1") -> WorkerLock:
    with opened() as storage:
        lock = storage.lock.acquire(owner, ttl=HOUR, name=name)
    assert lock is not None
    return lock


def events() -> list[Event]:
    with opened() as storage:
        return storage.events.list()


def test_locks_are_listed(run: Run) -> None:
    with opened() as storage:
        storage.lock.acquire("late", ttl=TICK, name="expired", now=storage._context.now(None) - HOUR)
    assert run("locks", "list")[:2] == (0, "no lock is held\n")
    assert json.loads(run("locks", "list", "--json")[1]) == {"locks": []}
    worker, nightly = held("worker"), held("nightly", "host-b:2")
    code, out, err = run("locks", "list", "--utc")
    assert code == 0
    assert err.startswith("storage: ")
    header, first, second = out.splitlines()
    assert header.split() == ["name", "owner", "fence", "expires"]
    assert first.split() == ["nightly", "host-b:2", "1", *f"{nightly.expires_at:%Y-%m-%d %H:%M:%SZ}".split()]
    assert second.split()[:3] == ["worker", "host-a:1", "1"]
    found = json.loads(run("locks", "list", "--json")[1])["locks"]
    assert [(lock["name"], lock["owner_id"], lock["fence"]) for lock in found] == [
        ("nightly", "host-b:2", nightly.fence),
        ("worker", "host-a:1", worker.fence),
    ]
    assert found[1]["expires_at"] == worker.expires_at.isoformat().replace("+00:00", "Z")


def test_a_lock_is_freed_with_a_warning_and_an_event(run: Run) -> None:
    lock = held("worker")
    code, out, err = run("locks", "release", "worker", "--yes", "--by", "ann", "--note", "host-a is gone")
    assert (code, out) == (0, "the lock 'worker' is free; 'host-a:1' held it, with fence 1\n")
    assert "until it next renews the lock" in err
    with opened() as storage:
        assert storage.lock.list() == []
        with pytest.raises(LockLost):
            storage.lock.renew(lock)
        taken = storage.lock.acquire("host-b:2")
        assert taken is not None
        assert taken.fence > lock.fence
    (event,) = events()
    assert (event.event_type, event.payload) == (
        "operator.locks.release",
        {"by": "ann", "note": "host-a is gone", "name": "worker", "owner_id": "host-a:1", "fence": 1},
    )
    released = json.loads(run("locks", "release", "worker", "--yes", "--json")[1])["released"]
    assert (released["owner_id"], released["fence"]) == ("host-b:2", taken.fence)


def test_a_lock_that_nobody_holds_is_not_freed(run: Run) -> None:
    held("other")
    code, out, err = run("locks", "release", "worker", "--yes")
    assert (code, out) == (1, "")
    assert "nobody holds the lock 'worker'" in err
    code, out, err = run("locks", "release", "other", "--yes", "--fence", "2")
    assert (code, out) == (1, "")
    assert "has fence 1, not 2" in err
    assert events() == []
    assert run("locks", "release", "other", "--yes", "--fence", "1")[0] == 0
    assert len(events()) == 1


@sqlite_only
def test_a_lock_that_changes_hands_meanwhile_is_not_freed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    held("worker")
    current = Locks.current

    def stale(self: Locks, name: str) -> WorkerLock | None:
        lock = current(self, name)
        assert lock is not None
        assert self.release(lock)
        self.acquire("host-b:2", ttl=HOUR)
        return lock

    monkeypatch.setattr(Locks, "current", stale)
    code, out, err = run("locks", "release", "worker", "--yes")
    assert (code, out) == (1, "")
    assert "'host-a:1' no longer holds the lock 'worker'" in err
    with opened() as storage:
        assert [lock.owner_id for lock in storage.lock.list()] == ["host-b:2"]
    assert events() == []


Asks = Callable[..., None]


@pytest.fixture
def asks(run: Run, monkeypatch: pytest.MonkeyPatch) -> Asks:
    """Checks that a command asks: without a terminal in vain, then with the answers no and yes."""

    def check(*command: str, question: str, warning: str, done: str) -> None:
        code, out, err = run(*command)
        assert (code, out) == (2, "")
        assert f"no terminal to ask on, so nothing was done: {question}" in err
        for answer, expected in (("n", (1, "nothing was done\n")), ("y", (0, done))):
            monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
            code, out, err = run(*command)
            assert (code, expected[1] in out) == (expected[0], True)
            assert warning in err

    return check


@sqlite_only
def test_forgetting_asks_first_while_the_command_may_run(run: Run, asks: Asks) -> None:
    with opened() as storage:
        storage.idempotency.claim("doing", lease=HOUR)
        storage.idempotency.claim("stuck", lease=TICK)
    asks(
        *("keys", "forget", "doing"),
        question="Forget the key 'doing'?",
        warning="the command may run twice",
        done="the key 'doing' is forgotten",
    )
    assert len(events()) == 1
    assert run("keys", "forget", "stuck")[0] == 0


@sqlite_only
def test_freeing_asks_first(asks: Asks) -> None:
    held("worker")
    asks(
        *("locks", "release", "worker"),
        question="Release the lock 'worker'?",
        warning="It is held by 'host-a:1', with fence 1",
        done="the lock 'worker' is free",
    )
    assert len(events()) == 1


def test_a_key_is_shown_in_each_state(run: Run) -> None:
    with opened() as storage:
        storage.idempotency.complete(storage.idempotency.claim("done", fingerprint="print"), {"n": 1})
        storage.idempotency.claim("doing", lease=HOUR)
        storage.idempotency.claim("stuck", lease=TICK)
        job = storage.queue.schedule("x", "a", idempotency_key="doing")
        storage.queue.schedule("y", "a", idempotency_key="job")

    def shown(key: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(run("keys", "show", key, "--json")[1])
        return found

    done = shown("done")
    assert (done["state"], done["value"], done["fingerprint"], done["job"]) == (
        *("completed", {"n": 1}, "print"),
        None,
    )
    assert done["saved_at"] is not None
    assert [shown(key)["state"] for key in ("doing", "stuck", "job")] == [
        "in_progress",
        "lease_over",
        "unknown",
    ]
    code, out, _ = run("keys", "show", "done")
    assert code == 0
    assert "does not run again" in out
    assert '{"n": 1}' in out
    out = run("keys", "show", "doing", "--utc")[1]
    assert "in progress until" in out
    assert f"job {job.id} on x (scheduled): assistly jobs show {job.id}" in out
    assert "the next caller runs it" in run("keys", "show", "stuck")[1]
    code, out, err = run("keys", "show", "none")
    assert (code, out) == (1, "")
    assert "neither a command nor a job has the key 'none'" in err


def test_a_forgotten_command_runs_again(run: Run) -> None:
    with opened() as storage:
        storage.idempotency.put("done", 1)
        claim = storage.idempotency.claim("doing")
        job = storage.queue.schedule("x", "a", idempotency_key="doing")
    code, out, _ = run("keys", "forget", "done", "--by", "ann", "--note", "wrong result")
    assert code == 0
    assert "the same command can run again: its result" in out
    code, out, _ = run("keys", "forget", "doing", "--by", "ann", "--yes")
    assert code == 0
    assert "can no longer store its result" in out
    assert f"job {job.id} on x (scheduled) has the same key, and keeps it" in out
    with opened() as storage:
        assert storage.idempotency.run_once("done", lambda: 2) == 2
        assert storage.idempotency.claim("doing").token != claim.token
        assert storage.queue.schedule("x", "a", idempotency_key="doing") == job
    assert [(event.event_type, event.payload) for event in events()] == [
        ("operator.keys.forget", {"by": "ann", "key": "doing", "state": "in_progress"}),
        ("operator.keys.forget", {"by": "ann", "note": "wrong result", "key": "done", "state": "completed"}),
    ]
    forgotten = json.loads(run("keys", "forget", "done", "--json")[1])["forgotten"]
    assert (forgotten["key"], forgotten["value"]) == ("done", 2)


def test_a_key_without_a_command_is_not_forgotten(run: Run) -> None:
    with opened() as storage:
        job = storage.queue.schedule("x", "a", idempotency_key="job")
    code, out, err = run("keys", "forget", "job")
    assert (code, out) == (1, "")
    assert f"job {job.id} on x (scheduled) has it, and keeps it" in err
    assert run("keys", "forget", "none")[:2] == (1, "")
    assert events() == []


@pytest.mark.parametrize("command", [("locks", "release"), ("keys", "forget")])
def test_the_help_says_what_it_means(run: Run, command: tuple[str, ...]) -> None:
    out = " ".join(run(*command, "--help")[1].split())
    assert ("its command can run again" if command[0] == "keys" else "next renews the lock") in out


ODD_NAME = 'a "b" \\ {c="d"}\n# \xe9'


def fill() -> None:
    """Jobs of each status on two platforms, of which one is due, and numbers of the application."""
    with opened() as storage:
        for platform in ("x", "y"):
            for text in ("posted", "failed", "unknown", "held"):
                job = storage.queue.schedule(platform, text)
                (claimed,) = storage.queue.claim_due(worker_id="w", platforms=[platform], lease=HOUR)
                assert claimed.id == job.id
                if text == "posted":
                    storage.queue.mark_posted(claimed)
                elif text == "failed":
                    storage.queue.mark_failed(claimed, "no", retry_at=storage._context.now(None) + HOUR)
                elif text == "unknown":
                    storage.queue.mark_unknown(storage.queue.begin_publish(claimed), "no answer")
            storage.queue.cancel(storage.queue.schedule(platform, "cancelled").id)
            storage.queue.schedule(platform, "later", storage._context.now(None) + HOUR)
        storage.queue.schedule(ODD_NAME, "due", storage._context.now(None) - HOUR)
        storage.metrics.increment("requests", 3)
        storage.metrics.increment(ODD_NAME, -2)
        for milliseconds in (250, 1500):
            storage.metrics.observe_latency(milliseconds)


def exported(run: Run) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels."""
    code, out, err = run("metrics", "--prometheus")
    assert (code, err[:9]) == (0, "storage: ")
    samples = {}
    for family in text_string_to_metric_families(out):
        assert family.documentation.endswith(".")
        for sample in family.samples:
            labels = [
                sample.labels[label] for label in ("platform", "status", "name") if label in sample.labels
            ]
            samples[sample.name, *labels] = sample.value
    return samples


def test_the_exposition_is_what_its_parser_reads(run: Run) -> None:
    fill()
    samples = exported(run)
    assert 3600 <= samples.pop(("assistly_oldest_due_age_seconds",)) < 4000
    statuses = ("scheduled", "retrying", "processing", "dead_letter")
    expected: dict[tuple[str, ...], float]
    expected = {("assistly_jobs", platform, name): 1 for platform in ("x", "y") for name in statuses}
    expected |= {("assistly_jobs", ODD_NAME, name): int(name == "scheduled") for name in statuses}
    expected |= {("assistly_jobs_truncated", name): 0 for name in statuses}
    expected |= {
        ("assistly_jobs_due", platform): int(platform == ODD_NAME) for platform in ("x", "y", ODD_NAME)
    }
    assert samples == expected | {
        ("assistly_unknown_outcomes",): 2,
        ("assistly_counter_total", "requests"): 3,
        ("assistly_counter_total", ODD_NAME): -2,
        ("assistly_request_duration_seconds_count",): 2,
        ("assistly_request_duration_seconds_sum",): 1.75,
        ("assistly_request_duration_max_seconds",): 1.5,
    }


def test_metrics_and_status_agree(run: Run) -> None:
    fill()
    metrics = json.loads(run("metrics", "--json")[1])
    status = json.loads(run("status", "--json")[1])
    counts = {
        (platform["name"], name): count
        for platform in status["platforms"]
        for name, count in platform["counts"].items()
        if name not in ("posted", "cancelled")
    }
    found = {(depth["platform"], depth["status"]): depth["count"] for depth in metrics["jobs"]}
    assert {key: count for key, count in found.items() if count["count"]} == counts
    assert {due["platform"]: due["count"] for due in metrics["due"]} == {
        platform["name"]: platform["due"] for platform in status["platforms"]
    }
    assert metrics["unknown_outcomes"] == status["unknown_count"]
    assert metrics["counters"] == {"requests": 3, ODD_NAME: -2}
    assert metrics["latency"] == {"count": 2, "total_ms": 1750.0, "max_ms": 1500.0}


def test_metrics_for_people(run: Run) -> None:
    with opened() as storage:
        storage.migrate()
    code, out, _ = run("metrics")
    assert code == 0
    assert "no jobs" in out
    assert "nothing is due" in out
    fill()
    out = run("metrics")[1]
    rows = [line.split() for line in out.splitlines()]
    assert ["platform", "scheduled", "retrying", "processing", "dead_letter", "due"] in rows
    assert ["x", "1", "1", "1", "1", "0"] in rows
    assert ["counter", "requests", "3"] in rows
    assert "request latency 2 observed, 875.0 ms on average, 1500.0 ms at most" in " ".join(out.split())
    assert "has waited 1 h" in out
    assert len(rows) == 10


@sqlite_only
def test_an_empty_storage_has_metrics(run: Run) -> None:
    run("migrate")
    samples = exported(run)
    assert samples[("assistly_oldest_due_age_seconds",)] == 0
    assert not any(name[0] == "assistly_jobs" for name in samples)
    assert samples["assistly_jobs_truncated", "scheduled"] == 0
    with opened() as storage:
        storage.queue.schedule("x", "later", storage._context.now(None) + HOUR)
    samples = exported(run)
    assert samples[("assistly_oldest_due_age_seconds",)] == samples["assistly_jobs_due", "x"] == 0


@sqlite_only
def test_counting_ends_at_a_limit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fill()
    monkeypatch.setattr(status_view, "COUNT_LIMIT", 2)
    samples = exported(run)
    assert sum(value for name, value in samples.items() if name[0] == "assistly_jobs") == 6
    assert [value for name, value in samples.items() if name[0] == "assistly_jobs_truncated"] == [
        1,
        1,
        0,
        0,
    ], "of these there are two, which are all counted"
    assert "1+" in run("metrics")[1]


@sqlite_only
def test_without_the_library_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("migrate")
    monkeypatch.delitem(sys.modules, "assistly.views.exposition", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    code, out, err = run("metrics", "--prometheus")
    assert (code, out) == (1, "")
    assert "python -m pip install 'assistly[prometheus]'" in err
    assert "\n" not in err
    assert run("metrics", "--json")[0] == 0


@sqlite_only
def test_one_format_at_a_time(run: Run) -> None:
    assert run("metrics", "--json", "--prometheus")[:2] == (2, "")
