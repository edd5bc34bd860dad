"""A store for key-value engines that several objects share, and others that have one bug each."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import count

from assistly.storage.engine import BufferedMap, OrderedStore
from assistly.storage.errors import StorageUnavailable

Values = dict[bytes, bytes]


class Place:
    """What the stores of one place share."""

    def __init__(self) -> None:
        self.values: Values = {}
        self.version = 0
        self.writing = threading.Lock()


class View:
    """The values at one moment."""

    def __init__(self, values: Values) -> None:
        self.values = values

    def get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def scan(self, low: bytes, high: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        items = [item for item in self.values.items() if self.is_in(item[0], low, high)]
        return iter(sorted(items, reverse=reverse))

    def is_in(self, key: bytes, low: bytes, high: bytes) -> bool:
        return low <= key < high


class SharedMap(BufferedMap):
    """Knows whether it is for writing."""

    is_for_writing = False


class SharedStore(OrderedStore[SharedMap]):
    """The one without a bug."""

    view: type[View] = View
    map: type[SharedMap] = SharedMap
    seconds = 10.0

    def __init__(self, place: Place) -> None:
        self.place = place
        self.written: set[SharedMap] = set()

    def open(self) -> None:
        """Nothing to open."""

    def begin(self, write: bool) -> SharedMap:
        if write:
            self.lock()
        map = self.map(self.view(self.place.values))
        map.is_for_writing = write
        if write:
            self.written.add(map)
        return map

    def lock(self) -> None:
        if not self.place.writing.acquire(timeout=self.seconds):
            raise StorageUnavailable("another writer did not end in time")

    def unlock(self, map: SharedMap) -> None:
        if map in self.written:
            self.written.remove(map)
            self.place.writing.release()

    def commit(self, map: SharedMap) -> None:
        values = {**self.place.values, **map.changes}
        self.place.values = {key: value for key, value in values.items() if value is not None}
        self.place.version += 1
        self.unlock(map)

    def rollback(self, map: SharedMap) -> None:
        if map.is_for_writing:
            self.unlock(map)

    def version(self) -> int | None:
        return self.place.version

    def close(self) -> None:
        for map in [*self.written]:
            self.rollback(map)


class _HighView(View):
    def is_in(self, key: bytes, low: bytes, high: bytes) -> bool:
        return low <= key <= high


class _LowView(View):
    def is_in(self, key: bytes, low: bytes, high: bytes) -> bool:
        return low < key < high


class _ForwardView(View):
    def scan(self, low: bytes, high: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return super().scan(low, high)


class _LiveView(View):
    """Reads what is committed now."""

    place: Place

    def __getattribute__(self, name: str) -> object:
        return self.place.values if name == "values" else super().__getattribute__(name)


class ScansIncludeTheHighBound(SharedStore):
    view = _HighView


class ScansExcludeTheLowBound(SharedStore):
    view = _LowView


class ScansIgnoreReverse(SharedStore):
    view = _ForwardView


class ReadersFollowTheWriters(SharedStore):
    """Their view is not that of the moment at which they began."""

    def begin(self, write: bool) -> SharedMap:
        map = super().begin(write)
        if not write:
            view = _LiveView({})
            view.place = self.place
            map.below = view
        return map


class ReadersSeeWhatIsNotCommitted(SharedStore):
    def begin(self, write: bool) -> SharedMap:
        if not write and self.written:
            return next(iter(self.written))
        return super().begin(write)

    def rollback(self, map: SharedMap) -> None:
        if map in self.written and threading.current_thread() is not threading.main_thread():
            return
        super().rollback(map)


class RollbackCommits(SharedStore):
    def rollback(self, map: SharedMap) -> None:
        if map in self.written:
            self.commit(map)


class _BlindMap(SharedMap):
    def get(self, key: bytes) -> bytes | None:
        return self.below.get(key)


class WritersDoNotSeeTheirOwn(SharedStore):
    map = _BlindMap


class _KeepingMap(SharedMap):
    def delete(self, key: bytes) -> None:
        """Forgotten."""


class DeletesNothing(SharedStore):
    map = _KeepingMap


class _CuttingMap(SharedMap):
    def put(self, key: bytes, value: bytes) -> None:
        super().put(key[:100], value)


class CutsKeys(SharedStore):
    map = _CuttingMap


class _ShortMap(SharedMap):
    def put(self, key: bytes, value: bytes) -> None:
        super().put(key, value[:1_000_000])


class CutsValues(SharedStore):
    map = _ShortMap


class VersionStandsStill(SharedStore):
    def version(self) -> int | None:
        return 1


class VersionCountsItsOwnCommits(SharedStore):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.commits = count(1)
        self.number = 0

    def commit(self, map: SharedMap) -> None:
        super().commit(map)
        self.number = next(self.commits)

    def version(self) -> int | None:
        return self.number


class VersionComesBeforeTheCommit(SharedStore):
    def commit(self, map: SharedMap) -> None:
        self.place.version += 1
        time.sleep(0.001)
        self.place.version -= 1
        super().commit(map)


class WritersDoNotWait(SharedStore):
    seconds = 0


class WritersWaitForTenMinutes(SharedStore):
    seconds = 600


class WritersDoNotExcludeEachOther(SharedStore):
    def lock(self) -> None:
        self.place.writing.acquire(blocking=False)

    def unlock(self, map: SharedMap) -> None:
        if map in self.written:
            self.written.remove(map)
            if self.place.writing.locked():
                self.place.writing.release()


class CloseKeepsTheLock(SharedStore):
    seconds = 1.0

    def close(self) -> None:
        self.written.clear()


MUTANTS = [*SharedStore.__subclasses__()]
