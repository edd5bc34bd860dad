"""Metrics. They cannot be deleted, so each test counts under names of its own and compares differences."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue
from ..storage import Storage
from .fixtures import Contract, examples, fresh_name, together, undone
from .strategies import contents

_MOST = 2**53 - 1


class MetricsContract(Contract):
    def test_increments_add_up(self, storage: Storage) -> None:
        name, other = fresh_name(), fresh_name()
        assert name not in storage.metrics.read().counters
        storage.metrics.increment(name)
        storage.metrics.increment(name, 41)
        storage.metrics.increment(other, -3)
        counters = storage.metrics.read().counters
        assert (counters[name], counters[other]) == (42, -3)
        assert type(counters[name]) is int
        storage.metrics.increment(name, -50)
        assert storage.metrics.read().counters[name] == -8

    def test_nothing_may_be_added(self, storage: Storage) -> None:
        name = fresh_name()
        storage.metrics.increment(name, 5)
        storage.metrics.increment(name, 0)
        assert storage.metrics.read().counters[name] == 5

    def test_sums_are_exact_beyond_64_bits(self, backend: StorageBackend, storage: Storage) -> None:
        """A group of 1000 calls may add so much at once."""
        name, negative = fresh_name(), fresh_name()
        for _ in range(2):
            backend.metrics.increment_many({name: 1000 * _MOST, negative: -1000 * _MOST})
        storage.metrics.increment(name, 1)
        storage.metrics.increment(negative, -_MOST)
        counters = storage.metrics.read().counters
        assert (counters[name], counters[negative]) == (2000 * _MOST + 1, -2001 * _MOST)

    @pytest.mark.parametrize("by", [_MOST + 1, -_MOST - 1, 10**30, 1.0, True, "1", None])
    def test_an_increment_is_an_int_below_2_to_the_53rd(self, storage: Storage, by: Any) -> None:
        name = fresh_name()
        with pytest.raises(InvalidValue, match="by"):
            storage.metrics.increment(name, by)
        assert name not in storage.metrics.read().counters

    @pytest.mark.parametrize(
        "word",
        ["latency", "latencyMs", "counters", "count", "total_ns", "max", "requestCount", "'\"{}%s:x", "a.b"],
    )
    def test_no_name_is_special(self, storage: Storage, word: str) -> None:
        before = storage.metrics.read()
        storage.metrics.increment(word, 3)
        after = storage.metrics.read()
        assert after.counters == {**before.counters, word: before.counters.get(word, 0) + 3}
        assert after.latency == before.latency

    @given(contents.map(lambda text: text[:100]))
    @examples(15)
    def test_any_text_is_a_name(self, storage: Storage, text: str) -> None:
        name = f"{fresh_name()}{text}"
        storage.metrics.increment(name, 2)
        assert storage.metrics.read().counters[name] == 2

    def test_what_is_read_is_a_copy(self, storage: Storage) -> None:
        name = fresh_name()
        storage.metrics.increment(name)
        storage.metrics.read().counters[name] = 99
        assert storage.metrics.read().counters[name] == 1

    def test_no_increment_is_lost(self, storage: Storage) -> None:
        name = fresh_name()
        before = storage.metrics.read().latency.count

        def work(_: int) -> None:
            for _ in range(25):
                storage.metrics.increment(name)
                storage.metrics.observe_latency(1)

        together(4, work)
        after = storage.metrics.read()
        assert (after.counters[name], after.latency.count - before) == (100, 100)


class LatencyContract(Contract):
    def test_count_total_and_most(self, storage: Storage) -> None:
        before = storage.metrics.read().latency
        for milliseconds in (1.5, 0, 2, 0.25):
            storage.metrics.observe_latency(milliseconds)
        after = storage.metrics.read().latency
        assert after.count == before.count + 4
        assert _nanoseconds(after.total_ms) == _nanoseconds(before.total_ms) + 3_750_000
        assert after.max_ms == max(before.max_ms, 2.0)
        assert (type(after.count), type(after.total_ms), type(after.max_ms)) == (int, float, float)

    def test_counters_are_something_else(self, storage: Storage) -> None:
        before = storage.metrics.read()
        storage.metrics.observe_latency(3)
        assert storage.metrics.read().counters == before.counters

    def test_whole_nanoseconds_are_kept(self, storage: Storage) -> None:
        before = storage.metrics.read().latency
        for _ in range(10):
            storage.metrics.observe_latency(0.1)
        storage.metrics.observe_latency(0.000001)
        storage.metrics.observe_latency(0.0000001)
        after = storage.metrics.read().latency
        assert _nanoseconds(after.total_ms) == _nanoseconds(before.total_ms) + 1_000_001
        assert after.count == before.count + 12

    def test_the_longest_latency(self, storage: Storage) -> None:
        before = storage.metrics.read().latency
        with undone(storage) as tx:
            for _ in range(20):
                tx.metrics.observe_latency(1e12)
            latency = tx.metrics.read().latency
            assert latency.max_ms == 1e12
            assert latency.total_ms - before.total_ms == pytest.approx(2e13)
        assert storage.metrics.read().latency == before

    @pytest.mark.parametrize(
        "milliseconds",
        [-1, -0.001, float("nan"), float("inf"), -float("inf"), 1.0000001e12, 10**400, True, "1", None],
    )
    def test_a_latency_is_a_number_from_zero(self, storage: Storage, milliseconds: Any) -> None:
        before = storage.metrics.read()
        with pytest.raises(InvalidValue, match="milliseconds"):
            storage.metrics.observe_latency(milliseconds)
        assert storage.metrics.read() == before


def _nanoseconds(milliseconds: float) -> int:
    return round(milliseconds * 1_000_000)
