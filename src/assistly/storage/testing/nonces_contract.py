"""Nonces."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue
from ..retention import RetentionPolicy
from ..storage import Storage
from .fixtures import DAY, START, TICK, Contract, FakeClock, empty, examples, open_for_test, together
from .strategies import moments, names

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NoncesContract(Contract):
    def test_true_the_first_time_only(self, storage: Storage, clock: FakeClock) -> None:
        assert storage.nonces.seen("nonce") is False
        assert storage.nonces.register("nonce") is True
        assert storage.nonces.seen("nonce") is True
        assert storage.nonces.register("nonce") is False
        clock.advance(999 * DAY)
        assert storage.nonces.register("nonce") is False
        assert storage.nonces.register("nonce", START - DAY) is False

    def test_to_look_does_not_register(self, storage: Storage) -> None:
        assert storage.nonces.seen("nonce") is False
        assert storage.nonces.seen("nonce") is False
        assert storage.nonces.register("nonce") is True

    def test_nonces_differ_by_every_character(self, storage: Storage) -> None:
        nonces = [
            "a",
            "A",
            "a ",
            " a",
            "é",
            "e\u0301",
            "\ufb01",
            "fi",
            "\U0001f600",
            "1",
            "01",
            "%",
            "_",
            "'",
        ]
        assert [storage.nonces.register(nonce) for nonce in nonces] == [True] * len(nonces)
        assert [storage.nonces.register(nonce) for nonce in nonces] == [False] * len(nonces)

    @given(st.lists(names, min_size=1, max_size=5))
    @examples(20)
    def test_any_text_is_a_nonce(self, backend: StorageBackend, storage: Storage, nonces: list[str]) -> None:
        empty(backend)
        known: set[str] = set()
        for nonce in nonces:
            assert storage.nonces.seen(nonce) is (nonce in known)
            assert storage.nonces.register(nonce) is (nonce not in known)
            known.add(nonce)

    def test_of_many_one_registers(self, storage: Storage) -> None:
        won = together(4, lambda _: [storage.nonces.register(nonce) for nonce in "abc"])
        assert [column.count(True) for column in zip(*won, strict=True)] == [1, 1, 1]

    def test_exactly_that_old_is_kept(self, storage: Storage) -> None:
        edge = START - DAY
        storage.nonces.register("kept", edge)
        storage.nonces.register("old", edge - timedelta(milliseconds=1))
        assert storage.prune().nonces == 1
        assert (storage.nonces.seen("kept"), storage.nonces.seen("old")) == (True, False)
        assert storage.nonces.register("old") is True
        assert storage.nonces.register("kept") is False

    @pytest.mark.parametrize(
        ("timestamp", "now", "kept"),
        [
            (TICK, timedelta(microseconds=999), True),
            (timedelta(microseconds=999), timedelta(microseconds=1000), False),
            (timedelta(microseconds=1999), timedelta(microseconds=1000), True),
            (-TICK, TICK, False),
            (-TICK, -TICK, True),
            (timedelta(milliseconds=-1), -TICK, True),
            (timedelta(microseconds=-1001), timedelta(milliseconds=-1), False),
        ],
    )
    @pytest.mark.parametrize("around", [START, _EPOCH, datetime(1850, 1, 1, tzinfo=UTC)])
    def test_milliseconds_are_rounded_down(
        self, storage: Storage, around: datetime, timestamp: timedelta, now: timedelta, kept: bool
    ) -> None:
        storage.nonces.register("nonce", around + timestamp)
        assert storage.prune(now=around + DAY + now).nonces == int(not kept)
        assert storage.nonces.seen("nonce") is kept

    def test_a_second_registration_does_not_renew(self, storage: Storage) -> None:
        storage.nonces.register("nonce", START - 2 * DAY)
        assert storage.nonces.register("nonce", START) is False
        assert storage.prune().nonces == 1

    def test_the_time_is_now_by_default(self, storage: Storage, clock: FakeClock) -> None:
        storage.nonces.register("nonce")
        clock.advance(DAY)
        assert storage.prune().nonces == 0
        clock.advance(timedelta(milliseconds=1))
        assert storage.prune(force=True).nonces == 1

    def test_without_a_clock_the_engines_own_tells_the_time(self, backend: StorageBackend) -> None:
        storage = open_for_test(backend, None)
        slack = timedelta(milliseconds=50)
        before = backend.now()
        storage.nonces.register("nonce")
        after = backend.now()
        assert storage.prune(force=True, now=before + DAY - slack).nonces == 0
        assert storage.prune(force=True, now=after + DAY + slack).nonces == 1

    def test_a_clock_that_is_wrong_registers_nothing(self, backend: StorageBackend) -> None:
        storage = open_for_test(backend, lambda: START.replace(tzinfo=None))
        with pytest.raises(InvalidValue, match="clock"):
            storage.nonces.register("nonce")
        assert storage.nonces.register("nonce", START) is True

    @given(st.lists(st.integers(-3000, 3000), max_size=8), st.integers(-3000, 3000), moments)
    @examples(25)
    def test_nonces_kept_are_those_of_a_naive_filter(
        self, backend: StorageBackend, clock: FakeClock, ticks: list[int], now: int, around: datetime
    ) -> None:
        empty(backend)
        storage = open_for_test(backend, clock, retention=RetentionPolicy(nonces_age=timedelta(hours=1)))
        around = min(max(around, datetime(2, 1, 1, tzinfo=UTC)), datetime(9990, 1, 1, tzinfo=UTC))
        for n, tick in enumerate(ticks):
            storage.nonces.register(f"n{n}", around + tick * TICK)
        storage.prune(now=around + timedelta(hours=1) + now * TICK)

        def whole(ticks: int) -> int:
            return (around + ticks * TICK - _EPOCH) // timedelta(milliseconds=1)

        kept = [whole(tick) >= whole(now) for tick in ticks]
        assert [storage.nonces.seen(f"n{n}") for n in range(len(ticks))] == kept
