"""How the publisher `webhook` signs, and what it makes of the answers of a status URL."""

from __future__ import annotations

import base64
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from standardwebhooks import Webhook

from assistly.storage import ConfigurationError, Job, JobStatus, MemoryBackend, SqliteBackend, Storage
from assistly.worker import CheckResult, NotPosted, Permanent, StillUnknown, WasPosted, Worker
from assistly.worker.publishers import load_publisher
from assistly.worker.publishers.webhook import WebhookPublisher
from assistly.worker.signatures import sign
from assistly.worker.webhooks import RepeatedWebhook, verify
from waiting import until

SECRET, OLD = ("whsec_" + base64.b64encode(text * 12).decode() for text in (b"ab", b"cd"))
KEYS = [
    None,
    "message-7",
    "é",
    "%C3%A9",
    "a b/c?d#e&f",
    "..",
    ".",
    "post.2026.1",
    "a\r\nX-Evil: 1",
    "é" * 256,
]


def new_job(key: str | None = "message-7") -> Job:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        return storage.queue.schedule("x", "Héllo\n", idempotency_key=key)


@dataclass
class Receiver:
    """An HTTP server that keeps what it gets, and answers with `status` and `body`."""

    status: int = 204
    body: bytes = b""
    url: str = ""
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    """Method, path, headers and body."""

    answer: Callable[[BaseHTTPRequestHandler], None] | None = None


@contextmanager
def receiving(**fields: Any) -> Iterator[Receiver]:
    receiver = Receiver(**fields)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            receiver.requests.append((self.command, self.path, dict(self.headers), body))
            if receiver.answer is not None:
                receiver.answer(self)
                return
            self.send_response(receiver.status)
            self.send_header("Content-Length", str(len(receiver.body)))
            self.end_headers()
            self.wfile.write(receiver.body)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def new_publisher(url: str, **options: Any) -> WebhookPublisher:
    """One that loads no certificates, which takes longer than the test."""
    return WebhookPublisher(url, **{"transport": httpx.HTTPTransport(verify=False), **options})


def sent(job: Job, **options: Any) -> tuple[dict[str, str], bytes]:
    """The headers and the body of the POST for a job."""
    with receiving() as receiver, closing(new_publisher(receiver.url, **options)) as publisher:
        publisher(job)
    ((_, _, headers, body),) = receiver.requests
    return headers, body


class TestSigning:
    def test_a_receiver_of_either_kind_can_check_it(self) -> None:
        headers, body = sent(new_job(), secret=SECRET)
        assert verify(body, headers, SECRET).id == "message-7"
        Webhook(SECRET).verify(body, headers)
        assert headers["webhook-id"] == headers["Idempotency-Key"] == "message-7"
        timestamp = headers["webhook-timestamp"]
        assert abs(int(timestamp) - time.time()) < 60
        assert headers["X-Assistly-Timestamp"] == timestamp
        assert headers["X-Assistly-Signature"] == sign(SECRET, timestamp, body)

    @pytest.mark.parametrize("given", [f"{OLD} {SECRET}", f"{OLD},{SECRET}", [OLD, SECRET]])
    def test_several_secrets(self, given: Any) -> None:
        headers, body = sent(new_job(), secret=given)
        assert len(headers["webhook-signature"].split(" ")) == 2
        for secret in (OLD, SECRET):
            assert verify(body, headers, secret).scheme == "standard"
            Webhook(secret).verify(body, headers)
        assert headers["X-Assistly-Signature"] == sign(OLD, headers["webhook-timestamp"], body)

    def test_a_plain_secret_signs_as_before(self) -> None:
        headers, body = sent(new_job(), secret="two words")
        assert not {name for name in headers if name.lower().startswith("webhook-")}
        assert headers["X-Assistly-Signature"] == sign("two words", headers["X-Assistly-Timestamp"], body)

    def test_without_a_secret_nothing_is_signed(self) -> None:
        headers, _ = sent(new_job())
        assert not {name for name in headers if name.lower().startswith(("webhook-", "x-assistly"))}

    @pytest.mark.parametrize("key", KEYS)
    def test_the_id_is_the_same_for_each_attempt_and_in_both_schemes(self, key: str | None) -> None:
        job = new_job(key)
        headers, body = sent(job, secret=SECRET)
        again, _ = sent(job, secret=[OLD])
        assert headers["webhook-id"] == again["webhook-id"]
        other = {name: value for name, value in headers.items() if name.startswith("X-Assistly")}
        assert verify(body, other, SECRET).id == headers["webhook-id"]
        with Storage(MemoryBackend(), auto_prune=False) as storage:
            verify(body, headers, SECRET, storage=storage)
            for repeated in (headers, other):
                with pytest.raises(RepeatedWebhook):
                    verify(body, repeated, SECRET, storage=storage)

    @pytest.mark.parametrize("secret", ["whsec_", "whsec_no!", [], [""], 7, f"a b {SECRET}"])
    def test_unusable_secrets(self, secret: Any) -> None:
        with pytest.raises(ConfigurationError, match="secret"):
            WebhookPublisher("http://localhost", secret=secret)


def sent_id(job: Job) -> str:
    """What a receiver calls a job: it has one name in each place."""
    with receiving(status=404) as receiver:
        path = "/jobs/{idempotency_key}?key={idempotency_key}"
        publisher = new_publisher(receiver.url, secret=SECRET, status_url=receiver.url + path)
        with closing(publisher):
            with pytest.raises(Permanent):
                publisher(job)
            assert publisher.check is not None
            publisher.check(job)
    (_, _, headers, body), (_, url, asked_with, _) = receiver.requests
    plain = {name: value for name, value in headers.items() if name.startswith("X-Assistly")}
    names: set[str] = {
        headers["Idempotency-Key"],
        headers["webhook-id"],
        asked_with["Idempotency-Key"],
        asked_with["webhook-id"],
        unquote(urlsplit(url).path.removeprefix("/jobs/")),
        unquote(urlsplit(url).query.removeprefix("key=")),
        json.loads(body)["webhook_id"],
        verify(body, headers, SECRET).id,
        verify(body, plain, SECRET).id,
        verify(b"", asked_with, SECRET).id,
    }
    (id,) = names
    return id


class TestIds:
    @pytest.mark.parametrize("key", [key for key in KEYS if key and len(key) < 256])
    def test_a_key_is_sent_percent_encoded_and_without_dots(self, key: str) -> None:
        id = sent_id(new_job(key))
        assert unquote(id) == key
        assert not set(id) & set(". \r\né")

    def test_a_key_is_never_the_id_of_a_job_without_one(self) -> None:
        without = sent_id(new_job(None))
        keys = [without, without.replace("j", "%6A", 1), "job-1", "job-", "JOB-1", "%6Aob-1", "%6aob-1"]
        ids = [sent_id(new_job(key)) for key in keys]
        assert [unquote(id) for id in ids] == keys
        assert len({without, *ids}) == 1 + len(keys)
        assert not [id for id in ids if id.startswith("job-")]

    def test_job_1_of_another_database_has_another_id(self) -> None:
        jobs = [new_job(None), new_job(None)]
        assert jobs[0].id == jobs[1].id
        assert sent_id(jobs[0]) != sent_id(jobs[1])

    def test_a_job_without_a_key_keeps_its_id(self, tmp_path: Path) -> None:
        """When it is tried again, after a replay, and in a copy of its database."""
        source, copy = tmp_path / "source.db", tmp_path / "copy.db"
        with Storage(SqliteBackend(source), auto_prune=False) as storage:
            job = storage.queue.schedule("x", "hello", max_retries=1)
            ids = [sent_id(job)]
            with sqlite3.connect(source) as connection, sqlite3.connect(copy) as target:
                connection.backup(target)
            connection.close()
            target.close()
            (claimed,) = storage.queue.claim_due(worker_id="w")
            ids.append(sent_id(storage.queue.begin_publish(claimed)))
            storage.queue.mark_failed(claimed, "no")
            replayed = storage.queue.replay(job.id)
            assert replayed is not None
            ids.append(sent_id(replayed))
        with Storage(SqliteBackend(copy), auto_prune=False) as storage:
            copied = storage.queue.get(job.id)
            assert copied is not None
            ids.append(sent_id(copied))
        assert len(set(ids)) == 1

    @pytest.mark.parametrize("key", ["é" * 86, "é" * 256, "." * 512, "x" * 509 + "é", "job-" + "x" * 507])
    def test_the_id_of_a_long_key_can_be_a_key(self, key: str) -> None:
        id, other = sent_id(new_job(key)), sent_id(new_job(key[:-1] + "y"))
        assert new_job(id).idempotency_key == id
        assert id != other
        assert sent_id(new_job(key)) == id
        assert sent_id(new_job(id)) != id

    @pytest.mark.parametrize("key", ["x" * 512, "é" * 85, "." * 170])
    def test_a_key_that_fits_is_not_shortened(self, key: str) -> None:
        assert unquote(sent_id(new_job(key))) == key


def asked(receiver: Receiver, job: Job | None = None, path: str = "/status", **options: Any) -> CheckResult:
    publisher = new_publisher(receiver.url, status_url=receiver.url + path, **options)
    with closing(publisher):
        assert publisher.check is not None
        return publisher.check(job or new_job())


class TestStatus:
    @pytest.mark.parametrize(
        ("body", "remote_id"),
        [
            ({"status": "posted", "remote_id": "p-1"}, "p-1"),
            ({"status": "posted", "remote_id": 17, "more": []}, "17"),
            ({"status": "posted", "remote_id": None}, None),
            ({"status": "posted", "remote_id": True}, None),
            ({"status": "posted"}, None),
        ],
    )
    def test_posted(self, body: Any, remote_id: str | None) -> None:
        with receiving(status=200, body=json.dumps(body).encode()) as receiver:
            assert asked(receiver) == WasPosted(remote_id)

    @pytest.mark.parametrize(
        ("status", "body"), [(200, b'{"status": "not_posted"}'), (404, b""), (404, b"{}")]
    )
    def test_not_posted(self, status: int, body: bytes) -> None:
        with receiving(status=status, body=body) as receiver:
            assert asked(receiver) == NotPosted()

    @pytest.mark.parametrize("status", [201, 202, 204, 301, 400, 401, 403, 410, 429, 500, 502, 503, 504])
    def test_other_answers_say_nothing(self, status: int) -> None:
        body = b"" if status == 204 else b'{"status": "not_posted"}'
        with receiving(status=status, body=body) as receiver:
            result = asked(receiver)
        assert isinstance(result, StillUnknown)
        assert str(status) in result.reason

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"posted",
            b'"posted"',
            b'["posted"]',
            b"{}",
            b'{"status": "Posted"}',
            b'{"status": ["posted"]}',
            b'{"status": "pending"}',
            b'{"status": null}',
            b'{"status": "posted"',
            b"\xff",
            b"[" * 60_000,
            b'{"status": "posted", "x": "' + b"x" * 300_000 + b'"}',
        ],
    )
    def test_an_answer_that_cannot_be_read_says_nothing(self, body: bytes) -> None:
        with receiving(status=200, body=body) as receiver:
            result = asked(receiver)
        assert isinstance(result, StillUnknown)
        assert len(result.reason) < 300

    def test_an_answer_that_breaks_off_says_nothing(self) -> None:
        def break_off(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"status": "posted"}')

        with receiving(answer=break_off) as receiver:
            assert isinstance(asked(receiver), StillUnknown)

    def test_no_answer_says_nothing(self) -> None:
        done = threading.Event()
        with receiving(answer=lambda _: bool(done.wait(30))) as receiver:
            result = asked(receiver, timeout=0.05)
            done.set()
        assert isinstance(result, StillUnknown)
        assert "ReadTimeout" in result.reason

    def test_no_server_says_nothing(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            receiver = Receiver(url=f"http://127.0.0.1:{taken.getsockname()[1]}")
            assert isinstance(asked(receiver), StillUnknown)

    def test_the_request_has_the_key_and_signatures(self) -> None:
        job = new_job()
        with receiving(status=404) as receiver:
            asked(receiver, job, secret=[SECRET, OLD])
            asked(receiver, job)
        (method, path, headers, body), (_, _, unsigned, _) = receiver.requests
        assert (method, path, body) == ("GET", "/status", b"")
        assert headers["Idempotency-Key"] == unsigned["Idempotency-Key"] == "message-7"
        for secret in (SECRET, OLD):
            assert verify(b"", headers, secret).id == "message-7"
            Webhook(secret).verify("", headers, json_parse=False)
        assert headers["X-Assistly-Signature"] == sign(SECRET, headers["X-Assistly-Timestamp"], b"")
        assert "webhook-signature" not in unsigned

    @pytest.mark.parametrize("key", KEYS)
    def test_the_key_in_the_url_is_the_header(self, key: str | None) -> None:
        with receiving(status=404) as receiver:
            asked(receiver, new_job(key), "/jobs/{idempotency_key}/status?key={idempotency_key}&a=b")
        ((_, path, headers, _),) = receiver.requests
        url = urlsplit(path)
        assert url.path.startswith("/jobs/")
        assert url.path.endswith("/status")
        middle = url.path.removeprefix("/jobs/").removesuffix("/status")
        assert "/" not in middle
        assert unquote(middle) == headers["Idempotency-Key"]
        assert url.query == f"key={middle}&a=b"

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("", "http://"),
            ("example.org/{idempotency_key}", "http://"),
            ("ftp://example.org", "http://"),
            ("{idempotency_key}", "http://"),
            ("http://{idempotency_key}/", "only in its path and its query"),
            ("http://{idempotency_key}.example.org/", "only in its path and its query"),
            ("http://example.org:8{idempotency_key}/", "http://"),
            ("http://{idempotency_key}@example.org/", "only in its path and its query"),
            ("http{idempotency_key}://example.org/", "http://"),
            ("http://example.org/{key}", "no other braces"),
            ("http://example.org/{{idempotency_key}}", "no other braces"),
            (b"http://example.org/", "http://"),
            (7, "http://"),
        ],
    )
    def test_a_status_url_is_checked(self, url: Any, message: str) -> None:
        with pytest.raises(ConfigurationError, match=f"^WEBHOOK_STATUS_URL: .*{message}"):
            WebhookPublisher("http://localhost", status_url=url)

    def test_without_a_status_url_there_is_no_check(self) -> None:
        for publisher in (WebhookPublisher("http://localhost"), load_publisher("webhook:http://localhost")):
            assert getattr(publisher, "check", None) is None

    def test_a_loaded_publisher_has_it(self) -> None:
        with receiving(status=404) as receiver:
            publisher: Any = load_publisher(
                "webhook:http://localhost", webhook_secret=SECRET, webhook_status_url=receiver.url
            )
            assert publisher.check(new_job()) == NotPosted()
            publisher.close()

    def test_no_redirect_is_followed(self) -> None:
        requests: list[httpx.Request] = []

        def handle(request: httpx.Request) -> httpx.Response:
            requests.append(request)
            return httpx.Response(302, headers={"Location": "http://elsewhere/"})

        result = asked(Receiver(url="http://localhost"), transport=httpx.MockTransport(handle))
        assert isinstance(result, StillUnknown)
        assert len(requests) == 1


class TestWithAWorker:
    """A receiver whose first answer is lost, and a worker that asks it what it did."""

    @pytest.mark.parametrize("has_acted", [True, False])
    def test_a_lost_answer_is_cleared_up(self, has_acted: bool) -> None:
        acted: list[str] = []

        def answer(handler: BaseHTTPRequestHandler) -> None:
            method, _, headers, body = receiver.requests[-1]
            id = verify(body, headers, SECRET).id
            if method == "GET":
                status = {"status": "posted", "remote_id": "p-1"} if id in acted else {"status": "not_posted"}
                _reply(handler, status)
            elif len(receiver.requests) > 1 or has_acted:
                acted.append(id)
                if len(receiver.requests) > 1:
                    _reply(handler, {"id": "p-1"})

        with (
            receiving(answer=answer) as receiver,
            Storage(MemoryBackend(), auto_prune=False) as storage,
            closing(new_publisher(receiver.url, status_url=receiver.url, secret=SECRET)) as publisher,
        ):
            job = storage.queue.schedule("x", "hello", idempotency_key="message-7")

            def is_posted() -> bool:
                Worker(storage, {"x": publisher}, check_pause=0.001).run_until_idle()
                return storage.queue.counts()[JobStatus.POSTED] == 1

            until(is_posted)
            found = storage.queue.get(job.id)
        assert found is not None
        assert found.remote_id == "p-1"
        assert acted == ["message-7"]
        methods = [method for method, *_ in receiver.requests]
        assert methods == (["POST", "GET"] if has_acted else ["POST", "GET", "POST"])


def _reply(handler: BaseHTTPRequestHandler, answer: dict[str, str]) -> None:
    body = json.dumps(answer).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
