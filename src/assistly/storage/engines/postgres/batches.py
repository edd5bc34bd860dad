"""Cuts batches to sizes that one statement can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

_ROWS = 10_000
_CHARACTERS = 16 * 2**20


def chunks(items: Sequence[T], length: Callable[[T], int]) -> Iterator[Sequence[T]]:
    """Yield runs of at most 10,000 items and 16 Mi characters (more only if one item alone has more)."""
    start = total = 0
    for index, item in enumerate(items):
        size = length(item)
        if index > start and (total + size > _CHARACTERS or index - start >= _ROWS):
            yield items[start:index]
            start, total = index, 0
        total += size
    if items:
        yield items[start:]
