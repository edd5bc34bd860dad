"""Spans of OpenTelemetry around publishing and calls of the storage. It needs the extra `otel`.

Nothing of this is imported unless `opentelemetry-instrument` or a program does so. `AssistlyInstrumentor`
replaces methods, and puts them back, so that programs without it run no further instruction.
"""

from __future__ import annotations

try:
    from .instrumentor import AssistlyInstrumentor
    from .spans import scheduling_span
except ImportError as error:
    raise ImportError(
        f"assistly.otel needs OpenTelemetry ({error}): python -m pip install 'assistly[otel]'",
        name=error.name,
    ) from None

__all__ = ["AssistlyInstrumentor", "scheduling_span"]
