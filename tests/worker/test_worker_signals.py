"""What signals do to a worker in a program of one's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from assistly.storage import JobStatus, MemoryBackend, Storage, open_storage
from assistly.worker import Worker
from waiting import until
from worker.worker_harness import PATIENCE, ended_by_another, stored

BEGINNING = """
import asyncio, os, signal, sys, threading
from pathlib import Path
from assistly.storage import open_storage
from assistly.worker import AsyncWorker, Worker

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)

def say(text):
    with open("said", "a") as file:
        file.write(text + "\\n")

def publish(job):
    say("publishing")
    while not Path("release").exists():
        threading.Event().wait(0.005)
"""
RUN = """
with open_storage() as storage:
    try:
        Worker(storage, {"x": publish}, grace=60).run()
        say("returned")
    except BaseException as error:
        say(type(error).__name__)
        raise
"""
AS_PROCESS_1 = """
os.getpid = lambda: 1
signal.raise_signal = lambda number: say("no default action")
"""


@pytest.fixture(autouse=True)
def storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Storage]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORAGE_ENGINE", "sqlite")
    monkeypatch.setenv("SQLITE_PATH", "worker.db")
    with open_storage(auto_prune=False) as storage:
        yield storage


@contextmanager
def program(*parts: str) -> Iterator[subprocess.Popen[str]]:
    text = "\n".join([BEGINNING, *parts])
    process = subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said() -> list[str]:
    path = Path("said")
    return path.read_text().split("\n")[:-1] if path.exists() else []


def stop_while_publishing(process: subprocess.Popen[str], number: signal.Signals) -> int:
    """Its exit code."""
    until(lambda: "publishing" in said())
    process.send_signal(number)
    Path("release").touch()
    process.communicate(timeout=PATIENCE)
    return process.returncode


HANDLER = """
def handle(number, frame):
    with open_storage() as storage:
        say(f"{signal.Signals(number).name}, {storage.queue.get(1).status}, {frame is not None}")

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, handle)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_handler_that_was_there_is_called_when_the_worker_has_stopped(
    storage: Storage, number: signal.Signals
) -> None:
    storage.queue.schedule("x", "running")
    after = "say(str([signal.getsignal(n) is handle for n in (signal.SIGTERM, signal.SIGINT)]))"
    with program(HANDLER, RUN, after) as process:
        assert stop_while_publishing(process, number) == 0
    assert said() == ["publishing", f"{number.name}, posted, True", "returned", "[True, True]"]


def test_without_a_handler_sigterm_ends_the_process_when_the_worker_has_stopped(storage: Storage) -> None:
    job = storage.queue.schedule("x", "running")
    with program(RUN) as process:
        assert stop_while_publishing(process, signal.SIGTERM) == -signal.SIGTERM
    assert said() == ["publishing"]
    assert stored(storage, job).status is JobStatus.POSTED


def test_sigint_is_a_keyboard_interrupt_when_the_worker_has_stopped(storage: Storage) -> None:
    job = storage.queue.schedule("x", "running")
    with program(RUN) as process:
        assert stop_while_publishing(process, signal.SIGINT) in (-signal.SIGINT, 130)
    assert said() == ["publishing", "KeyboardInterrupt"]
    assert stored(storage, job).status is JobStatus.POSTED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_ignored_stays_ignored(storage: Storage, number: signal.Signals) -> None:
    other = {signal.SIGTERM: signal.SIGINT, signal.SIGINT: signal.SIGTERM}[number]
    storage.queue.schedule("x", "first")
    with program(HANDLER, f"signal.signal(signal.{number.name}, signal.SIG_IGN)", RUN) as process:
        until(lambda: "publishing" in said())
        process.send_signal(number)
        Path("release").touch()
        second = storage.queue.schedule("x", "after the signal")
        until(lambda: stored(storage, second).status is JobStatus.POSTED)
        process.send_signal(other)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert said() == ["publishing", "publishing", f"{other.name}, posted, True", "returned"]


@pytest.mark.parametrize(("as_process_1", "code"), [("", -signal.SIGTERM), (AS_PROCESS_1, 143)])
def test_a_second_signal_ends_the_process_at_once(storage: Storage, as_process_1: str, code: int) -> None:
    job = storage.queue.schedule("x", "never released")
    with program(HANDLER, as_process_1, RUN) as process:
        until(lambda: "publishing" in said())
        until(lambda: ended_by_another(process))
    assert process.returncode == code
    assert said() == ["publishing"]
    assert stored(storage, job).status is JobStatus.PROCESSING


def test_process_1_ends_itself_since_the_kernel_does_not(storage: Storage) -> None:
    storage.queue.schedule("x", "running")
    with program(AS_PROCESS_1, RUN) as process:
        assert stop_while_publishing(process, signal.SIGTERM) == 143
    assert said() == ["publishing", "no default action"]


def test_a_signal_that_another_thread_received_is_noticed(storage: Storage) -> None:
    """The system gives it to any thread; Python's handlers run in the main thread, which it does not wake."""
    job = storage.queue.schedule("x", "running")
    elsewhere = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

def publish(job):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    say("publishing")
    os.kill(os.getpid(), signal.SIGTERM)
"""
    with program(HANDLER, elsewhere, RUN) as process:
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert said() == ["publishing", "returned"]
    assert stored(storage, job).status is JobStatus.POSTED


def test_a_run_that_fails_raises_its_error_and_not_the_signal(storage: Storage) -> None:
    storage.queue.schedule("x", "running")
    failing = """
import assistly.worker.loop
finish = assistly.worker.loop.WorkerLoop._finish

def fail(self):
    finish(self)
    raise ZeroDivisionError

assistly.worker.loop.WorkerLoop._finish = fail
"""
    with program(failing, RUN) as process:
        assert stop_while_publishing(process, signal.SIGTERM) == 1
    assert said() == ["publishing", "ZeroDivisionError"]


def test_a_child_that_a_publisher_forks_dies_of_a_signal_as_usual(storage: Storage) -> None:
    storage.queue.schedule("x", "fork")
    forking = """
def publish(job):
    child = os.fork()
    if child == 0:
        say("publishing")
        threading.Event().wait(60)
        os._exit(0)
    while "publishing" not in (Path("said").read_text() if Path("said").exists() else ""):
        threading.Event().wait(0.005)
    os.kill(child, signal.SIGTERM)
    say(f"child {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
"""
    with program(forking, RUN) as process:
        until(lambda: "child -15" in said())
        assert process.poll() is None
        assert stop_while_publishing(process, signal.SIGTERM) == -signal.SIGTERM


ASYNC_RUN = """
async def main():
    with open_storage() as storage:
        worker = AsyncWorker(storage, {"x": publish}, grace=60)
        await worker.run(OPTIONS)
        say("returned")

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_async_worker_that_is_told_to_returns_on_a_signal(
    storage: Storage, number: signal.Signals
) -> None:
    job = storage.queue.schedule("x", "running")
    after = "say(str(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL))"
    with program(ASYNC_RUN.replace("OPTIONS", "handle_signals=True"), after) as process:
        assert stop_while_publishing(process, number) == 0
    assert said() == ["publishing", "returned", "True"]
    assert stored(storage, job).status is JobStatus.POSTED


def test_an_async_worker_leaves_signals_alone_unless_it_is_told_to(storage: Storage) -> None:
    """A web server's handler is called at once, and stops the worker when it likes."""
    storage.queue.schedule("x", "running")
    server = """
async def main():
    with open_storage() as storage:
        worker = AsyncWorker(storage, {"x": publish}, grace=60)
        stopping = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        running = asyncio.create_task(worker.run())
        await stopping.wait()
        say("the server stops")
        worker.stop()
        Path("release").touch()
        await running
        say("returned")

asyncio.run(main())
"""
    with program(server) as process:
        until(lambda: "publishing" in said())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert said() == ["publishing", "the server stops", "returned"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_web_server_keeps_its_signals(storage: Storage, number: signal.Signals) -> None:
    """It shuts down as without a worker, whose task its lifespan stops."""
    job = storage.queue.schedule("x", "running")
    server = """
from contextlib import asynccontextmanager
import uvicorn
from fastapi import FastAPI

@asynccontextmanager
async def lifespan(app):
    with open_storage() as storage:
        worker = AsyncWorker(storage, {"x": publish}, grace=60)
        running = asyncio.create_task(worker.run())
        yield
        say("shutdown")
        worker.stop()
        await running
        say("returned")

uvicorn.run(FastAPI(lifespan=lifespan), uds="server.sock", log_level="warning")
"""
    with program(server) as process:
        until(Path("server.sock").exists)
        code = stop_while_publishing(process, number)
    assert said() == ["publishing", "shutdown", "returned"]
    assert stored(storage, job).status is JobStatus.POSTED
    assert code in {signal.SIGTERM: (-signal.SIGTERM,), signal.SIGINT: (0, -signal.SIGINT, 130)}[number]


@pytest.mark.parametrize("handle_signals", [True, False])
def test_no_handler_is_touched_outside_the_main_thread_or_where_it_is_not_wanted(
    handle_signals: bool,
) -> None:
    seen: list[object] = []

    def run(worker: Worker) -> None:
        worker.run(handle_signals=handle_signals)

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        storage.queue.schedule("x", "hello")

        def publish(_: object) -> None:
            seen.extend(signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT))
            worker.stop()

        worker = Worker(storage, {"x": publish})
        if handle_signals:
            thread = threading.Thread(target=run, args=(worker,))
            thread.start()
            thread.join(PATIENCE)
            assert not thread.is_alive()
        else:
            run(worker)
    assert seen == before


def test_the_command_ignores_what_it_was_started_to_ignore(storage: Storage) -> None:
    """As with `nohup assistly worker … &`."""
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    command = [sys.executable, "-c", f"{ignoring}; from assistly.cli import main; main()"]
    process = subprocess.Popen([*command, "worker", "--publish", "x=file:out"], stderr=subprocess.PIPE)
    try:
        first = storage.queue.schedule("x", "first")
        until(lambda: stored(storage, first).status is JobStatus.POSTED)
        os.kill(process.pid, signal.SIGINT)
        second = storage.queue.schedule("x", "second")
        until(lambda: stored(storage, second).status is JobStatus.POSTED)
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
