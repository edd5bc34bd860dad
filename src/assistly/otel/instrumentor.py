"""Puts wrappers in the place of methods, and puts the methods back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import partial, wraps
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_type_hints

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from assistly.storage.aio.storage import AsyncStorage
from assistly.storage.storage import Storage
from assistly.storage.stores.scheduling import Scheduler
from assistly.storage.transactions import Transaction
from assistly.worker.budgets import PlatformBudgets
from assistly.worker.claimed_jobs import ClaimedJobs
from assistly.worker.invocation import PublisherCall, PublisherCaller
from assistly.worker.loop import WorkerLoop
from assistly.worker.processing import JobProcessor
from assistly.worker.publication import Publication
from assistly.worker.reconciling import Reconciler
from assistly.worker.slots import PlatformSlots

from .calls import TracedCalls
from .publishing import TracedPublishing
from .spans import Tracing
from .transactions import TracedTransactions

_SCHEMA = "https://opentelemetry.io/schemas/1.34.0"
_UNTRACED = {"queue.wait"}
_STORAGE_CALLS = ("prune", "prunable", "maintain", "migrate")

_HOUSEKEEPING: tuple[tuple[type[object], tuple[str, ...]], ...] = (
    (ClaimedJobs, ("heartbeat",)),
    (PlatformBudgets, ("refresh", "take", "give_back")),
    (PlatformSlots, ("acquire", "release", "renew")),
    (Reconciler, ("round",)),
    (WorkerLoop, ("_maintain", "_wait_for_jobs")),
)
"""What a worker does without a job. It makes no spans, nor do the drivers of databases in it."""


class AssistlyInstrumentor(BaseInstrumentor):  # type: ignore[misc] # it is untyped
    """Makes spans of calls of storages and of publishing, and stores with jobs the trace that scheduled them.

    `opentelemetry-instrument` finds it by itself. A program calls `AssistlyInstrumentor().instrument()`
    before it runs a worker, with a `tracer_provider` unless the global one is meant; `uninstrument()` undoes
    it. docs/tracing.md lists the spans. Errors of the tracing never reach the caller: they are logged.
    """

    _originals: list[tuple[type[object], str, Any]]
    _tracing: Tracing

    def instrumentation_dependencies(self) -> Collection[str]:
        """None: it comes with what it instruments."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        tracer = trace.get_tracer("assistly", _version(), kwargs.get("tracer_provider"), schema_url=_SCHEMA)
        self._originals = []
        self._tracing = Tracing(tracer)
        try:
            self._instrument_storage(TracedCalls(self._tracing), TracedTransactions(self._tracing))
            self._instrument_worker(TracedPublishing(self._tracing))
        except BaseException:
            self._uninstrument()
            raise

    def _uninstrument(self, **_: Any) -> None:
        self._tracing.is_active = False
        while self._originals:
            owner, name, original = self._originals.pop()
            setattr(owner, name, original)

    def _instrument_storage(self, calls: TracedCalls, transactions: TracedTransactions) -> None:
        for storage in (Storage, AsyncStorage):
            for name, store in _stores_of(storage).items():
                for method in [method for method in vars(store) if _is_public_method(store, method)]:
                    if f"{name}.{method}" not in _UNTRACED:
                        self._replace(store, method, partial(calls.call, f"{name}.{method}"))
            for method in _STORAGE_CALLS:
                self._replace(storage, method, partial(calls.call, method))
        self._replace(Storage, "_view", calls.view)
        self._replace(Scheduler, "request", calls.request)
        self._replace(Transaction, "begin", transactions.begin)
        self._replace(Transaction, "end", transactions.end)

    def _instrument_worker(self, publishing: TracedPublishing) -> None:
        for owner, methods in _HOUSEKEEPING:
            for method in methods:
                self._replace(owner, method, publishing.housekeeping)
        self._replace(JobProcessor, "_publish", publishing.publish)
        self._replace(PublisherCaller, "publish", publishing.noting_errors)
        self._replace(PublisherCaller, "check", publishing.noting_errors)
        self._replace(PublisherCall, "__init__", publishing.keep_context)
        self._replace(PublisherCall, "run", publishing.in_kept_context)
        self._replace(Publication, "__init__", publishing.keep_context)
        self._replace(Publication, "checkpoint", publishing.in_kept_context)
        self._replace(Reconciler, "_answer", publishing.check)
        self._replace(Reconciler, "_resolve", publishing.resolve)

    def _replace(self, owner: type[object], name: str, wrapper: Callable[[Any], Any]) -> None:
        original = vars(owner)[name]
        setattr(owner, name, wraps(original)(wrapper(original)))
        self._originals.append((owner, name, original))


def _stores_of(kind: type[object]) -> dict[str, type[object]]:
    """The stores of a storage by name."""
    return {
        name: store
        for name, store in get_type_hints(kind).items()
        if isinstance(store, type) and store.__module__.startswith("assistly.")
    }


def _is_public_method(store: type[object], name: str) -> bool:
    return not name.startswith("_") and inspect.isfunction(vars(store)[name])


def _version() -> str | None:
    try:
        return version("assistly")
    except PackageNotFoundError:
        return None
