"""The spans of calls of a storage, and the trace context that scheduling stores with a job."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind

from assistly.storage.errors import InvalidValue
from assistly.storage.records import TRACE_CONTEXT, Claimed, Job, NewJob, PruneReport, Settled
from assistly.storage.storage import Storage
from assistly.storage.stores.scheduling import Scheduler

from .spans import (
    MESSAGING,
    PROPAGATOR,
    Attributes,
    TracedBlock,
    Tracing,
    current_block,
    ending,
    harmless,
    kind_of,
    links_to,
    logger,
    text_of,
)

_OPERATION_TYPES = {
    **dict.fromkeys(("queue.schedule", "queue.schedule_many"), "send"),
    **dict.fromkeys(("queue.claim_due", "queue.sweep_and_claim"), "receive"),
    **dict.fromkeys((f"queue.mark_{how}" for how in ("posted", "failed", "unknown")), "settle"),
    **dict.fromkeys(("queue.settle", "queue.snooze", "queue.release"), "settle"),
}
"""The calls that the conventions for messaging have a type for."""

_LATE = {"queue.claim_due", "queue.sweep_and_claim", "queue.rescue_expired", "schedules.run", "prune"}
"""Calls that workers repeat: they become spans when they have found something, or have failed."""


class TracedCalls:
    """Wrappers of the methods of storages and stores."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def call(
        self, name: str, called: Callable[[Any], Any], function: Callable[..., Any]
    ) -> Callable[..., Any]:
        """A call of a storage or a store; `called` gives the synchronous one behind it."""
        operation = Operation.of(name, function)

        if inspect.iscoroutinefunction(function):

            async def traced_with_await(owner: Any, *args: Any, **kwargs: Any) -> Any:
                block = self._begin_call(operation, called(owner), args, kwargs)
                if block is None:
                    return await function(owner, *args, **kwargs)
                try:
                    result = await function(owner, *args, **kwargs)
                except BaseException as error:
                    end_call(block, error=error)
                    raise
                end_call(block, operation, result)
                return result

            return traced_with_await

        def traced(owner: Any, *args: Any, **kwargs: Any) -> Any:
            block = self._begin_call(operation, called(owner), args, kwargs)
            if block is None:
                return function(owner, *args, **kwargs)
            try:
                result = function(owner, *args, **kwargs)
            except BaseException as error:
                end_call(block, error=error)
                raise
            end_call(block, operation, result)
            return result

        return traced

    @harmless
    def _begin_call(
        self, operation: Operation, store: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> TracedBlock | None:
        current = current_block()
        if not self._tracing.is_on or (current is not None and current.store is store):
            return None
        system, kind = self._tracing.engine(store._context)
        start = functools.partial(
            self._tracing.tracer.start_span,
            f"assistly.{operation.name}",
            kind=operation.kind or kind,
            attributes={"db.system.name": system, **operation.attributes, **operation.given(args, kwargs)},
            links=operation.links(args, kwargs),
        )
        around = self._tracing.around(store._context)
        block = TracedBlock(start, around, store, is_late=operation.is_late)
        block.begin()
        return block

    def view(self, function: Callable[..., Storage]) -> Callable[..., Storage]:
        """`Storage._view`: the storage of a transaction has the engine of the one that opened it."""

        def view(storage: Storage, *args: Any) -> Storage:
            made = function(storage, *args)
            self._hand_on(storage, made)
            return made

        return view

    @harmless
    def _hand_on(self, storage: Storage, view: Storage) -> None:
        self._tracing.hand_on(storage._context, view._context)

    def request(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`Scheduler.request`: adds the current span to the metadata, unless the job is not valid with it."""

        def request(scheduler: Scheduler, new: NewJob) -> Any:
            carrying = self._carrying(new)
            if carrying is not None:
                try:
                    return function(scheduler, carrying)
                except InvalidValue:
                    logger.debug("scheduling a job without its trace context", exc_info=True)
            return function(scheduler, new)

        return request

    @harmless
    def _carrying(self, new: NewJob) -> NewJob | None:
        metadata = {} if new.metadata is None else new.metadata
        if type(metadata) is not dict or TRACE_CONTEXT in metadata:
            return None
        if not self._tracing.is_on or not trace.get_current_span().is_recording():
            return None
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier)
        return replace(new, metadata={**metadata, TRACE_CONTEXT: carrier})


@dataclass(frozen=True, slots=True)
class Operation:
    """What is known of a method of the storage before it is called."""

    name: str
    kind: SpanKind | None
    """None: the one of its engine."""
    attributes: Attributes
    is_late: bool
    positions: Mapping[str, int]
    """Where the arguments are that attributes or links are made of."""

    @classmethod
    def of(cls, name: str, function: Callable[..., Any]) -> Operation:
        """Describe `function`, which is called `name`."""
        parameters = [*inspect.signature(function).parameters][1:]
        wanted = {"platform", "job", "jobs", "outcomes"} | ({"id"} if name.startswith("queue.") else set())
        attributes: Attributes = {"db.operation.name": name}
        kind = _OPERATION_TYPES.get(name)
        if kind is not None:
            attributes |= {
                **MESSAGING,
                "messaging.operation.name": name.partition(".")[2],
                "messaging.operation.type": kind,
            }
        return cls(
            name,
            SpanKind.PRODUCER if kind == "send" else None,
            attributes,
            name in _LATE,
            {name: number for number, name in enumerate(parameters) if name in wanted},
        )

    @property
    def is_claim(self) -> bool:
        """Whether the jobs that it returns are claimed."""
        return self.attributes.get("messaging.operation.type") == "receive"

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Attributes:
        """The attributes that the arguments give."""
        attributes: Attributes = {}
        for name in self.positions:
            value = self._argument(name, args, kwargs)
            if isinstance(value, Job):
                attributes |= _of_job(value)
            elif name == "platform" and type(value) is str:
                attributes["messaging.destination.name"] = value
            elif name == "id" and type(value) is int:
                attributes["messaging.message.id"] = str(value)
            elif isinstance(value, list | tuple):
                attributes["messaging.batch.message_count"] = len(value)
        return attributes

    def links(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Link]:
        """Links to the spans that scheduled the jobs among the arguments."""
        found: list[Any] = []
        for name in self.positions:
            value = self._argument(name, args, kwargs)
            found += value if isinstance(value, list | tuple) else [value]
        return links_to(each if isinstance(each, Job) else getattr(each, "job", None) for each in found)

    def _argument(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number = self.positions[name]
        return args[number] if number < len(args) else kwargs.get(name)


@ending
def end_call(
    block: TracedBlock,
    operation: Operation | None = None,
    result: object = None,
    *,
    error: BaseException | None = None,
) -> None:
    """End the span of a call, with its result or its error."""
    if error is not None:
        block.end({}, kind=kind_of(error), error=text_of(error))
    elif operation is not None and operation.is_late and _is_nothing(result):
        block.leave()
    else:
        attributes, jobs = _result(operation, result)
        block.end(attributes, links=links_to(jobs))


def _is_nothing(result: object) -> bool:
    if isinstance(result, Claimed):
        return not (result.jobs or result.rescued or result.missed)
    return not (result.total if isinstance(result, PruneReport) else result)


def _result(operation: Operation | None, result: object) -> tuple[Attributes, list[Job]]:
    """The attributes that a result gives, and the claimed jobs in it."""
    match result:
        case Job():
            return _of_job(result), []
        case Claimed():
            count: Attributes = {"messaging.batch.message_count": len(result.jobs)}
            return count | {
                "assistly.jobs.rescued": len(result.rescued),
                "assistly.jobs.missed": len(result.missed),
            }, result.jobs
        case Settled():
            return {"assistly.jobs.lost": len(result.lost)}, []
        case list() if operation is not None and operation.is_claim:
            return {"messaging.batch.message_count": len(result)}, result
        case list():
            return {"db.response.returned_rows": len(result)}, []
    return {}, []


def _of_job(job: Job) -> Attributes:
    return {"messaging.destination.name": job.platform, "messaging.message.id": str(job.id)}
