"""The web page: an application that shows a storage, and optionally lets people change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assistly.lazy import load_attribute

if TYPE_CHECKING:
    from .access import Visitor
    from .app import create_app

__all__ = ["Visitor", "create_app"]

_MODULES = {"access": "Visitor", "app": "create_app"}


def __getattr__(name: str) -> Any:
    return load_attribute(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
