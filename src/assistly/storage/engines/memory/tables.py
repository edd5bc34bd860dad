"""Rows in a dict, the indexes that follow them, and the journal that undoes what was done."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from typing import Any, Generic, Protocol, TypeVar

K = TypeVar("K")
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)

Key = tuple[Any, ...]
"""What an index orders by. It ends with the primary key of its row, so that no two are equal."""

KeyOf = Callable[[R], Key | None]
"""None for a row that is not in the index."""

_CHUNK = 512
LONGEST_CHUNK = 2 * _CHUNK


class Index(Protocol[R_contra]):
    def add(self, row: R_contra) -> None: ...

    def update(self, old: R_contra | None, new: R_contra | None) -> None: ...

    def clear(self) -> None: ...


class Ordered(Generic[R]):
    """Keys in order, in chunks that are short enough to insert and delete anywhere.

    There is always a last chunk; `_lasts` holds the last key of each of the others.
    """

    def __init__(self, key_of: KeyOf[R]) -> None:
        self._key_of = key_of
        self.chunks: list[list[Key]] = [[]]
        self._lasts: list[Key] = []

    def add(self, row: R) -> None:
        key = self._key_of(row)
        if key is None:
            return
        newest = self.chunks[-1]
        if newest and key > newest[-1] and len(newest) < LONGEST_CHUNK:
            newest.append(key)
        else:
            self._add(key)

    def update(self, old: R | None, new: R | None) -> None:
        before = None if old is None else self._key_of(old)
        after = None if new is None else self._key_of(new)
        if before == after:
            return
        if before is not None:
            self._discard(before)
        if after is not None:
            self._add(after)

    def clear(self) -> None:
        self.chunks[:] = [[]]
        self._lasts.clear()

    def ascending(self, above: Key = ()) -> Iterator[Key]:
        """The keys > `above`. A prefix of a key is below it."""
        for chunk in islice(self.chunks, bisect_right(self._lasts, above), None):
            yield from islice(chunk, bisect_right(chunk, above), None)

    def descending(self, below: Key) -> Iterator[Key]:
        """The keys < `below`, greatest first."""
        for chunk in reversed(self.chunks[: bisect_left(self._lasts, below) + 1]):
            yield from reversed(chunk[: bisect_left(chunk, below)])

    def rank(self, key: Key) -> int:
        """How many keys are < `key`."""
        at = bisect_left(self._lasts, key)
        return sum(len(chunk) for chunk in islice(self.chunks, at)) + bisect_left(self.chunks[at], key)

    def _add(self, key: Key) -> None:
        at = bisect_left(self._lasts, key)
        insort(self.chunks[at], key)
        if len(self.chunks[at]) > LONGEST_CHUNK:
            self._split(at)

    def _split(self, at: int) -> None:
        chunk = self.chunks[at]
        upper = chunk[_CHUNK:]
        del chunk[_CHUNK:]
        self.chunks.insert(at + 1, upper)
        self._lasts.insert(at, chunk[-1])

    def _discard(self, key: Key) -> None:
        at = bisect_left(self._lasts, key)
        chunk = self.chunks[at]
        del chunk[bisect_left(chunk, key)]
        if chunk:
            if at < len(self._lasts):
                self._lasts[at] = chunk[-1]
        elif self._lasts:
            del self.chunks[at], self._lasts[min(at, len(self._lasts) - 1)]


def within(prefix: Key, keys: Iterator[Key]) -> Iterator[Key]:
    """The keys until one does not begin with `prefix`."""
    return takewhile(lambda key: key[: len(prefix)] == prefix, keys)


class Unique(Generic[R]):
    """Finds the primary key of the row with a value; a key is the pair of the two."""

    def __init__(self, key_of: Callable[[R], tuple[Any, Any] | None]) -> None:
        self._key_of = key_of
        self.primary: dict[Any, Any] = {}

    def add(self, row: R) -> None:
        self.update(None, row)

    def update(self, old: R | None, new: R | None) -> None:
        before = None if old is None else self._key_of(old)
        after = None if new is None else self._key_of(new)
        if before == after:
            return
        if before is not None:
            del self.primary[before[0]]
        if after is not None:
            self.primary[after[0]] = after[1]

    def clear(self) -> None:
        self.primary.clear()


class Table(Generic[K, R]):
    """Rows are immutable and are replaced as a whole, so the journal can keep the old ones."""

    def __init__(self, journal: Journal, *indexes: Index[R]) -> None:
        self.rows: dict[K, R] = {}
        self._journal = journal
        self._indexes = indexes

    def add(self, key: K, row: R) -> None:
        """A row whose key is not there."""
        journal = self._journal
        journal.entries.append((self, key, None))
        journal.torn = True
        self.rows[key] = row
        for index in self._indexes:
            index.add(row)
        journal.torn = False

    def put(self, key: K, row: R) -> None:
        journal = self._journal
        old = self.rows.get(key)
        journal.entries.append((self, key, old))
        journal.torn = True
        self.rows[key] = row
        for index in self._indexes:
            index.update(old, row)
        journal.torn = False

    def delete(self, key: K) -> None:
        old = self.rows[key]
        self._journal.entries.append((self, key, old))
        self._replace(key, old, None)

    def restore(self, key: K, row: R | None) -> None:
        self._replace(key, self.rows.get(key), row)

    def restore_row(self, key: K, row: R | None) -> None:
        if row is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = row

    def rebuild(self) -> None:
        for index in self._indexes:
            index.clear()
            for row in self.rows.values():
                index.update(None, row)

    def _replace(self, key: K, old: R | None, row: R | None) -> None:
        self._journal.torn = True
        self.restore_row(key, row)
        for index in self._indexes:
            index.update(old, row)
        self._journal.torn = False


class Journal:
    """Tables, primary keys and the rows that were there before a change, oldest change first.

    It is torn while a change stands between two of its steps: that is how an exception out of
    nowhere (an interrupt, no memory, no stack) or a fork beside another thread finds it.
    """

    __slots__ = ("entries", "torn")

    def __init__(self) -> None:
        self.entries: list[tuple[Table[Any, Any], Any, Any]] = []
        self.torn = False

    def undo(self, mark: int) -> None:
        """Back to where there were `mark` entries."""
        if self.torn:
            self._undo_torn(mark)
        while len(self.entries) > mark:
            table, key, row = self.entries[-1]
            table.restore(key, row)
            self.entries.pop()

    def _undo_torn(self, mark: int) -> None:
        undone = self.entries[mark:]
        for table, key, row in reversed(undone):
            table.restore_row(key, row)
        for table in {table for table, _, _ in undone}:
            table.rebuild()
        del self.entries[mark:]
        self.torn = False
