"""What the options and settings of `assistly worker` do, in this process."""

from __future__ import annotations

import base64
import http.server
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from assistly.cli import app
from assistly.cli import worker as command
from assistly.storage import JobStatus, Storage, open_storage
from assistly.storage.addresses import HIDDEN
from assistly.worker.signatures import SIGNATURE, TIMESTAMP, sign
from assistly.worker.webhooks import verify
from waiting import until


@pytest.fixture(autouse=True)
def storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Storage]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("STORAGE_ENGINE", "sqlite")
    monkeypatch.setenv("SQLITE_PATH", "worker.db")
    monkeypatch.delenv("WEBHOOK_SECRET", raising=False)
    monkeypatch.delenv("WEBHOOK_STATUS_URL", raising=False)
    monkeypatch.setattr(command, "log_as_text", lambda: None)
    with open_storage(auto_prune=False) as storage:
        yield storage


@contextmanager
def receiver() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """The URL of a receiver of webhooks, and what it received: headers and bodies."""
    received: list[tuple[dict[str, str], bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((dict(self.headers), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", received
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("env_file", "environment", "option", "secret"),
    [
        ("from-file", None, None, "from-file"),
        ("from-file", "from-environment", None, "from-environment"),
        (None, "from-environment", None, "from-environment"),
        ("from-file", "from-environment", "from-option", "from-option"),
        ("from-file", "", None, None),
        (None, None, None, None),
    ],
)
def test_the_secret_of_webhooks(
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
    env_file: str | None,
    environment: str | None,
    option: str | None,
    secret: str | None,
) -> None:
    if env_file is not None:
        Path(".env").write_text(f"WEBHOOK_SECRET={env_file}\n")
    if environment is not None:
        monkeypatch.setenv("WEBHOOK_SECRET", environment)
    storage.queue.schedule("x", "hello")
    with receiver() as (url, received):
        options = ["--webhook-secret", option] if option else []
        result = CliRunner().invoke(app, ["worker", "--publish", f"x=webhook:{url}", "--drain", *options])
    assert result.exit_code == 0, result.output
    ((headers, body),) = received
    if secret is None:
        assert SIGNATURE not in headers
    else:
        assert headers[SIGNATURE] == sign(secret, headers[TIMESTAMP], body)


def test_it_names_the_storage_and_warns_of_one_that_is_new(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    call = ["worker", "--publish", "x=stdout", "--drain"]
    result = CliRunner().invoke(app, call)
    assert (result.exit_code, caplog.messages) == (0, []), result.output
    assert result.stderr == f"storage: sqlite {Path('worker.db').absolute()}\n"
    monkeypatch.setenv("SQLITE_PATH", "misspelt.db")
    assert CliRunner().invoke(app, call).exit_code == 0
    place = f"sqlite {Path('misspelt.db').absolute()}"
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.getMessage().startswith(
        f"this storage is new and empty: {place}. If you already have jobs"
    )
    caplog.clear()
    assert CliRunner().invoke(app, call).exit_code == 0
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--webhook-secret", ""], "WEBHOOK_SECRET: the secret of the webhook publisher"),
        (["--webhook-secret", "whsec_hunter-2"], "WEBHOOK_SECRET: the secret of a webhook"),
        (["--timeout", "0"], "--timeout"),
        (["--timeout", "nan"], "Invalid value for '--timeout'"),
        (["--lease", "nan"], "Invalid value for '--lease'"),
        (["--lease", "1e300"], "--lease takes a number of seconds"),
        (["--lease", "1e9"], "lease must be at most 365 days"),
        (["--grace", "nan"], "Invalid value for '--grace'"),
        (["--poll", "inf"], "poll must be"),
        (["--limit", "x=1", "--limit", "slwo=1"], "--limit names 'slwo', but no --publish does"),
        (
            ["--publish", "y=no_such.module:publish"],
            "No module named 'no_such' (start the worker in the folder",
        ),
    ],
)
def test_wrong_options(options: list[str], message: str) -> None:
    result = CliRunner().invoke(
        app, ["worker", "--publish", "x=webhook:http://127.0.0.1:1", "--drain", *options]
    )
    assert result.exit_code != 0
    assert message in f"{result.output} {result.exception}"
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "option",
    [
        "--publish=webhook:https://u:canary@h/hook",
        "--publish=webhook:https://h/hook?token=canary",
        "--publish=y=https://u:canary@h",
        "--publish=y=u:canary@h",
        "--publish=y=password=canary",
        "--limit=webhook:https://h/hook?token=canary",
    ],
)
def test_no_password_of_a_misspelt_option_is_shown(option: str) -> None:
    result = CliRunner().invoke(app, ["worker", "--publish", "x=stdout", "--drain", option])
    assert result.exit_code != 0
    assert "canary" not in f"{result.output} {result.exception}"
    assert HIDDEN in " ".join(f"{result.output} {result.exception}".replace("│", " ").split())


def test_several_secrets_of_webhooks(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ["whsec_" + base64.b64encode(text * 24).decode() for text in (b"a", b"b")]
    monkeypatch.setenv("WEBHOOK_SECRET", " ".join(secrets))
    storage.queue.schedule("x", "hello", idempotency_key="message-7")
    with receiver() as (url, received):
        result = CliRunner().invoke(app, ["worker", "--publish", f"x=webhook:{url}", "--drain"])
    assert result.exit_code == 0, result.output
    ((headers, body),) = received
    assert [verify(body, headers, secret).id for secret in secrets] == ["message-7"] * 2


@pytest.mark.parametrize("where", ["environment", ".env"])
def test_the_status_url_of_webhooks(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    url = "https://example.org/{idempotency_key}?token=hunter2"
    if where == "environment":
        monkeypatch.setenv("WEBHOOK_STATUS_URL", url)
    else:
        Path(".env").write_text(f"WEBHOOK_STATUS_URL='{url}'\n")
    given = ["x=webhook:https://example.org", "y=stdout"]
    publishers = command._publishers(given, None)
    assert getattr(publishers["x"], "check", None) is not None
    assert getattr(publishers["y"], "check", None) is None


@pytest.mark.parametrize("url", ["example.org/hunter2", "https://{idempotency_key}.example.org/hunter2"])
def test_a_wrong_status_url_is_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("WEBHOOK_STATUS_URL", url)
    result = CliRunner().invoke(app, ["worker", "--publish", "x=webhook:http://127.0.0.1:1", "--drain"])
    text = f"{result.output} {result.exception}"
    assert result.exit_code != 0
    assert "WEBHOOK_STATUS_URL: the status URL of the webhook publisher" in text
    assert "hunter2" not in text


def test_a_time_limit(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "hanging_publisher.py").write_text(
        "import threading\ndef publish(job):\n    threading.Event().wait(60)\n"
    )
    job = storage.queue.schedule("x", "hello")
    arguments = ["worker", "--publish", "x=hanging_publisher:publish", "--drain", "--timeout", "0.05"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    found = storage.queue.get(job.id)
    assert found is not None
    assert found.dead_letter_reason == (
        "outcome unknown: the publisher took longer than the time limit of 0.05 s"
    )


def test_inside_another_process_it_leaves_no_thread_and_no_handler(storage: Storage) -> None:
    storage.queue.schedule("x", "hello")
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert (
        CliRunner().invoke(app, ["worker", "--publish", "x=stdout", "--drain", "--grace", "0"]).exit_code == 0
    )
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    until(lambda: not any(each.name == "assistly-worker-exit" for each in threading.enumerate()))
    assert storage.queue.counts()[JobStatus.POSTED] == 1
