"""examples/webhook_service.py, by its requests."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from assistly.storage import (
    Job,
    JobStatus,
    OutcomeUnknown,
    Storage,
    StorageCorrupt,
    StorageUnavailable,
    TransactionAborted,
    open_storage,
)
from assistly.worker.signatures import WebhookSecrets
from examples import webhook_service
from examples.webhook_service import app

ROOT = Path(__file__).resolve().parents[2]
SECRET = "whsec_" + base64.b64encode(b"correct horse battery staple").decode()
ANOTHER = "whsec_" + base64.b64encode(b"incorrect horse battery staple").decode()
NOON = datetime(2031, 3, 2, 12, tzinfo=UTC)
BREAD = {"command": "post", "account": "bakery", "content": "Fresh bread!", "at": NOON.isoformat()}
NEWS = BREAD | {"account": "press office", "content": "We open on Sundays."}


def signed(
    body: bytes,
    *,
    key: str = "command-1",
    at: float | None = None,
    secret: str = SECRET,
) -> dict[str, str]:
    timestamp = int(time.time() if at is None else at)
    return {"Content-Type": "application/json"} | WebhookSecrets(secret).headers(key, timestamp, body)


class Service:
    """The app without a server, and the storage that it has open."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._lifespan = app.router.lifespan_context(app)
        self._runner.run(self._lifespan.__aenter__())
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://service")
        self.storage: Storage = app.state.storage

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.run(self._lifespan.__aexit__(None, None, None))
        self._runner.close()

    def get(self, path: str) -> httpx.Response:
        return self._runner.run(self._client.get(path))

    def send(self, path: str, body: bytes, headers: Any) -> httpx.Response:
        return self._runner.run(self._client.post(path, content=body, headers=headers))

    def command(self, post: dict[str, Any] = BREAD, **headers: Any) -> httpx.Response:
        body = json.dumps(post).encode()
        return self.send("/commands", body, signed(body, **headers))

    def decide(self, id: str, decision: str, *, key: str) -> httpx.Response:
        body = json.dumps({"approval": id, "decision": decision, "by": "kim"}).encode()
        return self.send("/approvals", body, signed(body, key=key))

    def commands_at_once(self, each: list[dict[str, Any]], post: dict[str, Any]) -> list[httpx.Response]:
        body = json.dumps(post).encode()

        async def send_all() -> list[httpx.Response]:
            requests = [
                self._client.post("/commands", content=body, headers=signed(body, **headers))
                for headers in each
            ]
            return await asyncio.gather(*requests)

        return self._runner.run(send_all())

    @property
    def jobs(self) -> list[Job]:
        return self.storage.queue.list()


@pytest.fixture
def service(engine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    service = Service()
    yield service
    service.close()


def test_a_command_becomes_a_job(service: Service) -> None:
    answer = service.command()
    [job] = service.jobs
    assert (answer.status_code, answer.json()) == (202, {"job": job.id})
    assert (job.platform, job.content, job.scheduled_at) == ("mastodon", "Fresh bread!", NOON)
    shown = service.get(f"/jobs/{job.id}").json()
    assert shown.pop("due_at") in (NOON.isoformat(), "2031-03-02T12:00:00Z")
    assert shown == {"id": job.id, "status": "scheduled", "remote_id": None, "dead_letter_reason": None}


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
def test_the_command_of_its_documentation(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def post(url: str, *, content: bytes, headers: dict[str, str]) -> httpx.Response:
        assert url.startswith("http://127.0.0.1:8000/")
        return service.send(url.removeprefix("http://127.0.0.1:8000"), content, headers)

    monkeypatch.setattr(httpx, "post", post)
    sender = (
        str(webhook_service.__doc__).partition("in the environment:\n")[2].partition("\n\nThe storage")[0]
    )
    exec(textwrap.dedent(sender), {})
    [job] = service.jobs
    assert json.loads(capsys.readouterr().out) == {"job": job.id}
    assert (job.platform, job.content, job.idempotency_key) == ("mastodon", "Fresh bread!", "command-1")


def test_a_command_that_comes_again_is_answered_the_same(service: Service) -> None:
    first, second = service.command(), service.command()
    assert (second.status_code, second.json()) == (first.status_code, first.json())
    assert len(service.jobs) == 1


def test_a_key_is_good_for_one_command(service: Service) -> None:
    service.command()
    answer = service.command(BREAD | {"content": "Stale bread!"})
    assert answer.status_code == 422
    assert [job.content for job in service.jobs] == ["Fresh bread!"]


def test_a_replayed_request_does_nothing(service: Service) -> None:
    body = json.dumps(BREAD).encode()
    headers = signed(body)
    first, again = (service.send("/commands", body, headers) for _ in range(2))
    assert (again.status_code, again.json()) == (first.status_code, first.json()) == (202, {"job": 1})
    assert len(service.jobs) == 1


def test_a_request_is_good_for_one_path(service: Service) -> None:
    """Which is not signed."""
    id = service.command(NEWS, key="news").json()["approval"]
    body = json.dumps(BREAD | {"approval": id, "decision": "approved", "by": "kim"}).encode()
    headers = signed(body)
    assert service.send("/commands", body, headers).status_code == 202
    assert service.send("/approvals", body, headers).status_code == 422
    assert [approval.id for approval in service.storage.approvals.list(status="pending")] == [id]


def test_a_key_in_progress_is_a_conflict(service: Service) -> None:
    service.storage.idempotency.claim("command-1")
    assert service.command().status_code == 409
    assert service.jobs == []


def test_commands_at_once_under_one_key_make_one_job(service: Service) -> None:
    answers = service.commands_at_once([{}] * 8, BREAD)
    [job] = service.jobs
    assert [(answer.status_code, answer.json()) for answer in answers] == [(202, {"job": job.id})] * 8


@pytest.mark.parametrize("part", ["webhook-id", "webhook-timestamp", "webhook-signature", "body"])
@pytest.mark.parametrize("engine", ["memory"], indirect=True)
def test_everything_that_counts_is_signed(service: Service, part: str) -> None:
    body = json.dumps(BREAD).encode()
    headers = {name: value for name, value in signed(body).items() if not name.startswith("X-")}
    if part == "body":
        body += b" "
    else:
        middle = len(headers[part]) // 2
        changed = "2" if headers[part][middle] == "1" else "1"
        headers[part] = headers[part][:middle] + changed + headers[part][middle + 1 :]
    answer = service.send("/commands", body, headers)
    assert answer.status_code == 401
    assert answer.json()["detail"].startswith("the signature is wrong")
    assert service.jobs == []


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
def test_an_unsigned_or_foreign_request_is_refused(service: Service) -> None:
    body = json.dumps(BREAD).encode()
    assert service.send("/commands", body, {}).status_code == 401
    assert service.command(secret=ANOTHER).status_code == 401
    assert service.jobs == []


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
def test_a_timestamp_has_to_be_of_now(service: Service) -> None:
    for seconds in (-400, 400):
        assert service.command(at=time.time() + seconds).status_code == 401
    assert service.jobs == []
    assert service.command(at=time.time() - 200).status_code == 202


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
def test_the_other_scheme_has_no_id(service: Service) -> None:
    body = json.dumps(BREAD).encode()
    headers = {name: value for name, value in signed(body).items() if not name.startswith("webhook-")}
    answer = service.send("/commands", body, headers)
    assert answer.status_code == 401
    assert "webhook-signature" in answer.json()["detail"]
    assert service.jobs == []


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
def test_a_secret_may_be_replaced(service: Service) -> None:
    app.state.secrets = WebhookSecrets([SECRET, ANOTHER])
    assert service.command(key="old").status_code == 202
    assert service.command(NEWS, key="new", secret=ANOTHER).status_code == 202


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"account": "nobody"}, 404),
        ({"content": "\0"}, 422),
        ({"content": None}, 422),
        ({"command": "delete"}, 422),
        ({"at": "2031-03-02T12:00:00"}, 422),
    ],
)
def test_a_bad_command_leaves_nothing(service: Service, change: dict[str, Any], status: int) -> None:
    assert service.command(BREAD | change).status_code == status
    assert service.jobs == []
    assert service.command().status_code == 202


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
def test_a_command_needs_a_key(service: Service) -> None:
    assert service.command(key="").status_code == 401


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
def test_a_key_may_be_of_any_length(service: Service) -> None:
    first, second = (service.command(key="x" * 513) for _ in range(2))
    assert (first.status_code, second.json()) == (202, first.json())


def test_posts_keep_their_distance(service: Service) -> None:
    service.command(key="bread")
    soon = BREAD | {"content": "Rolls!", "at": (NOON + timedelta(minutes=29)).isoformat()}
    answer = service.command(soon, key="rolls")
    assert answer.status_code == 409
    later = soon | {"at": (NOON + timedelta(minutes=30)).isoformat()}
    assert service.command(later, key="rolls").status_code == 202


def test_an_approved_post_is_scheduled(service: Service) -> None:
    asked = service.command(NEWS)
    id = asked.json()["approval"]
    assert (asked.status_code, service.jobs) == (202, [])
    assert service.command(NEWS).json() == asked.json()

    answer = service.decide(id, "approved", key="decision-1")
    [job] = service.jobs
    assert (answer.status_code, answer.json()) == (200, {"job": job.id})
    assert (job.platform, job.content, job.idempotency_key) == ("blog", NEWS["content"], "command-1")
    assert service.decide(id, "approved", key="decision-1").json() == answer.json()
    assert service.decide(id, "rejected", key="decision-2").status_code == 409
    approval = service.storage.approvals.get(id)
    assert approval is not None
    assert (approval.status, approval.payload["by"]) == ("approved", "kim")


def test_a_rejected_post_is_not(service: Service) -> None:
    id = service.command(NEWS).json()["approval"]
    assert service.decide(id, "rejected", key="decision-1").json() == {"job": None}
    assert service.decide(id, "approved", key="decision-2").status_code == 409
    assert service.decide("nothing", "approved", key="decision-3").status_code == 404
    assert service.jobs == []


def test_an_approval_that_cannot_be_scheduled_stays_undecided(service: Service) -> None:
    for number in (1, 2):
        service.command(NEWS, key=f"command-{number}")
    first, second = (approval.id for approval in service.storage.approvals.list())
    assert service.decide(first, "approved", key="decision-1").status_code == 200
    assert service.decide(second, "approved", key="decision-2").status_code == 409
    assert [approval.id for approval in service.storage.approvals.list(status="pending")] == [second]


def test_a_failure_in_the_middle_leaves_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    id = service.command(NEWS, key="news").json()["approval"]
    schedule = webhook_service.schedule

    def fail_at_the_end(*arguments: Any) -> Job:
        schedule(*arguments)
        raise RuntimeError("mutants")

    with monkeypatch.context() as patch:
        patch.setattr(webhook_service, "schedule", fail_at_the_end)
        assert service.command().status_code == 500
        assert service.decide(id, "approved", key="decision-1").status_code == 500
    assert service.jobs == []
    assert [approval.id for approval in service.storage.approvals.list(status="pending")] == [id]
    assert service.command().status_code == 202
    assert service.decide(id, "approved", key="decision-1").status_code == 200


DIE_IN_THE_MIDDLE = """
import json, os
from examples import webhook_service
from test_webhook_service import Service

schedule = webhook_service.schedule
webhook_service.schedule = lambda *arguments: (schedule(*arguments), os._exit(9))
Service().command()
"""


@pytest.mark.parametrize("engine", ["sqlite", "postgres"], indirect=True)
def test_a_process_that_dies_in_the_middle_leaves_nothing(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}:{Path(__file__).parent}")
    died = subprocess.run(
        [sys.executable, "-c", DIE_IN_THE_MIDDLE], timeout=60, check=False, capture_output=True
    )
    assert died.returncode == 9, died.stderr.decode()
    with open_storage() as storage:
        assert storage.queue.counts()[JobStatus.SCHEDULED] == 0
        assert storage.idempotency.get("command-1") is None
    service = Service()
    assert service.command().status_code == 202
    service.close()


@pytest.mark.parametrize(
    "error", [StorageUnavailable("no route"), TransactionAborted("deadlock"), OutcomeUnknown("cut off")]
)
@pytest.mark.parametrize("engine", ["memory"], indirect=True)
def test_a_storage_that_fails_is_worth_a_retry(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        for broken in ("transaction", "ping"):
            patch.setattr(service.storage, broken, fail)
        for answer in (service.command(), service.get("/health")):
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "2"
            assert str(error) not in answer.text
    assert service.command().status_code == 202


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
def test_what_no_caller_can_cure_is_an_error_of_the_server(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise StorageCorrupt("half a record")

    monkeypatch.setattr(service.storage, "ping", fail)
    assert service.get("/health").status_code == 500


def test_the_health_and_the_jobs_are_shown(service: Service) -> None:
    health = service.get("/health")
    assert (health.status_code, health.json()["ping"] < 5) == (200, True)
    assert service.get("/jobs/1").status_code == 404
    assert service.get(f"/jobs/{10**30}").status_code == 404


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
@pytest.mark.parametrize("secret", [None, "", "hunter2", "whsec_", "whsec_hunter-2"])
def test_no_secret_no_service(engine: str, monkeypatch: pytest.MonkeyPatch, secret: str | None) -> None:
    monkeypatch.delenv("WEBHOOK_SECRET", raising=False)
    if secret is not None:
        monkeypatch.setenv("WEBHOOK_SECRET", secret)

    async def start() -> None:
        async with app.router.lifespan_context(app):
            pass

    with pytest.raises(SystemExit, match="WEBHOOK_SECRET") as caught:
        asyncio.run(start())
    assert "hunter" not in str(caught.value)
