"""The spans of publishing and of checks, and the context of the threads that they are made on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import SpanContext, SpanKind

from assistly.storage import records
from assistly.storage.records import Failed, Job, Outcome
from assistly.worker.processing import JobProcessor
from assistly.worker.publisher import CheckResult, NotPosted, StillUnknown
from assistly.worker.reconciling import Reconciler

from .calls import end_call
from .spans import (
    MESSAGING,
    Attributes,
    TracedBlock,
    Tracing,
    attach,
    current_block,
    detach,
    ending,
    harmless,
    kind_of,
    links_to,
)

# The last question of a reconciler, whose answer it stores next.
_question: ContextVar[SpanContext | None] = ContextVar("assistly_question", default=None)


class TracedPublishing:
    """Wrappers of methods of the worker."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._contexts: WeakKeyDictionary[object, otel.Context] = WeakKeyDictionary()

    def publish(self, function: Callable[..., Outcome]) -> Callable[..., Outcome]:
        """`JobProcessor._publish`: an attempt to publish a job."""

        def publish(processor: JobProcessor, job: Job, began: float) -> Outcome:
            block = self._begin_job("publish", job, {"messaging.client.id": processor._options.worker_id})
            if block is None:
                return function(processor, job, began)
            try:
                outcome = function(processor, job, began)
            except BaseException as error:
                end_call(block, error=error)
                raise
            _end_publish(block, outcome)
            return outcome

        return publish

    def check(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`Reconciler._answer`: a question whether a job was published."""

        def check(reconciler: Reconciler, asked: Any, job: Job) -> Any:
            block = self._begin_job("check", job, {"messaging.client.id": reconciler._worker_id})
            if block is None:
                return function(reconciler, asked, job)
            try:
                answer = function(reconciler, asked, job)
            except BaseException as error:
                end_call(block, error=error)
                raise
            _question.set(block.span_context)
            _end_check(block, answer)
            return answer

        return check

    @harmless
    def _begin_job(self, what: str, job: Job, more: Attributes) -> TracedBlock | None:
        if not self._tracing.is_active:
            return None
        is_publish = what == "publish"
        attributes: Attributes = {
            **MESSAGING,
            "messaging.operation.name": what,
            "messaging.destination.name": job.platform,
            "messaging.message.id": str(job.id),
            **more,
        }
        if is_publish:
            attributes |= {"messaging.operation.type": "process", "assistly.job.attempt": job.retries + 1}
        start = functools.partial(
            self._tracing.tracer.start_span,
            f"{what} {job.platform}",
            kind=SpanKind.CONSUMER if is_publish else SpanKind.INTERNAL,
            attributes=attributes,
            links=links_to([job]),
        )
        block = TracedBlock(start, otel.Context())
        block.begin()
        return block

    def noting_errors(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A call of a publisher or its check, whose exception the span around it records."""

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                block = current_block()
                if block is not None:
                    block.error = error
                raise

        return call

    def resolve(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`Reconciler._resolve`: what it stores belongs to the span of the question."""

        def resolve(*args: Any, **kwargs: Any) -> Any:
            asked = _question.get()
            context = otel.Context()
            if asked is not None:
                context = trace.set_span_in_context(trace.NonRecordingSpan(asked), context)
            token = attach(context)
            try:
                return function(*args, **kwargs)
            finally:
                detach(token)

        return resolve

    def keep_context(self, function: Callable[..., None]) -> Callable[..., None]:
        """`__init__` of an object that is used on another thread: keeps the context in which it is made."""

        def init(made: object, *args: Any, **kwargs: Any) -> None:
            function(made, *args, **kwargs)
            self._contexts[made] = otel.get_current()

        return init

    def in_kept_context(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A method of such an object: on a thread without a span it runs in that context."""

        def call(made: object, *args: Any, **kwargs: Any) -> Any:
            kept = self._contexts.get(made)
            if kept is None or trace.get_current_span().get_span_context().is_valid:
                return function(made, *args, **kwargs)
            token = attach(kept)
            try:
                return function(made, *args, **kwargs)
            finally:
                detach(token)

        return call


@ending
def _end_publish(block: TracedBlock, outcome: Outcome) -> None:
    name = type(outcome).__name__.lower()
    if isinstance(outcome, Failed | records.Unknown):
        kind = name if block.error is None else kind_of(block.error)
        block.end({"assistly.outcome": name}, kind=kind, error=outcome.error)
    else:
        block.end({"assistly.outcome": name})


@ending
def _end_check(block: TracedBlock, answer: CheckResult) -> None:
    if isinstance(answer, StillUnknown):
        kind = None if block.error is None else kind_of(block.error)
        block.end({"assistly.outcome": "unknown"}, kind=kind, error=str(answer.reason))
    else:
        block.end({"assistly.outcome": "not posted" if isinstance(answer, NotPosted) else "posted"})
