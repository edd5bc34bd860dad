"""Spans of workers: attempts to publish, checks, and nothing while there is nothing to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from assistly.monitoring.monitor import Monitor
from assistly.storage import AsyncStorage, Job, MemoryBackend, SqliteBackend, Storage, StorageBackend
from assistly.views.metrics import collect
from assistly.worker import (
    AsyncWorker,
    NotPosted,
    Permanent,
    Publication,
    Retry,
    StillUnknown,
    Unknown,
    WasPosted,
    Worker,
)
from otel.recorded import Recorded, attributes_of, id_of, linked, parent_of, trace_of
from waiting import until
from worker.worker_harness import running

SECOND = timedelta(seconds=1)


def publish_one(storage: Storage, publisher: Any, **options: Any) -> Job:
    job = storage.queue.schedule("x", "a", max_retries=3)
    Worker(storage, {"x": publisher}, worker_id="ann", **options).run_until_idle()
    found = storage.queue.get(job.id)
    assert found is not None
    return found


def test_an_attempt(spans: Recorded, storage: Storage) -> None:
    with spans.tracer.start_as_current_span("own"):
        job = publish_one(storage, lambda _: "1")
    schedule, publish = spans.one("assistly.queue.schedule"), spans.one("publish x")
    assert publish.kind is SpanKind.CONSUMER
    assert publish.parent is None
    assert trace_of(publish) != trace_of(schedule)
    assert linked(publish) == [id_of(schedule)]
    assert publish.status.status_code is StatusCode.UNSET
    assert attributes_of(publish) == {
        "messaging.system": "assistly",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "process",
        "messaging.destination.name": "x",
        "messaging.message.id": str(job.id),
        "messaging.client.id": "ann",
        "assistly.job.attempt": 1,
        "assistly.outcome": "posted",
    }


def raising(error: BaseException) -> Callable[[Job], str]:
    def publish(_: Job) -> str:
        raise error

    return publish


@pytest.mark.parametrize(
    ("error", "outcome", "kind"),
    [
        (ValueError("no"), "failed", "ValueError"),
        (Permanent("never"), "failed", "assistly.worker.publisher.Permanent"),
        (Unknown("no answer"), "unknown", "assistly.worker.publisher.Unknown"),
        (KeyboardInterrupt("stop"), "unknown", "KeyboardInterrupt"),
    ],
)
def test_an_attempt_that_fails(
    spans: Recorded, storage: Storage, error: BaseException, outcome: str, kind: str
) -> None:
    publish_one(storage, raising(error))
    publish = spans.one("publish x")
    assert attributes_of(publish)["assistly.outcome"] == outcome
    assert attributes_of(publish)["error.type"] == kind
    assert publish.status.status_code is StatusCode.ERROR
    assert str(error) in (publish.status.description or "")
    assert [event.name for event in publish.events] == ["exception"]


def test_a_rate_limit_is_no_error(spans: Recorded, storage: Storage) -> None:
    publish_one(storage, raising(Retry("slowly", after=3600)))
    publish = spans.one("publish x")
    assert attributes_of(publish)["assistly.outcome"] == "snoozed"
    assert publish.status.status_code is StatusCode.UNSET
    assert not publish.events
    assert parent_of(spans.one("assistly.platforms.pause_at_least")) == id_of(publish)


def test_further_attempts_link_to_the_same_span(spans: Recorded, storage: Storage) -> None:
    job = storage.queue.schedule("x", "a", max_retries=1)
    Worker(storage, {"x": raising(ValueError("no"))}).run_until_idle()
    storage.queue.replay(job.id)
    Worker(storage, {"x": lambda _: "1"}).run_until_idle()
    scheduled = id_of(spans.one("assistly.queue.schedule"))
    assert [linked(span) for span in spans.named("publish x")] == [[scheduled], [scheduled]]


def attempts_of(spans: Recorded) -> list[object]:
    return [attributes_of(span)["assistly.job.attempt"] for span in spans.named("publish x")]


def test_attempts_are_counted(spans: Recorded, storage: Storage) -> None:
    job = storage.queue.schedule("x", "a", max_retries=3)
    for _ in range(2):
        Worker(storage, {"x": raising(ValueError("no"))}).run_until_idle()
        storage.queue.reschedule(job.id, job.scheduled_at)
    assert attempts_of(spans) == [1, 2]


def plain(spans: Recorded) -> Callable[[Job], Any]:
    def publish(_: Job) -> str:
        with spans.tracer.start_as_current_span("request"):
            return "1"

    return publish


def coroutine(spans: Recorded) -> Callable[[Job], Any]:
    async def publish(_: Job) -> str:
        await asyncio.sleep(0)
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0)
        return "1"

    return publish


PUBLISHERS = [plain, coroutine]


@pytest.mark.parametrize("make", PUBLISHERS)
@pytest.mark.parametrize("timeout", [None, 60.0])
def test_what_a_publisher_does_is_in_its_span(
    spans: Recorded, storage: Storage, make: Callable[[Recorded], Any], timeout: float | None
) -> None:
    publish_one(storage, make(spans), timeout=timeout)
    assert parent_of(spans.one("request")) == id_of(spans.one("publish x"))


@pytest.mark.parametrize("make", PUBLISHERS)
def test_async_workers(spans: Recorded, storage: Storage, make: Callable[[Recorded], Any]) -> None:
    async def work() -> None:
        async with AsyncStorage(storage) as opened:
            with spans.tracer.start_as_current_span("own"):
                await opened.queue.schedule("x", "a")
            await AsyncWorker(opened, {"x": make(spans)}).run_until_idle()

    asyncio.run(work())
    publish = spans.one("publish x")
    assert parent_of(spans.one("request")) == id_of(publish)
    schedule = spans.one("assistly.queue.schedule")
    assert linked(publish) == [id_of(schedule)]
    assert parent_of(schedule) == id_of(spans.one("own"))


class InSteps:
    async def publish(self, _: Job, publication: Publication) -> str:
        await publication.acheckpoint("half")
        return "1"


def test_checkpoints_are_in_the_span(spans: Recorded, storage: Storage) -> None:
    def publish(_: Job, publication: Publication) -> str:
        publication.checkpoint("half")
        return "1"

    for publisher in (publish, InSteps()):
        spans.clear()
        publish_one(storage, publisher, timeout=60)
        assert parent_of(spans.one("assistly.queue.checkpoint")) == id_of(spans.one("publish x"))


def test_one_that_takes_too_long(spans: Recorded, storage: Storage) -> None:
    go_on = threading.Event()

    def publish(_: Job) -> str:
        go_on.wait(60)
        with spans.tracer.start_as_current_span("request"):
            return "1"

    publish_one(storage, publish, timeout=0.01)
    span = spans.one("publish x")
    assert attributes_of(span)["assistly.outcome"] == "unknown"
    assert "time limit" in (span.status.description or "")
    go_on.set()
    until(lambda: spans.named("request"))
    assert parent_of(spans.one("request")) == id_of(span)


class Checked:
    """A publisher with a check, which makes a span of its own."""

    def __init__(self, spans: Recorded, answer: Any, *, is_async: bool) -> None:
        self._spans = spans
        self._answer = answer
        self.check: Any = self._acheck if is_async else self._check

    def publish(self, _: Job) -> str:
        raise Unknown("no answer")

    async def _acheck(self, _: Job) -> Any:
        await asyncio.sleep(0)
        return self._check(_)

    def _check(self, _: Job) -> Any:
        with self._spans.tracer.start_as_current_span("request"):
            if isinstance(self._answer, Exception):
                raise self._answer
            return self._answer


def asked(spans: Recorded, storage: Storage, answer: Any, *, is_async: bool = False) -> ReadableSpan:
    publisher = Checked(spans, answer, is_async=is_async)
    worker = Worker(storage, {"x": publisher}, check_pause=0.01)
    storage.queue.schedule("x", "a")
    worker.run_until_idle()
    with running(worker):
        until(lambda: spans.named("check x"))
    return spans.named("check x")[0]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_check(spans: Recorded, storage: Storage, is_async: bool) -> None:
    check = asked(spans, storage, WasPosted("1"), is_async=is_async)
    assert check.parent is None
    assert check.kind is SpanKind.INTERNAL
    assert attributes_of(check)["assistly.outcome"] == "posted"
    assert linked(check) == [id_of(spans.one("assistly.queue.schedule"))]
    assert parent_of(spans.one("request")) == id_of(check)
    assert parent_of(spans.one("assistly.queue.resolve")) == id_of(check)


@pytest.mark.parametrize(
    ("answer", "outcome", "status"),
    [
        (StillUnknown("down"), "unknown", StatusCode.UNSET),
        (ValueError("broken"), "unknown", StatusCode.ERROR),
        (7, "unknown", StatusCode.ERROR),
        (NotPosted(), "not posted", StatusCode.UNSET),
    ],
)
def test_answers(spans: Recorded, storage: Storage, answer: Any, outcome: str, status: StatusCode) -> None:
    check = asked(spans, storage, answer)
    assert attributes_of(check)["assistly.outcome"] == outcome
    assert check.status.status_code is status


class Silence:
    """A publisher with a check and a limit, which is never called."""

    def publish(self, _: Job) -> None:
        raise AssertionError

    check = publish


def calls(storage: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes the calls of a method, beneath the spans."""
    made: list[str] = []
    method = getattr(storage, name)

    def noting(*args: Any, **kwargs: Any) -> Any:
        made.append(name)
        return method(*args, **kwargs)

    monkeypatch.setattr(storage, name, noting)
    return made


def test_an_idle_worker_makes_no_spans(
    spans: Recorded, make_backend: Callable[[int], StorageBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(8)
    with closing(Storage(backend, auto_prune=False)) as storage:
        storage.platforms.limit("y", 1, SECOND)
        spans.clear()
        claims = calls(backend.jobs, "claim", monkeypatch)
        upkeep = calls(backend, "maintain", monkeypatch)
        asked = calls(backend.jobs, "list", monkeypatch)
        worker = Worker(
            storage,
            {"x": Silence(), "y": lambda _: None},
            poll=0.01,
            platform_concurrency={"x": 2},
            lease=timedelta(seconds=0.1),
            heartbeat=timedelta(seconds=0.02),
            check_pause=0.01,
        )
        with running(worker):
            until(lambda: len(claims) > 1 and len(upkeep) > 2 and len(asked) > 2)
        assert spans.started == 0


def test_metrics_and_health_make_none(spans: Recorded, storage: Storage) -> None:
    storage.queue.schedule("x", "a")
    spans.clear()
    monitor = Monitor()
    monitor.attach(storage)
    page, _ = monitor.metrics("text/plain")
    assert b"assistly_" in page
    assert monitor.health().ready
    assert spans.started == 0
    assert collect(storage) is not None
    assert spans.started > 0


def test_a_busy_worker_makes_few(spans: Recorded, storage: Storage) -> None:
    for number in range(3):
        storage.queue.schedule("x", f"{number}")
    spans.clear()
    Worker(storage, {"x": lambda _: "1"}, platform_concurrency={"x": 2}, concurrency=2).run_until_idle()
    names = spans.names()
    assert names.count("publish x") == 3
    assert {*names} == {
        "assistly.queue.sweep_and_claim",
        *("assistly.queue.begin_publish_many", "publish x", "assistly.queue.settle"),
    }


def test_the_heartbeat_makes_none(spans: Recorded, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    extended = calls(storage._backend.jobs, "extend", monkeypatch)

    def publish(_: Job) -> str:
        until(lambda: len(extended) > 3)
        return "1"

    publish_one(storage, publish, lease=timedelta(seconds=1), heartbeat=timedelta(seconds=0.01))
    assert "assistly.queue.extend" not in spans.names()


def test_a_publisher_may_use_the_storage(spans: Recorded, storage: Storage) -> None:
    """What it schedules carries the trace of its own call."""

    def publish(job: Job) -> str:
        storage.queue.schedule("y", f"after {job.content}")
        return "1"

    publish_one(storage, publish)
    first, second = spans.named("assistly.queue.schedule")
    assert first.parent is None
    assert parent_of(second) == id_of(spans.one("publish x"))


@pytest.fixture
def stopped(spans: Recorded) -> Iterator[None]:
    yield
    assert spans.names()
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.usefixtures("stopped")
def test_nothing_stays_current(spans: Recorded, tmp_path: Any) -> None:
    for backend in (MemoryBackend(), SqliteBackend(tmp_path / "a.db")):
        with closing(Storage(backend, auto_prune=False)) as storage:
            publish_one(storage, lambda _: "1")
            with storage.transaction() as tx:
                tx.events.append("a", 1)
