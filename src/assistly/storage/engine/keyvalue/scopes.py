"""How a call gets its map: for reading, in a transaction of its own, or as a savepoint inside one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

from ..base import BackendBase, StoreBase
from .ordered import OrderedMap, Value
from .rows import JsonRows, ObjectRows


class MapOwner(Protocol):
    """Begins and ends the uses of a store; see `KeyValueBackend`."""

    def begin_read(self) -> OrderedMap: ...

    def end_read(self, map: OrderedMap) -> None: ...

    def begin_write(self) -> OrderedMap: ...

    def end_write(self, map: OrderedMap, *, commit: bool) -> None: ...


class Block(Protocol):
    """A context manager that gives the map to one call."""

    def __enter__(self) -> OrderedMap: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ReadBlock:
    """A call that only reads."""

    __slots__ = ("_backend", "_map")

    def __init__(self, backend: MapOwner) -> None:
        self._backend = backend

    def __enter__(self) -> OrderedMap:
        self._map = self._backend.begin_read()
        return self._map

    def __exit__(self, *_: object) -> None:
        self._backend.end_read(self._map)


class WriteBlock:
    """A call that is a transaction of its own. One object serves all calls: they write one at a time."""

    __slots__ = ("_backend", "_map")

    def __init__(self, backend: MapOwner) -> None:
        self._backend = backend

    def __enter__(self) -> OrderedMap:
        self._map = self._backend.begin_write()
        return self._map

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._backend.end_write(self._map, commit=kind is None)


class UndoMap:
    """The map of a transaction. Inside a savepoint it logs the old values, so that they can be restored."""

    def __init__(self, map: OrderedMap) -> None:
        self.map = map
        self.get = map.get
        self.scan = map.scan
        self.is_torn = False
        """Whether undoing a savepoint failed: then the transaction must not be committed."""
        self._log: list[tuple[bytes, Value | None]] = []
        self._depth = 0

    def put(self, key: bytes, value: Value) -> None:
        """Insert or replace."""
        if self._depth:
            self._log.append((key, self.map.get(key)))
        self.map.put(key, value)

    def delete(self, key: bytes) -> None:
        """Delete the key."""
        if self._depth:
            self._log.append((key, self.map.get(key)))
        self.map.delete(key)

    def savepoint(self) -> int:
        """Begin a savepoint. Pass the result to `leave`."""
        self._depth += 1
        return len(self._log)

    def leave(self, mark: int, *, undo: bool) -> None:
        """End the savepoint. With `undo`, restore the values of its beginning."""
        self._depth -= 1
        if undo:
            self.is_torn = True
            while len(self._log) > mark:
                key, value = self._log[-1]
                if value is None:
                    self.map.delete(key)
                else:
                    self.map.put(key, value)
                self._log.pop()
            self.is_torn = False
        if not self._depth:
            self._log.clear()


class StepBlock:
    """A call inside a transaction: a savepoint, so that a call that fails changes nothing."""

    __slots__ = ("_map", "_mark")

    def __init__(self, map: UndoMap) -> None:
        self._map = map

    def __enter__(self) -> OrderedMap:
        self._mark = self._map.savepoint()
        return self._map

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._map.leave(self._mark, undo=kind is not None)


class PlainBlock:
    """A block over a map that is begun and ended elsewhere. May be entered several times."""

    __slots__ = ("_map",)

    def __init__(self, map: OrderedMap) -> None:
        self._map = map

    def __enter__(self) -> OrderedMap:
        return self._map

    def __exit__(self, *_: object) -> None:
        return


class MapScope(BackendBase):
    """A backend as its stores see it: it gives a map to each call."""

    rows: ObjectRows | JsonRows

    @abstractmethod
    def read(self) -> Block:
        """A map for one call that reads."""

    @abstractmethod
    def write(self) -> Block:
        """A map for one call that writes; if the block ends in an exception, nothing is stored."""

    @abstractmethod
    def note_look(self) -> None:
        """Note that the calling thread reads the next due job now: `wait` is about later changes."""

    @abstractmethod
    def note_jobs(self) -> None:
        """Inside `write`, note that waiting jobs change: the commit wakes the threads in `wait`."""

    @abstractmethod
    def wait(self, timeout: float) -> None:
        """See `JobStore.wait`."""


class MapStore(StoreBase[MapScope]):
    """A store whose calls each get a map of their own; with `map`, all use that one."""

    def __init__(self, scope: MapScope, map: OrderedMap | None = None) -> None:
        super().__init__(scope)
        self._pack = scope.rows.pack
        self._unpack = scope.rows.unpack
        if map is None:
            self._read: Callable[[], Block] = scope.read
            self._write: Callable[[], Block] = scope.write
        else:
            block = PlainBlock(map)
            self._read = self._write = lambda: block

    @contextmanager
    def _atomic(self) -> Iterator[Self]:
        with self._write() as map:
            yield type(self)(self._backend, map)


def next_number(map: OrderedMap, sequence: bytes) -> int:
    """The next number of a sequence that begins with 1. No number is returned twice."""
    stored = map.get(sequence)
    value = 1 if stored is None else int.from_bytes(stored, "big")
    map.put(sequence, (value + 1).to_bytes(8, "big"))
    return value
