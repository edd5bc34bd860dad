"""A worker whose Postgres refuses, or does not answer: it is stopped, or the network is cut."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic

import psycopg
import pytest
from psycopg import sql

from assistly.storage import Job, JobStatus, PostgresBackend, Storage
from assistly.worker import Worker
from postgres_proxy import Proxy
from postgres_server import TemporaryServer
from waiting import until
from worker.worker_harness import PATIENCE, start_worker, stored

# Without it, these workers would wait for the server for 30 seconds.
SLACK = 10.0
PUBLISHERS = """
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

executor = ThreadPoolExecutor()

def slow(job):
    Path("begun").touch()
    while not Path("release").exists():
        threading.Event().wait(0.005)
    Path("published").touch()
    return f"remote-{job.id}"

def hangs_in_an_executor(job):
    Path("begun").touch()
    return executor.submit(threading.Event().wait)
"""


@pytest.fixture
def storage(
    server: TemporaryServer, schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Storage]:
    (tmp_path / "publishers.py").write_text(PUBLISHERS)
    monkeypatch.chdir(tmp_path)
    settings = {"STORAGE_ENGINE": "postgres", "DATABASE_URL": server.url, "STORAGE_SCHEMA": schema}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with Storage(PostgresBackend(server.url, schema=schema), auto_prune=False) as storage:
        storage.ping()
        yield storage


@contextmanager
def command(publisher: str) -> Iterator[subprocess.Popen[str]]:
    process = start_worker(f"publishers:{publisher}", "--grace", "0.5", "--poll", "0.05", "--lease", "1")
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def log_of_the_end(process: subprocess.Popen[str]) -> str:
    """Of the command, which has to end with code 0 and in time."""
    began = monotonic()
    _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, log
    assert monotonic() - began < SLACK
    assert "Traceback" not in log
    return log


def test_a_worker_leaves_a_silent_server_behind_and_says_what_it_could_not_store(
    server: TemporaryServer, storage: Storage
) -> None:
    job = storage.queue.schedule("x", "hello")
    with command("slow") as process:
        until(Path("begun").exists)
        with server.suspended():
            Path("release").touch()
            until(Path("published").exists)
            process.send_signal(signal.SIGTERM)
            log = log_of_the_end(process)
    assert f"job {job.id} on x waits for the storage, which has not stored its outcome: " in log
    assert f"here it was published as remote-{job.id}" in log
    assert "unfinished work: 1 job" in log


def test_a_worker_leaves_while_it_waits_for_jobs(server: TemporaryServer, storage: Storage) -> None:
    job = storage.queue.schedule("x", "hello")
    Path("release").touch()
    with command("slow") as process:
        until(lambda: stored(storage, job).status is JobStatus.POSTED)
        with server.suspended():
            process.send_signal(signal.SIGTERM)
            log_of_the_end(process)


def test_a_worker_leaves_before_it_has_connected(
    server: TemporaryServer, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Proxy(server.socket, silent=True)) as proxy:
        monkeypatch.setenv("DATABASE_URL", proxy.url)
        with command("slow") as process:
            until(lambda: proxy.connections)
            process.send_signal(signal.SIGTERM)
            assert [line.partition(" ")[0] for line in log_of_the_end(process).splitlines()] == ["storage:"]


def test_threads_of_an_executor_do_not_hold_the_process(storage: Storage) -> None:
    storage.queue.schedule("x", "hello")
    with command("hangs_in_an_executor") as process:
        until(Path("begun").exists)
        process.send_signal(signal.SIGTERM)
        log = log_of_the_end(process)
    assert "the grace time is over; exiting while these still run: " in log
    assert "ThreadPoolExecutor" in log


def test_a_running_worker_goes_on_over_new_connections(
    server: TemporaryServer, storage: Storage, schema: str
) -> None:
    begun, release = threading.Event(), threading.Event()
    job = storage.queue.schedule("x", "hello")

    def publisher(_: Job) -> str:
        begun.set()
        assert release.wait(PATIENCE)
        return "remote"

    with (
        closing(Proxy(server.socket)) as proxy,
        Storage(
            PostgresBackend(proxy.url, schema=schema, timeout=timedelta(seconds=0.3)), auto_prune=False
        ) as proxied,
    ):
        worker = Worker(proxied, {"x": publisher}, poll=0.05, grace=1)
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        assert begun.wait(PATIENCE)
        proxy.hold()
        before = proxy.connections
        release.set()
        until(lambda: proxy.connections > before)
        proxy.forward()
        until(lambda: stored(storage, job).remote_id == "remote")
        second = storage.queue.schedule("x", "hello again")
        until(lambda: stored(storage, second).status is JobStatus.POSTED)
        worker.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert worker.counts == {"posted": 2}


def test_an_outcome_waits_for_a_grant_that_was_taken_away(
    server: TemporaryServer, storage: Storage, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    begun, release = threading.Event(), threading.Event()
    job = storage.queue.schedule("x", "hello")

    def publisher(_: Job) -> str:
        begun.set()
        assert release.wait(PATIENCE)
        return "remote"

    role, tables = sql.Identifier(schema), sql.SQL("ALL TABLES IN SCHEMA {}").format(sql.Identifier(schema))
    with psycopg.connect(server.url, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        owner.execute(sql.SQL("GRANT USAGE ON SCHEMA {0} TO {0}").format(role))
        owner.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}").format(tables, role))
        url = server.url.replace("postgres:@", f"{schema}:@")
        with Storage(PostgresBackend(url, schema=schema), auto_prune=False) as granted:
            worker = Worker(granted, {"x": publisher}, poll=0.05)
            thread = threading.Thread(target=worker.run, daemon=True)
            thread.start()
            assert begun.wait(PATIENCE)
            owner.execute(sql.SQL("REVOKE UPDATE ON {} FROM {}").format(tables, role))
            release.set()
            until(lambda: "; will retry: " in caplog.text)
            owner.execute(sql.SQL("GRANT UPDATE ON {} TO {}").format(tables, role))
            until(lambda: stored(storage, job).remote_id == "remote")
            worker.stop()
            thread.join(PATIENCE)
        owner.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))
    assert worker.counts == {"posted": 1}
    assert "permission" in caplog.text
    assert "claim is lost" not in caplog.text
