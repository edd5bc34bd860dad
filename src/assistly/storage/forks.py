"""The one registry of fork hooks: `os.register_at_fork` cannot be undone, so it is called once."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from importlib import import_module
from typing import Any


class ForkAware:
    """An object whose hooks are called at each fork, from `register` until it is collected.

    Each hook is optional.
    """

    def before_fork(self) -> None:
        """Called in the parent, in the forking thread. It must neither raise nor wait for long."""

    def after_fork_in_parent(self) -> None:
        """Called in the parent, in the forking thread."""

    def after_fork_in_child(self) -> None:
        """Called in the child before any other code. Locks may be held by threads that exist in the parent
        only, and so must be replaced."""


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_inherited: list[Any] = []
_generation = 0


def register(owner: ForkAware) -> None:
    """Call the hooks of `owner` at each fork. Only a weak reference is kept."""
    _registered.add(owner)


def generation() -> int:
    """Return how many forks lie between this process and the one that imported this module.

    An object that stores it can tell later that it was inherited, without the system call of `os.getpid`.
    """
    return _generation


def keep_for_ever(resource: object) -> None:
    """Keep a resource that a child has inherited from being collected, which would close it.

    The reference count is raised as well: at the end of the interpreter a list is cleared.
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
