"""Two helpers for stores: an ordered set of keys without a library, and a map that buffers changes."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice

from .ordered import ReadableMap, Value

_CHUNK = 512
LONGEST_CHUNK = 2 * _CHUNK
"""Keys in a chunk at most. A longer one is split."""


class SortedKeys:
    """A set of keys that can be scanned in order. The next scan of a table sorts its new keys.

    Not thread-safe: even `between` changes the set.
    """

    def __init__(self) -> None:
        self._tables: defaultdict[int, _Table] = defaultdict(_Table)

    def add(self, key: bytes) -> None:
        """Add a key, unless it is there."""
        self._tables[key[0]].fresh.add(key)

    def discard(self, key: bytes) -> None:
        """Remove a key if it is there."""
        table = self._tables[key[0]]
        table.fresh.discard(key)
        table.discard(key)

    def between(self, low: bytes, high: bytes, *, reverse: bool = False) -> Iterator[bytes]:
        """The keys with low <= key < high. They must not change while the iterator is in use."""
        table = self._tables[low[0]]
        if table.fresh:
            table.sort_in()
        return table.descending(low, high) if reverse else table.ascending(low, high)


class _Table:
    """The keys of one table, in sorted chunks that are short enough for inserting and deleting anywhere.

    There is always a last chunk; `_lasts` holds the last key of each of the others.
    """

    __slots__ = ("_chunks", "_lasts", "fresh")

    def __init__(self) -> None:
        self.fresh: set[bytes] = set()
        self._chunks: list[list[bytes]] = [[]]
        self._lasts: list[bytes] = []

    def sort_in(self) -> None:
        """Insert the fresh keys into the chunks."""
        if len(self.fresh) > LONGEST_CHUNK:
            self._rebuild()
            return
        try:
            for key in sorted(self.fresh):
                newest = self._chunks[-1]
                if len(newest) < LONGEST_CHUNK and (not newest or key > newest[-1]):
                    newest.append(key)
                else:
                    self._insert(key)
        except BaseException:
            # A KeyboardInterrupt may have left a chunk half split; every key is still in one of the lists.
            self._rebuild()
            raise
        self.fresh.clear()

    def discard(self, key: bytes) -> None:
        """Remove a key from the chunks, if it is there."""
        at = bisect_left(self._lasts, key)
        chunk = self._chunks[at]
        place = bisect_left(chunk, key)
        if place == len(chunk) or chunk[place] != key:
            return
        del chunk[place]
        if chunk:
            if at < len(self._lasts):
                self._lasts[at] = chunk[-1]
        elif self._lasts:
            last = min(at, len(self._lasts) - 1)
            # One statement without calls, so that no KeyboardInterrupt comes between the two.
            del self._chunks[at], self._lasts[last]

    def ascending(self, low: bytes, high: bytes) -> Iterator[bytes]:
        at = bisect_left(self._lasts, low)
        start = bisect_left(self._chunks[at], low)
        for chunk in islice(self._chunks, at, None):
            if chunk and chunk[-1] >= high:
                yield from islice(chunk, start, bisect_left(chunk, high))
                return
            yield from islice(chunk, start, None)
            start = 0

    def descending(self, low: bytes, high: bytes) -> Iterator[bytes]:
        at = bisect_left(self._lasts, high)
        end = bisect_left(self._chunks[at], high)
        while at >= 0:
            chunk = self._chunks[at]
            start = bisect_left(chunk, low)
            yield from reversed(chunk[start:end])
            if start:
                return
            at -= 1
            end = LONGEST_CHUNK

    def _insert(self, key: bytes) -> None:
        at = bisect_left(self._lasts, key)
        chunk = self._chunks[at]
        place = bisect_left(chunk, key)
        if place < len(chunk) and chunk[place] == key:
            return
        chunk.insert(place, key)
        if len(chunk) > LONGEST_CHUNK:
            self._chunks.insert(at + 1, chunk[_CHUNK:])
            del chunk[_CHUNK:]
            self._lasts.insert(at, chunk[-1])

    def _rebuild(self) -> None:
        keys = sorted(self.fresh.union(*self._chunks))
        chunks = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)] or [[]]
        lasts = [chunk[-1] for chunk in chunks[:-1]]
        self._chunks, self._lasts = chunks, lasts
        self.fresh.clear()


class BufferedMap:
    """A map for writing that keeps its changes in `changes`, over a map that is only read.

    The store applies `changes` at the commit. It is for stores whose own write transactions cannot be used
    from several threads, or block readers.
    """

    __slots__ = ("_sorted", "_sorted_count", "below", "changes")

    def __init__(self, below: ReadableMap) -> None:
        self.below = below
        self.changes: dict[bytes, Value | None] = {}
        """The new value by key; None for a key to delete."""
        self._sorted: SortedKeys | None = None
        self._sorted_count = 0

    def get(self, key: bytes) -> Value | None:
        """The value, or None."""
        changes = self.changes
        return changes[key] if key in changes else self.below.get(key)

    def put(self, key: bytes, value: Value) -> None:
        """Insert or replace."""
        self.changes[key] = value

    def delete(self, key: bytes) -> None:
        """Delete the key."""
        self.changes[key] = None

    def scan(self, low: bytes, high: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, Value]]:
        """See `ReadableMap.scan`."""
        below = self.below.scan(low, high, reverse=reverse)
        if not self.changes:
            return below
        if self._sorted is None:
            self._sorted = SortedKeys()
        # Keys are never removed from `changes`, so the new ones come last.
        for key in islice(self.changes, self._sorted_count, None):
            self._sorted.add(key)
        self._sorted_count = len(self.changes)
        return self._merged(below, self._sorted.between(low, high, reverse=reverse), reverse)

    def _merged(
        self, below: Iterator[tuple[bytes, Value]], changed: Iterator[bytes], reverse: bool
    ) -> Iterator[tuple[bytes, Value]]:
        changes = self.changes
        ours = next(changed, None)
        for key, value in below:
            while ours is not None and (ours > key if reverse else ours < key):
                if changes[ours] is not None:
                    yield ours, changes[ours]
                ours = next(changed, None)
            if key not in changes:
                yield key, value
        while ours is not None:
            if changes[ours] is not None:
                yield ours, changes[ours]
            ours = next(changed, None)
