"""The places of a pool, which cannot be lost."""

from __future__ import annotations

import weakref
from typing import Protocol


class _Pool(Protocol):
    generation: int

    def add(self, place: Place) -> None: ...


class Place:
    """The right to have one connection of a pool open.

    Ctrl-C or the time limit of a task queue can raise an exception between any two steps. If that drops a
    place, or the connection that has it, the pool gets a new one.
    """

    __slots__ = ("_generation", "_pool")

    def __init__(self, pool: _Pool) -> None:
        self._generation = pool.generation
        self._pool = weakref.ref(pool)

    def __del__(self) -> None:
        pool = self._pool()
        # In a forked child the pool has all its places already.
        if pool is not None and pool.generation == self._generation:
            # Not by its name, which is gone when the interpreter ends.
            pool.add(type(self)(pool))
