"""`/healthz` and `/metrics` over HTTP, for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assistly.lazy import load_attribute

if TYPE_CHECKING:
    from .server import MonitoringServer
    from .serving import serve

__all__ = ["MonitoringServer", "serve"]

_MODULES = {"server": "MonitoringServer", "serving": "serve"}


def __getattr__(name: str) -> Any:
    return load_attribute(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
