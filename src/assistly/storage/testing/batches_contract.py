"""Several nonces, keys or counts in one call: the same as one after another, but all or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..engine.values import IdempotencyRow, KeyClaim
from ..errors import ClaimLost, InvalidValue
from ..records import ClaimState, IdempotencyRecord
from ..retention import RetentionPolicy
from ..storage import Storage
from .fixtures import (
    DAY,
    MINUTE,
    SECOND,
    START,
    TICK,
    Contract,
    FakeClock,
    empty,
    examples,
    fresh_name,
    open_for_test,
    together,
    undone,
)
from .strategies import json_values, names, spelled, stored

_MANY = 2500


class NonceBatchesContract(Contract):
    def test_each_gets_its_answer_in_order(self, storage: Storage) -> None:
        storage.nonces.register("b")
        assert storage.nonces.register_many(["c", "b", "a"]) == [True, False, True]
        assert storage.nonces.register_many(["a", "d", "c"]) == [False, True, False]
        assert [storage.nonces.seen(nonce) for nonce in "abcde"] == [True] * 4 + [False]

    def test_the_second_of_two_in_a_batch_is_not_new(self, storage: Storage) -> None:
        assert storage.nonces.register_many(["a", "b", "a", "a"]) == [True, True, False, False]

    def test_a_batch_of_nothing(self, storage: Storage) -> None:
        assert storage.nonces.register_many([]) == []
        assert storage.nonces.register_many(iter(())) == []

    def test_times_of_their_own(self, storage: Storage, clock: FakeClock) -> None:
        old, kept = START - DAY - MINUTE, START - DAY
        storage.nonces.register_many(
            [("own", kept), "common", ("common, too", None), ("first", kept), ("first", old)], timestamp=old
        )
        storage.nonces.register_many(["now", ("old", old)])
        assert storage.prune().nonces == 3
        seen = [
            storage.nonces.seen(nonce) for nonce in ("own", "first", "now", "common", "common, too", "old")
        ]
        assert seen == [True, True, True, False, False, False]

    def test_a_batch_does_not_renew(self, storage: Storage) -> None:
        storage.nonces.register("old", START - 2 * DAY)
        assert storage.nonces.register_many(["new", "old"]) == [True, False]
        assert storage.prune().nonces == 1

    @given(st.lists(st.lists(names, max_size=6), max_size=3))
    @examples(15)
    def test_a_batch_is_one_after_another(
        self, backend: StorageBackend, storage: Storage, batches: list[list[str]]
    ) -> None:
        empty(backend)
        known: set[str] = set()
        for batch in batches:
            answers = storage.nonces.register_many(batch)
            for nonce, is_new in zip(batch, answers, strict=True):
                assert is_new is (nonce not in known)
                known.add(nonce)

    def test_large_batches(self, storage: Storage) -> None:
        nonces = [f"{number:08}" for number in range(_MANY)]
        assert storage.nonces.register_many(nonces[::2]) == [True] * len(nonces[::2])
        rest = [number % 2 == 1 for number in reversed(range(_MANY))]
        assert storage.nonces.register_many(reversed(nonces)) == rest

    def test_of_many_batches_that_race_one_registers(self, storage: Storage) -> None:
        nonces = [f"n{number}" for number in range(40)]

        def work(index: int) -> list[bool]:
            return storage.nonces.register_many(nonces if index % 2 else nonces[::-1])

        won = [answers if index % 2 else answers[::-1] for index, answers in enumerate(together(4, work))]
        assert [column.count(True) for column in zip(*won, strict=True)] == [1] * len(nonces)

    def test_a_batch_that_is_undone(self, storage: Storage) -> None:
        with undone(storage) as tx:
            assert tx.nonces.register_many(["a", "b"]) == [True, True]
        assert storage.nonces.register_many(["a", "b"]) == [True, True]

    @pytest.mark.parametrize(
        "bad",
        ["abc", b"abc", None, 1, ["a", ""], ["a", None], ["a", ("b",)], [("a", "b")], [("a", START, 1)]],
    )
    def test_what_is_no_batch_registers_nothing(self, storage: Storage, bad: Any) -> None:
        with pytest.raises(InvalidValue):
            storage.nonces.register_many(bad)
        assert not storage.nonces.seen("a")

    def test_naive_times_register_nothing(self, storage: Storage) -> None:
        naive = datetime(2026, 1, 1)  # noqa: DTZ001
        with pytest.raises(InvalidValue, match="timestamp"):
            storage.nonces.register_many(["a"], timestamp=naive)
        with pytest.raises(InvalidValue, match="timestamp"):
            storage.nonces.register_many(["a", ("b", naive)])
        assert not storage.nonces.seen("a")


class KeyBatchesContract(Contract):
    def test_results_are_put(self, storage: Storage, clock: FakeClock) -> None:
        earlier = START - SECOND
        put = storage.idempotency.put_many([("a", {"n": 1}), ("b", [None], earlier), ("c", "", None)])
        assert put == [
            IdempotencyRecord("a", {"n": 1}, START, None),
            IdempotencyRecord("b", [None], earlier, None),
            IdempotencyRecord("c", "", START, None),
        ]
        assert [storage.idempotency.get(key) for key in "abc"] == put
        storage.idempotency.put_many([("d", 0), ("e", 1, START)], saved_at=earlier)
        assert [record.saved_at for key in "de" if (record := storage.idempotency.get(key))] == [
            earlier,
            START,
        ]

    def test_the_last_of_equal_keys_stays(self, storage: Storage) -> None:
        put = storage.idempotency.put_many([("a", 1), ("b", 2), ("a", 3)])
        assert [record.value for record in put] == [1, 2, 3]
        assert storage.idempotency.get("a") == put[2]

    def test_whatever_was_there(self, storage: Storage) -> None:
        claim = storage.idempotency.claim("claimed", fingerprint="f")
        storage.idempotency.put("put", 1)
        storage.idempotency.put_many([("claimed", 2), ("put", 2), ("new", 2)])
        found = [storage.idempotency.get(key) for key in ("claimed", "put", "new")]
        assert [record and (record.value, record.fingerprint) for record in found] == [(2, None)] * 3
        with pytest.raises(ClaimLost):
            storage.idempotency.complete(claim, 3)

    def test_what_is_put_are_copies(self, storage: Storage) -> None:
        value: list[Any] = [1]
        [record] = storage.idempotency.put_many([("a", value)])
        value.append(2)
        record.value.append(3)
        found = storage.idempotency.get("a")
        assert found is not None
        assert found.value == [1]

    @given(st.lists(st.tuples(names, json_values()), max_size=6))
    @examples(15)
    def test_any_values_are_put(
        self, backend: StorageBackend, storage: Storage, results: list[tuple[str, Any]]
    ) -> None:
        empty(backend)
        put = storage.idempotency.put_many(results)
        expected = [(key, spelled(stored(value))) for key, value in results]
        assert [(record.key, spelled(record.value)) for record in put] == expected
        found = {key: storage.idempotency.get(key) for key, _ in results}
        assert {key: record and spelled(record.value) for key, record in found.items()} == dict(expected)

    def test_caps_keep_the_last_of_a_batch(self, backend: StorageBackend, storage: Storage) -> None:
        capped = open_for_test(backend, FakeClock(), retention=RetentionPolicy(idempotency_cap=2))
        storage.idempotency.put("z", 0)
        storage.idempotency.put_many([("b", 1), ("d", 2), ("a", 3), ("c", 4), ("z", 5)])
        assert capped.prune().idempotency == 3
        assert [key for key in "abcdz" if storage.idempotency.get(key)] == ["a", "c"]

    @pytest.mark.parametrize(
        "bad", ["ab", None, 1, ["ab"], [("a",)], [("a", 1, START, 2)], [["a", 1]], [("", 1)]]
    )
    def test_what_is_no_batch_puts_nothing(self, storage: Storage, bad: Any) -> None:
        if isinstance(bad, list):
            bad = [("good", 1), *bad]
        with pytest.raises(InvalidValue):
            storage.idempotency.put_many(bad)
        assert storage.idempotency.get("good") is None

    def test_a_batch_of_no_results(self, storage: Storage) -> None:
        assert storage.idempotency.put_many([]) == []


def _claims(keys: str, *, token: int, now: datetime, fingerprint: str | None = None) -> list[KeyClaim]:
    return [KeyClaim(key, fingerprint, token + place, now + MINUTE, now) for place, key in enumerate(keys)]


def _tokens(rows: Sequence[IdempotencyRow | None]) -> list[int | None]:
    return [None if row is None else row.token for row in rows]


class EngineBatchesContract(Contract):
    """The plural methods of an engine, which group commit calls."""

    def test_claims_are_taken_as_one_by_one(self, backend: StorageBackend, storage: Storage) -> None:
        store = backend.idempotency
        storage.idempotency.put("d", {"n": 1})
        assert _tokens(store.claim_many(_claims("cab", token=10, now=START))) == [10, 11, 12]
        rows = store.claim_many(_claims("dcxa", token=20, now=START + SECOND))
        assert _tokens(rows) == [None, 10, 22, 11]
        assert [row and (row.key, row.completed, row.value) for row in rows] == [
            ("d", True, {"n": 1}),
            ("c", False, None),
            ("x", False, None),
            ("a", False, None),
        ]
        assert rows[1] == IdempotencyRow("c", False, None, START, None, 10, START + MINUTE)

    def test_leases_that_ran_out_are_taken_over(self, backend: StorageBackend, storage: Storage) -> None:
        store = backend.idempotency
        store.claim_many(
            [
                KeyClaim("over", "f", 1, START + MINUTE, START),
                KeyClaim("other", "f", 2, START + MINUTE, START),
                KeyClaim("held", None, 3, START + MINUTE + TICK, START),
            ]
        )
        later = START + MINUTE
        rows = store.claim_many(
            [
                KeyClaim("held", None, 4, later + MINUTE, later),
                KeyClaim("other", "g", 5, later + MINUTE, later),
                KeyClaim("over", None, 6, later + MINUTE, later),
            ]
        )
        assert _tokens(rows) == [3, 2, 6]
        assert rows[2] == IdempotencyRow("over", False, None, later, "f", 6, later + MINUTE)

    def test_each_claim_has_its_own_time(self, backend: StorageBackend, storage: Storage) -> None:
        first, second = START, START + 2 * MINUTE
        backend.idempotency.claim_many(_claims("ab", token=1, now=first))
        claims = [
            *_claims("a", token=11, now=second),
            *_claims("b", token=12, now=first),
        ]
        assert _tokens(backend.idempotency.claim_many(claims)) == [11, 2]

    def test_caps_keep_the_last_claims(self, backend: StorageBackend, storage: Storage) -> None:
        backend.idempotency.claim_many(_claims("bdac", token=1, now=START))
        edge = backend.retention.newest_beyond("idempotency", 2)
        assert edge is not None
        assert backend.retention.delete_up_to("idempotency", edge, limit=100) == 2
        states = [storage.idempotency.claim(key).state for key in "bdac"]
        assert states == [ClaimState.ACQUIRED] * 2 + [ClaimState.IN_PROGRESS] * 2

    def test_counts_add_up(self, backend: StorageBackend, storage: Storage) -> None:
        one, other = fresh_name(), fresh_name()
        backend.metrics.increment_many({one: 5, other: -7})
        backend.metrics.increment_many({})
        backend.metrics.increment_many({other: 2**60, one: 0})
        counters = storage.metrics.read().counters
        assert (counters[one], counters[other]) == (5, 2**60 - 7)

    def test_latencies_add_up(self, backend: StorageBackend, storage: Storage) -> None:
        before = storage.metrics.read().latency
        longest = round(before.max_ms * 1e6) + 1_000_000
        backend.metrics.observe_latencies(3, longest + 500_000, longest)
        backend.metrics.observe_latencies(2, 300_000, 200_000)
        after = storage.metrics.read().latency
        assert after.count == before.count + 5
        assert after.total_ms * 1e6 == pytest.approx(before.total_ms * 1e6 + longest + 800_000, abs=1)
        assert round(after.max_ms * 1e6) == longest


class BatchesContract(NonceBatchesContract, KeyBatchesContract, EngineBatchesContract):
    pass
