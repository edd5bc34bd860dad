"""The file of SQLite: where it is, who may read it, and what happens if it is exchanged while it is open."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assistly.storage import (
    ConfigurationError,
    InvalidValue,
    NewEvent,
    SqliteBackend,
    Storage,
    StorageCorrupt,
    StorageError,
    StorageUnavailable,
    open_async_storage,
    open_storage,
)
from assistly.storage.engines.sqlite import access, driver, identity, inherited, logs
from assistly.storage.testing.forking import needs_fork
from waiting import PATIENCE, until

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads check the file each time, too."""
    monkeypatch.setattr(identity, "CHECK_SECONDS", 0.0)


def opened(path: Path) -> Storage:
    storage = Storage(SqliteBackend(path), auto_prune=False)
    storage.nonces.register("first")
    return storage


def backup(path: Path, to: Path) -> Path:
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)
    return to


def replace_by_backup(path: Path) -> None:
    backup(path, path.with_name("backup.db")).replace(path)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def replace_log(path: Path) -> None:
    shutil.copyfile(log_of(path), path.with_name("copy"))
    path.with_name("copy").replace(log_of(path))


def index_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-shm")


def replace_index(path: Path) -> None:
    shutil.copyfile(index_of(path), path.with_name("copy"))
    path.with_name("copy").replace(index_of(path))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


EXCHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "replaced": (replace_by_backup, "was replaced by another file"),
    "deleted": (Path.unlink, "was deleted or moved"),
    "moved": (lambda path: path.rename(path.with_name("elsewhere.db")), "was deleted or moved"),
    "its folder moved": (move_folder, "was deleted or moved"),
    "a folder instead": (replace_by_folder, "was replaced by another file"),
    "its log deleted": (lambda path: log_of(path).unlink(), "lost its write-ahead log"),
    "its log replaced": (replace_log, "lost its write-ahead log"),
    "its log's index deleted": (
        lambda path: index_of(path).unlink(),
        "lost the index of its write-ahead log",
    ),
    "its log's index replaced": (replace_index, "lost the index of its write-ahead log"),
    "cut down to a byte": (lambda path: os.truncate(path, 1), "was truncated or overwritten"),
    "emptied": (lambda path: os.truncate(path, 0), "was truncated or overwritten"),
    "truncated": (truncate, "was truncated or overwritten"),
}

CALLS: dict[str, Callable[[Storage], Any]] = {
    "read": lambda storage: storage.nonces.seen("first"),
    "list": lambda storage: storage.queue.list(),
    "ping": lambda storage: storage.ping(),
    "execute": lambda storage: storage.metrics.increment("n"),
    "returning": lambda storage: storage.nonces.register_many(["a", "b"]),
    "insert": lambda storage: storage.queue.schedule("x", "a"),
    "remove": lambda storage: storage.queue.remove(1),
    "delete": lambda storage: storage.sessions.delete("u"),
    "snapshot": lambda storage: storage.snapshots.put("queue", 1),
    "replay": lambda storage: storage.queue.replay_all(),
    "batch": lambda storage: storage.events.append_many([NewEvent("a", 1)] * 3),
    "update": lambda storage: storage.sessions.update("u", lambda _: 1),
    "wait": lambda storage: storage.queue.wait(30),
    "prune": lambda storage: storage.prune(force=True),
    "migrate": lambda storage: storage.migrate(),
    "transaction": lambda storage: in_transaction(storage),
}


def in_transaction(storage: Storage) -> None:
    with storage.transaction() as tx:
        tx.nonces.register("in a transaction")


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_an_exchanged_file_is_noticed_for_good(tmp_path: Path, exchange: str) -> None:
    path = tmp_path / "data" / "a.db"
    exchanged, words = EXCHANGES[exchange]
    with opened(path):
        pass
    with opened(path) as storage:
        exchanged(path)
        for name, call in CALLS.items():
            with pytest.raises(StorageCorrupt, match=words) as caught:
                call(storage)
            assert "\n" not in str(caught.value), name
            assert "start again" in str(caught.value)


@pytest.mark.parametrize("call", [name for name in CALLS if name not in ("read", "list", "ping", "wait")])
def test_a_write_is_not_acknowledged(tmp_path: Path, call: str) -> None:
    """Not even if the file was checked just before."""
    path = tmp_path / "a.db"
    with opened(path) as storage:
        storage.nonces.seen("first")
        path.unlink()
        with pytest.raises(StorageCorrupt):
            CALLS[call](storage)
        with pytest.raises(StorageCorrupt):
            storage.nonces.seen("first")
    assert not path.exists()


def test_a_thread_that_waits_already(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "CHECK_SECONDS", 0.05)
    with opened(path) as storage, ThreadPoolExecutor(1) as thread:
        polled = threading.Event()
        watch = storage._backend._file._watch  # type: ignore[attr-defined]
        poll = watch._poll

        def note() -> None:
            poll()
            polled.set()

        monkeypatch.setattr(watch, "_poll", note)
        waiting = thread.submit(storage.queue.wait, 60)
        assert polled.wait(PATIENCE)
        path.unlink()
        with pytest.raises(StorageCorrupt):
            waiting.result(2.5)


def test_reads_look_twice_a_second(path: Path) -> None:
    now = [0.0]
    with opened(path) as storage:
        file = storage._backend._file._pool.file.identity  # type: ignore[attr-defined]
        file._clock, file._next_check = lambda: now[0], 0.0
        file.check()
        path.unlink()
        now[0] += identity.CHECK_SECONDS - 0.01
        assert storage.nonces.seen("first")
        now[0] += 0.01
        with pytest.raises(StorageCorrupt):
            storage.nonces.seen("first")


def test_after_the_file_came_back_it_is_opened_again(path: Path) -> None:
    with opened(path) as storage:
        path.rename(path.with_name("away.db"))
        with pytest.raises(StorageCorrupt):
            storage.nonces.register("second")
        path.with_name("away.db").rename(path)
        with pytest.raises(StorageCorrupt):
            storage.nonces.seen("first")
    with opened(path) as again:
        assert again.nonces.seen("second")


@pytest.mark.parametrize("calls_before_it_closes", [True, False])
def test_what_was_written_does_not_get_into_the_restored_file(
    path: Path, calls_before_it_closes: bool
) -> None:
    """It is in the old file, and the log beside the new one is empty."""
    with opened(path) as storage:
        saved = backup(path, path.with_name("backup.db"))
        storage.nonces.register("second")
        os.link(path, path.with_name("old.db"))
        saved.replace(path)
        if calls_before_it_closes:
            with pytest.raises(StorageCorrupt):
                storage.nonces.register("third")
    with opened(path) as again:
        assert [again.nonces.seen(nonce) for nonce in ("first", "second", "third")] == [True, False, False]
    with opened(path.with_name("old.db")) as old:
        assert old.nonces.seen("second")


def test_a_log_that_is_of_another_file(path: Path) -> None:
    """A backup was put back beside the log of a process that was killed."""
    script = f"""
import os, sqlite3
from assistly.storage import SqliteBackend, Storage
storage = Storage(SqliteBackend({str(path)!r}), auto_prune=False)
storage.events.append_many([("a", "x" * 2000)] * 400)
raw = sqlite3.connect({str(path)!r})
raw.execute("PRAGMA wal_checkpoint")
copy = sqlite3.connect({str(path.with_name("backup.db"))!r})
raw.backup(copy)
copy.close()
for kind in range(5):
    storage.events.append_many([(f"b{{kind}}", "y" * 2000)] * 400)
    storage.prune(force=True)
    raw.execute("PRAGMA wal_checkpoint")
raw.execute("DELETE FROM assistly_events WHERE id % 3 = 0")
raw.commit()
storage.sessions.put("u", ["z"] * 20000)
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert path.with_name(path.name + "-wal").stat().st_size > 0
    shutil.copyfile(path, path.with_name("as it was.db"))
    shutil.copyfile(path.with_name("backup.db"), path)
    with pytest.raises(StorageCorrupt, match="do not match"):
        opened(path)
    path.with_name("as it was.db").replace(path)
    with opened(path) as storage:
        assert storage.sessions.get("u") is not None
    path.with_name("backup.db").replace(path)
    with opened(path) as storage:
        assert storage.sessions.get("u") is None


def killed(path: Path, *lines: str) -> None:
    """A process that writes to a storage is killed, and leaves its log."""
    script = f"""
import os, sqlite3
from assistly.storage import SqliteBackend, Storage
storage = Storage(SqliteBackend({str(path)!r}), auto_prune=False)
storage.queue.schedule("x", "before")
raw = sqlite3.connect({str(path)!r})
"""
    end = ("[storage.queue.schedule('x', 'after') for _ in range(3)]", "os._exit(9)")
    done = subprocess.run([sys.executable, "-c", "\n".join((script, *lines, *end))], timeout=60, check=False)
    assert done.returncode == 9


def moved_later(path: Path) -> None:
    """The times of files are measured in ticks of some milliseconds."""

    def is_later() -> bool:
        path.chmod(0o600)
        return path.stat().st_ctime_ns > log_of(path).stat().st_ctime_ns

    until(is_later)


@pytest.mark.parametrize("name", ["assistly.db", "link.db"])
def test_a_backup_beside_a_log_that_has_all_pages(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is damaged then, and yet the restore would be undone. SQLite follows links to the log."""
    monkeypatch.chdir(path.parent)
    Path("link.db").symlink_to(path)
    killed(path, "raw.execute(\"VACUUM INTO 'backup.db'\")")
    Path("backup.db").replace(path)
    moved_later(path)
    before = path.read_bytes(), log_of(path).read_bytes(), index_of(path).read_bytes()
    for _ in range(2):
        with pytest.raises(StorageCorrupt, match="delete the -wal and -shm files beside it"):
            opened(Path(name).absolute())
    assert (path.read_bytes(), log_of(path).read_bytes(), index_of(path).read_bytes()) == before
    log_of(path).unlink()
    index_of(path).unlink()
    with opened(path) as storage:
        assert [job.content for job in storage.queue.list()] == ["before"]


@pytest.mark.parametrize("checkpoint", ["", "raw.execute('PRAGMA wal_checkpoint')"])
def test_a_log_that_is_of_the_file_is_applied(path: Path, checkpoint: str) -> None:
    killed(path, checkpoint)
    with opened(path) as storage:
        assert len(storage.queue.list()) == 4


def test_a_page_that_comes_back_is_no_sign_of_another_file(path: Path) -> None:
    with opened(path), closing(sqlite3.connect(path)) as raw:
        raw.executescript("CREATE TABLE notes (state TEXT); INSERT INTO notes VALUES ('off')")
    changes = [
        f"raw.execute(\"UPDATE notes SET state = '{state}'\"); raw.commit()" for state in ("on ", "off")
    ]
    killed(path, *changes)
    moved_later(path)
    with opened(path) as storage:
        assert len(storage.queue.list()) == 4


def test_damage_by_a_log_is_found_again_after_a_look(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    restart = "raw.execute('PRAGMA wal_checkpoint(RESTART)').fetchall()"
    later = "[storage.queue.schedule('x', f'later {n}') for n in range(30)]"
    killed(path, "raw.execute(\"VACUUM INTO 'backup.db'\")", later, restart, later)
    shutil.copyfile("backup.db", path)
    moved_later(path)
    for _ in range(3):
        with pytest.raises(StorageCorrupt, match="do not match"):
            opened(path)
        with suppress(sqlite3.DatabaseError):
            access.connect_to_look(path).close()


def test_the_log_of_an_emptied_file_is_kept(path: Path) -> None:
    killed(path)
    os.truncate(path, 0)
    before = log_of(path).read_bytes()
    with pytest.raises(StorageCorrupt, match="delete the -wal and -shm files beside it"):
        opened(path)
    assert (path.read_bytes(), log_of(path).read_bytes()) == (b"", before)


def test_a_log_of_a_file_whose_mode_was_changed_later_is_applied(path: Path) -> None:
    with opened(path) as storage:
        storage.queue.schedule("x", "first")
    killed(path)
    moved_later(path)
    with opened(path) as storage:
        assert len(storage.queue.list()) == 5


def test_sqlite_opens_no_file_while_a_log_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing what was read would drop the locks of a connection that was opened meanwhile."""
    killed(path)
    moved_later(path)
    held: dict[str, bool] = {}

    def contradictions(_: object) -> int:
        held["reading"] = inherited.opening.locked()
        return 0

    def connect(*arguments: Any, **options: Any) -> Any:
        held["opening"] = inherited.opening.locked()
        return driver.sqlite3.connect(*arguments, **options)

    monkeypatch.setattr(logs._Log, "contradictions", contradictions)
    monkeypatch.setattr(access, "sqlite3", SimpleNamespace(**{**vars(driver.sqlite3), "connect": connect}))
    with opened(path) as storage:
        assert len(storage.queue.list()) == 4
        assert held == {"reading": True, "opening": True}
        assert not inherited.opening.locked()


def test_a_file_that_was_changed_after_its_log_while_it_is_open(path: Path) -> None:
    """A new process finds it so, if the mode was changed: the log was never brought into the file."""
    with opened(path) as storage:
        storage.queue.schedule("x", "a")
        moved_later(path)
        script = f"""
from assistly.storage import SqliteBackend, Storage
with Storage(SqliteBackend({str(path)!r}), auto_prune=False) as storage:
    print(len(storage.queue.list()))
"""
        done = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, check=True)
        assert done.stdout == b"1\n"
        with opened(path) as other:
            assert len(other.queue.list()) == len(storage.queue.list())


def test_a_backup_that_is_copied_over_the_file(path: Path) -> None:
    """It is the same file, which is consistent, but an older one; connections have newer pages in memory."""
    with opened(path) as storage, closing(sqlite3.connect(path)) as raw:
        saved = backup(path, path.with_name("backup.db"))
        storage.events.append_many([NewEvent("a", "x" * 1000)] * 1000)
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        storage.nonces.register("second")
        shutil.copyfile(saved, path)
        with pytest.raises(StorageCorrupt, match="overwritten"):
            storage.nonces.register("third")


@pytest.mark.usefixtures("always")
def test_a_vacuum_is_no_harm(path: Path) -> None:
    with opened(path) as storage:
        storage.events.append_many([NewEvent("a", "x" * 1000)] * 1000)
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("PRAGMA wal_checkpoint")
            before = path.stat().st_size
            storage.nonces.register("second")
            raw.execute("DELETE FROM assistly_events")
            raw.execute("VACUUM")
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert path.stat().st_size < before / 2
        assert storage.nonces.seen("second")
        assert storage.nonces.register("third")


def test_a_deleted_log_is_noticed_by_writes_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "CHECK_SECONDS", 0.02)
    with opened(path) as storage:
        log_of(path).unlink()
        with pytest.raises(StorageCorrupt, match="write-ahead log"):
            for number in count():
                storage.nonces.register(f"n{number}")
    with opened(path) as again:
        assert all(again.nonces.seen(f"n{n}") for n in range(number))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("size", [0, 1, 31, 32, 4000, 60_000])
@pytest.mark.parametrize("call", ["read", "execute", "wait"])
def test_a_log_that_was_truncated(path: Path, size: int, call: str) -> None:
    with opened(path) as storage:
        storage.events.append_many([NewEvent("a", "x" * 1000)] * 100)
        storage.nonces.seen("first")
        assert log_of(path).stat().st_size > size
        os.truncate(log_of(path), size)
        for _ in range(2):
            with pytest.raises(StorageCorrupt, match="lost a part of its write-ahead log"):
                CALLS[call](storage)


def test_a_log_whose_index_was_deleted_keeps_what_another_process_writes(path: Path) -> None:
    """The other process makes an index of its own, and neither knows of the other's locks and commits."""
    program = (
        "import sys; from pathlib import Path; from assistly.storage import SqliteBackend, Storage\n"
        "storage = Storage(SqliteBackend(Path(sys.argv[1])), auto_prune=False)\n"
        "print(storage.nonces.register('theirs'), flush=True); sys.stdin.read()"
    )
    with opened(path) as storage:
        storage.nonces.register("second")
        index_of(path).unlink()
        other = subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        storage._backend._file._pool.file.identity._next_check = 0.0  # type: ignore[attr-defined]
        with pytest.raises(StorageCorrupt, match="-shm"):
            storage.nonces.register("third")
    other.communicate(timeout=PATIENCE)
    with opened(path) as again:
        assert [again.nonces.seen(nonce) for nonce in ("first", "second", "theirs")] == [True, True, True]


@pytest.mark.usefixtures("always")
def test_a_log_may_go_with_the_last_connection(path: Path) -> None:
    """After a fork all are closed, and another process may close the file for good."""
    with opened(path) as storage:
        pool = storage._backend._file._pool  # type: ignore[attr-defined]
        for number in range(3):
            pool.before_fork(1)
            pool.after_fork_in_parent()
            assert not log_of(path).exists()
            with closing(sqlite3.connect(path)) as other:
                other.execute("SELECT * FROM assistly_nonces").fetchall()
            assert storage.nonces.register(f"n{number}")
            assert storage.nonces.seen(f"n{number}")


@pytest.mark.usefixtures("always")
def test_a_log_is_watched_again_after_a_connection_was_closed(path: Path) -> None:
    with opened(path) as storage:
        pool = storage._backend._file._pool  # type: ignore[attr-defined]
        kept, closed = pool.borrow(), pool.borrow()
        pool.discard(closed)
        pool.give_back(kept)
        assert storage.nonces.register("second")
        log_of(path).unlink()
        with pytest.raises(StorageCorrupt, match="lost its write-ahead log"):
            storage.nonces.register("third")


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("mode", ["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
def test_a_checkpoint_is_no_harm(path: Path, mode: str) -> None:
    with opened(path) as storage, closing(sqlite3.connect(path)) as other:
        for number in range(3):
            other.execute(f"PRAGMA wal_checkpoint({mode})")
            assert storage.nonces.register(f"n{number}")
            assert storage.nonces.seen(f"n{number}")


@pytest.mark.usefixtures("always")
def test_inside_a_transaction(path: Path) -> None:
    with opened(path) as storage, pytest.raises(StorageCorrupt), storage.transaction() as tx:
        tx.nonces.register("second")
        path.unlink()
        with pytest.raises(StorageCorrupt):
            tx.nonces.seen("second")


def test_at_the_end_of_a_transaction(path: Path) -> None:
    with opened(path) as storage, pytest.raises(StorageCorrupt), storage.transaction() as tx:
        tx.nonces.register("second")
        path.unlink()


@pytest.mark.usefixtures("always")
def test_on_a_bound_connection(path: Path) -> None:
    with opened(path) as storage, closing(sqlite3.connect(path)) as raw:
        bound = storage.bind(raw)
        path.unlink()
        with pytest.raises(StorageCorrupt):
            bound.nonces.register("second")
        with pytest.raises(StorageCorrupt):
            bound.nonces.seen("first")


def test_under_group_commit(path: Path) -> None:
    def write(number: int) -> str:
        try:
            storage.nonces.register(f"n{number}")
        except StorageCorrupt:
            return "refused"
        return "written"

    with opened(path) as storage, ThreadPoolExecutor(8) as threads:
        assert {*threads.map(write, range(40))} == {"written"}
        path.unlink()
        assert {*threads.map(write, range(40, 80))} == {"refused"}


@pytest.mark.usefixtures("always")
def test_with_await(path: Path) -> None:
    async def main() -> None:
        async with open_async_storage(engine="sqlite", sqlite_path=path, auto_prune=False) as storage:
            await storage.nonces.register("first")
            path.unlink()
            calls = [storage.nonces.register(f"n{n}") for n in range(9)]
            answers = await asyncio.gather(*calls, storage.queue.wait(30), return_exceptions=True)
            assert {type(answer) for answer in answers} == {StorageCorrupt}

    asyncio.run(main())


@needs_fork
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("is_after", [True, False])
def test_in_a_forked_child(path: Path, is_after: bool) -> None:
    with opened(path) as storage:
        if not is_after:
            path.unlink()
        child = os.fork()
        if child == 0:
            code = 1
            with suppress(BaseException):
                if is_after:
                    storage.nonces.register("child")
                    path.unlink()
                try:
                    storage.nonces.register("lost")
                except StorageCorrupt:
                    code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_check_opens_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing a descriptor of the file would drop the locks of this process."""
    with opened(path) as storage:
        with monkeypatch.context() as patched:
            for name in ("open", "fdopen"):
                patched.setattr(os, name, lambda *_: pytest.fail("a descriptor was opened"))
            storage._backend._file._pool.file.identity.check()  # type: ignore[attr-defined]
        assert storage.nonces.register("second")


class TestPaths:
    def test_a_relative_path_stays_where_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / "one")
        with open_storage(engine="sqlite", sqlite_path="a.db", auto_prune=False) as storage:
            lazy = Storage(SqliteBackend("b.db"), auto_prune=False)
            monkeypatch.chdir(tmp_path / "two")
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(storage.nonces.register, map(str, range(20))))
            storage.queue.wait(0)
            with lazy:
                lazy.ping()
        assert not [*(tmp_path / "two").iterdir()]
        assert {file.name for file in (tmp_path / "one").iterdir()} == {"a.db", "b.db"}

    def test_with_await(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "two").mkdir()
        monkeypatch.chdir(tmp_path)

        async def main() -> None:
            async with open_async_storage(engine="sqlite", sqlite_path="a.db", auto_prune=False) as storage:
                monkeypatch.chdir(tmp_path / "two")
                await asyncio.gather(*(storage.nonces.register(f"n{n}") for n in range(20)))

        asyncio.run(main())
        assert not [*(tmp_path / "two").iterdir()]

    @needs_fork
    def test_after_a_fork(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "two").mkdir()
        monkeypatch.chdir(tmp_path)
        with Storage(SqliteBackend("a.db"), auto_prune=False) as storage:
            storage.nonces.register("first")
            child = os.fork()
            if child == 0:
                code = 1
                with suppress(BaseException):
                    os.chdir("two")
                    code = 0 if storage.nonces.seen("first") and storage.nonces.register("second") else 1
                os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert storage.nonces.seen("second")
        assert not [*(tmp_path / "two").iterdir()]

    def test_the_home_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert SqliteBackend("~/a.db").path == tmp_path / "a.db"
        assert SqliteBackend("~root/a.db").path == Path("~root").expanduser() / "a.db"
        monkeypatch.chdir(tmp_path)
        assert SqliteBackend("./~/a.db").path in (tmp_path / "~/a.db", tmp_path / "a.db")
        with pytest.raises(ConfigurationError, match="home folder"):
            SqliteBackend("~no-such-user/a.db")

    @pytest.mark.parametrize(
        "path",
        ["sqlite:///a.db", Path("sqlite:///a.db"), "file:a.db", "postgres://me:Q@h/d", "host=h password=Q"],
    )
    def test_a_url(self, path: Any) -> None:
        with pytest.raises(ConfigurationError, match="SQLITE_PATH") as caught:
            SqliteBackend(path)
        assert "Q" not in str(caught.value).replace("SQL", "")

    @pytest.mark.parametrize("path", [None, 5, b"a.db", "", "a\0.db", "a\ud800.db"])
    def test_what_is_no_path(self, path: Any) -> None:
        with pytest.raises(ConfigurationError, match="SQLITE_PATH"):
            SqliteBackend(path)

    def test_the_busy_timeout(self) -> None:
        wrong: Any = 5
        with pytest.raises(InvalidValue, match="busy_timeout"):
            SqliteBackend("a.db", busy_timeout=wrong)


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user for whom permissions count."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def locked_folder(folder: Path) -> Path:
    (folder / "locked").mkdir(mode=0o000)
    return folder / "locked" / "deeper" / "a.db"


def folder_for_reading(folder: Path) -> Path:
    (folder / "reading").mkdir(mode=0o555)
    return folder / "reading" / "a.db"


def file_for_reading(folder: Path) -> Path:
    with opened(folder / "a.db"):
        pass
    (folder / "a.db").chmod(0o444)
    return folder / "a.db"


def hidden_file(folder: Path) -> Path:
    with opened(folder / "a.db"):
        pass
    (folder / "a.db").chmod(0o000)
    return folder / "a.db"


def file_as_folder(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / "a.db"


def link_to_nothing(folder: Path) -> Path:
    (folder / "link.db").symlink_to(folder / "nothing")
    return folder / "link.db"


def link_to_itself(folder: Path) -> Path:
    (folder / "link.db").symlink_to(folder / "link.db")
    return folder / "link.db"


def folder_linked_to_nothing(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "nothing")
    return folder / "link" / "a.db"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.db")
    return folder / "pipe.db"


def text(folder: Path) -> Path:
    (folder / "a.db").write_text("This is no database, but a long enough text. " * 99)
    return folder / "a.db"


BAD_PLACES: dict[str, tuple[Callable[[Path], Path], type[StorageError]]] = {
    "a locked folder": (locked_folder, ConfigurationError),
    "a folder for reading": (folder_for_reading, ConfigurationError),
    "a file for reading": (file_for_reading, StorageUnavailable),
    "a hidden file": (hidden_file, StorageUnavailable),
    "a file as a folder": (file_as_folder, ConfigurationError),
    "a link to nothing": (link_to_nothing, ConfigurationError),
    "a link to itself": (link_to_itself, ConfigurationError),
    "a folder that is a link to nothing": (folder_linked_to_nothing, ConfigurationError),
    "a folder": (lambda folder: folder, ConfigurationError),
    "a pipe": (pipe, ConfigurationError),
    "a device": (lambda _: Path("/dev/null"), ConfigurationError),
    "a text": (text, StorageCorrupt),
    "a long name": (lambda folder: folder / ("x" * 256), ConfigurationError),
    "a long folder": (lambda folder: folder / ("x" * 256) / "a.db", ConfigurationError),
    "a long path": (lambda folder: folder / "/".join(["y" * 200] * 30) / "a.db", ConfigurationError),
    "two lines": (lambda folder: folder / "a\nb\x1b[31m" / ("x" * 256), ConfigurationError),
}


@pytest.fixture
def anybodys_folder() -> Iterator[Path]:
    """One that a user without rights reaches, too."""
    folder = Path(tempfile.mkdtemp(prefix="assistly-test-"))
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    yield folder
    for name in ("locked", "reading"):
        with suppress(OSError):
            (folder / name).chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("place", BAD_PLACES)
def test_a_place_where_no_file_can_be(anybodys_folder: Path, place: str) -> None:
    make, kind = BAD_PLACES[place]
    with as_nobody():
        path = make(anybodys_folder)
        openings: list[Callable[[], Any]] = [lambda: opened(path)]
        if place != "a file for reading":
            openings.append(lambda: open_storage(engine="sqlite", sqlite_path=path, auto_prune=False))
        for opening in openings:
            with pytest.raises(kind) as caught:
                opening()
            assert "\n" not in str(caught.value)
            assert "\x1b" not in str(caught.value)
            assert len(str(caught.value)) < 10_000


@pytest.mark.usefixtures("always")
def test_a_folder_that_is_locked_for_a_while(anybodys_folder: Path) -> None:
    """Nobody can tell then whether the files are the same, and they may well be."""
    folder = anybodys_folder / "data"
    with as_nobody(), opened(folder / "a.db") as storage:
        folder.chmod(0o000)
        try:
            assert storage.nonces.register("second")
            assert storage.nonces.seen("second")
        finally:
            folder.chmod(0o700)
        assert storage.nonces.register("third")
        log_of(folder / "a.db").unlink()
        with pytest.raises(StorageCorrupt):
            storage.nonces.register("fourth")


def test_a_new_file_is_private(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        with opened(tmp_path / "a.db"):
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    finally:
        os.umask(umask)
    assert modes == {"a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600}
