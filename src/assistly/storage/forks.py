"""The one registry of fork hooks: `os.register_at_fork` cannot be undone, so it is called once."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from importlib import import_module
from typing import Any


class ForkAware:
    """An object that takes part in forks from `register` until it is collected. Each hook is optional."""

    def before_fork(self) -> None:
        """In the parent, in the forking thread. Must not raise and must not wait for long."""

    def after_fork_in_parent(self) -> None:
        """In the parent, in the forking thread."""

    def after_fork_in_child(self) -> None:
        """In the child, before anything else runs there. Locks may be held by threads that are not there."""


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_inherited: list[Any] = []
_generation = 0


def register(owner: ForkAware) -> None:
    """Call the hooks of `owner` at each fork. Only a weak reference is kept."""
    _registered.add(owner)


def generation() -> int:
    """How many forks lie between this process and the one that imported this module first.

    It tells a child from its parent without the system call that `os.getpid` is.
    """
    return _generation


def keep_for_ever(resource: object) -> None:
    """Keep a resource of the parent's from being collected, and so from being closed, in a child.

    Not even the end of the interpreter collects it: that would clear a list, but not this reference.
    """
    _inherited.append(resource)
    with suppress(ImportError):
        ctypes = import_module("ctypes")
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(resource))


def _before() -> None:
    for owner in list(_registered):
        owner.before_fork()


def _after_in_parent() -> None:
    for owner in list(_registered):
        owner.after_fork_in_parent()


def _after_in_child() -> None:
    global _generation
    _generation += 1
    for owner in list(_registered):
        owner.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
