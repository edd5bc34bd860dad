"""Checks of a storage and of what it runs on: `assistly doctor` and the page print what they find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assistly.lazy import load_attribute

if TYPE_CHECKING:
    from .runner import Report, run

__all__ = ["Report", "run"]

_MODULES = {"runner": "Report run"}


def __getattr__(name: str) -> Any:
    return load_attribute(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
