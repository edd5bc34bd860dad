"""Descriptions with which another process opens the data of a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from ..engine.protocol import StorageBackend


@dataclass(frozen=True)
class EngineSpec:
    """A callable, as `module:name`, and its arguments: each call opens another backend on the same data.

    It is sent to processes that were started afresh, so all of it must be picklable.
    """

    factory: str
    args: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Callable[..., StorageBackend]:
        """Import the callable. Raises ImportError or AttributeError if there is none."""
        module, _, name = self.factory.partition(":")
        make: Callable[..., StorageBackend] = getattr(import_module(module), name)
        return make

    def open(self) -> StorageBackend:
        """Another backend on the same data, which the caller closes."""
        return self.load()(*self.args, **self.options)

    @property
    def key(self) -> str:
        """Equal for equal descriptions."""
        return repr((self.factory, self.args, sorted(self.options.items())))
