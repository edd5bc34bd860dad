"""The trace that scheduled a job is stored with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from assistly.otel import AssistlyInstrumentor, scheduling_span
from assistly.storage import (
    IdempotencyMismatch,
    InvalidValue,
    MemoryBackend,
    NewJob,
    SqliteBackend,
    Storage,
    StorageBackend,
)
from assistly.transfer.copying import copy
from assistly.transfer.export import export_rows, import_rows
from assistly.worker import Worker
from otel.recorded import Recorded, id_of, linked, trace_of

KEY = "assistly.trace"
MOST = 1024 * 1024

SCHEDULES = """
import sys
from opentelemetry.sdk.trace import TracerProvider
from assistly.otel import AssistlyInstrumentor
from assistly.storage import SqliteBackend, Storage
AssistlyInstrumentor().instrument(tracer_provider=TracerProvider())
storage = Storage(SqliteBackend(sys.argv[1]), auto_prune=False)
job = storage.queue.schedule("x", "a")
storage.close()
print(job.metadata["assistly.trace"]["traceparent"])
"""


def traceparent(context: trace.SpanContext | None) -> str:
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@pytest.fixture
def on_engine(make_backend: Callable[[int], StorageBackend]) -> Storage:
    return Storage(make_backend(4), auto_prune=False)


def test_it_is_that_of_the_call(spans: Recorded, on_engine: Storage) -> None:
    given = {"n": 1}
    with spans.tracer.start_as_current_span("own"):
        job = on_engine.queue.schedule("x", "a", metadata=given)
    schedule = spans.one("assistly.queue.schedule")
    assert job.metadata == {"n": 1, KEY: {"traceparent": traceparent(schedule.get_span_context())}}
    assert on_engine.queue.get(job.id) == job
    assert given == {"n": 1}
    found = scheduling_span(job)
    assert found is not None
    assert (found.trace_id, found.span_id) == (trace_of(schedule), id_of(schedule))


def test_the_state_is_stored_too(spans: Recorded, storage: Storage) -> None:
    state = trace.TraceState([("vendor", "value")])
    outer = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1), trace_state=state)
    with trace.use_span(trace.NonRecordingSpan(outer)):
        job = storage.queue.schedule("x", "a")
    assert job.metadata[KEY]["tracestate"] == "vendor=value"
    found = scheduling_span(job)
    assert found is not None
    assert found.trace_state == state


def test_a_call_that_is_repeated_is_the_same_job(spans: Recorded, on_engine: Storage) -> None:
    fields: dict[str, Any] = {"idempotency_key": "key", "metadata": {"n": 1}}
    first = on_engine.queue.schedule("x", "a", **fields)
    assert on_engine.queue.schedule("x", "a", **fields) == first
    assert on_engine.queue.schedule("x", "a", min_gap=timedelta(hours=1), **fields) == first
    new = NewJob("x", "a", **fields)
    assert on_engine.queue.schedule_many([new, new, NewJob("x", "b")])[:2] == [first, first]
    with on_engine.transaction() as tx:
        assert tx.queue.schedule("x", "a", **fields) == first
    with pytest.raises(IdempotencyMismatch):
        on_engine.queue.schedule("x", "a", idempotency_key="key", metadata={"n": 2})
    AssistlyInstrumentor().uninstrument()
    assert on_engine.queue.schedule("x", "a", **fields) == first


def test_a_job_that_was_stored_without_it(recorded: Recorded, storage: Storage) -> None:
    first = storage.queue.schedule("x", "a", idempotency_key="key")
    AssistlyInstrumentor().instrument(tracer_provider=recorded.provider)
    try:
        assert storage.queue.schedule("x", "a", idempotency_key="key") == first
    finally:
        AssistlyInstrumentor().uninstrument()


def test_one_that_the_caller_gives_stays(spans: Recorded, storage: Storage) -> None:
    given = {KEY: {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}}
    job = storage.queue.schedule("x", "a", metadata=given)
    assert job.metadata == given
    Worker(storage, {"x": lambda _: "1"}).run_until_idle()
    assert linked(spans.one("publish x")) == [0x2222222222222222]


@pytest.mark.parametrize("value", [None, 7, "text", [], {}, {"traceparent": 7}, {"traceparent": "nonsense"}])
def test_one_that_is_none(spans: Recorded, storage: Storage, value: Any) -> None:
    job = storage.queue.schedule("x", "a", metadata={KEY: value})
    assert scheduling_span(job) is None
    Worker(storage, {"x": lambda _: "1"}).run_until_idle()
    assert linked(spans.one("publish x")) == []


@pytest.mark.parametrize("left", [0, 1, 50, 200])
def test_metadata_at_its_limit(spans: Recorded, on_engine: Storage, left: int) -> None:
    """The trace context is left out where there is no room for it."""
    text = "a" * (MOST - len('{"text":""}') - left)
    job = on_engine.queue.schedule("x", "a", metadata={"text": text})
    assert (KEY in job.metadata) is (left == 200)
    assert job.metadata["text"] == text
    with pytest.raises(InvalidValue, match=f"metadata must have at most .*{MOST + 1}"):
        on_engine.queue.schedule("x", "a", metadata={"text": text + "a" * (left + 1)})


@pytest.mark.parametrize("metadata", [[], 7, {1: 2}, {"a": object()}])
def test_wrong_metadata_is_refused_as_without_it(spans: Recorded, storage: Storage, metadata: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        storage.queue.schedule("x", "a", metadata=metadata)
    AssistlyInstrumentor().uninstrument()
    with pytest.raises(InvalidValue) as plain:
        storage.queue.schedule("x", "a", metadata=metadata)
    assert str(caught.value) == str(plain.value)


def test_a_trace_that_is_not_recorded_is_not_stored(storage: Storage) -> None:
    AssistlyInstrumentor().instrument(tracer_provider=TracerProvider(sampler=ALWAYS_OFF))
    try:
        assert storage.queue.schedule("x", "a").metadata == {}
    finally:
        AssistlyInstrumentor().uninstrument()


def test_jobs_of_schedules_have_none(spans: Recorded, on_engine: Storage) -> None:
    with spans.tracer.start_as_current_span("own"):
        on_engine.schedules.put("daily", "x", "a", every=timedelta(days=1), metadata={"n": 1})
        jobs = on_engine.schedules.run()
    assert {job.metadata == {"n": 1} for job in jobs} == {True}


def test_another_process(spans: Recorded, tmp_path: Path) -> None:
    path = tmp_path / "assistly.db"
    ran = subprocess.run(
        [sys.executable, "-c", SCHEDULES, str(path)], capture_output=True, text=True, check=True
    )
    with closing(Storage(SqliteBackend(path), auto_prune=False)) as storage:
        Worker(storage, {"x": lambda _: "1"}).run_until_idle()
    (link,) = spans.one("publish x").links
    assert ran.stdout.strip() == traceparent(link.context)
    assert link.context.is_remote


def test_what_receivers_of_the_webhook_see(spans: Recorded, storage: Storage) -> None:
    """The context is in the metadata that they get; a header is for the instrumentation of httpx."""
    from assistly.worker.publishers.webhook import WebhookPublisher

    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200)

    job = storage.queue.schedule("x", "a")
    with closing(WebhookPublisher("http://localhost/", transport=httpx.MockTransport(answer))) as publisher:
        Worker(storage, {"x": publisher}).run_until_idle()
    (request,) = requests
    assert "traceparent" not in request.headers
    assert job.metadata[KEY]["traceparent"] in request.content.decode()


def test_a_copy_and_an_export(spans: Recorded, tmp_path: Path) -> None:
    """The trace is still there after each."""
    backends = MemoryBackend(), SqliteBackend(tmp_path / "copy.db"), MemoryBackend()
    source, copied, imported = backends
    storages = [Storage(backend, auto_prune=False) for backend in backends]
    storages[0].queue.schedule("x", "a")
    scheduled = id_of(spans.one("assistly.queue.schedule"))
    copy(source, copied, identity="source")
    file = BytesIO()
    export_rows(copied, file, engine="sqlite", schema_level=None)
    file.seek(0)
    import_rows(imported, file, "the file")
    for storage in storages:
        with closing(storage):
            Worker(storage, {"x": lambda _: "1"}).run_until_idle()
    assert [linked(span) for span in spans.named("publish x")] == [[scheduled]] * 3
