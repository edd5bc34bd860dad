"""Spans that have ended, and what tests ask about them."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer


class Recorded(SpanProcessor):
    """The spans that have ended, and how many have begun."""

    def __init__(self, provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
        self.provider = provider
        self.started = 0
        self._exporter = exporter

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.started += 1

    @property
    def tracer(self) -> Tracer:
        """For spans of a program's own."""
        return self.provider.get_tracer("test")

    def all(self) -> list[ReadableSpan]:
        """In the order of their ends."""
        return [*self._exporter.get_finished_spans()]

    def names(self) -> list[str]:
        return [span.name for span in self.all()]

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def clear(self) -> None:
        self.started = 0
        self._exporter.clear()


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def trace_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id


def linked(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def attributes_of(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})
