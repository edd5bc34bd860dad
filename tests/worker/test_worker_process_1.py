"""A worker that is process 1, as in a container: the kernel has no default actions for its signals."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from assistly.storage import JobStatus, Storage, open_storage
from waiting import until
from worker.worker_harness import PATIENCE, start_worker, stored, use_engine

PUBLISHERS = """
import atexit, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

hang = threading.Event().wait

def slow(job):
    Path("begun").touch()
    while not Path("release").exists():
        threading.Event().wait(0.005)

def leaves_a_thread(job):
    ThreadPoolExecutor().submit(hang)
    Path("begun").touch()

def hangs_at_exit(job):
    def note_and_hang():
        Path("at exit").touch()
        hang()
    atexit.register(note_and_hang)
    Path("begun").touch()
"""
SLOW_IMPORT = """
import threading
from pathlib import Path

Path("begun").touch()
threading.Event().wait()
"""
NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def has_namespaces() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not has_namespaces(), reason="needs unshare --pid, which root may use")


@pytest.fixture(params=["sqlite"], autouse=True)
def engine(request: pytest.FixtureRequest) -> str:
    return use_engine(request, PUBLISHERS)


@pytest.fixture
def storage(engine: str) -> Iterator[Storage]:
    with open_storage(auto_prune=False) as storage:
        yield storage


@contextmanager
def process_1(publisher: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """The one that waits for it, and itself, as seen from here."""
    outer = start_worker(publisher, *options, prefix=NAMESPACE)
    try:
        until(Path("begun").exists)
        (inner,) = psutil.Process(outer.pid).children()
        yield outer, inner
    finally:
        outer.kill()
        outer.communicate()


def ends_after_another(process: subprocess.Popen[str], inner: Any, number: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        if inner.status() != psutil.STATUS_ZOMBIE:
            inner.send_signal(number)
    return process.poll() is not None


@SIGNALS
def test_the_first_signal_lets_running_jobs_end(storage: Storage, number: signal.Signals) -> None:
    job = storage.queue.schedule("x", "hello")
    with process_1("publishers:slow") as (process, inner):
        inner.send_signal(number)
        Path("release").touch()
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, log
    assert stored(storage, job).status is JobStatus.POSTED


@SIGNALS
def test_a_second_signal_ends_it_at_once(storage: Storage, number: signal.Signals) -> None:
    job = storage.queue.schedule("x", "hello")
    with process_1("publishers:slow", "--grace", "600") as (process, inner):
        until(lambda: ends_after_another(process, inner, number))
    assert process.returncode == 128 + number
    assert stored(storage, job).status is JobStatus.PROCESSING


@SIGNALS
@pytest.mark.parametrize("publisher", ["leaves_a_thread", "hangs_at_exit"])
def test_a_second_signal_ends_it_while_its_end_hangs(
    storage: Storage, publisher: str, number: signal.Signals
) -> None:
    job = storage.queue.schedule("x", "hello")
    with process_1(f"publishers:{publisher}", "--grace", "600") as (process, inner):
        until(lambda: stored(storage, job).status is JobStatus.POSTED)
        until(lambda: ends_after_another(process, inner, number))
    assert process.returncode == 128 + number


@SIGNALS
def test_a_signal_at_its_start_ends_it(number: signal.Signals) -> None:
    Path("slow_import.py").write_text(SLOW_IMPORT)
    with process_1("slow_import:publish") as (process, inner):
        inner.send_signal(number)
        _, log = process.communicate(timeout=PATIENCE)
    assert (process.returncode, log) == (0, "")


def test_what_hangs_at_exit_is_left_behind_after_the_grace_time(storage: Storage) -> None:
    storage.queue.schedule("x", "hello")
    with process_1("publishers:hangs_at_exit", "--grace", "0.2") as (process, inner):
        inner.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, log
    assert Path("at exit").exists()
    assert "the grace time is over; exiting while these still run: " in log
