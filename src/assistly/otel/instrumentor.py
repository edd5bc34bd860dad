"""Wraps methods when their modules are imported, and restores the methods."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from wrapt import register_post_import_hook

from .spans import Tracing, logger

_SCHEMA = "https://opentelemetry.io/schemas/1.34.0"
_WRAPPED = {
    "assistly.storage.storage": "wrap_storage",
    "assistly.storage.aio.storage": "wrap_async_storage",
    "assistly.worker.worker": "wrap_worker",
    "assistly.monitoring.monitor": "wrap_monitoring",
}
"""The functions of `wrapping` by the module whose import makes them needed."""


class AssistlyInstrumentor(BaseInstrumentor):  # type: ignore[misc] # it is untyped
    """Creates spans for storage calls and publishing, and stores with each job the trace that scheduled it.

    `opentelemetry-instrument` finds it by itself. A program calls `AssistlyInstrumentor().instrument()`
    before it runs a worker, optionally with a `tracer_provider` (default: the global one); `uninstrument()`
    reverses this. docs/tracing.md lists the spans. Errors of the tracing never reach the caller: they are
    logged.
    """

    _tracing: Tracing

    def instrumentation_dependencies(self) -> Collection[str]:
        """No dependencies: it is part of what it instruments."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        tracer = trace.get_tracer("assistly", _version(), kwargs.get("tracer_provider"), schema_url=_SCHEMA)
        self._tracing = Tracing(tracer)
        for module, function in _WRAPPED.items():
            register_post_import_hook(partial(_wrap, self._tracing, function), module)

    def _uninstrument(self, **_: Any) -> None:
        self._tracing.end()


def _wrap(tracing: Tracing, function: str, _: ModuleType) -> None:
    if not tracing.is_active:
        return
    try:
        from . import wrapping

        getattr(wrapping, function)(tracing)
    except Exception:  # noqa: BLE001 - it must not reach the import statement
        tracing.end()
        logger.exception("cannot create spans for Assistly")


def _version() -> str | None:
    try:
        return version("assistly")
    except PackageNotFoundError:
        return None
