"""`/healthz` and `/metrics` over HTTP, on the loopback interface."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from assistly.monitoring import MonitoringServer, connections, monitor, serve, server
from assistly.monitoring.address import Address, parse_address
from assistly.storage import (
    AsyncStorage,
    ConfigurationError,
    InvalidValue,
    MemoryBackend,
    PoolConnections,
    SqliteBackend,
    Storage,
    StorageUnavailable,
)
from assistly.worker import Permanent, Worker
from waiting import PATIENCE, until

OPENMETRICS = "application/openmetrics-text; version=1.0.0, text/plain; q=0.5"


class Answer(NamedTuple):
    status: int
    headers: Message
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def ask(server: MonitoringServer, path: str, method: str = "GET", **headers: str) -> Answer:
    with closing(http.client.HTTPConnection(server.address, timeout=PATIENCE)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read().decode())


def samples(text: str) -> dict[str, float]:
    """The samples in the text format, by name and the values of the labels in the order of their names."""
    return {
        " ".join([sample.name, *(value for _, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def families_of(text: str) -> set[str]:
    """The names of the families in the OpenMetrics format."""
    families: Iterable[Metric] = openmetrics_families(text)  # type: ignore[no-untyped-call]
    return {family.name for family in families}


@pytest.fixture
def storage() -> Iterator[Storage]:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        yield storage


@pytest.fixture
def served(storage: Storage) -> Iterator[MonitoringServer]:
    with serve(storage, 0) as server:
        yield server


class Hanging:
    """A call of the engine that does not return until it is released."""

    def __init__(self) -> None:
        self.calls = 0
        self.release = threading.Event()

    def __call__(self, *_: Any, **__: Any) -> Any:
        self.calls += 1
        assert self.release.wait(PATIENCE)
        raise StorageUnavailable("it took too long")


@contextmanager
def silent(storage: Storage, patch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """A storage whose calls do not return."""
    hanging = Hanging()
    with patch.context() as context:
        for owner, name in (
            (storage._backend, "ping"),
            (storage._backend.jobs, "waiting"),
            (storage._backend.documents, "list"),
            (storage._backend.metrics, "read"),
        ):
            context.setattr(owner, name, hanging)
        yield hanging
        hanging.release.set()
        until(lambda: not threads_named("assistly-monitoring-metrics", "assistly-monitoring-ping"))


def threads_named(*names: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in names]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9100", ("127.0.0.1", 9100)),
        (9100, ("127.0.0.1", 9100)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:9100", ("::1", 9100)),
        ("[fe80::1%eth0]:9100", ("fe80::1%eth0", 9100)),
    ],
)
def test_addresses(text: str | int, address: tuple[str, int]) -> None:
    assert parse_address(text) == Address(*address)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "65536",
        "-1",
        ":9100",
        "::1:9100",
        "::1",
        "[::1]",
        "localhost",
        "a b:1",
        "http://h:1",
        "h:1/x",
        "١",
        None,
    ],
)
def test_what_is_no_address(storage: Storage, text: Any) -> None:
    with pytest.raises(InvalidValue, match=r"PORT, HOST:PORT or \[IPV6\]:PORT"):
        serve(storage, text)


def test_wrong_arguments(storage: Storage) -> None:
    with pytest.raises(InvalidValue, match="storage must be a Storage"):
        serve(MemoryBackend(), 0)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="worker must be a Worker"):
        serve(storage, 0, worker=5)  # type: ignore[arg-type]


def test_an_address_that_is_taken_or_not_ours(storage: Storage, served: MonitoringServer) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot listen on {served.address}: "):
        serve(storage, served.address)
    with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1:9100: "):
        serve(storage, "192.0.2.1:9100")
    with pytest.raises(ConfigurationError, match=r"cannot listen on no-such-host\.invalid:1: "):
        serve(storage, "no-such-host.invalid:1")


def test_the_bound_address_is_logged(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), serve(storage, 0) as server:
        assert caplog.messages[0].startswith(f"http://{server.address} serves /healthz, ")
        assert not server.address.endswith(":0")


def test_ipv6(storage: Storage) -> None:
    with serve(storage, "[::1]:0") as server:
        assert server.address.startswith("[::1]:")
        assert ask(server, "/healthz").status == 200


def test_the_formats(storage: Storage, served: MonitoringServer) -> None:
    storage.queue.schedule('x"\n\\', "hello")
    plain, modern = ask(served, "/metrics"), ask(served, "/metrics", Accept=OPENMETRICS)
    assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert modern.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    names = families_of(modern.text)
    assert {"assistly_up", "assistly_jobs", "assistly_build", "process_cpu_seconds"} <= names
    found = samples(plain.text)
    assert found['assistly_jobs x"\n\\ scheduled'] == 1
    assert found["assistly_up"] == 1
    assert found["process_resident_memory_bytes"] > 0


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=abc",
        "application/openmetrics-text; version=1;2, text/plain; version=1.0.0.x",
        "application/openmetrics-text; version=1.x.0; escaping=",
        "text/plain; version=abc; escaping=nothing",
        ";;,;version=1.0.0",
    ],
)
def test_formats_that_do_not_exist(served: MonitoringServer, accept: str) -> None:
    answer = ask(served, "/metrics", Accept=accept)
    assert (answer.status, samples(answer.text)["assistly_up"]) == (200, 1)
    # Which of the formats that exist is up to prometheus_client.
    formats = (
        "text/plain; version=0.0.4;",
        "text/plain; version=1.0.0;",
        "application/openmetrics-text; version=1.0.0;",
    )
    assert answer.headers["Content-Type"].startswith(formats)


def test_the_numbers_of_a_worker(storage: Storage) -> None:
    def publish(job: Any) -> None:
        if job.content == "bad":
            raise Permanent("no")

    worker = Worker(storage, {"x": publish}, concurrency=3)
    for content in ("good", "bad", "good"):
        storage.queue.schedule("x", content)
    worker.run_until_idle()
    with serve(storage, 0, worker=worker) as server:
        found = samples(ask(server, "/metrics").text)
        modern = ask(server, "/metrics", Accept=OPENMETRICS).text
    assert found["assistly_worker_jobs_total posted x"] == 2
    assert found["assistly_worker_jobs_total dead x"] == 1
    assert found["assistly_worker_jobs_total lost x"] == 0
    assert found["assistly_publish_duration_seconds_count posted x"] == 2
    assert found["assistly_publish_duration_seconds_bucket +Inf posted x"] == 2
    assert found["assistly_worker_claims_lost_total"] == 0
    assert found["assistly_worker_concurrency"] == 3
    assert found["assistly_worker_jobs_in_progress"] == 0
    assert families_of(modern) >= {
        "assistly_publish_duration_seconds",
        "assistly_worker_jobs",
    }


@pytest.mark.parametrize(
    ("path", "status", "answer"),
    [
        ("/healthz", 200, {"alive": True, "ready": True, "why": []}),
        ("/healthz?x=1", 200, {"alive": True, "ready": True, "why": []}),
        ("/healthz/alive", 200, {"alive": True, "why": []}),
        ("/healthz/ready", 200, {"ready": True, "why": []}),
    ],
)
def test_health(served: MonitoringServer, path: str, status: int, answer: dict[str, Any]) -> None:
    found = ask(served, path)
    assert (found.status, found.json) == (status, answer)
    assert found.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("path", ["/", "/metrics/", "/..", "/etc/passwd", "/Metrics"])
def test_there_is_nothing_else(served: MonitoringServer, path: str) -> None:
    found = ask(served, path)
    assert (found.status, found.text.partition(" ")[0]) == (404, "the")
    assert found.headers["Content-Type"].startswith("text/plain")


def test_methods(served: MonitoringServer) -> None:
    for path in ("/metrics", "/healthz"):
        got, head = ask(served, path), ask(served, path, "HEAD")
        assert (head.status, head.text) == (200, "")
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
        assert int(head.headers["Content-Length"]) > 0
    with socket.create_connection(_place(served)) as raw:
        raw.sendall(b"HEAD /healthz HTTP/1.1\r\n\r\n")
        received = b""
        while part := raw.recv(1000):
            received += part
    assert received.endswith(b"\r\n\r\n")
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        refused = ask(served, "/metrics", method)
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")


def test_nothing_is_printed(served: MonitoringServer, capfd: pytest.CaptureFixture[str]) -> None:
    ask(served, "/healthz")
    ask(served, "/nothing")
    with socket.create_connection(_place(served)) as rude:
        rude.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert b"400" in rude.recv(1000)
    with socket.create_connection(_place(served)) as rude:
        rude.sendall(b"GET /metr")
    ask(served, "/healthz")
    assert capfd.readouterr() == ("", "")


def _place(server: MonitoringServer) -> tuple[str, int]:
    host, _, port = server.address.rpartition(":")
    return host, int(port)


def test_a_storage_that_is_silent(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(monitor, "COLLECTION_SECONDS", 0.2)
    monkeypatch.setattr(monitor, "PING_SECONDS", 0.2)
    with serve(storage, 0) as server, silent(storage, monkeypatch) as hanging:
        for _ in range(5):
            metrics = ask(server, "/metrics")
            assert metrics.status == 200
            found = samples(metrics.text)
            assert found["assistly_up"] == 0
            assert found["process_open_fds"] > 0
            assert "assistly_unknown_outcomes" not in found
            health = ask(server, "/healthz")
            assert health.status == 503
            assert (health.json["alive"], health.json["ready"]) == (True, False)
            assert health.json["why"][0].startswith("the storage does not answer: no answer for ")
            assert ask(server, "/healthz/alive").status == 200
            assert ask(server, "/healthz/ready").status == 503
        assert hanging.calls == 2
        assert len(threads_named("assistly-monitoring-metrics", "assistly-monitoring-ping")) == 2
    assert [text for text in caplog.messages if "cannot read" in text] == [
        "cannot read the metrics of the storage: no answer for 0 s"
    ]


def test_a_storage_that_comes_back(
    storage: Storage, served: MonitoringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise StorageUnavailable("the server\nis away")

    monkeypatch.setattr("assistly.monitoring.monitor._KEEP_PING_SECONDS", 0.0)
    with serve(storage, 0) as server:
        with monkeypatch.context() as context:
            context.setattr(storage._backend, "ping", away)
            assert ask(server, "/healthz").json == {
                "alive": True,
                "ready": False,
                "why": ["the storage does not answer: the server is away"],
            }
        assert ask(server, "/healthz").status == 200


def test_a_storage_that_is_closed(storage: Storage, served: MonitoringServer) -> None:
    storage.close()
    assert samples(ask(served, "/metrics").text)["assistly_up"] == 0
    assert ask(served, "/healthz").json["why"] == [
        "the storage does not answer: the storage is closed: open a new one"
    ]


def test_a_fault_of_ours_is_a_500_and_in_the_log(
    served: MonitoringServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("assistly.monitoring.monitor.process_metrics", fail)
    assert ask(served, "/metrics").status == 500
    assert "cannot respond to /metrics" in caplog.messages
    assert ask(served, "/healthz").status == 200


def test_scrapes_at_the_same_moment_share_one_collection(
    storage: Storage, served: MonitoringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = threading.Event(), threading.Event()
    read, calls = storage._backend.metrics.read, []

    def slow() -> Any:
        calls.append(threading.current_thread().name)
        begun.set()
        assert release.wait(PATIENCE)
        return read()

    monkeypatch.setattr(storage._backend.metrics, "read", slow)
    found: list[Answer] = []
    clients = [threading.Thread(target=lambda: found.append(ask(served, "/metrics"))) for _ in range(4)]
    for client in clients:
        client.start()
    assert begun.wait(PATIENCE)
    until(lambda: len(threads_named("assistly-monitoring-request")) == 4)
    release.set()
    for client in clients:
        client.join(PATIENCE)
    assert {samples(answer.text)["assistly_up"] for answer in found} == {1}
    assert calls == ["assistly-monitoring-metrics"]


def test_slow_clients_are_cut_off(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.5)
    with serve(storage, 0) as served:
        slow = [socket.create_connection(_place(served)) for _ in range(5)]
        for connection in slow:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
        until(lambda: len(threads_named("assistly-monitoring-request")) == len(slow))
        dripping = threading.Thread(target=_drip, args=(slow[0],))
        dripping.start()
        dripping.join(PATIENCE)
        assert not dripping.is_alive()
        for connection in slow[1:]:
            assert connection.recv(10) == b""
            connection.close()
        until(lambda: not threads_named("assistly-monitoring-request"))
        assert ask(served, "/healthz").status == 200


@pytest.mark.parametrize("sent", [b"", b"GET /", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
def test_silent_clients_hold_up_nobody(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 10 * PATIENCE)
    with ExitStack() as stack:
        served = stack.enter_context(serve(storage, 0))
        silent: list[socket.socket] = []
        for _ in range(connections.MOST_CONNECTIONS + 6):
            silent.append(stack.enter_context(socket.create_connection(_place(served), timeout=PATIENCE)))
            silent[-1].sendall(sent)
        for path in ("/healthz/alive", "/healthz/ready", "/metrics"):
            assert ask(served, path).status == 200
        assert len(threads_named("assistly-monitoring-request")) <= connections.MOST_CONNECTIONS
        for connection in silent[:6]:  # these have waited longest
            assert connection.recv(10) == b""
        silent[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            silent[-1].recv(10)


def test_only_some_answers_are_made_at_once_and_alive_waits_for_none(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    ended: list[int] = []
    most: list[int] = []
    release = threading.Event()

    def hang(*_: object) -> tuple[bytes, str]:
        begun.append(1)
        most.append(len(begun) - len(ended))
        assert release.wait(PATIENCE)
        ended.append(1)
        return b"done", "text/plain"

    monkeypatch.setattr(monitor.Monitor, "metrics", hang)
    with serve(storage, 0) as served, ExitStack() as stack:
        clients = []
        for _ in range(connections.MOST_CONNECTIONS):
            client = stack.enter_context(socket.create_connection(_place(served), timeout=PATIENCE))
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            clients.append(client)
        until(lambda: len(begun) == connections.MOST_AT_ONCE)
        assert ask(served, "/healthz/alive").status == 200  # one that waits for its answer makes room
        release.set()
        answers = [_whole(client) for client in clients]
    assert max(most) == connections.MOST_AT_ONCE
    assert sum(answer.endswith(b"done") for answer in answers) == connections.MOST_CONNECTIONS - 1
    assert answers.count(b"") == 1


def _whole(client: socket.socket) -> bytes:
    received = b""
    while part := client.recv(1000):
        received += part
    return received


def _drip(connection: socket.socket) -> None:
    """Send a byte now and then, until the server has enough of it."""
    with connection:
        connection.settimeout(0.05)
        while True:
            try:
                connection.send(b"x")
                if connection.recv(10) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return


def test_closing(storage: Storage) -> None:
    server = serve(storage, 0)
    place = _place(server)
    address = server.address
    server.close()
    server.close()
    assert server.address == address
    assert not threads_named("assistly-monitoring")
    with pytest.raises(OSError):
        socket.create_connection(place, timeout=PATIENCE)
    with serve(storage, address) as again:
        assert ask(again, "/healthz").status == 200


def test_closing_while_all_are_busy(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 10 * PATIENCE)
    with serve(storage, 0) as served:
        slow = [socket.create_connection(_place(served)) for _ in range(connections.MOST_CONNECTIONS + 1)]
        until(lambda: len(threads_named("assistly-monitoring-request")) == connections.MOST_CONNECTIONS)
    assert not threads_named("assistly-monitoring")
    for connection in slow:
        connection.close()
    until(lambda: not threads_named("assistly-monitoring-request"))


def test_the_connections_of_the_pool(path: Path) -> None:
    with (
        Storage(SqliteBackend(path), auto_prune=False) as storage,
        serve(storage, 0) as server,
    ):
        with storage.transaction() as tx:
            tx.queue.get(1)
            found = samples(ask(server, "/metrics").text)
            assert found["assistly_pool_connections in_use"] == 1
            assert found["assistly_pool_connections idle"] == 1  # what the numbers were read on
        until(lambda: storage.connections() == PoolConnections(0, 2, None))
        found = samples(ask(server, "/metrics").text)
        assert (found["assistly_pool_connections in_use"], found["assistly_pool_connections idle"]) == (0, 2)


def test_threads_that_cannot_be_started(served: MonitoringServer, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    failures = iter(range(connections.MOST_AT_ONCE + 1))

    def fail(thread: threading.Thread) -> None:
        if thread.name == "assistly-monitoring-request" and next(failures, None) is not None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    for _ in range(connections.MOST_AT_ONCE + 1):
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            ask(served, "/healthz")
    assert ask(served, "/healthz").status == 200


def test_an_async_storage(storage: Storage) -> None:
    with serve(AsyncStorage(storage), 0) as server:
        assert samples(ask(server, "/metrics").text)["assistly_up"] == 1


def test_a_forked_child_does_not_hold_the_port(storage: Storage) -> None:
    served = serve(storage, 0)
    address = served.address
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reading, 1)
        os._exit(0)
    try:
        assert ask(served, "/healthz").status == 200
        served.close()
        with serve(storage, address) as again:
            assert ask(again, "/healthz").status == 200
    finally:
        os.write(writing, b"x")
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)


def test_a_worker_that_is_told_to_stop_is_not_ready_and_alive(storage: Storage) -> None:
    worker = Worker(storage, {"x": print}, poll=timedelta(seconds=0.01))
    with serve(storage, 0, worker=worker) as server:
        assert ask(server, "/healthz").json["why"] == ["the worker is not running"]
        thread = threading.Thread(target=worker.run)
        thread.start()
        until(lambda: ask(server, "/healthz").status == 200)
        worker.stop()
        found = ask(server, "/healthz")
        assert (found.status, found.json["alive"]) == (503, True)
        assert ask(server, "/healthz/alive").status == 200
        thread.join(PATIENCE)
        assert ask(server, "/healthz/alive").status == 200


def test_a_worker_that_has_ended_with_an_error(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(storage.queue, "sweep_and_claim", fail)
    worker = Worker(storage, {"x": print})
    with pytest.raises(ValueError, match="a fault"):
        worker.run_until_idle()
    with serve(storage, 0, worker=worker) as server:
        why = ["the worker has ended: ValueError: a fault"]
        assert ask(server, "/healthz").json == {"alive": False, "ready": False, "why": why}
        alive = ask(server, "/healthz/alive")
        assert (alive.status, alive.json) == (503, {"alive": False, "why": why})


def test_claims_that_succeed_are_as_good_as_a_ping(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    pings: list[int] = []
    worker = Worker(storage, {"x": print}, poll=0.01)
    thread = threading.Thread(target=worker.run)
    thread.start()
    until(lambda: worker.health.ready and worker.numbers.last_claim_age is not None)
    monkeypatch.setattr(storage._backend, "ping", lambda: pings.append(1))
    with serve(storage, 0, worker=worker) as server:
        assert ask(server, "/healthz").status == 200
        assert pings == []
        monkeypatch.setattr(monitor, "_RECENT_CLAIM_SECONDS", 0.0)
        assert ask(server, "/healthz").status == 200
        assert len(pings) == 1
    worker.stop()
    thread.join(PATIENCE)
