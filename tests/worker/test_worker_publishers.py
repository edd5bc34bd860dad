"""The publishers that ship."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from assistly.storage import ConfigurationError, Job, MemoryBackend, Storage
from assistly.worker import Permanent, Retry, Unknown
from assistly.worker.publishers import load_publisher
from assistly.worker.publishers.file import FilePublisher
from assistly.worker.publishers.webhook import WebhookPublisher
from assistly.worker.signatures import SIGNATURE, TIMESTAMP, sign

URL = "https://example.org/hook"


def make_job(**fields: Any) -> Job:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        storage.queue.schedule(
            **{
                "platform": "x",
                "content": "Héllo\n",
                "scheduled_at": datetime(2026, 3, 1, tzinfo=UTC),
                "metadata": {"n": 1},
                **fields,
            }
        )
        (job,) = storage.queue.claim_due(worker_id="w", now=datetime(2026, 3, 1, tzinfo=UTC))
        return storage.queue.begin_publish(job, now=datetime(2026, 3, 1, tzinfo=UTC))


JOB = make_job(idempotency_key="message-7")
TOLD = {
    "id": 1,
    "platform": "x",
    "content": "Héllo\n",
    "metadata": {"n": 1},
    "scheduled_at": "2026-03-01T00:00:00+00:00",
    "idempotency_key": "message-7",
}


def test_stdout_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    publisher: Any = load_publisher("stdout")
    assert publisher(JOB) is None
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == TOLD


class TestFile:
    def test_a_line_for_each_job(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "posts.jsonl"
        publisher: Any = load_publisher(f"file:{path}")
        ids = [publisher(JOB) for _ in range(3)]
        lines = path.read_bytes().splitlines(keepends=True)
        assert [json.loads(line) for line in lines] == [TOLD] * 3
        assert ids == [f"posts.jsonl@{n * len(lines[0])}" for n in range(3)]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_a_line_that_a_crash_cut_off_spoils_no_other(self, tmp_path: Path) -> None:
        path = tmp_path / "posts.jsonl"
        path.write_text('{"id": 1, "conte')
        FilePublisher(path)(JOB)
        assert json.loads(path.read_text().splitlines()[1]) == TOLD

    def test_many_writers(self, tmp_path: Path) -> None:
        path = tmp_path / "posts.jsonl"
        threads = [
            threading.Thread(target=lambda: [FilePublisher(path)(JOB) for _ in range(10)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [json.loads(line) for line in path.read_text().splitlines()] == [TOLD] * 40

    def test_a_full_disk_leaves_no_half_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "posts.jsonl"
        FilePublisher(path)(JOB)
        before = path.read_bytes()
        write, calls = os.write, []

        def full(file: int, data: bytes) -> int:
            calls.append(data)
            if len(calls) > 1:
                raise OSError(28, "No space left on device")
            return write(file, data[:10])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            FilePublisher(path)(JOB)
        assert path.read_bytes() == before

    def test_a_failing_disk_leaves_it_unknown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "posts.jsonl"
        FilePublisher(path)(JOB)

        def broken(_: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(Unknown, match="disk"):
            FilePublisher(path)(JOB)

    def test_a_directory_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="directory"):
            FilePublisher(tmp_path)


class TestWebhook:
    def post(self, answer: Any, job: Job = JOB, **options: Any) -> tuple[str | None, list[httpx.Request]]:
        requests: list[httpx.Request] = []

        def handle(request: httpx.Request) -> httpx.Response:
            requests.append(request)
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, httpx.Response)
            return answer

        publisher = WebhookPublisher(URL, transport=httpx.MockTransport(handle), **options)
        with closing(publisher):
            return publisher(job), requests

    def test_what_it_sends(self) -> None:
        _, (request,) = self.post(httpx.Response(204))
        assert (request.method, str(request.url)) == ("POST", URL)
        assert json.loads(request.content) == TOLD | {"webhook_id": "message-7"}
        assert request.headers["Content-Type"] == "application/json"
        assert request.headers["Idempotency-Key"] == "message-7"
        assert SIGNATURE not in request.headers

    def test_the_signature_covers_the_time_and_the_body(self) -> None:
        _, (request,) = self.post(httpx.Response(204), secret="s3cret")
        timestamp = request.headers[TIMESTAMP]
        assert abs(int(timestamp) - time.time()) < 60
        assert request.headers[SIGNATURE] == sign("s3cret", timestamp, request.content)
        assert sign("key", "1", b"body") == (
            "sha256=91b5374b153842ad05b2c4eab9349b8321b14703165bd3fb8b034dfb8be98ae5"
        )

    def test_without_a_key_the_id_and_the_time_are_the_key(self) -> None:
        job = replace(make_job(), created_at=datetime(2026, 3, 1, 12, 0, 0, 7, tzinfo=UTC))
        _, (request,) = self.post(httpx.Response(204), job)
        assert request.headers["Idempotency-Key"] == f"job-{job.id}-1772366400000007"

    def test_any_key_makes_a_header_and_no_two_the_same(self) -> None:
        sent = set()
        keys = ["é", "%C3%A9", "a b", "a%20b", "a\r\nX-Evil: 1", "job-1", "~!\"'"]
        for key in keys:
            _, (request,) = self.post(httpx.Response(204), make_job(idempotency_key=key))
            sent.add(request.headers["Idempotency-Key"])
            assert "X-Evil" not in request.headers
        assert len(sent) == len(keys)

    @pytest.mark.parametrize(
        ("body", "remote_id"),
        [
            (b'{"id": "p-1"}', "p-1"),
            (b'{"id": 17}', "17"),
            (b'{"id": null}', None),
            (b'{"id": true}', None),
            (b"[1]", None),
            (b"created", None),
            (b"", None),
            (b"\xff", None),
            (b"[" * 60_000, None),
        ],
    )
    def test_the_remote_id(self, body: bytes, remote_id: str | None) -> None:
        assert self.post(httpx.Response(201, content=body))[0] == remote_id

    @pytest.mark.parametrize("status", [301, 400, 401, 404, 409, 410, 422])
    def test_other_answers_are_permanent(self, status: int) -> None:
        with pytest.raises(Permanent, match=str(status)):
            self.post(httpx.Response(status, text="no\x00"))

    @pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
    def test_errors_of_the_server_are_tried_again(self, status: int) -> None:
        with pytest.raises(ConnectionError, match=str(status)):
            self.post(httpx.Response(status))

    @pytest.mark.parametrize(
        ("headers", "after"),
        [
            ({}, None),
            ({"Retry-After": "120"}, 120.0),
            ({"Retry-After": "0"}, 0.0),
            ({"Retry-After": "1.5"}, 1.5),
            ({"Retry-After": "nan"}, None),
            ({"Retry-After": "1e9"}, None),
            ({"Retry-After": "\u0663"}, None),
            ({"Retry-After": "Sun, 01 Mar 99999 12:00:00 GMT"}, None),
            ({"Retry-After": "9" * 400}, 1e9),
            ({"Retry-After": "-5"}, None),
            ({"Retry-After": "soon"}, None),
            (
                {
                    "Retry-After": "Sun, 01 Mar 2026 12:01:00 GMT",
                    "Date": "Sun, 01 Mar 2026 12:00:00 GMT",
                },
                60.0,
            ),
            ({"Retry-After": "Sun, 01 Mar 2020 12:00:00 GMT"}, 0.0),
            (
                {
                    "Retry-After": "Fri, 31 Dec 9999 23:59:59 -2300",
                    "Date": "Sun, 01 Mar 2026 12:00:00 GMT",
                },
                251_630_017_199.0,
            ),
        ],
    )
    def test_rate_limits(self, headers: dict[str, str], after: float | None) -> None:
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        with pytest.raises(Retry) as caught:
            self.post(httpx.Response(429, headers=encoded))
        assert caught.value.after == after
        with pytest.raises(ConnectionError if after is None else Retry) as unavailable:
            self.post(httpx.Response(503, headers=encoded))
        assert getattr(unavailable.value, "after", None) == after

    @pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout])
    def test_what_was_never_sent_has_failed(self, error: Callable[[str], Exception]) -> None:
        with pytest.raises(ConnectionError):
            self.post(error("refused"))

    @pytest.mark.parametrize(
        "error",
        [httpx.ReadTimeout, httpx.WriteTimeout, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError],
    )
    def test_what_was_sent_and_not_answered_is_unknown(self, error: Callable[[str], Exception]) -> None:
        with pytest.raises(Unknown):
            self.post(error(""))

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Len",
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
            b"no http at all\r\n\r\n",
        ],
    )
    def test_a_real_connection_that_breaks_is_unknown(self, answer: bytes) -> None:
        with _server(answer) as url, closing(WebhookPublisher(url)) as publisher, pytest.raises(Unknown):
            publisher(JOB)

    def test_a_server_that_never_answers_is_unknown(self) -> None:
        with (
            _server(None) as url,
            closing(WebhookPublisher(url, timeout=0.05)) as publisher,
            pytest.raises(Unknown, match="ReadTimeout"),
        ):
            publisher(JOB)

    def test_a_port_where_nobody_listens(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            with (
                closing(WebhookPublisher(f"http://127.0.0.1:{taken.getsockname()[1]}")) as publisher,
                pytest.raises(ConnectionError),
            ):
                publisher(JOB)

    @pytest.mark.parametrize("url", ["", "example.org", "ftp://example.org", "http://", "\x00"])
    def test_a_url_is_checked(self, url: str) -> None:
        with pytest.raises(ConfigurationError):
            WebhookPublisher(url)

    @pytest.mark.parametrize("secret", ["", "\ud800", b"bytes"])
    def test_a_secret_that_signs_nothing_is_refused(self, secret: Any) -> None:
        with pytest.raises(ConfigurationError, match="secret"):
            WebhookPublisher(URL, secret=secret)


class TestSpecs:
    def test_a_module_that_fails_is_named_with_its_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "failing_publishers.py").write_text("\n1 / 0\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ConfigurationError, match=r"failing_publishers\.py, line 2: ZeroDivisionError"):
            load_publisher("failing_publishers:publish")

    def test_ones_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "my_publishers.py").write_text("class Here:\n    def post(job): return 'mine'\n")
        monkeypatch.syspath_prepend(tmp_path)
        publisher: Any = load_publisher("my_publishers:Here.post")
        assert publisher(JOB) == "mine"
        for spec in (
            "my_publishers:none",
            "my_publishers:Here",
            "my_publishers:__name__",
            "no_such_module:x",
        ):
            with pytest.raises(ConfigurationError, match=spec):
                load_publisher(spec)

    @pytest.mark.parametrize("spec", ["", "file", "file:", "webhook:", "stdout:x:", ":x", "module:", "print"])
    def test_what_is_none(self, spec: str) -> None:
        with pytest.raises(ConfigurationError):
            load_publisher(spec)

    def test_a_webhook_without_httpx(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "httpx", None)
        monkeypatch.delitem(sys.modules, "assistly.worker.publishers.webhook")
        with pytest.raises(ConfigurationError, match=r"assistly\[webhook\]"):
            load_publisher(f"webhook:{URL}")


@contextmanager
def _server(answer: bytes | None) -> Iterator[str]:
    """Reads one request, answers with these bytes and hangs up; with None it does neither."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                request = b""
                while b"Content-Length" not in request or not request.endswith(b"\n"):
                    request += connection.recv(65536)
                if answer is None:
                    done.wait(30)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        done.set()
        thread.join(30)
