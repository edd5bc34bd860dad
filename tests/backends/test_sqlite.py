"""What is SQLite's own: the file, connections, threads, forks and the caller's connections."""

from __future__ import annotations

import errno
import gc
import os
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from assistly.storage import (
    ConfigurationError,
    InvalidValue,
    MigrationError,
    StorageClosed,
    StorageCorrupt,
    StorageError,
    StorageUnavailable,
)
from assistly.storage.engine.values import JobDraft, JsonText, Settlement
from assistly.storage.engines.sql.backend import SqlBackend
from assistly.storage.engines.sqlite import SqliteBackend, database, pool
from assistly.storage.engines.sqlite.connections import Connection
from assistly.storage.engines.sqlite.driver import sqlite3
from assistly.storage.engines.sqlite.errors import translate
from assistly.storage.engines.sqlite.migrations import SqliteMigrations
from assistly.storage.records import Latency, Metrics
from assistly.storage.testing.forking import needs_fork
from waiting import until

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHORT = timedelta(milliseconds=20)
FORK_SECONDS = 3.0
_NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "assistly.db"


@pytest.fixture
def backend(path: Path) -> Iterator[SqliteBackend]:
    backend = SqliteBackend(path)
    yield backend
    backend.close()


def connect(path: Path, **options: Any) -> Any:
    return closing(sqlite3.connect(str(path), **options))


def draft(**fields: Any) -> JobDraft:
    defaults: dict[str, Any] = {
        "platform": "x",
        "content": "Hello",
        "metadata": "{}",
        "scheduled_at": NOW,
        "idempotency_key": None,
        "max_retries": 3,
        "max_lateness": None,
    }
    return JobDraft(**defaults | fields)


class BytesPath:
    """As `os.scandir` gives them for a folder in bytes."""

    def __fspath__(self) -> bytes:
        return b"bytes.db"


class TestFile:
    def test_the_file_and_its_companions_are_the_owners_alone(
        self, backend: SqliteBackend, path: Path
    ) -> None:
        backend.nonces.register("n", 1)
        files = sorted(path.parent.iterdir())
        assert [file.name for file in files] == ["assistly.db", "assistly.db-shm", "assistly.db-wal"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}

    def test_the_mode_of_a_file_that_is_there_is_kept(self, path: Path) -> None:
        path.parent.mkdir()
        path.touch()
        path.chmod(0o640)
        with closing(SqliteBackend(path)) as backend:
            backend.ping()
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    def test_nothing_is_created_before_the_first_use(self, path: Path) -> None:
        SqliteBackend(path).close()
        assert not path.parent.exists()

    def test_it_is_in_wal_mode(self, backend: SqliteBackend, path: Path) -> None:
        backend.ping()
        with connect(path) as raw:
            assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    def test_a_commit_outlives_the_process_and_a_checkpoint_the_machine(self, backend: SqliteBackend) -> None:
        """With less than NORMAL, a checkpoint writes before the log is on the disk, and may tear the file."""
        database: Any = backend._database
        with backend.transaction() as tx:
            levels = [
                database.read(lambda connection: connection.rows("PRAGMA synchronous")),
                tx._database.read(lambda connection: connection.rows("PRAGMA synchronous")),  # type: ignore[attr-defined]
            ]
        assert levels == [[(1,)]] * 2

    def test_closing_leaves_one_file(self, path: Path) -> None:
        with closing(SqliteBackend(path)) as backend:
            backend.nonces.register("n", 1)
        assert [file.name for file in path.parent.iterdir()] == ["assistly.db"]

    def test_a_relative_path_stays_where_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with closing(SqliteBackend("assistly.db")) as backend:
            (tmp_path / "elsewhere").mkdir()
            monkeypatch.chdir(tmp_path / "elsewhere")
            backend.ping()
        assert (tmp_path / "assistly.db").is_file()
        assert repr(backend) == f"SqliteBackend({str(tmp_path / 'assistly.db')!r})"

    def test_a_relative_path_in_a_folder_that_is_gone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        with pytest.raises(ConfigurationError, match="SQLITE_PATH"):
            SqliteBackend("assistly.db")

    @pytest.mark.parametrize("name", ["x" * 300, "/".join(["y" * 200] * 30), "x" * 300 + "/a.db"])
    def test_a_name_that_is_too_long(self, tmp_path: Path, name: str) -> None:
        with closing(SqliteBackend(tmp_path / name)) as backend:
            assert_one_line(backend, ConfigurationError, "too long")

    @pytest.mark.parametrize("name", ["a.db", "folder/a.db"])
    def test_a_folder_that_may_not_be_entered(self, tmp_path: Path, name: str) -> None:
        locked = tmp_path / "locked"
        locked.mkdir(mode=0)
        try:
            with as_ordinary_user(), closing(SqliteBackend(locked / name)) as backend:
                assert_one_line(backend, ConfigurationError, "denied")
        finally:
            locked.chmod(0o700)

    def test_the_system_says_that_a_folder_may_not_be_entered(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*args: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
        with closing(SqliteBackend(tmp_path / "a.db")) as backend:
            assert_one_line(backend, ConfigurationError, "denied")

    @pytest.mark.parametrize("link", ["a.db", "folder"])
    def test_a_link_to_nothing(self, tmp_path: Path, link: str) -> None:
        (tmp_path / link).symlink_to(tmp_path / "nothing")
        name = link if link.endswith(".db") else f"{link}/a.db"
        with closing(SqliteBackend(tmp_path / name)) as backend:
            assert_one_line(backend, ConfigurationError, f"{link}.* symbolic link to nothing")
        assert not (tmp_path / "nothing").exists()

    def test_a_link_to_a_file_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "link.db").symlink_to(tmp_path / "a.db")
        with closing(SqliteBackend(tmp_path / "a.db")) as backend:
            backend.nonces.register("n", 1)
            with closing(SqliteBackend(tmp_path / "link.db")) as other:
                assert other.nonces.seen("n")

    @pytest.mark.parametrize("bad", ["", "a\0b", b"bytes.db", BytesPath(), 7, None])
    def test_what_is_no_path(self, bad: Any) -> None:
        with pytest.raises(ConfigurationError, match="SQLITE_PATH"):
            SqliteBackend(bad)

    def test_memory_is_another_engine(self) -> None:
        with pytest.raises(ConfigurationError, match="STORAGE_ENGINE=memory"):
            SqliteBackend(":memory:")

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        with closing(SqliteBackend(tmp_path)) as backend, pytest.raises(ConfigurationError, match="folder"):
            backend.ping()

    @pytest.mark.parametrize("name", ["file/a.db", "file/folder/a.db"])
    def test_a_folder_that_cannot_be_made_is_tried_again(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").touch()
        with closing(SqliteBackend(tmp_path / name)) as backend:
            with pytest.raises(ConfigurationError, match=r"SQLITE_PATH.*file"):
                backend.ping()
            (tmp_path / "file").unlink()
            backend.ping()

    def test_a_file_that_is_no_database(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(b"Dear diary, " * 1000)
        before = path.read_bytes()
        with closing(SqliteBackend(path)) as backend, pytest.raises(StorageCorrupt, match="no SQLite"):
            backend.nonces.register("n", 1)
        assert path.read_bytes() == before

    def test_a_damaged_file(self, path: Path) -> None:
        with closing(SqliteBackend(path)) as backend:
            for number in range(500):
                backend.snapshots.put(f"kind {number}", JsonText(f'"{"x" * 500}"'), now=NOW)
        content = bytearray(path.read_bytes())
        content[4096 * 20 :] = b"\xff" * len(content[4096 * 20 :])
        path.write_bytes(content)
        with closing(SqliteBackend(path)) as backend, pytest.raises(StorageCorrupt, match="damaged"):
            backend.snapshots.list()

    def test_a_job_of_a_foreign_status(self, backend: SqliteBackend, path: Path) -> None:
        backend.jobs.insert([draft()], now=NOW)
        with connect(path) as raw, raw:
            raw.execute("UPDATE assistly_queue_jobs SET status = 'lost'")
        with pytest.raises(StorageCorrupt, match="'lost'"):
            backend.jobs.get(1)

    def test_an_old_sqlite(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
        with pytest.raises(ConfigurationError, match=r"3\.37"):
            SqliteBackend(path)

    def test_it_works_without_pysqlite3(self, path: Path) -> None:
        script = (
            "import sys; sys.modules['pysqlite3'] = None\n"
            "from assistly.storage.engines.sqlite import SqliteBackend\n"
            "from assistly.storage.engines.sqlite.driver import sqlite3\n"
            "import sqlite3 as stdlib\n"
            "assert sqlite3 is stdlib\n"
            f"backend = SqliteBackend({str(path)!r})\n"
            "assert backend.nonces.register('n', 1)\n"
            "backend.close()\n"
        )
        subprocess.run(
            [sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}
        )
        with closing(SqliteBackend(path)) as backend:
            assert backend.nonces.seen("n")


class TestSchema:
    def test_without_auto_migrate_a_new_file_is_an_error_that_names_the_command(self, path: Path) -> None:
        with closing(SqliteBackend(path, auto_migrate=False)) as backend:
            with pytest.raises(MigrationError, match="assistly migrate"):
                backend.ping()
            assert backend.migrate() == [
                "001_init_sqlite.sql",
                "002_tables_sqlite.sql",
                "003_lean_queue_sqlite.sql",
                "004_decisions_sqlite.sql",
            ]
            backend.ping()
            assert backend.migrate() == []

    def test_a_schema_that_is_current_is_not_written_to(self, path: Path) -> None:
        with closing(SqliteBackend(path)) as backend:
            backend.ping()
            with connect(path, isolation_level=None) as raw:
                raw.execute("BEGIN IMMEDIATE")
                with closing(SqliteBackend(path, busy_timeout=SHORT)) as other:
                    assert other.jobs.counts() == dict.fromkeys(other.jobs.counts(), 0)

    @pytest.mark.parametrize("latency", ["{}", "null", '{"count": null, "total": "1", "max": true}'])
    def test_old_metrics_without_a_latency(self, backend: SqliteBackend, path: Path, latency: str) -> None:
        backend.ping()
        with connect(path, isolation_level=None) as raw:
            raw.execute(
                "INSERT INTO assistly_metrics (id, payload, updated_at) VALUES (1, ?, 0)",
                [f'{{"requestCount": 3, "latencyMs": {latency}}}'],
            )
        assert backend.metrics.read() == Metrics({"requestCount": 3}, Latency(0, 0.0, 0.0))

    def test_a_table_that_is_gone(self, backend: SqliteBackend, path: Path) -> None:
        backend.ping()
        with connect(path) as raw, raw:
            raw.execute("DROP TABLE assistly_nonces")
        with pytest.raises(MigrationError, match="nonces"):
            backend.nonces.seen("n")


class TestErrors:
    def test_a_writer_who_does_not_end_makes_others_give_up(self, path: Path) -> None:
        with closing(SqliteBackend(path, busy_timeout=SHORT)) as backend:
            backend.ping()
            with connect(path, isolation_level=None) as raw:
                raw.execute("BEGIN IMMEDIATE")
                for write in (
                    lambda: backend.nonces.register("n", 1),
                    lambda: backend.jobs.insert([draft(), draft()], now=NOW),
                    lambda: backend.transaction().__enter__(),
                ):
                    with pytest.raises(StorageUnavailable, match="write lock") as raised:
                        write()
                    assert isinstance(raised.value.__cause__, sqlite3.OperationalError)
                assert not backend.nonces.seen("n")
            assert backend.nonces.register("n", 1)

    def test_a_full_disk_undoes_the_transaction_for_good(self, backend: SqliteBackend) -> None:
        def fill(transaction: SqlBackend) -> None:
            transaction.nonces.register("first", 1)
            limit(transaction, pages=1)
            transaction.snapshots.put("queue", JsonText(f'"{"x" * 100_000}"'), now=NOW)

        backend.nonces.register("before", 1)
        with pytest.raises(StorageUnavailable, match="full"):
            within_transaction(backend, fill)
        limit(backend, pages=1_000_000)
        assert backend.nonces.seen("before")
        assert not backend.nonces.seen("first")
        assert backend.snapshots.get("queue") is None
        assert backend.nonces.register("first", 1)

    @pytest.mark.parametrize("goes_on", [True, False])
    def test_what_was_undone_by_the_engine_does_not_go_on_as_single_statements(
        self, backend: SqliteBackend, goes_on: bool
    ) -> None:
        def work(transaction: SqlBackend) -> None:
            transaction.nonces.register("first", 1)
            run(transaction, "ROLLBACK")
            if goes_on:
                transaction.nonces.register("second", 1)

        with pytest.raises(StorageUnavailable, match="rolled back the transaction after an error"):
            within_transaction(backend, work)
        assert not backend.nonces.seen("first")
        assert not backend.nonces.seen("second")

    def test_a_number_beyond_64_bits(self, backend: SqliteBackend) -> None:
        with pytest.raises(InvalidValue, match="64 bits"):
            backend.nonces.register("n", 2**63)

    @pytest.mark.parametrize("code", range(1, 27))
    def test_every_result_code_becomes_an_error_of_ours(self, code: int) -> None:
        error = sqlite3.OperationalError("said")
        error.sqlite_errorcode = code
        assert "a.db" in str(translate(error, "a.db"))


class TestTransactions:
    def test_a_failed_inner_block_is_undone_alone(self, backend: SqliteBackend) -> None:
        with backend.transaction() as outer:
            outer.nonces.register("outer", 1)
            with undone(outer) as inner:
                inner.nonces.register("inner", 1)
                inner.jobs.insert([draft(), draft()], now=NOW)
            with outer.transaction() as inner:
                inner.nonces.register("kept", 1)
        assert [backend.nonces.seen(nonce) for nonce in ("outer", "inner", "kept")] == [True, False, True]
        assert backend.jobs.get(1) is None

    def test_a_thread_enters_another_calls_and_a_third_leaves(self, backend: SqliteBackend) -> None:
        with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second, ThreadPoolExecutor(1) as third:
            for number, error in ((1, None), (2, KeyError())):
                block = backend.transaction()
                transaction = first.submit(block.__enter__).result()
                assert second.submit(transaction.nonces.register, f"n{number}", 1).result()
                kind = None if error is None else type(error)
                with suppress(KeyError):
                    third.submit(block.__exit__, kind, error, None).result()
                assert first.submit(backend.nonces.register, f"other {number}", 1).result()
        assert backend.nonces.seen("n1")
        assert not backend.nonces.seen("n2")

    def test_a_batch_that_fails_midway_leaves_nothing(self, backend: SqliteBackend) -> None:
        bad = draft(max_lateness=timedelta.max)
        with pytest.raises(InvalidValue):
            backend.jobs.insert([draft(), bad], now=NOW)
        assert backend.jobs.get(1) is None

    def test_calls_on_the_backend_do_not_take_part(self, path: Path) -> None:
        with closing(SqliteBackend(path, busy_timeout=SHORT)) as backend:
            with backend.transaction() as transaction:
                transaction.nonces.register("n", 1)
                assert not backend.nonces.seen("n")
                with pytest.raises(StorageUnavailable, match="write lock"):
                    backend.nonces.register("other", 1)
            assert backend.nonces.seen("n")

    def test_closing_meanwhile_undoes_it(self, backend: SqliteBackend, path: Path) -> None:
        with pytest.raises(StorageClosed), backend.transaction() as transaction:
            transaction.nonces.register("n", 1)
            backend.close()
            with pytest.raises(StorageClosed):
                transaction.nonces.seen("n")
        with pytest.raises(StorageClosed):
            backend.nonces.seen("n")
        with closing(SqliteBackend(path)) as again:
            assert not again.nonces.seen("n")


class TestConnections:
    def test_a_few_idle_ones_are_kept(self, backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pool, "_MAX_IDLE", 2)
        lender = backend._file._pool
        lent = [lender.borrow() for _ in range(4)]
        for connection in lent:
            lender.give_back(connection)
        assert [is_open(connection) for connection in lent] == [True, True, False, False]
        assert lender.borrow() is lent[1]

    def test_only_the_first_one_looks_at_the_migrations(
        self, backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Others would need the table of migrations, too, and another transaction may hold up a migration."""
        looks: list[SqliteMigrations] = []
        target = SqliteMigrations

        def count(connection: Connection) -> SqliteMigrations:
            looks.append(target(connection))
            return looks[-1]

        monkeypatch.setattr(database, "SqliteMigrations", count)
        lender = backend._file._pool
        for connection in [lender.borrow() for _ in range(3)]:
            lender.give_back(connection)
        assert len(looks) == 1

    @pytest.mark.parametrize("way", ["discard", "in a transaction"])
    def test_a_fork_waits_no_longer_than_for_the_last_one_to_be_closed(
        self, backend: SqliteBackend, way: str
    ) -> None:
        lender = backend._file._pool
        connection = lender.borrow()
        with ThreadPoolExecutor(1) as thread:
            began = time.monotonic()
            forking = thread.submit(lender.before_fork, FORK_SECONDS)
            until(lambda: lender._forks)
            if way == "discard":
                lender.discard(connection)
            else:
                connection.execute("BEGIN")
                lender.give_back(connection)
            forking.result()
        lender.after_fork_in_parent()
        assert time.monotonic() - began < FORK_SECONDS
        assert not is_open(connection)
        assert backend.nonces.register("after", 1)


class TestThreads:
    def test_many_threads_lose_nothing(self, backend: SqliteBackend) -> None:
        barrier = threading.Barrier(8)

        def work(thread: int) -> int:
            barrier.wait()
            wins = 0
            for number in range(50):
                wins += backend.nonces.register(f"n{number}", thread)
                backend.metrics.increment("calls", 1)
                backend.jobs.insert([draft(), draft()], now=NOW)
            return wins

        with ThreadPoolExecutor(8) as threads:
            wins = sum(threads.map(work, range(8)))
        assert wins == 50
        assert backend.metrics.read().counters == {"calls": 400}
        assert sum(backend.jobs.counts().values()) == 800

    def test_each_due_job_goes_to_one_claimer(self, backend: SqliteBackend) -> None:
        backend.jobs.insert([draft() for _ in range(300)], now=NOW)
        barrier = threading.Barrier(6)

        def work(thread: int) -> list[int]:
            barrier.wait()
            claimed = []
            while jobs := backend.jobs.claim(
                worker_id=f"w{thread}", limit=7, lease_until=NOW + timedelta(hours=1), platforms=None, now=NOW
            ):
                backend.jobs.settle([Settlement("posted", job) for job in jobs], now=NOW)
                claimed += [job.id for job in jobs]
            return claimed

        with ThreadPoolExecutor(6) as threads:
            claimed = [id for ids in threads.map(work, range(6)) for id in ids]
        assert sorted(claimed) == list(range(1, 301))

    def test_threads_may_all_be_the_first(self, path: Path) -> None:
        barrier = threading.Barrier(8)
        with closing(SqliteBackend(path)) as backend, ThreadPoolExecutor(8) as threads:

            def work(number: int) -> bool:
                barrier.wait()
                return backend.nonces.register(f"n{number}", 1)

            assert all(threads.map(work, range(8)))

    def test_closing_beside_calls_in_flight(self, path: Path) -> None:
        """Each call finishes, or says that the storage is closed."""
        for _ in range(20):
            backend = SqliteBackend(path)
            backend.ping()
            barrier = threading.Barrier(5)

            def work(number: int, backend: SqliteBackend = backend, barrier: Any = barrier) -> int:
                barrier.wait()
                for count in range(1000):
                    try:
                        backend.events.append([("x", JsonText("1"), NOW)] * (number + 1))
                        backend.jobs.wait(0)
                    except StorageClosed:
                        return count
                raise AssertionError("it was never closed")

            with ThreadPoolExecutor(4) as threads:
                counts = threads.map(work, range(4))
                barrier.wait()
                backend.close()
                assert all(count >= 0 for count in counts)
        assert [file.name for file in path.parent.iterdir()] == ["assistly.db"]


@needs_fork
class TestFork:
    def test_a_child_opens_connections_of_its_own(self, backend: SqliteBackend) -> None:
        backend.nonces.register("parent", 1)

        def child() -> bool:
            return backend.nonces.seen("parent") and backend.nonces.register("child", 1)

        assert in_child(child)
        assert backend.nonces.seen("child")
        assert backend.nonces.register("parent again", 1)

    def test_a_transaction_stays_the_parents(self, backend: SqliteBackend) -> None:
        def child(transaction: Any) -> bool:
            with pytest.raises(StorageClosed, match="process that opened it"):
                transaction.nonces.register("child", 1)
            with pytest.raises(StorageClosed, match="process that opened it"):
                block.__exit__(None, None, None)
            with pytest.raises(StorageUnavailable, match="forked"):
                backend.nonces.seen("parent")
            return True

        with (block := backend.transaction()) as transaction:
            transaction.nonces.register("parent", 1)
            assert in_child(lambda: child(transaction))
        assert backend.nonces.seen("parent")


@contextmanager
def undone(owner: Any) -> Iterator[Any]:
    """A transaction that ends with an exception."""
    with suppress(KeyError), owner.transaction() as transaction:
        yield transaction
        raise KeyError


def within_transaction(backend: SqliteBackend, work: Callable[[SqlBackend], None]) -> None:
    with backend.transaction() as transaction:
        assert isinstance(transaction, SqlBackend)
        work(transaction)


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Root may enter every folder, so it becomes another user for a while."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def assert_one_line(backend: SqliteBackend, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as raised:
        backend.ping()
    assert "\n" not in str(raised.value)


def is_open(connection: Connection) -> bool:
    try:
        connection.rows("SELECT 1")
    except StorageError:
        return False
    return True


def in_child(work: Callable[[], bool]) -> bool:
    """Whether it returned True in a fork."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            traceback.print_exc()
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def limit(backend: SqlBackend, *, pages: int) -> None:
    """As if the disk had room for so many pages, or for those that there are."""
    run(backend, f"PRAGMA max_page_count = {pages}")


def run(backend: SqlBackend, statement: str) -> None:
    backend._database.read(lambda connection: connection.rows(statement, {}))


def test_a_storage_that_nobody_closes_is_closed_when_it_is_collected(path: Path) -> None:
    forgotten = SqliteBackend(path)
    forgotten.ping()
    connection = forgotten._file._pool.borrow()
    forgotten._file._pool.give_back(connection)
    del forgotten
    gc.collect()
    with pytest.raises(StorageClosed):
        connection.rows("SELECT 1")
