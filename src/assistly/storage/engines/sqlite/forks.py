"""A child of `fork()` must not use SQLite connections of its parent, nor close them."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from typing import Any, Protocol


class Forgetful(Protocol):
    def after_fork(self) -> Sequence[Any]:
        """Begin anew, in the child; what it had, to be kept alive."""


_databases: weakref.WeakSet[Forgetful] = weakref.WeakSet()
_inherited: list[Any] = []
generation = 0
"""How many forks this process is away from the first one; asking for its id is a system call."""


def forget_in_children(database: Forgetful) -> None:
    _databases.add(database)


def keep_alive(connection: Any) -> None:
    """Closing would checkpoint, and drop locks, behind the parent's back."""
    _inherited.append(connection)


def _after_fork() -> None:
    global generation
    generation += 1
    for database in list(_databases):
        _inherited.extend(database.after_fork())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
