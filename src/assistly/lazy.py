"""Packages whose public names import their modules on first use."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any


def load_attribute(package: str, modules: Mapping[str, str], name: str) -> Any:
    """Import the attribute `name` of a package, and set it there: call it from the package's `__getattr__`.

    `modules` holds the public names of each module, separated by spaces. Raises AttributeError for any other
    name.
    """
    for module, names in modules.items():
        if name in names.split():
            value = getattr(import_module(f".{module}", package), name)
            setattr(sys.modules[package], name, value)
            return value
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
