"""A program with spans in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from assistly.otel import AssistlyInstrumentor
from assistly.otel.spans import _has_failed
from assistly.storage import MemoryBackend, Storage
from otel.recorded import Recorded


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    provider = TracerProvider()
    yield provider
    provider.shutdown()


@pytest.fixture
def recorded(provider: TracerProvider) -> Recorded:
    """Spans are recorded, and Assistly makes none yet."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    recorded = Recorded(provider, exporter)
    provider.add_span_processor(recorded)
    return recorded


@pytest.fixture
def spans(recorded: Recorded) -> Iterator[Recorded]:
    """Assistly makes spans, and none of them fails."""
    _has_failed.clear()
    instrumentor = AssistlyInstrumentor()
    instrumentor.instrument(tracer_provider=recorded.provider)
    yield recorded
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
    assert not _has_failed.is_set()


@pytest.fixture
def storage() -> Iterator[Storage]:
    with closing(Storage(MemoryBackend(), auto_prune=False)) as storage:
        yield storage
