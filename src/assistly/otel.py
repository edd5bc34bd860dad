"""Spans of OpenTelemetry around publishing and calls of the storage. It needs the extra `otel`."""
