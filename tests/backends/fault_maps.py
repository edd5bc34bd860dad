"""Ordered stores whose primitives fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from assistly.storage import OutcomeUnknown, StorageUnavailable
from assistly.storage.engine import KeyValueBackend, OrderedStore
from backends.fault_operations import open_on
from backends.fault_plan import DriverFault, FaultyEngine, Plan

Value = Any
Item = tuple[bytes, Value]


def _fail(_: object) -> None:
    raise StorageUnavailable("the store failed")


MAP_FAULTS = [
    DriverFault("fails", _fail),
    DriverFault("fails", _fail, lasting=True),
    DriverFault("fails", _fail, "after"),
    DriverFault("fails", _fail, "after", lasting=True),
]


def _same(item: Item) -> Item:
    return item


class FaultyMap:
    def __init__(self, map: Any, plan: Plan) -> None:
        self.map = map
        self._plan = plan

    def get(self, key: bytes) -> Value | None:
        return self._plan.step(None, lambda: self.map.get(key))

    def put(self, key: bytes, value: Value) -> None:
        self._plan.step(None, lambda: self.map.put(key, value))

    def delete(self, key: bytes) -> None:
        self._plan.step(None, lambda: self.map.delete(key))

    def scan(self, low: bytes, high: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, Value]]:
        for item in self._plan.step(None, lambda: self.map.scan(low, high, reverse=reverse)):
            yield self._plan.step(None, partial(_same, item))


class FaultyStore(OrderedStore[FaultyMap]):
    """As `OrderedStore` demands, a failed `begin` or `commit` holds nothing, and ending a use never fails."""

    def __init__(self, store: OrderedStore[Any], plan: Plan) -> None:
        self._store = store
        self._plan = plan
        self.holds_objects = store.holds_objects
        self.max_key_bytes = store.max_key_bytes

    def open(self) -> None:
        self._store.open()

    def begin(self, write: bool) -> FaultyMap:
        map = self._store.begin(write)
        try:
            return self._plan.step(None, lambda: FaultyMap(map, self._plan))
        except StorageUnavailable:
            self._store.rollback(map)
            raise

    def commit(self, map: FaultyMap) -> None:
        is_committed = False

        def commit() -> None:
            nonlocal is_committed
            self._store.commit(map.map)
            is_committed = True

        try:
            self._plan.step(None, commit)
        except StorageUnavailable as error:
            if is_committed:
                raise OutcomeUnknown("the store failed after the commit") from error
            self._store.rollback(map.map)
            raise

    def rollback(self, map: FaultyMap) -> None:
        self._store.rollback(map.map)

    def version(self) -> int | None:
        return self._store.version()

    def close(self) -> None:
        self._store.close()


class FaultyKeyValueEngine(FaultyEngine):
    """A new store for each run."""

    def __init__(self, new_store: Callable[[], OrderedStore[Any]]) -> None:
        self._new_store = new_store
        self._backend: KeyValueBackend | None = None
        self.plan = Plan()

    def empty(self) -> None:
        self.close()
        self._backend = KeyValueBackend(FaultyStore(self._new_store(), self.plan))
        self.storage = self.observer = open_on(self._backend)

    def check_idle(self) -> None:
        assert self._backend is not None
        assert not self._backend._writing.locked(), "a lock is still held"

    def disconnect(self) -> None:
        """It has no connections."""

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()
