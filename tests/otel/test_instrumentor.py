"""Spans are made on demand, and nothing is left of it afterwards."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation

import assistly.otel.wrapping as wrapping
from assistly.otel import AssistlyInstrumentor
from assistly.otel.spans import _has_failed
from assistly.storage import AsyncStorage, InvalidValue, Storage
from assistly.storage.stores.scheduling import Scheduler
from assistly.storage.transactions import Transaction
from assistly.worker import Worker
from assistly.worker.budgets import PlatformBudgets
from assistly.worker.claimed_jobs import ClaimedJobs
from assistly.worker.invocation import PublisherCall, PublisherCaller
from assistly.worker.loop import WorkerLoop
from assistly.worker.processing import JobProcessor
from assistly.worker.publication import Publication
from assistly.worker.reconciling import Reconciler
from assistly.worker.slots import PlatformSlots
from otel.recorded import Recorded

ROOT = Path(__file__).parents[2]

UNTOUCHED = """
import asyncio, sys
from assistly.storage import AsyncStorage, MemoryBackend, Storage
from assistly.worker import Worker
from assistly.cli import main
storage = Storage(MemoryBackend())
storage.queue.schedule("x", "a")
with storage.transaction() as tx:
    tx.events.append("a", 1)
Worker(storage, {"x": lambda job: "1"}).run_until_idle()
assert storage.queue.list()[0].metadata == {}
asyncio.run(AsyncStorage(storage).close())
print([name for name in sys.modules if name.partition(".")[0] == "opentelemetry" or "otel" in name])
"""


LATE = """
import sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from assistly.otel import AssistlyInstrumentor
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
AssistlyInstrumentor().instrument(tracer_provider=provider)
AssistlyInstrumentor().uninstrument()
AssistlyInstrumentor().instrument(tracer_provider=provider)
heavy = {"assistly.storage.storage", "assistly.worker.worker", "psycopg", "pydantic_settings"}
assert not heavy & {*sys.modules}, heavy & {*sys.modules}
from assistly.storage import MemoryBackend, Storage
storage = Storage(MemoryBackend())
storage.queue.schedule("x", "a")
assert not (heavy - {"assistly.storage.storage"}) & {*sys.modules}
from assistly.worker import Worker
Worker(storage, {"x": lambda job: "1"}).run_until_idle()
import asyncio
from assistly.storage import AsyncStorage
async def work():
    async with AsyncStorage(storage) as opened:
        await opened.queue.counts()
asyncio.run(work())
for span in exporter.get_finished_spans():
    print(span.name)
"""


def state() -> dict[tuple[str, str], object]:
    owners: list[type[object]] = [
        *(Storage, AsyncStorage, Scheduler, Transaction, JobProcessor, PublisherCaller, PublisherCall),
        *(Publication, Reconciler, PlatformBudgets, PlatformSlots, ClaimedJobs, WorkerLoop),
    ]
    for storage in (Storage, AsyncStorage):
        owners += wrapping.stores_of(storage).values()
    return {(owner.__qualname__, name): each for owner in owners for name, each in vars(owner).items()}


def test_nothing_is_imported_unless_it_is_asked_for() -> None:
    ran = subprocess.run([sys.executable, "-c", UNTOUCHED], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_nothing_is_imported_before_it_is_used() -> None:
    """So it does not slow down other programs of the environment that are instrumented."""
    ran = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        *("assistly.queue.schedule", "assistly.queue.sweep_and_claim", "assistly.queue.begin_publish_many"),
        *("publish x", "assistly.queue.settle", "assistly.queue.counts"),
    ]


def test_without_it_there_are_no_spans(recorded: Recorded, storage: Storage) -> None:
    with recorded.tracer.start_as_current_span("own"):
        job = storage.queue.schedule("x", "a")
        Worker(storage, {"x": lambda _: "1"}).run_until_idle()
    assert recorded.names() == ["own"]
    assert job.metadata == {}


def test_uninstrument_restores_everything(recorded: Recorded, storage: Storage) -> None:
    before = state()
    instrumentor = AssistlyInstrumentor()
    for _ in range(2):
        instrumentor.instrument(tracer_provider=recorded.provider)
        changed = {name for name, each in state().items() if before.get(name) is not each}
        assert {("Queue", "schedule"), ("AsyncQueue", "schedule"), ("Transaction", "begin")} <= changed
        kept = storage.queue.schedule
        storage.queue.schedule("x", "a")
        assert recorded.names() == ["assistly.queue.schedule"]
        instrumentor.uninstrument()
        recorded.clear()
        assert state() == before
        assert kept("x", "a").metadata == {}
        assert recorded.names() == []


def test_what_is_wrapped_looks_the_same(recorded: Recorded) -> None:
    plain = inspect.signature(Storage.prune), Storage.prune.__doc__
    AssistlyInstrumentor().instrument(tracer_provider=recorded.provider)
    try:
        assert (inspect.signature(Storage.prune), Storage.prune.__doc__) == plain
        assert inspect.iscoroutinefunction(AsyncStorage.prune)
    finally:
        AssistlyInstrumentor().uninstrument()


def test_half_an_instrumentation_is_undone(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the program that imports the module sees nothing of it."""
    monkeypatch.setattr(wrapping, "_STORAGE_CALLS", ("no_such_method",))
    before = state()
    AssistlyInstrumentor().instrument(tracer_provider=recorded.provider)
    assert state() == before
    assert "cannot create spans for Assistly" in caplog.text
    AssistlyInstrumentor().uninstrument()


def test_the_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"]["opentelemetry_instrumentor"].items()
    assert EntryPoint(name, value, "opentelemetry_instrumentor").load() is AssistlyInstrumentor


def test_a_missing_package_is_named() -> None:
    code = "import sys; sys.modules['opentelemetry.instrumentation'] = None; import assistly.otel"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].endswith("python -m pip install 'assistly[otel]'")


def test_spans_can_be_suppressed(spans: Recorded, storage: Storage) -> None:
    with spans.tracer.start_as_current_span("own"), suppress_instrumentation():
        job = storage.queue.schedule("x", "a")
        with storage.transaction() as tx:
            tx.events.append("a", 1)
    assert spans.names() == ["own"]
    assert job.metadata == {}


class BrokenTracer(trace.Tracer):
    """Whose spans raise, or that raises itself."""

    def __init__(self, failing: str) -> None:
        self._failing = failing

    def start_span(self, *_: Any, **__: Any) -> trace.Span:
        if self._failing == "start_span":
            raise RuntimeError("no span")
        return BrokenSpan(self._failing)

    def start_as_current_span(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


class BrokenSpan(trace.NonRecordingSpan):
    """A span one of whose methods raises."""

    def __init__(self, failing: str) -> None:
        super().__init__(trace.SpanContext(1, 2, is_remote=False))
        self._failing = failing

    def __getattribute__(self, name: str) -> Any:
        if name != "_failing" and name == self._failing:
            raise RuntimeError(f"no {name}")
        return super().__getattribute__(name)


class BrokenProvider(trace.TracerProvider):
    """Whose tracer is broken."""

    def __init__(self, failing: str) -> None:
        self._failing = failing

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        return BrokenTracer(self._failing)


@pytest.fixture(
    params=["start_span", "is_recording", "set_attributes", "set_attribute", "set_status", "add_link", "end"]
)
def broken(request: pytest.FixtureRequest) -> Iterator[str]:
    AssistlyInstrumentor().instrument(tracer_provider=BrokenProvider(request.param))
    yield request.param
    AssistlyInstrumentor().uninstrument()
    assert not trace.get_current_span().get_span_context().is_valid


def test_errors_of_the_tracing_do_not_reach_the_caller(
    broken: str, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    _has_failed.clear()
    caplog.set_level(logging.WARNING, "assistly.otel")
    context = {"assistly.trace": {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}}
    storage.queue.schedule("x", "a", metadata=context)
    storage.queue.schedule("x", "b", max_retries=1)
    with pytest.raises(InvalidValue):
        storage.queue.schedule("", "")
    with pytest.raises(ZeroDivisionError), storage.transaction() as tx:
        tx.events.append("a", 1)
        _ = 1 / 0
    assert storage.events.list() == []

    def publish(job: Any) -> str:
        if job.content == "b":
            raise ValueError("no")
        return "1"

    Worker(storage, {"x": publish}).run_until_idle()
    assert {job.content: job.status for job in storage.queue.list()} == {"a": "posted", "b": "dead_letter"}
    # Once, so that a tracer that fails each time does not fill the log.
    logged = [record.message for record in caplog.records if record.name == "assistly.otel"]
    assert logged == ["a span is missing or incomplete"]
