"""The store of a key-value engine, before there is an engine around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.keyvalue import OrderedStore
from ..errors import StorageUnavailable
from .fixtures import examples, on_a_thread

MakeStore = Callable[[], OrderedStore[Any]]

_LONGEST_VALUE = 2**21
"""Bytes; a record with the longest content and the longest JSON has about as many."""

_LONGEST_KEY = 1100
"""Bytes of the longest keys of `KeyValueBackend`."""

_SHORT_WAIT = 0.3
_LONGEST_WAIT = 15.0
"""Seconds. A writer waits for 10, and some more on a busy machine."""

_SHORTEST_WAIT = 0.1
"""Seconds that a writer waits at least, also that of the fixture `impatient_store`."""

_COMMITS = 100
"""How many commits a reader watches, to find one of which it sees the version too early."""

LOW, HIGH = b"k", b"l"
"""The table of these tests."""

_KEYS = st.binary(max_size=3).map(lambda rest: LOW + rest)
_CHANGES = st.lists(st.tuples(_KEYS, st.none() | st.binary(max_size=3)), max_size=12)


def put(store: OrderedStore[Any], **values: bytes | None) -> None:
    """Commit values under `k` and their names; None deletes."""
    commit(store, {LOW + name.encode(): value for name, value in values.items()})


def commit(store: OrderedStore[Any], changes: dict[bytes, bytes | None]) -> None:
    """Put and delete in one transaction."""
    map = store.begin(True)
    for key, value in changes.items():
        if value is None:
            map.delete(key)
        else:
            map.put(key, value)
    store.commit(map)


def scanned(map: Any, low: bytes = LOW, high: bytes = HIGH, *, reverse: bool = False) -> list[Any]:
    """What a scan yields."""
    return [(bytes(key), bytes(value)) for key, value in map.scan(low, high, reverse=reverse)]


def everything(store: OrderedStore[Any]) -> dict[bytes, bytes]:
    """What a new reader finds in the table."""
    map = store.begin(False)
    try:
        return dict(scanned(map))
    finally:
        store.rollback(map)


class OrderedStoreContract:
    """Needs one fixture, `new_store`: a function that returns another store on the same data at each call.

    The data is new for each test. Where all commits are made through one object (`version` is None), each
    store has data of its own, and the tests that need two are skipped. The fixture need not close the stores.

    A fixture `impatient_store`, which may be replaced, makes a test quick: another store on the same data
    that waits for a writer for a fraction of a second.
    """

    @pytest.fixture
    def store(self, new_store: MakeStore) -> Iterator[OrderedStore[Any]]:
        store = new_store()
        store.open()
        yield store
        store.close()

    @pytest.fixture
    def other(self, store: OrderedStore[Any], new_store: MakeStore) -> Iterator[OrderedStore[Any]]:
        """A second object on the data of `store`."""
        if store.version() is None:
            pytest.skip("all commits are made through one object (`version` is None)")
        other = new_store()
        other.open()
        yield other
        other.close()

    @pytest.fixture
    def impatient_store(self, other: OrderedStore[Any]) -> OrderedStore[Any]:
        return other

    def test_a_new_store_is_empty(self, store: OrderedStore[Any]) -> None:
        assert everything(store) == {}

    def test_opened_twice(self, store: OrderedStore[Any]) -> None:
        put(store, a=b"1")
        store.open()
        assert everything(store) == {b"ka": b"1"}

    def test_get(self, store: OrderedStore[Any]) -> None:
        put(store, a=b"1", b=b"")
        map = store.begin(False)
        assert [map.get(key) for key in (b"ka", b"kb", b"k", b"kaa")] == [b"1", b"", None, None]
        store.rollback(map)

    def test_a_value_is_replaced(self, store: OrderedStore[Any]) -> None:
        put(store, a=b"1")
        put(store, a=b"2")
        assert everything(store) == {b"ka": b"2"}

    def test_a_key_is_deleted(self, store: OrderedStore[Any]) -> None:
        put(store, a=b"1", b=b"2")
        put(store, a=None, missing=None)
        assert everything(store) == {b"kb": b"2"}
        put(store, a=b"3")
        assert everything(store) == {b"ka": b"3", b"kb": b"2"}

    @pytest.mark.parametrize("write", [False, True])
    def test_the_bounds_of_a_scan(self, store: OrderedStore[Any], write: bool) -> None:
        """The low one is included, the high one is not."""
        put(store, a=b"1", b=b"2", c=b"3")
        map = store.begin(write)
        for reverse in (False, True):
            found = scanned(map, b"ka", b"kc", reverse=reverse)
            assert sorted(found) == [(b"ka", b"1"), (b"kb", b"2")]
            assert scanned(map, b"kb", b"kb", reverse=reverse) == []
            assert scanned(map, b"kaa", b"kab", reverse=reverse) == []
            assert len(scanned(map, b"k", b"kz", reverse=reverse)) == 3
        store.rollback(map)

    @pytest.mark.parametrize("write", [False, True])
    def test_a_scan_is_in_the_order_of_bytes(self, store: OrderedStore[Any], write: bool) -> None:
        keys = [
            b"k",
            b"k\x00",
            b"k\x00\x00",
            b"k\x01",
            b"kA",
            b"ka",
            b"ka\x00",
            b"kaa",
            b"kb",
            b"k\x80",
            b"k\xff",
        ]
        commit(store, dict.fromkeys((*keys[::2], *keys[1::2], b"j\xff", b"l"), b"v"))
        map = store.begin(write)
        assert [key for key, _ in scanned(map)] == keys
        assert [key for key, _ in scanned(map, reverse=True)] == keys[::-1]
        store.rollback(map)

    def test_a_scan_that_is_abandoned(self, store: OrderedStore[Any]) -> None:
        commit(store, {b"k%04d" % number: b"v" for number in range(2000)})
        map = store.begin(False)
        assert bytes(next(map.scan(LOW, HIGH))[0]) == b"k0000"
        assert bytes(next(map.scan(LOW, HIGH, reverse=True))[0]) == b"k1999"
        store.rollback(map)
        put(store, after=b"1")
        assert len(everything(store)) == 2001

    def test_a_writer_sees_its_own_changes(self, store: OrderedStore[Any]) -> None:
        put(store, a=b"1", b=b"2", c=b"3")
        map = store.begin(True)
        map.put(b"kaa", b"new")
        map.put(b"kb", b"other")
        map.delete(b"kc")
        assert [map.get(key) for key in (b"kaa", b"kb", b"kc")] == [b"new", b"other", None]
        expected = [(b"ka", b"1"), (b"kaa", b"new"), (b"kb", b"other")]
        assert scanned(map) == expected
        assert scanned(map, reverse=True) == expected[::-1]
        map.put(b"kc", b"again")
        map.delete(b"kaa")
        assert [key for key, _ in scanned(map)] == [b"ka", b"kb", b"kc"]
        store.commit(map)
        assert everything(store) == {b"ka": b"1", b"kb": b"other", b"kc": b"again"}

    def test_nobody_else_sees_them_before_the_commit(self, store: OrderedStore[Any]) -> None:
        put(store, a=b"1", b=b"2")
        map = store.begin(True)
        map.put(b"ka", b"other")
        map.put(b"kc", b"new")
        map.delete(b"kb")
        before = self._read_meanwhile(store)
        store.commit(map)
        assert before in ({b"ka": b"1", b"kb": b"2"}, None)
        assert everything(store) == {b"ka": b"other", b"kc": b"new"}

    def test_a_rollback_forgets_them(self, store: OrderedStore[Any]) -> None:
        put(store, a=b"1", b=b"2")
        map = store.begin(True)
        map.put(b"ka", b"other")
        map.put(b"kc", b"new")
        map.delete(b"kb")
        store.rollback(map)
        assert everything(store) == {b"ka": b"1", b"kb": b"2"}
        put(store, d=b"4")
        assert everything(store) == {b"ka": b"1", b"kb": b"2", b"kd": b"4"}

    def _read_meanwhile(self, store: OrderedStore[Any]) -> dict[bytes, bytes] | None:
        """What a reader on another thread finds; None if it has to wait for the writer."""
        reader = on_a_thread(lambda: everything(store))
        try:
            return reader.result(_SHORT_WAIT)
        except TimeoutError:
            return None

    def test_a_reader_keeps_the_view_that_it_began_with(self, store: OrderedStore[Any]) -> None:
        """A writer may have to wait for it instead."""
        put(store, a=b"1", b=b"2")
        map = store.begin(False)
        writer = on_a_thread(lambda: put(store, a=b"other", b=None, c=b"3"))
        with suppress(TimeoutError):
            writer.result(_SHORT_WAIT)
        found = map.get(b"ka"), scanned(map)
        store.rollback(map)
        writer.result(_LONGEST_WAIT)
        assert found == (b"1", [(b"ka", b"1"), (b"kb", b"2")])
        assert everything(store) == {b"ka": b"other", b"kc": b"3"}

    def test_a_map_goes_from_thread_to_thread(self, store: OrderedStore[Any]) -> None:
        map = on_a_thread(lambda: store.begin(True)).result(_LONGEST_WAIT)
        on_a_thread(lambda: map.put(b"ka", b"1")).result(_LONGEST_WAIT)
        assert on_a_thread(lambda: scanned(map)).result(_LONGEST_WAIT) == [(b"ka", b"1")]
        on_a_thread(lambda: store.commit(map)).result(_LONGEST_WAIT)
        assert everything(store) == {b"ka": b"1"}

    def test_readers_on_many_threads(self, store: OrderedStore[Any]) -> None:
        put(store, a=b"1")

        def read() -> list[dict[bytes, bytes]]:
            return [everything(store) for _ in range(50)]

        readers = [on_a_thread(read) for _ in range(4)]
        for number in range(20):
            put(store, a=b"%d" % number, b=b"%d" % number)
        for reader in readers:
            for found in reader.result(_LONGEST_WAIT):
                assert found == {b"ka": b"1"} or found[b"ka"] == found[b"kb"], "a reader sees half a commit"

    def test_long_keys(self, store: OrderedStore[Any]) -> None:
        """Keys as long as `max_key_bytes` stay apart, and in order."""
        longest = min(store.max_key_bytes or _LONGEST_KEY, _LONGEST_KEY)
        assert longest >= 64
        keys = sorted(LOW + b"x" * (longest - 2) + last for last in (b"\x00", b"a", b"b", b"\xff"))
        commit(store, {key: key[-1:] for key in (*keys[::2], *keys[1::2])})
        map = store.begin(False)
        assert scanned(map) == [(key, key[-1:]) for key in keys]
        assert [map.get(key) for key in keys] == [key[-1:] for key in keys]
        assert map.get(keys[0][:-1]) is None
        store.rollback(map)

    def test_long_values(self, store: OrderedStore[Any]) -> None:
        value = bytes(range(256)) * (_LONGEST_VALUE // 256)
        put(store, a=value, b=value[::-1])
        assert everything(store) == {b"ka": value, b"kb": value[::-1]}

    @given(st.lists(st.tuples(_CHANGES, st.booleans()), max_size=6), _KEYS, _KEYS)
    @examples(30)
    def test_it_is_a_sorted_dict(
        self,
        store: OrderedStore[Any],
        transactions: list[tuple[list[tuple[bytes, bytes | None]], bool]],
        low: bytes,
        high: bytes,
    ) -> None:
        commit(store, dict.fromkeys(everything(store)))
        model: dict[bytes, bytes] = {}
        for changes, is_kept in transactions:
            before = dict(model)
            map = store.begin(True)
            for key, value in changes:
                if value is None:
                    map.delete(key)
                    model.pop(key, None)
                else:
                    map.put(key, value)
                    model[key] = value
            expected = [(key, value) for key, value in sorted(model.items()) if low <= key < high]
            assert scanned(map, low, high) == expected
            assert scanned(map, low, high, reverse=True) == expected[::-1]
            if is_kept:
                store.commit(map)
            else:
                store.rollback(map)
                model = before
            assert everything(store) == model

    def test_closed_twice(self, new_store: MakeStore) -> None:
        store = new_store()
        store.open()
        put(store, a=b"1")
        store.close()
        store.close()

    def test_closed_unopened(self, new_store: MakeStore) -> None:
        new_store().close()

    def test_a_commit_is_seen_by_the_other(self, store: OrderedStore[Any], other: OrderedStore[Any]) -> None:
        put(store, a=b"1", b=b"2")
        assert everything(other) == {b"ka": b"1", b"kb": b"2"}
        put(other, a=None, c=b"3")
        assert everything(store) == {b"kb": b"2", b"kc": b"3"}

    def test_data_outlives_its_store(
        self, store: OrderedStore[Any], other: OrderedStore[Any], new_store: MakeStore
    ) -> None:
        put(other, a=b"1")
        other.close()
        third = new_store()
        third.open()
        assert everything(third) == everything(store) == {b"ka": b"1"}
        third.close()

    def test_the_version_changes_with_each_commit_of_the_other(
        self, store: OrderedStore[Any], other: OrderedStore[Any]
    ) -> None:
        versions = [store.version()]
        for number in range(3):
            put(other, a=b"%d" % number)
            versions.append(store.version())
        assert len({*versions}) == 4, versions

    def test_the_version_is_asked_for_by_many_threads(
        self, store: OrderedStore[Any], other: OrderedStore[Any]
    ) -> None:
        threads = [on_a_thread(lambda: [store.version() for _ in range(50)]) for _ in range(4)]
        before = store.version()
        put(other, a=b"1")
        for thread in threads:
            assert None not in thread.result(_LONGEST_WAIT)
        assert store.version() != before

    def test_a_reader_finds_what_the_version_counts(
        self, store: OrderedStore[Any], other: OrderedStore[Any]
    ) -> None:
        """Otherwise a thread that looks in between misses the change: it waits for the next version."""

        def write() -> None:
            for number in range(_COMMITS):
                put(other, a=b"%d" % number)

        writer = on_a_thread(write)
        found: dict[int | None, bytes | None] = {}
        is_last = False
        while not is_last:
            is_last = writer.done()
            before = store.version()
            value = everything(store).get(b"ka")
            if store.version() == before:
                assert found.setdefault(before, value) == value, "a reader missed a commit of its version"
        writer.result()

    def test_a_transaction_that_is_open_at_the_close_is_undone(
        self, store: OrderedStore[Any], other: OrderedStore[Any]
    ) -> None:
        put(store, a=b"1")
        map = other.begin(True)
        map.put(b"ka", b"other")
        other.close()
        other.rollback(map)
        assert everything(store) == {b"ka": b"1"}
        put(store, b=b"2")
        assert everything(store) == {b"ka": b"1", b"kb": b"2"}

    def test_writers_wait_for_each_other(self, store: OrderedStore[Any], other: OrderedStore[Any]) -> None:
        """As in a count that both increment: neither loses what the other wrote."""

        def increment(through: OrderedStore[Any]) -> None:
            for _ in range(10):
                map = through.begin(True)
                map.put(b"ka", b"%d" % (int(map.get(b"ka") or b"0") + 1))
                through.commit(map)

        writers = [on_a_thread(lambda one=one: increment(one)) for one in (store, other)]  # type: ignore[misc]
        for writer in writers:
            writer.result(2 * _LONGEST_WAIT)
        assert everything(store) == {b"ka": b"20"}

    def test_a_writer_waits_for_10_seconds(
        self, store: OrderedStore[Any], impatient_store: OrderedStore[Any]
    ) -> None:
        """Then it raises StorageUnavailable, and the one that it waited for goes on."""
        map = store.begin(True)
        map.put(b"ka", b"1")
        began = monotonic()
        waiting = on_a_thread(lambda: impatient_store.begin(True))
        with pytest.raises(StorageUnavailable):
            waiting.result(_LONGEST_WAIT)
        assert monotonic() - began > _SHORTEST_WAIT, "it did not wait"
        store.commit(map)
        put(impatient_store, b=b"2")
        assert everything(store) == {b"ka": b"1", b"kb": b"2"}
