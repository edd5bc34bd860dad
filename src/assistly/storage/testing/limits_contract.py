"""Limits of platforms: how many tokens there are."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue
from ..records import Platform
from ..storage import Storage
from .fixtures import (
    DAY,
    END_OF_TIME,
    HOUR,
    MINUTE,
    SECOND,
    START,
    TICK,
    Contract,
    FakeClock,
    empty,
    examples,
    together,
)
from .model import Model

_takes = st.tuples(st.just("take"), st.integers(1, 12))
_backs = st.tuples(st.just("give_back"), st.integers(1, 3))
_limits = st.tuples(
    st.just("limit"),
    st.none()
    | st.tuples(st.integers(1, 10), st.sampled_from([TICK, 7 * TICK, SECOND, MINUTE + TICK, 3 * HOUR])),
)
_steps = st.sampled_from(
    [*[timedelta(0)] * 3, TICK, 3 * TICK, SECOND / 7, SECOND, 20 * SECOND, MINUTE, HOUR, -TICK, -MINUTE]
)


class LimitsContract(Contract):
    """`limit`, `take` and `give_back`."""

    def test_a_limit_begins_with_all_of_its_tokens(self, storage: Storage) -> None:
        limited = storage.platforms.limit("x", 5, MINUTE)
        assert limited == Platform("x", False, None, None, None, (5, MINUTE), START)
        assert storage.platforms.get("x") == limited
        assert storage.platforms.take("x", 2) == 2
        assert storage.platforms.take("x", 100) == 3
        assert storage.platforms.take("x", 1) == 0
        assert storage.platforms.take("y", 100) == 100

    def test_what_is_available_is_what_could_be_taken(self, storage: Storage, clock: FakeClock) -> None:
        assert storage.platforms.available("x") is None
        storage.platforms.limit("x", 3, MINUTE)
        assert [storage.platforms.available("x") for _ in range(2)] == [3, 3]
        storage.platforms.take("x", 3)
        assert storage.platforms.available("x") == 0
        assert storage.platforms.available("x", now=clock() + 40 * SECOND) == 2
        clock.advance(20 * SECOND)
        assert storage.platforms.available("x") == 1
        assert storage.platforms.take("x", 9) == 1
        storage.platforms.limit("x", None)
        assert storage.platforms.available("x") is None

    def test_tokens_come_back_evenly(self, storage: Storage, clock: FakeClock) -> None:
        storage.platforms.limit("x", 3, MINUTE)
        assert storage.platforms.take("x", 3) == 3
        for _ in range(4):
            clock.advance(20 * SECOND - TICK)
            assert storage.platforms.take("x", 9) == 0
            clock.advance(TICK)
            assert storage.platforms.take("x", 9) == 1
        clock.advance(MINUTE - TICK)
        assert storage.platforms.take("x", 9) == 2
        clock.advance(TICK)
        assert storage.platforms.take("x", 9) == 1

    def test_a_third_of_a_token_is_not_rounded(self, storage: Storage, clock: FakeClock) -> None:
        """In three windows of a length that three does not divide, there are exactly three times as many."""
        per = SECOND + TICK
        storage.platforms.limit("x", 3, per)
        assert storage.platforms.take("x", 3) == 3
        taken = 0
        for _ in range(27):
            clock.advance(per // 9)
            taken += storage.platforms.take("x", 9)
        clock.time = START + 3 * per
        assert taken + storage.platforms.take("x", 9) == 9

    def test_no_more_tokens_than_the_limit_are_kept(self, storage: Storage, clock: FakeClock) -> None:
        storage.platforms.limit("x", 5, MINUTE)
        clock.advance(DAY)
        assert storage.platforms.take("x", 100) == 5
        clock.time = END_OF_TIME
        assert storage.platforms.take("x", 100) == 5

    def test_a_clock_that_is_set_back(self, storage: Storage, clock: FakeClock) -> None:
        storage.platforms.limit("x", 2, MINUTE)
        assert storage.platforms.take("x", 2) == 2
        clock.advance(-HOUR)
        assert storage.platforms.take("x", 1) == 0
        storage.platforms.give_back("x", 1)
        assert storage.platforms.take("x", 2) == 1
        clock.time = START
        assert storage.platforms.take("x", 1) == 0
        clock.time = START + 30 * SECOND
        assert storage.platforms.take("x", 2) == 1

    def test_a_limit_that_is_set_while_the_clock_is_back(self, storage: Storage, clock: FakeClock) -> None:
        storage.platforms.limit("x", 2, MINUTE)
        assert storage.platforms.take("x", 2) == 2
        clock.advance(-HOUR)
        storage.platforms.limit("x", 3, MINUTE)
        clock.time = START
        assert storage.platforms.take("x", 9) == 0

    @pytest.mark.parametrize(("count", "left"), [(10, 3), (3, 3), (2, 2), (1, 1)])
    def test_another_limit_keeps_what_was_taken(self, storage: Storage, count: int, left: int) -> None:
        storage.platforms.limit("x", 5, MINUTE)
        storage.platforms.take("x", 2)
        changed = storage.platforms.limit("x", count, HOUR)
        assert changed.limit == (count, HOUR)
        assert storage.platforms.take("x", 100) == left

    def test_the_same_limit_again_changes_nothing(self, storage: Storage, clock: FakeClock) -> None:
        storage.platforms.limit("x", 3, MINUTE)
        storage.platforms.take("x", 3)
        clock.advance(10 * SECOND)
        again = storage.platforms.limit("x", 3, MINUTE)
        assert again.updated_at == START + 10 * SECOND
        clock.advance(10 * SECOND - TICK)
        assert storage.platforms.take("x", 3) == 0
        clock.advance(TICK)
        assert storage.platforms.take("x", 3) == 1

    def test_no_limit(self, storage: Storage, clock: FakeClock) -> None:
        storage.platforms.limit("x", 1, HOUR)
        storage.platforms.take("x", 1)
        clock.advance(TICK)
        free = storage.platforms.limit("x", None)
        assert free == Platform("x", False, None, None, None, None, START + TICK)
        assert storage.platforms.take("x", 1000) == 1000
        storage.platforms.give_back("x", 1000)
        assert storage.platforms.get("x") == free
        assert storage.platforms.limit("y", None) == Platform(
            "y", False, None, None, None, None, START + TICK
        )

    def test_tokens_are_given_back(self, storage: Storage) -> None:
        storage.platforms.limit("x", 5, MINUTE)
        assert storage.platforms.take("x", 5) == 5
        storage.platforms.give_back("x", 2)
        assert storage.platforms.take("x", 5) == 2
        storage.platforms.give_back("x", 1000)
        assert storage.platforms.take("x", 1000) == 5

    def test_a_pause_changes_no_token(self, storage: Storage) -> None:
        storage.platforms.limit("x", 5, MINUTE)
        storage.platforms.take("x", 1)
        storage.platforms.pause("x")
        assert storage.platforms.take("x", 2) == 2
        storage.platforms.resume("x")
        assert storage.platforms.take("x", 9) == 2

    def test_the_largest_limit(self, storage: Storage, clock: FakeClock) -> None:
        most, longest = 10**9, 366 * DAY
        limited = storage.platforms.limit("x", most, longest)
        assert limited.limit == (most, longest)
        assert storage.platforms.take("x", most) == most
        clock.advance(longest / 2)
        assert storage.platforms.take("x", most) == most // 2
        clock.advance(timedelta(milliseconds=31))
        assert storage.platforms.take("x", most) == 0
        clock.advance(timedelta(milliseconds=1))
        assert storage.platforms.take("x", most) == 1

    def test_the_shortest_limit(self, storage: Storage, clock: FakeClock) -> None:
        storage.platforms.limit("x", 10**9, TICK)
        assert storage.platforms.take("x", 10**9) == 10**9
        assert storage.platforms.take("x", 1) == 0
        clock.advance(TICK)
        assert storage.platforms.take("x", 10**9) == 10**9

    @pytest.mark.parametrize(
        ("count", "per", "match"),
        [
            (0, MINUTE, "count"),
            (-1, MINUTE, "count"),
            (10**9 + 1, MINUTE, "count"),
            (1.0, MINUTE, "count"),
            (True, MINUTE, "count"),
            ("1", MINUTE, "count"),
            (1, None, "per"),
            (1, timedelta(0), "per"),
            (1, -MINUTE, "per"),
            (1, 366 * DAY + TICK, "per"),
            (1, 60, "per"),
            (None, MINUTE, "per"),
        ],
    )
    def test_wrong_limits(self, storage: Storage, count: Any, per: Any, match: str) -> None:
        before = storage.platforms.limit("x", 5, MINUTE)
        for name in ("x", "y"):
            with pytest.raises(InvalidValue, match=match):
                storage.platforms.limit(name, count, per)
        assert storage.platforms.list() == [before]

    @pytest.mark.parametrize("number", [0, -1, 10**9 + 1, 1.0, True, "1", None])
    def test_wrong_numbers_of_tokens(self, storage: Storage, number: Any) -> None:
        storage.platforms.limit("x", 5, MINUTE)
        for name in ("x", "y"):
            with pytest.raises(InvalidValue, match="most"):
                storage.platforms.take(name, number)
            with pytest.raises(InvalidValue, match="tokens"):
                storage.platforms.give_back(name, number)
        assert storage.platforms.take("x", 9) == 5

    def test_no_token_is_handed_out_twice(self, storage: Storage) -> None:
        storage.platforms.limit("x", 30, HOUR)

        def work(_: int) -> int:
            return sum(storage.platforms.take("x", 3) for _ in range(5))

        assert sum(together(4, work)) == 30
        assert storage.platforms.take("x", 1) == 0

    def test_no_token_is_lost(self, storage: Storage) -> None:
        storage.platforms.limit("x", 30, HOUR)

        def work(_: int) -> None:
            for _ in range(5):
                taken = storage.platforms.take("x", 3)
                if taken:
                    storage.platforms.give_back("x", taken)

        together(4, work)
        assert storage.platforms.take("x", 100) == 30

    @given(st.lists(st.tuples(_steps, _takes | _takes | _backs | _limits), max_size=25))
    @examples(40)
    def test_tokens_are_those_of_exact_fractions(
        self,
        backend: StorageBackend,
        storage: Storage,
        clock: FakeClock,
        program: list[tuple[timedelta, tuple[str, Any]]],
    ) -> None:
        empty(backend)
        clock.reset()
        model = Model(clock)
        for side in (storage, model):
            side.platforms.limit("x", 5, MINUTE)
        for step, (name, argument) in program:
            clock.advance(step)
            if name == "limit":
                arguments: tuple[Any, ...] = (None,) if argument is None else argument
            else:
                arguments = (argument,)
            expected = getattr(model.platforms, name)("x", *arguments)
            assert getattr(storage.platforms, name)("x", *arguments) == expected
