"""What the author of a key-value engine implements: a store, and the ordered map that it gives out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

Value = Any
"""Bytes; or, where the store holds objects, bytes and immutable tuples."""


class ReadableMap(Protocol):
    """Keys are bytes, ordered byte by byte; they have at least one byte, which tells the table."""

    def get(self, key: bytes) -> Value | None:
        """The value, or None."""

    def scan(self, low: bytes, high: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, Value]]:
        """The keys with low <= key < high and their values, in order, or from the last to the first.

        `low` and `high` begin with the same byte. The map is not written to before the caller has
        finished with the iterator, which it may leave unexhausted.
        """


class OrderedMap(ReadableMap, Protocol):
    """One use of the store: what a reader sees, or what a write transaction sees and writes."""

    def put(self, key: bytes, value: Value) -> None:
        """Insert or replace."""

    def delete(self, key: bytes) -> None:
        """Delete the key; nothing to do if it is not there."""


M = TypeVar("M", bound=OrderedMap)


class OrderedStore(ABC, Generic[M]):
    """An ordered map with transactions, one writer at a time. `M` is the class of its maps.

    The caller sees to it that one object has one write transaction at a time, that a map is used by one
    thread at a time (not always the same one), and that `open` has succeeded before anything else is
    called. Where several objects, or processes, share the data, the store makes their writers wait for
    each other: for at most 10 seconds, then StorageUnavailable.

    Exceptions of the driver become errors of `assistly.storage.errors`.
    """

    holds_objects = False
    """Values may be tuples and are kept as they are, in this process: nothing needs to be encoded."""

    max_key_bytes: int | None = None
    """The longest key that the store takes; None: any.

    Keys that are longer are split: see `LongKeys`. At least 64.
    """

    @abstractmethod
    def open(self) -> None:
        """Make the store ready. Called again after it failed, and in a forked child before its first use."""

    @abstractmethod
    def begin(self, write: bool) -> M:
        """A consistent view of what is committed. With `write`, what is put is seen by this map alone."""

    @abstractmethod
    def commit(self, map: M) -> None:
        """Store what was put into a map for writing, durably, all or nothing.

        The map has ended afterwards, also where this raises.
        """

    @abstractmethod
    def rollback(self, map: M) -> None:
        """End a map for reading, or forget what was put into one for writing."""

    @abstractmethod
    def version(self) -> int | None:
        """A number that differs after each commit, by whatever process.

        None if all commits are made through this object: then nobody has to ask.
        """

    @abstractmethod
    def close(self) -> None:
        """Give every resource back. Maps that are open are not used any more, except for `rollback`."""

    def before_fork(self) -> None:
        """See `assistly.storage.forks.ForkAware`, also for the next two."""
        return

    def after_fork_in_parent(self) -> None:
        """In the parent."""
        return

    def after_fork_in_child(self) -> None:
        """In the child; `open` follows before the next use."""
        return
