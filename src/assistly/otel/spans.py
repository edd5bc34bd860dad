"""Blocks of code that are spans, and the links from them to the spans that scheduled a job."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar, Token
from itertools import islice
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled, suppress_instrumentation
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from assistly.storage.records import TRACE_CONTEXT, Job

if TYPE_CHECKING:
    from assistly.storage.engine.protocol import StorageBackend
    from assistly.storage.stores.context import Context

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("assistly.otel")

Attributes = dict[str, str | int]

MESSAGING = {"messaging.system": "assistly"}
PROPAGATOR = TraceContextTextMapPropagator()
_LONGEST_DESCRIPTION = 1024
_MOST_LINKS = 128

_has_failed = threading.Event()
"""Set when an error was logged as a warning: further ones are for debugging alone."""

# The innermost block of the calling thread or task.
_current: ContextVar[TracedBlock | None] = ContextVar("assistly_traced_block", default=None)


class Tracing:
    """The tracer of one instrumentation, whether it is still wanted, and the spans of open transactions."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self.tracer = tracer
        self._originals: list[tuple[type[object], str, Any]] = []
        self._engines: WeakKeyDictionary[Context, tuple[str, SpanKind]] = WeakKeyDictionary()
        self._transactions: WeakKeyDictionary[Context, tuple[Span, Span]] = WeakKeyDictionary()
        self.is_active = True
        """False after `end`: methods that objects took before then call what they replaced."""

    def replace(self, owner: type[object], name: str, wrapper: Callable[[Any], Any]) -> None:
        """Put what `wrapper` makes of a method in its place."""
        original = vars(owner)[name]
        setattr(owner, name, functools.wraps(original)(wrapper(original)))
        self._originals.append((owner, name, original))

    def end(self) -> None:
        """Make no further spans, and put all methods back."""
        self.is_active = False
        while self._originals:
            owner, name, original = self._originals.pop()
            setattr(owner, name, original)

    @property
    def is_on(self) -> bool:
        """Whether spans are wanted here and now."""
        return self.is_active and is_instrumentation_enabled()

    def engine(self, context: Context) -> tuple[str, SpanKind]:
        """See `engine_of`."""
        found = self._engines.get(context)
        if found is None:
            found = self._engines[context] = engine_of(context.idle_backend)
        return found

    def hand_on(self, context: Context, view: Context) -> None:
        """Note that the storage of a transaction or a bound connection has this engine."""
        self._engines[view] = self.engine(context)

    def note_transaction(self, context: Context, span: Span, around: Span) -> None:
        """Note the span of a transaction, whose storage has this context, and what it was begun in."""
        self._transactions[context] = (span, around)

    def around(self, context: Context) -> otel.Context:
        """Where calls belong: in the span of the transaction, unless there is another one since it began.

        It is not current in the block, since that may be left on another thread, where it would stay current.
        """
        span, begun_in = self._transactions.get(context, (None, None))
        current = trace.get_current_span()
        if span is None or not (current is begun_in or current is trace.INVALID_SPAN):
            return otel.get_current()
        return trace.set_span_in_context(span)


def harmless(function: Callable[P, T]) -> Callable[P, T | None]:
    """Make a function of the tracing log its errors, and return None then."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return function(*args, **kwargs)
        except Exception:
            level = logging.DEBUG if _has_failed.is_set() else logging.WARNING
            _has_failed.set()
            logger.log(level, "a span is missing or incomplete", exc_info=True)
            return None

    return call


@harmless
def attach(context: otel.Context) -> Token[otel.Context]:
    """Make a context current, until `detach` with the result."""
    return otel.attach(context)


@harmless
def detach(token: Token[otel.Context] | None) -> None:
    """Make the context current that was current before `attach`."""
    if token is not None:
        otel.detach(token)


def ending(
    function: Callable[Concatenate[TracedBlock, P], None],
) -> Callable[Concatenate[TracedBlock, P], None]:
    """Make a function that ends a block end it even if its arguments are not what it expects."""

    @functools.wraps(function)
    def end(block: TracedBlock, /, *args: P.args, **kwargs: P.kwargs) -> None:
        harmless(function)(block, *args, **kwargs)
        block.end({})

    return end


class TracedBlock:
    """A span that is current from `begin` to `end`. With `is_late` it is made at the end, if at all.

    `around` has its parent. `store` is the one that is called: calls on the same one inside of it make no
    spans.
    """

    __slots__ = (
        *("_around", "_began", "_is_late", "_mark", "_span", "_start", "_token", "error", "is_open"),
        "store",
    )

    def __init__(
        self,
        start: Callable[..., Span],
        around: otel.Context,
        store: object = None,
        *,
        is_late: bool = False,
    ) -> None:
        self._start = start
        self._around = around
        self._is_late = is_late
        self._span: Span | None = None
        self._token: Token[otel.Context] | None = None
        self._mark: Token[TracedBlock | None] | None = None
        self._began = 0
        self.store = store
        self.is_open = True
        self.error: BaseException | None = None
        """What the publisher has raised."""

    @property
    def span_context(self) -> SpanContext | None:
        """That of the span, if it was made."""
        return None if self._span is None else self._span.get_span_context()

    @harmless
    def begin(self) -> None:
        """Begin."""
        if self._is_late:
            self._began = time.time_ns()
        else:
            self._span = self._start(context=self._around)
            self._token = otel.attach(trace.set_span_in_context(self._span, self._around))
        self._mark = _current.set(self)

    @harmless
    def end(
        self, attributes: Attributes, *, kind: str | None = None, error: str = "", links: Iterable[Link] = ()
    ) -> None:
        """End, unless it has. `kind` says which error it was, if it was one, and `error` what it said."""
        if not self.is_open:
            return
        self.leave()
        span = self._span
        if self._is_late:
            span = self._start(context=self._around, start_time=self._began)
        if span is None:
            return
        try:
            for link in links:
                span.add_link(link.context, link.attributes)
            span.set_attributes(attributes)
            if kind is not None:
                span.set_attribute("error.type", kind)
                span.set_status(StatusCode.ERROR, error[:_LONGEST_DESCRIPTION])
                if self.error is not None:
                    span.record_exception(self.error)
        finally:
            span.end()

    @harmless
    def leave(self) -> None:
        """Be current no longer."""
        self.is_open = False
        mark, self._mark = self._mark, None
        if mark is not None:
            _current.reset(mark)
        token, self._token = self._token, None
        detach(token)


def without_spans(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function make no spans, nor the drivers of databases that it uses."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with suppress_instrumentation():
            return function(*args, **kwargs)

    return call


def current_block() -> TracedBlock | None:
    """The innermost block of the calling thread or task that is open."""
    block = _current.get()
    return block if block is not None and block.is_open else None


def scheduling_span(job: Job) -> SpanContext | None:
    """The span in which a job was scheduled, for a link from your own span; None if not known."""
    carrier = job.metadata.get(TRACE_CONTEXT)
    if not isinstance(carrier, dict):
        return None
    texts = {name: text for name, text in carrier.items() if isinstance(text, str)}
    found = trace.get_current_span(PROPAGATOR.extract(texts, otel.Context())).get_span_context()
    return found if found.is_valid else None


def links_to(jobs: Iterable[object]) -> list[Link]:
    """Links to the spans that scheduled those of these objects that are jobs."""
    spans = (scheduling_span(job) for job in islice(jobs, _MOST_LINKS) if isinstance(job, Job))
    return [Link(span) for span in spans if span is not None]


def kind_of(error: BaseException) -> str:
    """The class of an error, as the attribute `error.type` has it."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def text_of(error: BaseException) -> str:
    """What an error says, shortened."""
    try:
        return str(error)[:_LONGEST_DESCRIPTION]
    except Exception:  # noqa: BLE001 - the class of a user's error may have a broken __str__
        return ""


def engine_of(backend: StorageBackend) -> tuple[str, SpanKind]:
    """The name of an engine by the conventions, and the kind of the spans of its calls."""
    name = type(backend).__name__.removesuffix("Backend").lower()
    system = {"postgres": "postgresql", "sql": "other_sql"}.get(name, name)
    return system, SpanKind.INTERNAL if backend.in_process else SpanKind.CLIENT
