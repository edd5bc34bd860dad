"""The interface that the author of a key-value engine implements: a store, and its ordered maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

Value = Any
"""Bytes; if the store has `holds_objects`, bytes and immutable tuples."""


class ReadableMap(Protocol):
    """A map for reading. Keys are ordered byte by byte, and have at least one byte, which names the table."""

    def get(self, key: bytes) -> Value | None:
        """The value, or None."""

    def scan(self, low: bytes, high: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, Value]]:
        """The keys with low <= key < high and their values, in order, or with `reverse` from the last one.

        `low` and `high` begin with the same byte. The caller does not write to the map while it uses the
        iterator, and may abandon the iterator before its end.
        """


class OrderedMap(ReadableMap, Protocol):
    """One use of the store: the view of a reader, or of a write transaction."""

    def put(self, key: bytes, value: Value) -> None:
        """Insert or replace."""

    def delete(self, key: bytes) -> None:
        """Delete the key if it is there."""


M = TypeVar("M", bound=OrderedMap)


class OrderedStore(ABC, Generic[M]):
    """An ordered map with transactions, one writer at a time. `M` is the class of its maps.

    `KeyValueBackend` begins one write transaction at a time, uses a map in one thread at a time (not always
    the same one), and calls nothing before `open` has succeeded. If several objects or processes share the
    data, the store must make their writers wait for each other, for at most 10 seconds: then `begin` raises
    StorageUnavailable.

    Exceptions of the driver must become errors of `assistly.storage.errors`.
    """

    holds_objects = False
    """Whether values may be tuples, which are kept in this process as they are, without encoding."""

    max_key_bytes: int | None = None
    """The longest key that the store accepts, at least 64 bytes. Default: None, any.

    Longer keys are split: see `LongKeys`.
    """

    @abstractmethod
    def open(self) -> None:
        """Open the store. Called again if it failed, and in a forked child before its first use."""

    @abstractmethod
    def begin(self, write: bool) -> M:
        """Return a consistent view of the committed data. With `write`, only this map sees what is put."""

    @abstractmethod
    def commit(self, map: M) -> None:
        """Store the changes of a map for writing, durably, all or nothing.

        The map is not used afterwards, even if this raises.
        """

    @abstractmethod
    def rollback(self, map: M) -> None:
        """End the use of a map for reading, or drop the changes of one for writing."""

    @abstractmethod
    def version(self) -> int | None:
        """A number that changes with each commit of any process, and not before readers find the commit.

        None if all commits are made through this object: then waiting threads need not poll.
        """

    @abstractmethod
    def close(self) -> None:
        """Release all resources. Maps that are open are no longer used, except for `rollback`."""

    def before_fork(self) -> None:
        """See `assistly.storage.forks.ForkAware`."""
        return

    def after_fork_in_parent(self) -> None:
        """See `assistly.storage.forks.ForkAware`."""
        return

    def after_fork_in_child(self) -> None:
        """See `assistly.storage.forks.ForkAware`. `open` is called before the next use."""
        return
