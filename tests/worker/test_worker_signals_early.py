"""A worker that is told to stop before it works, or while it drains."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from assistly.storage import JobStatus, open_storage
from waiting import until
from worker.worker_harness import HANDLES_SIGINT

LONG = 60.0
PROGRAM = f"{HANDLES_SIGINT}; from assistly.cli import main; main()"
WORKER = [sys.executable, "-c", PROGRAM, "worker", "--publish"]
SLOW_PUBLISHER = """
import threading
from pathlib import Path

def publish(job):
    Path("begun").touch()
    while not Path("release").exists():
        threading.Event().wait(0.005)
"""


# It touches a file when it has been told to stop.
WATCHED = """
from pathlib import Path
from assistly.worker import Worker

stop = Worker.stop

def watched(self):
    stop(self)
    Path("told to stop").touch()

Worker.stop = watched
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_while_it_waits_for_the_database(
    number: signal.Signals, database_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"STORAGE_ENGINE": "postgres", "DATABASE_URL": database_url, "STORAGE_SCHEMA": schema}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    open_storage().close()
    table = sql.Identifier(schema, "assistly_migrations")
    waiting = "SELECT 1 FROM pg_locks WHERE relation = %s::regclass AND NOT granted"
    with psycopg.connect(database_url) as blocker, psycopg.connect(database_url, autocommit=True) as observer:
        blocker.execute(sql.SQL("LOCK TABLE {}").format(table))
        process = subprocess.Popen([*WORKER, "x=stdout"], stderr=subprocess.PIPE, text=True)
        try:
            until(lambda: observer.execute(waiting, [f"{schema}.assistly_migrations"]).fetchone())
            process.send_signal(number)
            _, log = process.communicate(timeout=LONG)
        finally:
            process.kill()
            process.communicate()
    assert (process.returncode, log) == (0, "")


def test_while_it_drains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORAGE_ENGINE", "sqlite")
    monkeypatch.setenv("SQLITE_PATH", "worker.db")
    (tmp_path / "slow.py").write_text(SLOW_PUBLISHER)
    with open_storage(auto_prune=False) as storage:
        running = storage.queue.schedule("x", "running")
        waiting = storage.queue.schedule("x", "waits for a place")
        command = [sys.executable, "-c", f"{WATCHED}\n{PROGRAM}", *WORKER[3:]]
        command += ["x=slow:publish", "--drain", "--concurrency", "1"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            until(Path("begun").exists)
            process.send_signal(signal.SIGTERM)
            until(Path("told to stop").exists)
            Path("release").touch()
            _, log = process.communicate(timeout=LONG)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 0, log
        ended = storage.queue.get(running.id)
        assert ended is not None
        assert ended.status is JobStatus.POSTED
        assert storage.queue.get(waiting.id) == waiting
