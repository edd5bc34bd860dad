"""Real faults below SQLite: a full disk, I/O errors, and a write-ahead log that was cut off or damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from assistly.storage import NewJob, SqliteBackend, Storage, StorageUnavailable
from assistly.storage.engines.sqlite.driver import sqlite3
from assistly.storage.testing.faults import EngineCall, Fault, FaultyBackend
from backends.fault_operations import WRITES, Operation, content, open_on, states_of

_PAD = "x" * 9000

LARGE: dict[str, Operation] = {
    "large schedule": Operation(lambda s, _: s.queue.schedule("x", _PAD)),
    "large schedule_many": Operation(
        lambda s, _: s.queue.schedule_many([NewJob("x", _PAD, idempotency_key=str(n)) for n in range(5)])
    ),
    "large session": Operation(lambda s, _: s.sessions.put("a", _PAD), lambda s: s.sessions.put("a", 1)),
    "large update": Operation(lambda s, _: s.sessions.update("a", lambda n: [n, _PAD])),
    "large events": Operation(lambda s, _: s.events.append_many([("type", _PAD)] * 5)),
    "large results": Operation(lambda s, _: s.idempotency.put_many([(key, _PAD) for key in "abc"])),
    "many nonces": Operation(lambda s, _: s.nonces.register_many([f"{n}{_PAD[:400]}" for n in range(50)])),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the schema, without free pages."""
    path = tmp_path_factory.mktemp("template") / "assistly.db"
    with closing(SqliteBackend(path)) as backend:
        backend.ping()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM")
    return path


@contextmanager
def opened(path: Path) -> Iterator[Storage]:
    with closing(SqliteBackend(path)) as backend:
        backend.ping()
        yield open_on(backend)


def check(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def limit_pages(storage: Storage, most: int) -> None:
    """Of the only connection. 0: as few as there are."""
    (connection,) = storage._backend._file._pool._idle  # type: ignore[attr-defined]
    connection.raw.execute(f"PRAGMA max_page_count = {most}")


def pages(storage: Storage) -> int:
    (connection,) = storage._backend._file._pool._idle  # type: ignore[attr-defined]
    return int(connection.raw.execute("PRAGMA page_count").fetchone()[0])


@pytest.mark.parametrize("name", [*WRITES, *LARGE])
def test_a_file_that_may_not_grow(template: Path, path: Path, name: str) -> None:
    """The operation gets one page more with each attempt, until it succeeds."""
    operation = (WRITES | LARGE)[name]
    shutil.copyfile(template, path)
    with opened(path) as storage:
        prepared = operation.prepare(storage)
        before = content(storage)
        for more in count():
            limit_pages(storage, pages(storage) + more)
            try:
                operation.call(storage, prepared)
            except StorageUnavailable:
                assert operation.in_steps or content(storage) == before
            else:
                break
        assert more or name in WRITES
        limit_pages(storage, 2**30)
        if name in WRITES:
            assert content(storage) == states_of(name).whole
        assert storage.nonces.register("the next call")
    check(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") is not None and _mount(folder, "size=1m")
    if not mounted:
        pytest.skip("it fills a small file system, which only root on Linux may mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_full_disk(small_disk: Path) -> None:
    path = small_disk / "assistly.db"
    acknowledged = []
    with opened(path) as storage:
        with pytest.raises(StorageUnavailable):
            for number in count():
                storage.events.append("type", [number, _PAD])
                acknowledged.append(number)
        for _ in range(3):
            with pytest.raises(StorageUnavailable), storage.transaction() as tx:
                tx.events.append("type", [-1, _PAD])
                tx.nonces.register("a")
        assert _numbers(storage) == acknowledged
        assert not storage.nonces.seen("a")
        assert _mount(small_disk, "remount,size=8m")
        storage.events.append("type", [len(acknowledged), _PAD])
    with opened(path) as storage:
        assert _numbers(storage) == [*acknowledged, len(acknowledged)]
    check(path)


def test_a_disk_that_is_full_while_the_schema_is_made(small_disk: Path) -> None:
    """Nothing of it stays half made. With each attempt there is a little more room."""
    ballast, path = small_disk / "ballast", small_disk / "assistly.db"
    for attempt in count():
        ballast.write_bytes(bytes((1 << 20) - attempt * 32 * 1024))
        try:
            with opened(path) as storage:
                assert storage.nonces.register("a")
        except StorageUnavailable:
            ballast.unlink()
            with opened(path) as storage:
                assert storage.nonces.register("a")
            check(path)
            for left in small_disk.iterdir():
                left.unlink()
        else:
            break
    assert attempt > 2


def _numbers(storage: Storage) -> list[int]:
    events = storage.events.read_after(0, limit=1000)
    return [int(event.payload[0]) for event in events if isinstance(event.payload, list)]


HISTORY = (
    *("prune", "settle", "claim_due after a sweep", "schedule with a gap", "schedule_many"),
    "transaction",
)


Rows = list[list[tuple[Any, ...]]]


def rows(connection: Any) -> Rows:
    """All that is stored, with ids, so that no state comes twice."""
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
    ).fetchall()
    return [connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for (table,) in tables]


class WriteAheadLog:
    """A database whose write-ahead log holds a history, and what was stored after each of its commits."""

    def __init__(self, template: Path, folder: Path) -> None:
        self.path = folder / "copy.db"
        source = folder / "source.db"
        shutil.copyfile(template, source)
        self._base = source.read_bytes()
        self._commits: list[Rows] = []
        with (
            closing(FaultyBackend(SqliteBackend(source))) as noting,
            closing(sqlite3.connect(source)) as observer,
        ):

            def note(call: EngineCall) -> None:
                if call.in_transaction or call.name == "transaction":
                    return
                found = rows(observer)
                if found not in self._commits[-1:]:
                    self._commits.append(found)

            storage = open_on(noting)
            storage.ping()
            self._commits.append(rows(observer))
            noting.inject(Fault(note, when="after", lasting=True))
            for name in HISTORY:
                prepared = WRITES[name].prepare(storage)
                WRITES[name].call(storage, prepared)
            storage.events.append_many([("type", _PAD)] * 5)
            self.bytes = source.with_name("source.db-wal").read_bytes()
            assert source.read_bytes() == self._base, "the log was emptied meanwhile"
        self.last = len(self._commits) - 1
        self._frame = 24 + int.from_bytes(self.bytes[8:12], "big")

    @property
    def frames(self) -> range:
        """Where each frame begins, and where the last one ends."""
        return range(32, len(self.bytes) + 1, self._frame)

    def commits_in(self, log: bytes | bytearray) -> int:
        """Open the database with this log, and return how many of the commits are in it."""
        for left in self.path.parent.glob("copy.db*"):
            left.unlink()
        self.path.write_bytes(self._base)
        self.path.with_name("copy.db-wal").write_bytes(log)
        with opened(self.path) as storage, closing(sqlite3.connect(self.path)) as observer:
            found = rows(observer)
            assert storage.sessions.put("later", 1).version == 1
        check(self.path)
        assert found in self._commits, "what is stored was never committed"
        return self._commits.index(found)


@pytest.fixture(scope="module")
def log(template: Path, tmp_path_factory: pytest.TempPathFactory) -> WriteAheadLog:
    return WriteAheadLog(template, tmp_path_factory.mktemp("log"))


def test_a_log_that_was_cut_off(log: WriteAheadLog) -> None:
    """At the end of each frame: the commits that are left are the first ones, and ever more of them."""
    numbers = [log.commits_in(log.bytes[:end]) for end in log.frames]
    assert numbers == sorted(numbers)
    assert {*numbers} == {*range(log.last + 1)}
    assert numbers[-1] == log.last > 20


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("damage", ["cut", "flipped", "zeroed"])
def test_a_log_that_was_damaged(log: WriteAheadLog, damage: str, step: int) -> None:
    """In the middle of a frame: nothing from this one on counts."""
    for place, start in enumerate(log.frames[:-1:step]):
        at = start + (7, 24, 1000, 3000)[place % 4]
        damaged = bytearray(log.bytes)
        if damage == "cut":
            del damaged[at:]
        elif damage == "flipped":
            damaged[at] ^= 0x10
        else:
            damaged[at:] = bytes(len(damaged) - at)
        assert log.commits_in(damaged) == log.commits_in(log.bytes[:start])


_BROKEN_DISK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

static int at, lasting, seen;

void break_disk(int which, int for_good) { at = which; lasting = for_good; seen = 0; }
int disk_calls(void) { return seen; }

static int fails(void) {
    if (!at) return 0;
    seen++;
    if (seen != at && !(lasting && seen > at)) return 0;
    errno = EIO;
    return 1;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = dlsym(RTLD_NEXT, #name); \
    if (fails()) return -1;
ssize_t pread(int fd, void *b, size_t n, off_t o) { REAL(pread) return real(fd, b, n, o); }
ssize_t pread64(int fd, void *b, size_t n, off64_t o) { REAL(pread64) return real(fd, b, n, o); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { REAL(pwrite) return real(fd, b, n, o); }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { REAL(pwrite64) return real(fd, b, n, o); }
int fsync(int fd) { REAL(fsync) return real(fd); }
int fdatasync(int fd) { REAL(fdatasync) return real(fd); }
int ftruncate(int fd, off_t n) { REAL(ftruncate) return real(fd, n); }
int ftruncate64(int fd, off64_t n) { REAL(ftruncate64) return real(fd, n); }
"""


@pytest.fixture(scope="module")
def broken_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library whose calls fail with EIO; to be loaded before the C library's."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("it preloads a library of its own, which needs Linux and the compiler `cc`")
    folder = tmp_path_factory.mktemp("disk")
    source, library = folder / "disk.c", folder / "disk.so"
    source.write_text(_BROKEN_DISK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.parametrize(
    "names",
    [
        ("schedule", "settle"),
        pytest.param([*WRITES], marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
    ids=["two", "all"],
)
def test_io_errors(broken_disk: Path, template: Path, tmp_path: Path, names: Sequence[str]) -> None:
    """With an error at the first call of the disk that an operation makes, at its second, and so on."""
    command = [sys.executable, "-m", "backends.fault_disk", str(template), str(tmp_path), *names]
    environment = os.environ | {
        "LD_PRELOAD": str(broken_disk),
        "PYTHONPATH": os.pathsep.join(map(str, sys.path)),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    errors = json.loads(done.stdout)
    assert {*errors} == {*names}
    writing = [name for name in names if states_of(name).whole not in states_of(name).partial]
    assert all(errors[name] for name in writing), errors
