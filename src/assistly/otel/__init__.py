"""OpenTelemetry spans around publishing and storage calls. Needs the extra `otel`.

Nothing here is imported unless `opentelemetry-instrument` or a program imports it. `AssistlyInstrumentor`
replaces methods, and restores them, so that programs without it have no overhead.
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
