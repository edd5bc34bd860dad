"""`assistly worker` and `assistly metrics` with `--listen`, and `--log-format`, as processes."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from assistly.storage import JobStatus, Storage, open_storage
from postgres_server import TemporaryServer
from waiting import until
from worker.worker_harness import ENGINES, HANDLES_SIGINT, PATIENCE, start_worker, use_engine

PUBLISHERS = """
import threading
from pathlib import Path

def publish(job):
    pass

def slow(job):
    Path("begun").touch()
    while not Path("release").exists():
        threading.Event().wait(0.005)
"""

on_each_engine = pytest.mark.parametrize("engine", ENGINES, indirect=True)
on_sqlite = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    return use_engine(request, PUBLISHERS)


@pytest.fixture
def storage(engine: str) -> Iterator[Storage]:
    with open_storage(auto_prune=False) as storage:
        storage.ping()
        yield storage


class Command:
    """A command that listens: its process, what it has written to stderr, and its address."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = ""

    def wait_until_it_listens(self) -> None:
        until(lambda: self._found() or self.process.poll() is not None)
        found = self._found()
        assert found is not None, self.lines
        self.url = found[0]

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def _found(self) -> re.Match[str] | None:
        return re.search(r"http://[^ ]+", " ".join(self.lines))

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(self.url + path, timeout=PATIENCE) as response:
                return response.status, response.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def samples(self) -> dict[str, float]:
        status, text = self.get("/metrics")
        assert status == 200
        return {
            " ".join([sample.name, *(value for _, value in sorted(sample.labels.items()))]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def end(self) -> list[str]:
        """What it has written, once it has ended with code 0."""
        assert self.process.wait(PATIENCE) == 0, self.lines
        self._reader.join(PATIENCE)
        assert not [line for line in self.lines if line.startswith("Traceback")]
        return self.lines

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE)
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[Command]:
    command = Command(process)
    try:
        command.wait_until_it_listens()
        yield command
    finally:
        command.kill()


def start_metrics(*options: str) -> subprocess.Popen[str]:
    program = f"{HANDLES_SIGINT}\nfrom assistly.cli import main\nmain()"
    command = [sys.executable, "-c", program, "metrics", "--listen", "0", *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@on_each_engine
def test_a_worker_from_its_start_to_its_end(storage: Storage, engine: str) -> None:
    for content in ("one", "two"):
        storage.queue.schedule("x", content)
    with running(start_worker("publishers:publish", "--listen", "0", "--poll", "0.05")) as command:
        until(lambda: storage.queue.counts()[JobStatus.POSTED] == 2)
        until(lambda: command.samples()["assistly_worker_jobs_total posted x"] == 2)
        until(lambda: command.get("/healthz")[0] == 200)
        found = command.samples()
        assert found["assistly_up"] == 1
        assert found["assistly_publish_duration_seconds_count posted x"] == 2
        assert found["assistly_worker_last_claim_timestamp_seconds"] > 1e9
        assert found["assistly_pool_connections in_use"] + found["assistly_pool_connections idle"] >= 1
        assert ("assistly_pool_connections_max" in found) == (engine == "postgres")
        [build] = [name for name in found if name.startswith("assistly_build_info ")]
        assert build.split()[1] == engine
        command.process.send_signal(signal.SIGTERM)
        command.end()


@on_each_engine
def test_after_sigterm_it_is_alive_and_not_ready_until_the_process_ends(storage: Storage) -> None:
    storage.queue.schedule("x", "hello")
    with running(start_worker("publishers:slow", "--listen", "0")) as command:
        until(Path("begun").exists)
        until(lambda: command.get("/healthz/ready")[0] == 200)
        command.process.send_signal(signal.SIGTERM)
        until(lambda: command.get("/healthz/ready")[0] == 503)
        assert command.get("/healthz/alive")[0] == 200
        status, text = command.get("/healthz")
        assert (status, json.loads(text)) == (
            503,
            {"alive": True, "ready": False, "why": ["the worker was told to stop"]},
        )
        assert command.samples()["assistly_worker_jobs_in_progress"] == 1
        Path("release").touch()
        command.end()


def test_a_server_that_is_silent(
    server: TemporaryServer, schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "publishers.py").write_text(PUBLISHERS)
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "STORAGE_ENGINE": "postgres",
        "DATABASE_URL": server.url,
        "STORAGE_SCHEMA": schema,
    }.items():
        monkeypatch.setenv(name, value)
    options = ("--listen", "0", "--poll", "0.05", "--grace", "0.5")
    with running(start_worker("publishers:publish", *options)) as command:
        until(lambda: command.get("/healthz")[0] == 200)
        with server.suspended():
            until(lambda: command.get("/healthz")[0] == 503)
            found = command.samples()
            assert found["assistly_up"] == 0
            assert found["assistly_worker_concurrency"] == 4
            assert "assistly_unknown_outcomes" not in found
            assert command.get("/healthz/alive")[0] == 200
            command.process.send_signal(signal.SIGTERM)
            command.end()


@on_sqlite
def test_it_listens_before_it_opens_the_storage(storage: Storage) -> None:
    """So that a port that is taken is noticed before anything is claimed."""
    job = storage.queue.schedule("x", "hello")
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start_worker("publishers:publish", "--listen", address)
        _, log = process.communicate(timeout=PATIENCE)
    assert (process.returncode, log) == (1, f"assistly: cannot listen on {address}: Address already in use\n")
    found = storage.queue.get(job.id)
    assert found is not None
    assert found.status is JobStatus.SCHEDULED


@on_each_engine
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_numbers_without_a_worker(storage: Storage, number: signal.Signals) -> None:
    storage.queue.schedule("x", "hello")
    with running(start_metrics()) as command:
        until(lambda: command.get("/healthz")[0] == 200)
        found = command.samples()
        assert found["assistly_jobs x scheduled"] == 1
        assert not [name for name in found if name.startswith("assistly_worker")]
        command.process.send_signal(number)
        lines = command.end()
    assert [line.partition(":")[0] for line in lines] == ["http", "storage"]


@on_sqlite
def test_a_drain_listens_as_well(storage: Storage) -> None:
    storage.queue.schedule("x", "hello")
    with running(start_worker("publishers:slow", "--listen", "0", "--drain")) as command:
        until(Path("begun").exists)
        assert command.samples()["assistly_worker_jobs_in_progress"] == 1
        Path("release").touch()
        command.end()


@on_sqlite
@pytest.mark.parametrize("command", [("worker", "--publish", "x=stdout"), ("metrics",)])
def test_what_is_no_address(run: Run, engine: str, command: tuple[str, ...]) -> None:
    code, out, err = run(*command, "--listen", "localhost")
    assert (code, out) == (2, "")
    assert "PORT, HOST:PORT or [IPV6]:PORT" in err


@on_sqlite
def test_one_answer_at_a_time(run: Run, engine: str) -> None:
    for other in ("--json", "--prometheus"):
        assert run("metrics", "--listen", "0", other)[0] == 2


@on_sqlite
@pytest.mark.parametrize(
    ("options", "module", "extra"),
    [
        (("--listen", "0"), "prometheus_client", "prometheus"),
        (("--log-format", "json"), "structlog.processors", "log"),
    ],
)
def test_an_extra_that_is_missing(
    run: Run,
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    module: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "assistly.views.exposition", raising=False)
    code, out, err = run("worker", "--publish", "x=stdout", "--drain", *options)
    assert (code, out) == (1, "")
    assert err.endswith(f"python -m pip install 'assistly[{extra}]'")
    assert len(err.splitlines()) == 1


@on_sqlite
def test_a_log_of_json(storage: Storage) -> None:
    good = storage.queue.schedule("x", "hello")
    process = start_worker("publishers:publish", "--listen", "0", "--log-format", "json", before=_OTHERS)
    with running(process) as command:
        until(lambda: storage.queue.counts()[JobStatus.POSTED] == 1)
        command.process.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in command.end()]
    assert all([*line][:5] == ["timestamp", "level", "logger", "event", "message"] for line in lines)
    (posted,) = [line for line in lines if line["event"] == "job.published"]
    assert (posted["logger"], posted["level"]) == ("assistly.worker", "info")
    assert (posted["platform"], posted["job_id"]) == ("x", good.id)
    assert posted["message"].startswith(f"job {good.id} on x is posted (")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", posted["timestamp"])
    assert [line["message"] for line in lines if line["message"].startswith("storage: sqlite")]
    (other,) = [line for line in lines if line["logger"] == "mine"]
    assert other["message"] == "it\nhas failed 3 times"
    assert other["user"] == "ada"
    assert other["level"] == "error"
    assert other["exception"].endswith("ZeroDivisionError: division by zero")


_OTHERS = """
import logging, threading

def later():
    until = threading.Event()
    while not logging.getLogger().handlers:
        until.wait(0.005)
    try:
        1 / 0
    except ZeroDivisionError:
        fields = {"user": "ada", "level": "mine", "timestamp": 0}
        logging.getLogger("mine").exception("it\\nhas failed %d times", 3, extra=fields)

threading.Thread(target=later).start()
"""


@on_sqlite
def test_a_log_of_text(storage: Storage) -> None:
    storage.queue.schedule("x", "hello")
    process = start_worker("publishers:publish", "--drain", "--log-format", "text")
    _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert re.search(r"^\d{4}-\d\d-\d\d [\d:,]+ INFO job \d+ on x is posted \(", log, re.MULTILINE), log


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process; returns exit code, stdout, and stderr without the last newline."""
    from assistly import cli

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["assistly", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main(owns_process=False)
        out, err = capsys.readouterr()
        code: Any = caught.value.code
        return code or 0, out, err.removesuffix("\n")

    return call
