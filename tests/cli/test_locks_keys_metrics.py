"""`assistly locks` and `assistly keys`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest

from assistly.storage import Event, LockLost, Storage, WorkerLock, open_storage
from assistly.storage.stores.lock import Locks

Run = Callable[..., tuple[int, str, str]]
HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)
READING = [("locks", "list"), ("keys", "show", "k")]

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


@sqlite_only
@pytest.mark.parametrize("command", READING)
def test_reading_makes_no_database(run: Run, command: tuple[str, ...]) -> None:
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert "there is no database yet" in err
    assert not Path("cli.db").exists()


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
        "operator.lock_release",
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
    assert "'host-a:1' does not hold the lock 'worker' any more" in err
    with opened() as storage:
        assert [lock.owner_id for lock in storage.lock.list()] == ["host-b:2"]
    assert events() == []


@sqlite_only
def test_freeing_asks_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    held("worker")
    code, out, err = run("locks", "release", "worker")
    assert (code, out) == (2, "")
    assert "no terminal to ask: Free the lock 'worker'?" in err
    for answer, expected in (("n", (1, "nothing was done\n")), ("y", (0, "the lock 'worker' is free"))):
        monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
        code, out, err = run("locks", "release", "worker")
        assert (code, expected[1] in out) == (expected[0], True)
        assert "It is held by 'host-a:1', with fence 1" in err
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
    code, out, _ = run("keys", "forget", "doing", "--by", "ann")
    assert code == 0
    assert "cannot store the result any more" in out
    assert f"job {job.id} on x (scheduled) has the same key, and keeps it" in out
    with opened() as storage:
        assert storage.idempotency.run_once("done", lambda: 2) == 2
        assert storage.idempotency.claim("doing").token != claim.token
        assert storage.queue.schedule("x", "a", idempotency_key="doing") == job
    assert [(event.event_type, event.payload) for event in events()] == [
        ("operator.key_forget", {"by": "ann", "key": "doing", "state": "in_progress"}),
        ("operator.key_forget", {"by": "ann", "note": "wrong result", "key": "done", "state": "completed"}),
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
    assert ("the same command can run again" if command[0] == "keys" else "next renews the lock") in out
