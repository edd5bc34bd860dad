"""The places of a pool, which cannot be lost."""

from __future__ import annotations

import weakref
from collections.abc import Callable


class Place:
    """The right to have one connection of a pool open."""

    __slots__ = ("__weakref__",)


class Places:
    """`size` places. One that is no longer held by anybody is replaced.

    Ctrl-C or the time limit of a task queue can raise an exception between any two steps, also in a
    finalizer. So nothing is counted: a place is in use as long as it exists. `lost` is called when one is
    lost, unless such an exception prevents that.
    """

    def __init__(self, size: int, lost: Callable[[object], None]) -> None:
        self._lost = lost
        self._unused = [Place() for _ in range(size)]
        self._all = [weakref.ref(place, lost) for place in self._unused]

    def take(self) -> Place | None:
        """Return an unused place, or None."""
        try:
            return self._unused.pop()
        except IndexError:
            return self._replaced()

    def give_back(self, place: Place) -> None:
        self._unused.append(place)

    @property
    def in_use(self) -> int:
        """How many are taken."""
        return sum(reference() is not None for reference in list(self._all)) - len(self._unused)

    def _replaced(self) -> Place | None:
        for index, reference in enumerate(self._all):
            if reference() is None:
                place = Place()
                new = weakref.ref(place, self._lost)
                # No other thread, signal handler or finalizer runs between these two lines.
                if self._all[index] is reference:
                    self._all[index] = new
                    return place
        return None
