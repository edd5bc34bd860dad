"""A storage that a copy has begun to fill is refused wherever it is opened for work."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from assistly.storage import (
    ConfigurationError,
    Conflict,
    MemoryBackend,
    PostgresBackend,
    SqliteBackend,
    Storage,
    StorageBackend,
    StorageCorrupt,
    open_async_storage,
    open_storage,
)
from assistly.storage.addresses import place_of
from assistly.storage.engine.moving import MovingBackend, moving
from assistly.storage.engine.transfer import Row
from assistly.storage.factory import open_backend
from assistly.storage.settings import load_settings
from assistly.storage.unfinished import COPY_COLLECTION, unfinished_copy
from assistly.transfer import copying
from assistly.transfer.copying import copy, prepare
from assistly.worker import AsyncWorker, Worker
from cli.conftest import engine as engine
from cli.conftest import run as run
from golden.content import MINUTE
from transfer.moving_rows import all_rows

Run = Callable[..., tuple[int, str, str]]
REFUSED = "a copy of sqlite /old.db into it is not finished. Finish it with the same `assistly copy` command"


@pytest.fixture
def source() -> MemoryBackend:
    backend = MemoryBackend()
    Storage(backend, auto_prune=False).queue.schedule("x", "hello")
    return backend


@pytest.fixture
def target(engine: str, source: MemoryBackend) -> Iterator[Storage]:
    """The storage of the environment, which holds a copy that is only prepared."""
    backend = moving(open_backend(load_settings()))
    with closing(Storage(backend, auto_prune=False)) as storage:
        prepare(source, backend, identity="sqlite /old.db")
        yield storage
        assert [job.status for job in storage.queue.list()] == ["scheduled"]
        assert unfinished_copy(backend) == "sqlite /old.db"
        copy(source, backend, identity="sqlite /old.db")
        assert unfinished_copy(backend) is None
    with open_storage() as opened:
        assert [job.content for job in opened.queue.list()] == ["hello"]


def test_no_storage_is_opened_on_it(target: Storage) -> None:
    with pytest.raises(ConfigurationError, match=REFUSED):
        open_storage()

    async def opened() -> None:
        async with open_async_storage():
            raise AssertionError

    with pytest.raises(ConfigurationError, match=REFUSED):
        asyncio.run(opened())


@pytest.mark.parametrize(
    "command",
    [
        ["jobs", "add", "x", "new"],
        ["jobs", "cancel", "1"],
        ["status"],
        ["schedules", "run"],
        ["worker", "--publish", "x=stdout", "--drain"],
    ],
)
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_no_command_works_on_it(target: Storage, run: Run, command: list[str]) -> None:
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert f"assistly: sqlite {Path('cli.db').absolute()} is not ready: {REFUSED}" in err


@pytest.mark.parametrize("command", [["status"], ["worker", "--publish", "x=stdout", "--drain"]])
@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_no_command_works_on_it_on_postgres(target: Storage, run: Run, command: list[str]) -> None:
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert REFUSED in err
    assert "assistly: postgres postgresql://" in err


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_no_worker_starts_on_it(target: Storage) -> None:
    """Even if it was opened otherwise. The publisher ends a worker that goes wrong."""
    worker: Worker = Worker(target, {"x": lambda job: worker.stop()})
    other: AsyncWorker = AsyncWorker(target, {"x": lambda job: other.stop()})

    def run_async() -> None:
        asyncio.run(other.run())

    works: list[Callable[[], None]] = [worker.run, worker.run_until_idle, run_async]
    for work in works:
        with pytest.raises(ConfigurationError, match=REFUSED):
            work()


def _use(storage: Storage) -> None:
    """Write a record of each kind."""
    storage.queue.schedule("x", "first")
    storage.queue.schedule("x", "second")
    storage.sessions.put("ann", 1)
    storage.approvals.add("a", 1)
    storage.idempotency.claim("key")
    storage.platforms.limit("x", 5, MINUTE)
    storage.snapshots.put("s", 1)
    lock = storage.lock.acquire("me")
    assert lock is not None
    storage.lock.release(lock)
    storage.metrics.increment("more")
    storage.events.append("e", 1)


WRITES: dict[str, tuple[str, Callable[[Storage], object]]] = {
    "a claim": ("in jobs, 1 has changed", lambda storage: storage.queue.claim_due(worker_id="w", limit=1)),
    "a cancelled job": ("in jobs, 2 has changed", lambda storage: storage.queue.cancel(2)),
    "a job": ("jobs has assigned the number 3", lambda storage: storage.queue.schedule("x", "third")),
    "an event": (
        "in events, 2 has changed since it was copied",
        lambda storage: storage.events.append("e", 2),
    ),
    "a session": ("in sessions, ann has changed", lambda storage: storage.sessions.put("ann", 2)),
    "a decision": ("in approvals, a has changed", lambda storage: storage.approvals.decide("a", "approved")),
    "an approval": ("approvals has assigned the number 2", lambda storage: storage.approvals.add("0", 1)),
    "a key": ("idempotency has assigned the number 2", lambda storage: storage.idempotency.claim("0")),
    "a limit": (
        "in documents, limits, x has changed",
        lambda storage: storage.platforms.limit("x", 6, MINUTE),
    ),
    "a snapshot": ("in snapshots, s has changed", lambda storage: storage.snapshots.put("s", 2)),
    "another lock": ("in locks, z", lambda storage: storage.lock.acquire("me", name="z")),
    "a lock": ("in locks, ", lambda storage: storage.lock.acquire("other")),
}


@pytest.mark.parametrize("writing", [*WRITES])
@pytest.mark.parametrize("engine", ["memory", "postgres"])
def test_what_was_written_to_the_target_is_not_overwritten(
    writing: str, engine: str, request: pytest.FixtureRequest
) -> None:
    """The copy ends, and changes nothing. The source may have gone on, too."""
    source, target = MemoryBackend(), moving(_backend(engine, request))
    with closing(target):
        storage = Storage(source, auto_prune=False)
        _use(storage)
        prepare(source, target, identity="old")
        where, write = WRITES[writing]
        write(Storage(target, auto_prune=False))
        storage.metrics.increment("more")
        before = _without_progress(target)
        message = f"somebody else has written to {place_of(target)} since the copy began: {where}"
        for _ in range(2):
            with pytest.raises(Conflict, match=re.escape(message)):
                copy(source, target, identity="old")
        assert _without_progress(target) == before


def _without_progress(target: MovingBackend) -> dict[str, list[Row]]:
    rows = all_rows(target)
    rows["documents"] = [row for row in rows["documents"] if row[0] != COPY_COLLECTION]
    return rows


def _backend(engine: str, request: pytest.FixtureRequest) -> StorageBackend:
    if engine == "memory":
        return MemoryBackend()
    url, schema = request.getfixturevalue("database_url"), request.getfixturevalue("schema")
    return PostgresBackend(url, schema=schema)


@pytest.mark.parametrize("step", ["copy", "compare"])
def test_a_target_that_is_used_while_the_copy_is_finished(step: str) -> None:
    """By what had it open. A job of the source is not overwritten with it, or it with one."""
    source, target = MemoryBackend(), MemoryBackend()
    _use(Storage(source, auto_prune=False))

    def progress(at: str, kind: str, rows: int, expected: int | None) -> None:
        if (at, kind) == (step, "sessions"):
            Storage(target, auto_prune=False).queue.schedule("x", "new")

    with pytest.raises(Conflict, match="somebody else has written to memory"):
        copy(source, target, identity="old", progress=progress)


def test_what_the_source_did_meanwhile_is_counted() -> None:
    source, target = MemoryBackend(), MemoryBackend()
    storage = Storage(source, auto_prune=False)
    _use(storage)
    prepare(source, target, identity="old")
    storage.queue.remove(2)  # the newest, whose row is beyond all of the source
    storage.queue.claim_due(worker_id="w", limit=1)
    storage.sessions.delete("ann")
    storage.sessions.put("ann", 2)
    storage.approvals.decide("a", "approved")
    storage.idempotency.abandon(storage.idempotency.claim("other"))
    report = copy(source, target, identity="old")
    assert (report.resumed, report.repaired) == (True, 4)
    rows, expected = all_rows(target), all_rows(source)
    assert rows == expected


@pytest.mark.parametrize("change", ["deleted at the end", "changed", "lower number"])
def test_what_is_written_again_is_read_back(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Here a target says that it has written, and has not."""
    source, target = MemoryBackend(), MemoryBackend()
    storage = Storage(source, auto_prune=False)
    _use(storage)
    prepare(source, target, identity="old")
    if change == "lower number":
        storage.queue.remove(storage.queue.schedule("x", "of which the number is left").id)
    elif change == "changed":
        storage.sessions.put("ann", 2)
    else:
        storage.sessions.delete("ann")
    monkeypatch.setattr(copying, "_write", lambda *_: None)
    kind = "marks" if change == "lower number" else "sessions"
    with pytest.raises(StorageCorrupt, match=f"the {kind} read back from memory differ from those"):
        copy(source, target, identity="old")


def test_a_copy_that_failed_while_it_rewrote_goes_on(tmp_path: Path, database_url: str, schema: str) -> None:
    """What it had written beyond the first pass is its own."""
    source = SqliteBackend(tmp_path / "old.db")
    target = PostgresBackend(database_url, schema=schema)
    target.migrate()
    storage = Storage(source, auto_prune=False)
    _use(storage)

    def progress(at: str, kind: str, rows: int, expected: int | None) -> None:
        if (at, kind) == ("copy", "jobs"):
            storage.queue.schedule("x", "third")

    def fail(storage: Storage) -> None:
        storage.events.append("e", "a number that is used up")
        raise InterruptedError

    with pytest.raises(InterruptedError):
        copy(source, target, identity="old", closing=fail, progress=progress)
    report = copy(source, target, identity="old")
    assert (report.resumed, report.repaired) == (True, 0)
    rows, expected = all_rows(target), all_rows(source)
    for each in (rows, expected):
        del each["marks"]
    assert rows == expected
    source.close()
    target.close()


def test_a_record_that_both_made_since() -> None:
    """The later one of the source does not replace that of the target."""
    source, target = MemoryBackend(), MemoryBackend()
    prepare(source, target, identity="old")
    for backend in (target, source):
        Storage(backend, auto_prune=False).sessions.put("zed", 1)
    with pytest.raises(Conflict, match="in sessions, zed has changed since it was copied"):
        copy(source, target, identity="old")


def test_copies_at_the_same_time_into_postgres(database_url: str, schema: str) -> None:
    """All but one say that another one is at work, or has been."""
    source = MemoryBackend()
    _use(Storage(source, auto_prune=False))
    with closing(PostgresBackend(database_url, schema=schema)) as target:
        target.migrate()
        begin = Barrier(3)

        def attempt(number: int) -> str:
            begin.wait()
            try:
                copy(source, target, identity="old", hold_writers=False)
            except Conflict as error:
                return str(error)
            return "done"

        with ThreadPoolExecutor(3) as pool:
            said = [*pool.map(attempt, range(3))]
        assert said.count("done") == 1
        for answer in said:
            assert answer == "done" or "another process is copying into" in answer or "is not empty" in answer
