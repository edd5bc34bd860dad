"""The documents of an engine, by collection and key."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from threading import Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..engine.values import Document
from ..validation import canonical
from .fixtures import (
    DAY,
    END_OF_TIME,
    HOUR,
    START,
    TICK,
    Contract,
    examples,
    fresh_name,
    on_a_thread,
    together,
)
from .strategies import json_values, moments, names, spelled, stored

_TIMEOUT = 10.0

_ODD = [
    "\U00010000",
    "\uffff",
    "é",
    "e\u0301",
    "z",
    "a",
    "Z",
    "A",
    "10",
    "9",
    " ",
    "_",
    "%",
    "'",
    "a b",
    "ab",
    "a-b",
    "\x01",
    "\x7f",
    "a\x01",
    "k" * 512,
    "k" * 511 + "j",
    "\U0001f600" * 128,
]


def put(
    backend: StorageBackend,
    collection: str,
    key: str,
    data: Any,
    *,
    expected: int | None = None,
    now: datetime = START,
) -> Document | None:
    """`documents.put` of a JSON value."""
    return backend.documents.put(collection, key, canonical("data", data), expected_version=expected, now=now)


def all_in(backend: StorageBackend, collection: str) -> list[Document]:
    return [*backend.documents.list(collection, after=None, limit=1000)]


class DocumentsContract(Contract):
    """`empty` knows the collections in use only: each test has one of its own."""

    @pytest.fixture
    def collection(self) -> str:
        return fresh_name("collection")

    def test_a_collection_without_documents(self, backend: StorageBackend, collection: str) -> None:
        assert backend.documents.get(collection, "key") is None
        assert backend.documents.get(collection, "key", lock=True) is None
        assert all_in(backend, collection) == []
        assert backend.documents.delete(collection, "key") is False

    def test_versions_count_the_puts(self, backend: StorageBackend, collection: str) -> None:
        first = put(backend, collection, "key", {"n": 1})
        assert first == Document(collection, "key", {"n": 1}, 1, START)
        assert backend.documents.get(collection, "key") == first
        second = put(backend, collection, "key", {"n": 1}, now=START - HOUR)
        assert second == Document(collection, "key", {"n": 1}, 2, START - HOUR)
        assert backend.documents.get(collection, "key") == second
        assert all_in(backend, collection) == [second]

    def test_compare_and_set(self, backend: StorageBackend, collection: str) -> None:
        assert put(backend, collection, "key", "too early", expected=1) is None
        assert backend.documents.get(collection, "key") is None
        first = put(backend, collection, "key", "a", expected=0)
        assert first == Document(collection, "key", "a", 1, START)
        assert put(backend, collection, "key", "b", expected=0, now=START + DAY) is None
        second = put(backend, collection, "key", "b", expected=1, now=START + HOUR)
        assert second == Document(collection, "key", "b", 2, START + HOUR)
        for wrong in (0, 1, 3, 2**31, 2**40):
            assert put(backend, collection, "key", "c", expected=wrong, now=START + DAY) is None
            assert all_in(backend, collection) == [second]
        third = put(backend, collection, "key", "d", expected=2)
        assert third == Document(collection, "key", "d", 3, START)
        assert all_in(backend, collection) == [third]

    def test_an_expected_version_is_that_of_the_same_key(
        self, backend: StorageBackend, collection: str
    ) -> None:
        other = fresh_name("collection")
        for _ in range(2):
            put(backend, collection, "other", 1)
            put(backend, other, "key", 1)
        assert put(backend, collection, "key", 1, expected=2) is None
        assert put(backend, collection, "key", 1, expected=0) is not None
        assert put(backend, collection, "key", 1, expected=1) is not None
        before = [*all_in(backend, collection), *all_in(backend, other)]
        assert [document.version for document in before] == [2, 2, 2]

    def test_a_deleted_document_begins_anew(self, backend: StorageBackend, collection: str) -> None:
        for _ in range(3):
            put(backend, collection, "key", 1)
        kept = put(backend, collection, "Key", 2)
        assert backend.documents.delete(collection, "key") is True
        assert backend.documents.get(collection, "key") is None
        assert backend.documents.delete(collection, "key") is False
        assert all_in(backend, collection) == [kept]
        assert put(backend, collection, "key", 3, expected=3) is None
        assert put(backend, collection, "key", 3, expected=0) == Document(collection, "key", 3, 1, START)

    def test_data_comes_back_as_copies(self, backend: StorageBackend, collection: str) -> None:
        returned = put(backend, collection, "key", {"list": [1]})
        assert returned is not None
        returned.data["list"].append(2)
        read = backend.documents.get(collection, "key")
        assert read is not None
        assert read.data == {"list": [1]}
        read.data["list"].append(3)
        (listed,) = all_in(backend, collection)
        assert listed.data == {"list": [1]}
        listed.data["list"].append(4)
        assert all_in(backend, collection)[0].data == {"list": [1]}

    def test_documents_are_listed_by_code_point(self, backend: StorageBackend, collection: str) -> None:
        for key in _ODD:
            put(backend, collection, key, key)
        found = all_in(backend, collection)
        assert [document.key for document in found] == sorted(_ODD)
        assert [document.data for document in found] == sorted(_ODD)
        for document in found:
            assert backend.documents.get(collection, document.key) == document

    def test_pages_of_documents(self, backend: StorageBackend, collection: str) -> None:
        documents = [put(backend, collection, key, key) for key in "abcde"]

        def page(after: str | None, limit: int = 1000) -> list[Document]:
            return [*backend.documents.list(collection, after=after, limit=limit)]

        assert page(None, 2) == documents[:2]
        assert page("b", 2) == documents[2:4]
        assert page("bb") == documents[2:]
        assert page("A") == documents
        assert page("e") == []
        backend.documents.delete(collection, "b")
        assert page("b") == page("a") == documents[2:]

    def test_collections_are_apart(self, backend: StorageBackend, collection: str) -> None:
        others = [
            collection + "a",
            collection + "\x01",
            collection[:-1],
            collection.upper(),
            (collection + "k" * 512)[:512],
            (collection + "k" * 512)[:511] + "j",
        ]
        kept: dict[str, list[Document | None]] = {}
        for name in (collection, *others):
            kept[name] = [put(backend, name, key, [name, key]) for key in ("a", "key")]
        for name, documents in kept.items():
            assert all_in(backend, name) == documents
        assert put(backend, collection, "key", "changed", expected=1) is not None
        assert backend.documents.delete(collection, "a") is True
        assert [document.data for document in all_in(backend, collection)] == ["changed"]
        for name in others:
            assert all_in(backend, name) == kept[name]

    def test_collection_and_key_are_two_names(self, backend: StorageBackend, collection: str) -> None:
        documents = [
            put(backend, collection, "ab", 1),
            put(backend, collection + "a", "b", 2),
            put(backend, collection + "\x01a", "b", 3),
        ]
        found = [
            backend.documents.get(collection, "ab"),
            backend.documents.get(collection + "a", "b"),
            backend.documents.get(collection + "\x01a", "b"),
        ]
        assert found == documents
        assert [document.data for document in documents if document] == [1, 2, 3]

    @given(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.none() | st.integers(0, 3)),
            max_size=20,
        ),
        st.sets(st.integers(0, 19)),
    )
    @examples(25)
    def test_documents_are_those_of_a_dict(
        self,
        backend: StorageBackend,
        steps: list[tuple[str, str, int | None]],
        deletions: set[int],
    ) -> None:
        unique = fresh_name("collection")
        expected: dict[tuple[str, str], Document] = {}
        for number, (part, key, version) in enumerate(steps):
            collection, at = unique + part, START + number * TICK
            current = expected.get((collection, key))
            if number in deletions:
                assert backend.documents.delete(collection, key) is (current is not None)
                expected.pop((collection, key), None)
                continue
            old = 0 if current is None else current.version
            answer = put(backend, collection, key, number, expected=version, now=at)
            if version in (None, old):
                expected[collection, key] = Document(collection, key, number, old + 1, at)
                assert answer == expected[collection, key]
            else:
                assert answer is None
        for part in "ab":
            found = all_in(backend, unique + part)
            assert found == [expected[place] for place in sorted(expected) if place[0] == unique + part]

    @given(names, names, json_values(), moments)
    @examples(40)
    def test_every_document_comes_back_equal(
        self, backend: StorageBackend, collection: str, key: str, data: Any, now: datetime
    ) -> None:
        backend.documents.delete(collection, key)
        text = canonical("data", data)
        document = backend.documents.put(collection, key, text, expected_version=None, now=now)
        assert document is not None
        assert (document.collection, document.key, document.version) == (collection, key, 1)
        assert document.updated_at == now
        read = backend.documents.get(collection, key)
        assert read == document
        (listed,) = [one for one in all_in(backend, collection) if one.key == key]
        for one in (document, read, listed):
            assert spelled(one.data) == spelled(stored(json.loads(text))) == spelled(stored(data))
        assert backend.documents.delete(collection, key) is True

    @pytest.mark.parametrize("data", [None, False, 0, 0.0, "", [], {}, True, 1, 1.0, 10**30])
    def test_data_that_is_almost_nothing(self, backend: StorageBackend, collection: str, data: Any) -> None:
        written = put(backend, collection, "key", data)
        read = backend.documents.get(collection, "key")
        assert read == written
        assert read is not None
        assert spelled(read.data) == spelled(data)

    def test_documents_at_the_edges_of_time(self, backend: StorageBackend, collection: str) -> None:
        for moment in (START.replace(year=1), END_OF_TIME, START + TICK):
            written = put(backend, collection, "key", 1, now=moment)
            assert written is not None
            assert written.updated_at == moment
            assert backend.documents.get(collection, "key") == written


_CHANGES: dict[str, Callable[[StorageBackend, str], object]] = {
    "insert": lambda backend, collection: put(backend, collection, "new", 2),
    "insert if absent": lambda backend, collection: put(backend, collection, "new", 2, expected=0),
    "replace": lambda backend, collection: put(backend, collection, "key", 2),
    "replace if unchanged": lambda backend, collection: put(backend, collection, "key", 2, expected=1),
    "delete": lambda backend, collection: backend.documents.delete(collection, "key"),
}


class DocumentTransactionsContract(Contract):
    """Documents in transactions, and changed by several threads."""

    @pytest.fixture
    def collection(self) -> str:
        return fresh_name("collection")

    @pytest.mark.parametrize("change", _CHANGES)
    def test_a_document_changed_in_a_transaction(
        self, backend: StorageBackend, collection: str, change: str
    ) -> None:
        put(backend, collection, "key", 1)
        with backend.transaction() as tx:
            assert _CHANGES[change](tx, collection)
            inside = all_in(tx, collection)
        assert all_in(backend, collection) == inside
        put(backend, fresh_name("collection"), "key", 1)
        expected = {"delete": []}.get(change, [2] if change.startswith("replace") else [1, 2])
        assert [document.data for document in inside] == expected

    @pytest.mark.parametrize("change", _CHANGES)
    def test_a_change_of_a_document_is_undone(
        self, backend: StorageBackend, collection: str, change: str
    ) -> None:
        before = [put(backend, collection, "key", 1)]

        def change_and_fail() -> None:
            with backend.transaction() as tx:
                assert _CHANGES[change](tx, collection)
                raise LookupError("on purpose")

        with pytest.raises(LookupError, match="on purpose"):
            change_and_fail()
        assert all_in(backend, collection) == before

    def test_a_refused_put_leaves_the_transaction_usable(
        self, backend: StorageBackend, collection: str
    ) -> None:
        put(backend, collection, "key", 1)
        with backend.transaction() as tx:
            assert put(tx, collection, "key", 2, expected=0) is None
            assert put(tx, collection, "other", 3, expected=7) is None
            assert put(tx, collection, "another", 4, expected=0) is not None
        assert [document.data for document in all_in(backend, collection)] == [4, 1]

    def test_a_locked_document_stays_until_the_end(self, backend: StorageBackend, collection: str) -> None:
        put(backend, collection, "key", 1)
        begun = Event()

        def replace() -> Document | None:
            begun.set()
            return put(backend, collection, "key", "theirs")

        with backend.transaction() as tx:
            locked = tx.documents.get(collection, "key", lock=True)
            assert locked is not None
            other = on_a_thread(replace)
            assert begun.wait(_TIMEOUT)
            assert put(tx, collection, "key", "ours", expected=locked.version) is not None
            assert tx.documents.get(collection, "key", lock=True) == Document(
                collection, "key", "ours", 2, START
            )
        assert other.result(_TIMEOUT) == Document(collection, "key", "theirs", 3, START)

    def test_no_change_of_a_locked_document_is_lost(self, backend: StorageBackend, collection: str) -> None:
        put(backend, collection, "key", 0)

        def work(_: int) -> None:
            for _ in range(10):
                with backend.transaction() as tx:
                    current = tx.documents.get(collection, "key", lock=True)
                    assert current is not None
                    assert put(tx, collection, "key", current.data + 1, expected=current.version)

        together(4, work)
        assert backend.documents.get(collection, "key") == Document(collection, "key", 40, 41, START)

    @pytest.mark.parametrize("version", [0, 1])
    def test_one_of_many_puts_at_a_version(
        self, backend: StorageBackend, collection: str, version: int
    ) -> None:
        keys = [f"key {number}" for number in range(10)]
        if version:
            for key in keys:
                put(backend, collection, key, "first")

        def work(number: int) -> list[Document]:
            answers = [put(backend, collection, key, number, expected=version) for key in keys]
            return [answer for answer in answers if answer is not None]

        won = [document for documents in together(4, work) for document in documents]
        assert sorted(won, key=lambda document: document.key) == all_in(backend, collection)
        assert [document.version for document in won] == [version + 1] * len(keys)
