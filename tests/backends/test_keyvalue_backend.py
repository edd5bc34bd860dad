"""The parts that key-value engines are made of, beside a plain dict."""

from __future__ import annotations

import time
import weakref
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistly.storage.engine.keyvalue import (
    BufferedMap,
    KeyValueBackend,
    OrderedMap,
    OrderedStore,
    SortedKeys,
    Value,
    buffer,
    keys,
    waking,
)
from assistly.storage.engine.keyvalue.longkeys import LongKeys
from assistly.storage.engine.keyvalue.rows import JsonRows
from assistly.storage.engine.keyvalue.scopes import UndoMap
from assistly.storage.errors import MigrationError, StorageClosed, StorageCorrupt, StorageUnavailable

short_keys = st.text("abc", max_size=3).map(lambda rest: b"t" + rest.encode())
long_keys = st.builds(
    lambda start, rest: b"t" + start * 6 + rest,
    st.sampled_from([b"", b"a", b"b", b"\xff", b"\x00"]),
    st.binary(max_size=4),
)


class DictMap:
    """The model: everything by brute force."""

    def __init__(self, values: dict[bytes, Value] | None = None, longest: int | None = None) -> None:
        self.values = values or {}
        self._longest = longest

    def get(self, key: bytes) -> Value | None:
        self._check(key)
        return self.values.get(key)

    def put(self, key: bytes, value: Value) -> None:
        self._check(key)
        self.values[key] = value

    def delete(self, key: bytes) -> None:
        self._check(key)
        self.values.pop(key, None)

    def scan(self, low: bytes, high: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, Value]]:
        self._check(low)
        self._check(high)
        return iter(sorted(self._between(low, high), reverse=reverse))

    def _between(self, low: bytes, high: bytes) -> list[tuple[bytes, Value]]:
        return [(key, value) for key, value in self.values.items() if low <= key < high]

    def _check(self, key: bytes) -> None:
        assert self._longest is None or len(key) <= self._longest


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks, without many keys."""
    monkeypatch.setattr(buffer, "_CHUNK", 2)
    monkeypatch.setattr(buffer, "LONGEST_CHUNK", 4)


steps = st.lists(
    st.tuples(st.sampled_from(["put", "put", "delete", "scan"]), long_keys, long_keys), max_size=40
)


@pytest.mark.usefixtures("small_chunks")
class TestSortedKeys:
    @given(steps=st.lists(st.tuples(st.integers(0, 3), short_keys, short_keys), max_size=60))
    def test_it_agrees_with_a_set(self, steps: list[tuple[int, bytes, bytes]]) -> None:
        found, model = SortedKeys(), set[bytes]()
        for step, key, other in steps:
            if step < 2:
                found.add(key)
                model.add(key)
            elif step == 2:
                found.discard(key)
                model.discard(key)
            else:
                between = sorted(each for each in model if key <= each < other)
                assert [*found.between(key, other)] == between
                assert [*found.between(key, other, reverse=True)] == between[::-1]

    @pytest.mark.parametrize("key", [b"t1", b"t3"])
    def test_a_key_that_is_added_again_is_there_once(self, key: bytes) -> None:
        found = SortedKeys()
        for each in (b"t1", b"t2", b"t3"):
            found.add(each)
        assert len([*found.between(b"t", b"u")]) == 3
        found.add(key)
        assert [*found.between(b"t", b"u")] == [b"t1", b"t2", b"t3"]
        found.add(key)
        found.discard(key)
        assert [*found.between(b"t", b"u")] == sorted({b"t1", b"t2", b"t3"} - {key})

    def test_tables_are_kept_apart(self) -> None:
        found = SortedKeys()
        for key in (b"a1", b"b1", b"b2", b"c1"):
            found.add(key)
        assert [*found.between(b"b", b"b\xff")] == [b"b1", b"b2"]
        assert [*found.between(b"d", b"d\xff")] == []

    @pytest.mark.parametrize("at", range(12))
    def test_an_interrupt_while_keys_are_sorted_in_loses_none(
        self, monkeypatch: pytest.MonkeyPatch, at: int
    ) -> None:
        found = SortedKeys()
        expected = sorted(b"t%d" % (number * 7 % 30) for number in range(30))
        for key in expected[::2]:
            found.add(key)
            [*found.between(b"t", b"u")]
        for key in expected[1::8]:
            found.add(key)
        plain = bisect_left
        calls = 0

        def interrupted(*args: Any) -> int:
            nonlocal calls
            calls += 1
            if calls == at + 1:
                raise KeyboardInterrupt
            return plain(*args)

        with monkeypatch.context() as patch:
            patch.setattr(buffer, "bisect_left", interrupted)
            with pytest.raises(KeyboardInterrupt):
                for _ in range(20):
                    found.between(b"t", b"u")
                    found.discard(b"t-none")
        assert [*found.between(b"t", b"u")] == sorted({*expected[::2], *expected[1::8]})


def same(found: OrderedMap, model: OrderedMap, low: bytes, high: bytes) -> bool:
    return all(
        [*found.scan(low, high, reverse=reverse)] == [*model.scan(low, high, reverse=reverse)]
        for reverse in (False, True)
    )


@given(steps=steps, stored=st.lists(long_keys, max_size=10))
def test_a_buffered_map(steps: list[tuple[str, bytes, bytes]], stored: list[bytes]) -> None:
    below = DictMap(dict.fromkeys(stored, b"below"))
    found, model = BufferedMap(below), DictMap(dict(below.values))
    for number, (step, key, other) in enumerate(steps):
        if step == "put":
            found.put(key, b"%d" % number)
            model.put(key, b"%d" % number)
        elif step == "delete":
            found.delete(key)
            model.delete(key)
        else:
            assert same(found, model, key, other)
        assert found.get(key) == model.get(key)
    assert below.values == dict.fromkeys(stored, b"below"), "nothing was written through"
    for key, value in found.changes.items():
        below.delete(key) if value is None else below.put(key, value)
    assert below.values == model.values


@given(steps=steps)
def test_long_keys_stay_apart_and_in_order(steps: list[tuple[str, bytes, bytes]]) -> None:
    stored = DictMap(longest=5)
    found, model = LongKeys(stored, 5), DictMap()
    for number, (step, key, other) in enumerate(steps):
        if step == "put":
            found.put(key, b"%d" % number)
            model.put(key, b"%d" % number)
        elif step == "delete":
            found.delete(key)
            model.delete(key)
        else:
            assert same(found, model, key, other)
        assert found.get(key) == model.get(key)
    for key in [*model.values]:
        found.delete(key)
    assert stored.values == {}, "no empty entry is left"


@pytest.mark.parametrize("key", [b"tabc", b"tabc\x00", b"tabcd"])
def test_a_long_key_goes_without_those_that_begin_with_the_same_bytes(key: bytes) -> None:
    found, model = LongKeys(DictMap(longest=5), 5), DictMap()
    for map in (found, model):
        for each in (b"tab", b"tabc", b"tabc\x00", b"tabcd", b"tabd"):
            map.put(each, each[1:])
        map.delete(key)
    assert same(found, model, b"t", b"u")


@given(steps=steps, marks=st.lists(st.booleans(), max_size=4))
def test_savepoints(steps: list[tuple[str, bytes, bytes]], marks: list[bool]) -> None:
    """`marks`: which of the nested savepoints are undone; the innermost ends first."""
    found = UndoMap(DictMap({b"t": b"stored"}))
    models = [{b"t": b"stored"}]
    open_ones: list[int] = []
    pending = iter(steps)
    for _ in marks:
        open_ones.append(found.savepoint())
        models.append(dict(models[-1]))
        for step, key, _other in [next(pending, ("scan", b"t", b"t")) for _ in range(5)]:
            if step == "put":
                found.put(key, b"new")
                models[-1][key] = b"new"
            elif step == "delete":
                found.delete(key)
                models[-1].pop(key, None)
    for undo in marks:
        found.leave(open_ones.pop(), undo=undo)
        ended = models.pop()
        models[-1] = models[-1] if undo else ended
        assert dict(found.scan(b"t", b"u")) == models[-1]


def test_after_the_outermost_savepoint_no_old_value_is_kept() -> None:
    class Old:
        pass

    old = Old()
    is_kept = weakref.ref(old)
    found = UndoMap(DictMap({b"t": old}))
    del old
    outer = found.savepoint()
    inner = found.savepoint()
    found.put(b"t", b"new")
    found.leave(inner, undo=False)
    assert is_kept()
    found.leave(outer, undo=False)
    assert not is_kept()


class TestChanges:
    def test_a_change_by_another_process_ends_the_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The version is read at the look, and then now and then."""
        monkeypatch.setattr(waking, "POLL_SECONDS", 0.01)
        versions = [7, 7, 7, 8]
        changes = waking.Changes(lambda: versions.pop(0))
        changes.note()
        changes.wait(2.0)
        assert versions == []

    def test_without_a_change_it_lasts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(waking, "POLL_SECONDS", 0.01)
        changes = waking.Changes(lambda: 7)
        changes.note()
        began = time.monotonic()
        changes.wait(0.05)
        assert time.monotonic() - began >= 0.05


moments = st.datetimes(timezones=st.just(UTC))
numbers = st.integers(-(2**63), 2**63 - 1)


@given(st.tuples(moments, numbers), st.tuples(moments, numbers))
def test_times_and_numbers_order_as_keys(one: tuple[datetime, int], other: tuple[datetime, int]) -> None:
    first, second = keys.time_and_number(*one), keys.time_and_number(*other)
    assert (first < second) is (one < other)
    assert first < keys.END
    assert first == keys.time(one[0]) + keys.number(one[1])
    assert (keys.time_in(first, 0), keys.last_number(first)) == one
    assert keys.number(one[1]) < keys.number_after(one[1])


names = st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), min_size=1, max_size=4)


@given(names, names)
def test_names_order_by_code_point(one: str, other: str) -> None:
    assert (keys.name(one) < keys.name(other)) is (one < other)
    assert not keys.name(one + other).startswith(keys.name(one))


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.text(),
        moments,
        st.timedeltas(min_value=timedelta(0)),
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


def listed(value: Any) -> Any:
    """Tuples come back as lists."""
    return [listed(one) for one in value] if isinstance(value, tuple) else value


@given(st.lists(values, max_size=5).map(tuple))
def test_rows_as_json(row: tuple[Any, ...]) -> None:
    packed = JsonRows.pack(row)
    assert type(packed) is bytes
    assert JsonRows.unpack(packed) == listed(row)


def test_a_row_that_is_none() -> None:
    with pytest.raises(StorageCorrupt):
        JsonRows.unpack(b"[1")


class PlainStore(OrderedStore[BufferedMap]):
    """The least that an engine has to do."""

    max_key_bytes = 64

    def __init__(self) -> None:
        self.map = DictMap(longest=64)
        self.opened = 0
        self.error: Exception | None = None
        self.failing_commits = 0

    def open(self) -> None:
        if self.error is not None:
            raise self.error
        self.opened += 1

    def begin(self, write: bool) -> BufferedMap:
        return BufferedMap(self.map)

    def commit(self, map: BufferedMap) -> None:
        if self.failing_commits:
            self.failing_commits -= 1
            raise StorageUnavailable("the disk is full")
        for key, value in map.changes.items():
            self.map.delete(key) if value is None else self.map.put(key, value)

    def rollback(self, map: BufferedMap) -> None:
        pass

    def version(self) -> None:
        return None

    def close(self) -> None:
        self.opened = 0


class TestBackend:
    def test_a_first_use_that_failed_is_tried_again(self) -> None:
        store = PlainStore()
        backend = KeyValueBackend(store)
        store.error = StorageUnavailable("not yet")
        for _ in range(2):
            with pytest.raises(StorageUnavailable, match="not yet"):
                backend.ping()
        store.error = None
        backend.ping()
        assert backend.nonces.register("a", 1)
        assert store.opened == 1

    def test_a_commit_that_fails_has_changed_nothing(self) -> None:
        store = PlainStore()
        backend = KeyValueBackend(store)
        backend.ping()
        store.failing_commits = 2
        with pytest.raises(StorageUnavailable, match="disk is full"):
            backend.nonces.register("a", 1)
        with pytest.raises(StorageUnavailable, match="disk is full"), backend.transaction() as tx:
            tx.nonces.register("a", 1)
        assert backend.nonces.register("a", 1) is True

    def test_a_savepoint_that_cannot_be_undone_dooms_the_transaction(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = KeyValueBackend(PlainStore())

        def refuse(*_: object) -> None:
            raise StorageUnavailable("no more")

        with pytest.raises(StorageUnavailable, match="could not be rolled back"), backend.transaction() as tx:
            tx.nonces.register("a", 1)
            with (
                monkeypatch.context() as patch,
                pytest.raises(StorageUnavailable, match="no more"),
                tx.transaction() as inner,
            ):
                inner.nonces.register("b", 1)
                patch.setattr(BufferedMap, "delete", refuse)
                raise LookupError
        assert [backend.nonces.seen(nonce) for nonce in "ab"] == [False, False]
        assert backend.nonces.register("a", 1) is True

    def test_the_format_is_written_once(self) -> None:
        store = PlainStore()
        unready = KeyValueBackend(store, auto_migrate=False)
        with pytest.raises(MigrationError, match="assistly migrate"):
            unready.ping()
        assert store.map.values == {}
        assert unready.migrate() == ["001_keyvalue"]
        assert KeyValueBackend(store, auto_migrate=False).migrate() == []
        unready.ping()

    def test_another_format_is_refused(self) -> None:
        store = PlainStore()
        store.map.put(keys.FORMAT, keys.number(2))
        for call in (lambda: KeyValueBackend(store).ping(), lambda: KeyValueBackend(store).migrate()):
            with pytest.raises(MigrationError, match="format 2"):
                call()

    def test_long_names_in_short_keys(self) -> None:
        backend = KeyValueBackend(PlainStore())
        long = "x" * 510
        users = [long, long + "a", long + "ab", long + "b", long[:-1] + "y"]
        for user in users:
            backend.sessions.put(user, '"data"', expected_version=0, now=datetime.now(UTC))  # type: ignore[arg-type]
        assert [session.user_id for session in backend.sessions.list(after=None, limit=9)] == users
        assert [one.user_id for one in backend.sessions.list(after=users[1], limit=2)] == users[2:4]
        assert backend.sessions.delete(users[1])
        assert backend.sessions.get(users[1]) is None
        assert [one.user_id for one in backend.sessions.list(after=None, limit=9)] == [users[0], *users[2:]]

    def test_closed(self) -> None:
        store = PlainStore()
        backend = KeyValueBackend(store)
        backend.ping()
        backend.close()
        assert store.opened == 0
        with pytest.raises(StorageClosed):
            backend.ping()
