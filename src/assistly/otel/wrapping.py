"""Which methods have wrappers. Each function is called when the module of what it wraps has been imported."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable

    from .spans import Tracing

_UNTRACED = {"queue.wait"}
_STORAGE_CALLS = ("prune", "prunable", "maintain", "migrate")


def wrap_storage(tracing: Tracing) -> None:
    """Wrap `Storage` and what belongs to it."""
    from assistly.storage.storage import Storage
    from assistly.storage.stores.scheduling import Scheduler
    from assistly.storage.transactions import Transaction

    from .calls import TracedCalls
    from .transactions import TracedTransactions

    calls, transactions = TracedCalls(tracing), TracedTransactions(tracing)
    _wrap_calls(tracing, calls, Storage, lambda store: store, lambda storage: storage)
    tracing.replace(Storage, "_view", calls.view)
    tracing.replace(Scheduler, "request", calls.request)
    tracing.replace(Transaction, "begin", transactions.begin)
    tracing.replace(Transaction, "end", transactions.end)


def wrap_async_storage(tracing: Tracing) -> None:
    """Wrap `AsyncStorage`: what it calls of a `Storage` makes no spans then."""
    from assistly.storage.aio.storage import AsyncStorage

    from .calls import TracedCalls

    _wrap_calls(
        tracing,
        TracedCalls(tracing),
        AsyncStorage,
        lambda store: store._store,
        lambda storage: storage._storage,
    )


def wrap_worker(tracing: Tracing) -> None:
    """Wrap what a worker is made of."""
    from assistly.worker.budgets import PlatformBudgets
    from assistly.worker.claimed_jobs import ClaimedJobs
    from assistly.worker.invocation import PublisherCall, PublisherCaller
    from assistly.worker.loop import WorkerLoop
    from assistly.worker.processing import JobProcessor
    from assistly.worker.publication import Publication
    from assistly.worker.reconciling import Reconciler
    from assistly.worker.slots import PlatformSlots

    from .publishing import TracedPublishing
    from .spans import without_spans

    publishing = TracedPublishing(tracing)
    # What a worker does without a job.
    housekeeping: dict[type[object], tuple[str, ...]] = {
        ClaimedJobs: ("heartbeat",),
        PlatformBudgets: ("refresh", "take", "give_back"),
        PlatformSlots: ("acquire", "release", "renew"),
        Reconciler: ("round",),
        WorkerLoop: ("_maintain", "_wait_for_jobs"),
    }
    for owner, methods in housekeeping.items():
        for method in methods:
            tracing.replace(owner, method, without_spans)
    tracing.replace(JobProcessor, "_publish", publishing.publish)
    tracing.replace(PublisherCaller, "publish", publishing.noting_errors)
    tracing.replace(PublisherCaller, "check", publishing.noting_errors)
    tracing.replace(PublisherCall, "__init__", publishing.keep_context)
    tracing.replace(PublisherCall, "run", publishing.in_kept_context)
    tracing.replace(Publication, "__init__", publishing.keep_context)
    tracing.replace(Publication, "checkpoint", publishing.in_kept_context)
    tracing.replace(Reconciler, "_answer", publishing.check)
    tracing.replace(Reconciler, "_resolve", publishing.resolve)


def wrap_monitoring(tracing: Tracing) -> None:
    """Wrap what `/healthz` and `/metrics` ask the storage, each few seconds."""
    from assistly.monitoring.monitor import Monitor

    from .spans import without_spans

    tracing.replace(Monitor, "_collect", without_spans)
    tracing.replace(Monitor, "_ping_storage", without_spans)


def _wrap_calls(
    tracing: Tracing,
    calls: Any,
    storage: type[object],
    called_store: Callable[[Any], object],
    called_storage: Callable[[Any], object],
) -> None:
    """Wrap the public methods of the stores of a storage, and some of its own.

    `called_store` and `called_storage` give the synchronous object behind an asynchronous one.
    """
    for name, store in stores_of(storage).items():
        for method in [method for method in vars(store) if _is_public_method(store, method)]:
            if f"{name}.{method}" not in _UNTRACED:
                tracing.replace(store, method, partial(calls.call, f"{name}.{method}", called_store))
    for method in _STORAGE_CALLS:
        tracing.replace(storage, method, partial(calls.call, method, called_storage))


def stores_of(kind: type[object]) -> dict[str, type[object]]:
    """The stores of a storage by name."""
    return {
        name: store
        for name, store in get_type_hints(kind).items()
        if isinstance(store, type) and store.__module__.startswith("assistly.")
    }


def _is_public_method(store: type[object], name: str) -> bool:
    return not name.startswith("_") and inspect.isfunction(vars(store)[name])
