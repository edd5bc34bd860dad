"""JSON values: which ones are refused, and that all others come back equal in value and in type."""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue
from ..records import NewEvent, NewJob
from ..storage import Storage
from .fixtures import START, Contract, census, empty, examples, fresh_name
from .strategies import TRICKY_FLOATS, TRICKY_INTS, json_values, spelled, stored

_JSON_WRITES: dict[str, Callable[[Storage, Any], Any]] = {
    "sessions.put": lambda storage, value: storage.sessions.put("user", value),
    "sessions.update": lambda storage, value: storage.sessions.update("user", lambda _: value),
    "sessions.update default": lambda storage, value: storage.sessions.update(
        "u", lambda _: 1, default=value
    ),
    "approvals.add": lambda storage, value: storage.approvals.add("id", value),
    "idempotency.put": lambda storage, value: storage.idempotency.put("key", value),
    "idempotency.complete": lambda storage, value: storage.idempotency.complete(
        storage.idempotency.claim("key"), value
    ),
    "idempotency.run_once": lambda storage, value: storage.idempotency.run_once("key", lambda: value),
    "events.append": lambda storage, value: storage.events.append("type", value),
    "events.append_many": lambda storage, value: storage.events.append_many(
        [("good", 1), NewEvent("type", value)]
    ),
    "snapshots.put": lambda storage, value: storage.snapshots.put("kind", value),
    "queue.schedule": lambda storage, value: storage.queue.schedule("x", "a", metadata={"value": value}),
    "queue.schedule_many": lambda storage, value: storage.queue.schedule_many(
        [NewJob("x", "good"), NewJob("x", "a", metadata={"value": value})]
    ),
}


class _Colour(enum.StrEnum):
    RED = "red"


class _Number(enum.IntEnum):
    ONE = 1


class _Float(float):
    pass


def _nested(depth: int, *, objects: bool = False) -> Any:
    value: Any = {} if objects else []
    for _ in range(depth - 1):
        value = {"a": value} if objects else [value]
    return value


def _endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


_NOT_JSON: dict[str, Any] = {
    "nan": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "nul": "a\x00b",
    "nul in a key": {"a\x00b": 1},
    "surrogate": "\ud800",
    "surrogates": "\ud83d\ude00",
    "surrogate in a key": {"\udfff": 1},
    "tuple": (1, 2),
    "set": {1, 2},
    "bytes": b"bytes",
    "object": object(),
    "int key": {1: "a"},
    "none key": {None: "a"},
    "bool key": {True: "a"},
    "decimal": Decimal(1),
    "datetime": START,
    "str enum": _Colour.RED,
    "int enum": _Number.ONE,
    "float subclass": _Float(1.5),
    "dict subclass": OrderedDict(a=1),
    "type": int,
    "generator": (n for n in range(3)),
    "deep in a list": [1, [2, {"a": [float("nan")]}]],
    "too deep": _nested(65),
    "too deep, objects": _nested(65, objects=True),
    "endless": _endless(),
    "too many digits": 10**4300,
    "too large": "x" * (1024 * 1024 - 1),
    "too large in UTF-8": "é" * (512 * 1024),
}


class JsonContract(Contract):
    @pytest.mark.parametrize("value", _NOT_JSON.values(), ids=_NOT_JSON)
    @pytest.mark.parametrize("write", ["sessions.put", "events.append_many", "queue.schedule_many"])
    def test_what_is_no_json_is_refused(self, storage: Storage, write: str, value: Any) -> None:
        before = census(storage)
        with pytest.raises(InvalidValue):
            _JSON_WRITES[write](storage, value)
        assert census(storage) == before

    @pytest.mark.parametrize(
        "value", [float("nan"), "\x00", (1,), _endless()], ids=["nan", "nul", "tuple", "endless"]
    )
    @pytest.mark.parametrize("write", _JSON_WRITES)
    def test_every_call_refuses(self, storage: Storage, write: str, value: Any) -> None:
        before = census(storage)
        with pytest.raises(InvalidValue):
            _JSON_WRITES[write](storage, value)
        assert census(storage) == before
        assert storage.idempotency.get("key") is None

    def test_as_deep_as_allowed(self, storage: Storage) -> None:
        for value in (_nested(64), _nested(64, objects=True)):
            assert storage.sessions.put("user", value).data == value

    def test_as_large_as_allowed(self, storage: Storage) -> None:
        value = "x" * (1024 * 1024 - 2)
        assert storage.sessions.put("user", value).data == value
        many = ["x" * 998] * 1047
        assert storage.events.append("type", many).payload == many

    def test_as_many_digits_as_allowed(self, storage: Storage) -> None:
        for value in (10**4300 - 1, 1 - 10**4300):
            assert storage.sessions.put("user", value).data == value
            read = storage.sessions.get("user")
            assert read is not None
            assert read.data == value

    @pytest.mark.parametrize("value", TRICKY_FLOATS + TRICKY_INTS)  # type: ignore[operator]
    def test_numbers_keep_value_and_type(self, storage: Storage, value: Any) -> None:
        kind = fresh_name("number")
        for wrapped in (value, [value], {"a": value}):
            assert spelled(storage.snapshots.put(kind, wrapped).payload) == spelled(stored(wrapped))
            read = storage.snapshots.get(kind)
            assert read is not None
            assert spelled(read.payload) == spelled(stored(wrapped))

    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            False,
            0,
            1,
            0.0,
            1.0,
            "",
            "null",
            "0",
            [],
            {},
            [None],
            [[]],
            {"": ""},
            {"a": {}},
            [{}],
            {"a": []},
        ],
    )
    def test_small_values_keep_value_and_type(self, storage: Storage, value: Any) -> None:
        storage.sessions.put("user", value)
        storage.approvals.add("id", value)
        storage.idempotency.put("key", value)
        storage.queue.schedule("x", "a", metadata={"value": value})
        storage.events.append("type", value)
        session, approval, record = (
            storage.sessions.get("user"),
            storage.approvals.get("id"),
            storage.idempotency.get("key"),
        )
        assert session is not None
        assert approval is not None
        assert record is not None
        for read in (
            session.data,
            approval.payload,
            record.value,
            storage.queue.list()[0].metadata["value"],
            storage.events.list()[0].payload,
        ):
            assert spelled(read) == spelled(value)

    def test_text_is_neither_escaped_nor_folded(self, storage: Storage) -> None:
        text = (
            '\u0001\u001f\x7f\u2028\u2029\ufeff\ufffe\uffff\U0010ffff é e\u0301 "quoted" \\ / \\u0000 \r\n\t'
        )
        value = {text: [text], "\\u0000": "\\ud800"}
        assert storage.sessions.put("user", value).data == value
        read = storage.sessions.get("user")
        assert read is not None
        assert spelled(read.data) == spelled(value)

    @given(json_values(max_leaves=25))
    @examples(60)
    def test_any_value_comes_back_equal(self, backend: StorageBackend, storage: Storage, value: Any) -> None:
        empty(backend)
        wanted = spelled(stored(value))
        job = storage.queue.schedule("x", "a", metadata={"value": value})
        read = storage.queue.get(job.id)
        assert read is not None
        assert spelled(read.metadata["value"]) == spelled(job.metadata["value"]) == wanted
        event = storage.events.append("type", value)
        assert spelled(event.payload) == spelled(storage.events.list()[0].payload) == wanted
