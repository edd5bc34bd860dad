"""Pauses and limits of platforms."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
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
    HOUR,
    MINUTE,
    START,
    TICK,
    Contract,
    FakeClock,
    census,
    empty,
    examples,
    together,
    undone,
)
from .strategies import moments, names

BAD_NAMES: list[Any] = ["", "k" * 513, "a\x00b", "\ud800", 1, None, b"x"]


class PlatformsContract(Contract):
    """What is known of a platform, and `pause` and `resume`."""

    def test_an_unknown_platform(self, storage: Storage) -> None:
        assert storage.platforms.get("x") is None
        assert storage.platforms.list() == []
        assert storage.platforms.resume("x") is False
        assert storage.platforms.take("x", 7) == 7
        storage.platforms.give_back("x", 7)
        assert storage.platforms.list() == []

    def test_a_pause_without_an_end(self, storage: Storage, clock: FakeClock) -> None:
        paused = storage.platforms.pause("x", reason="it is down", by="ann")
        assert paused == Platform("x", True, None, "it is down", "ann", None, START)
        clock.advance(DAY)
        assert storage.platforms.get("x") == paused
        assert storage.platforms.list() == [paused]
        assert storage.platforms.get("X") is None

    def test_a_pause_with_an_end(self, storage: Storage, clock: FakeClock) -> None:
        end = START + HOUR
        paused = storage.platforms.pause("x", until=end)
        assert paused == Platform("x", True, end, None, None, None, START)
        for moment in (START, end - TICK):
            clock.time = moment
            assert storage.platforms.get("x") == paused
        for moment in (end, end + DAY):
            clock.time = moment
            over = Platform("x", False, None, None, None, None, START)
            assert storage.platforms.get("x") == over
            assert storage.platforms.list() == [over]
            assert storage.platforms.resume("x") is False
        assert storage.platforms.get("x", now=end - TICK) == paused
        assert storage.platforms.list(now=end - TICK) == [paused]

    @pytest.mark.parametrize("until", [START, START - DAY, datetime.min.replace(tzinfo=START.tzinfo)])
    def test_a_pause_that_is_over_when_it_begins(self, storage: Storage, until: datetime) -> None:
        assert storage.platforms.pause("x", until=until, reason="r", by="b") == Platform(
            "x", False, None, None, None, None, START
        )

    def test_the_end_of_a_pause_is_told_in_utc(self, storage: Storage) -> None:
        end = (START + HOUR).astimezone(timezone(timedelta(hours=5, minutes=45)))
        until = storage.platforms.pause("x", until=end).paused_until
        assert until == end
        assert until is not None
        assert until.utcoffset() == timedelta(0)

    def test_a_pause_replaces_the_one_before(self, storage: Storage, clock: FakeClock) -> None:
        storage.platforms.pause("x", until=START + DAY, reason="first", by="ann")
        clock.advance(MINUTE)
        second = storage.platforms.pause("x", until=START + HOUR, reason="second")
        assert second == Platform("x", True, START + HOUR, "second", None, None, START + MINUTE)
        third = storage.platforms.pause("x", by="bob")
        assert third == Platform("x", True, None, None, "bob", None, START + MINUTE)
        assert storage.platforms.get("x") == third

    def test_the_time_of_a_pause_may_be_given(self, storage: Storage) -> None:
        paused = storage.platforms.pause("x", until=START - HOUR, now=START - DAY)
        assert paused == Platform("x", True, START - HOUR, None, None, None, START - DAY)
        assert storage.platforms.resume("x", now=START - HOUR) is False
        assert storage.platforms.resume("x", now=START - HOUR - TICK) is True
        platform = storage.platforms.get("x", now=START - DAY)
        assert platform == Platform("x", False, None, None, None, None, START - HOUR - TICK)

    def test_resume(self, storage: Storage, clock: FakeClock) -> None:
        other = storage.platforms.pause("y", reason="r")
        storage.platforms.pause("x", reason="r", by="b")
        clock.advance(HOUR)
        assert storage.platforms.resume("x") is True
        resumed = Platform("x", False, None, None, None, None, START + HOUR)
        assert storage.platforms.get("x") == resumed
        assert storage.platforms.resume("x") is False
        assert storage.platforms.list() == [resumed, other]
        assert storage.platforms.get("x", now=START) == resumed
        assert storage.platforms.pause("x").paused is True

    def test_a_pause_and_a_limit_are_apart(self, storage: Storage, clock: FakeClock) -> None:
        storage.platforms.limit("x", 5, MINUTE)
        paused = storage.platforms.pause("x", reason="r")
        assert paused == Platform("x", True, None, "r", None, (5, MINUTE), START)
        assert storage.platforms.take("x", 3) == 3
        clock.advance(TICK)
        limited = storage.platforms.limit("x", 7, HOUR)
        assert limited == Platform("x", True, None, "r", None, (7, HOUR), START + TICK)
        storage.platforms.resume("x")
        assert storage.platforms.limit("x", None) == Platform(
            "x", False, None, None, None, None, START + TICK
        )
        assert [platform.name for platform in storage.platforms.list()] == ["x"]

    def test_what_is_taken_changes_no_platform(self, storage: Storage, clock: FakeClock) -> None:
        limited = storage.platforms.limit("x", 5, MINUTE)
        clock.advance(HOUR)
        assert storage.platforms.take("x", 3) == 3
        storage.platforms.give_back("x", 1)
        assert storage.platforms.get("x") == limited

    def test_platforms_are_listed_by_code_point(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("assistly.storage.stores.platforms._PAGE", 3)
        odd = ["\U00010000", "\uffff", "é", "z", "a", "Z", "10", "9", " ", "%", "'", "k" * 512]
        for number, name in enumerate(odd):
            if number % 3 != 1:
                storage.platforms.pause(name)
            if number % 3 != 0:
                storage.platforms.limit(name, number + 1, MINUTE)
        found = storage.platforms.list()
        assert [platform.name for platform in found] == sorted(odd)
        for platform in found:
            number = odd.index(platform.name)
            assert platform.paused is (number % 3 != 1)
            assert platform.limit == (None if number % 3 == 0 else (number + 1, MINUTE))
            assert storage.platforms.get(platform.name) == platform

    @given(names, st.none() | moments, st.none() | st.text(alphabet="aé\U0001f600", min_size=1), moments)
    @examples(25)
    def test_every_pause_comes_back_equal(
        self,
        backend: StorageBackend,
        storage: Storage,
        name: str,
        until: datetime | None,
        text: str | None,
        now: datetime,
    ) -> None:
        empty(backend)
        by = None if text is None else text[:100]
        platform = storage.platforms.pause(name, until=until, reason=text, by=by, now=now)
        if until is None or until > now:
            assert platform == Platform(name, True, until, text, by, None, now)
        else:
            assert platform == Platform(name, False, None, None, None, None, now)
        assert storage.platforms.get(name, now=now) == platform
        assert storage.platforms.list(now=now) == [platform]

    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_the_name_of_a_platform(self, storage: Storage, name: Any) -> None:
        calls: list[Callable[[], object]] = [
            lambda: storage.platforms.get(name),
            lambda: storage.platforms.pause(name),
            lambda: storage.platforms.pause_at_least(name, START + HOUR),
            lambda: storage.platforms.resume(name),
            lambda: storage.platforms.limit(name, 1, MINUTE),
            lambda: storage.platforms.take(name, 1),
            lambda: storage.platforms.give_back(name, 1),
        ]
        for call in calls:
            with pytest.raises(InvalidValue, match="platform"):
                call()
        assert storage.platforms.list() == []

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("until", datetime(2026, 1, 15)),  # noqa: DTZ001
            ("until", "2026-01-15"),
            ("until", 5),
            ("reason", 5),
            ("reason", "a\x00b"),
            ("reason", "\ud800"),
            ("by", ""),
            ("by", 5),
            ("by", "k" * 513),
            ("now", datetime(2026, 1, 15)),  # noqa: DTZ001
            ("now", 5),
        ],
    )
    def test_wrong_arguments_of_a_pause(self, storage: Storage, argument: str, value: Any) -> None:
        before = storage.platforms.pause("x", reason="r", by="b")
        with pytest.raises(InvalidValue, match=argument):
            storage.platforms.pause("x", **{argument: value})
        if argument != "now":
            with pytest.raises(InvalidValue, match=argument):
                storage.platforms.pause_at_least("y", **{"until": START + HOUR, argument: value})
        assert storage.platforms.list() == [before]

    @pytest.mark.parametrize("now", [datetime(2026, 1, 15), 5, "now"])  # noqa: DTZ001
    def test_the_time_of_a_call_is_aware(self, storage: Storage, now: Any) -> None:
        storage.platforms.pause("x")
        storage.platforms.limit("x", 1, MINUTE)
        before = census(storage)
        calls: list[Callable[[], object]] = [
            lambda: storage.platforms.get("x", now=now),
            lambda: storage.platforms.list(now=now),
            lambda: storage.platforms.resume("x", now=now),
            lambda: storage.platforms.limit("x", 2, MINUTE, now=now),
            lambda: storage.platforms.take("x", 1, now=now),
            lambda: storage.platforms.give_back("x", 1, now=now),
        ]
        for call in calls:
            with pytest.raises(InvalidValue, match="now"):
                call()
        assert census(storage) == before
        assert storage.platforms.take("x", 2) == 1

    def test_pauses_and_limits_in_transactions(self, storage: Storage) -> None:
        storage.platforms.limit("x", 5, MINUTE)
        before = storage.platforms.pause("x", reason="before")
        with undone(storage) as tx:
            assert tx.platforms.resume("x") is True
            tx.platforms.pause("y")
            tx.platforms.limit("x", 1, HOUR)
            assert tx.platforms.take("x", 9) == 1
            assert [platform.paused for platform in tx.platforms.list()] == [False, True]
        assert storage.platforms.list() == [before]
        with storage.transaction() as tx:
            tx.platforms.resume("x")
            assert tx.platforms.take("x", 4) == 4
            with undone(tx) as inner:
                inner.platforms.take("x", 1)
                inner.platforms.pause("x")
            assert tx.platforms.take("x", 4) == 1
        (platform,) = storage.platforms.list()
        assert platform.paused is False
        assert storage.platforms.take("x", 4) == 0


class PauseAtLeastContract(Contract):
    """A worker's pause does not shorten another one."""

    @pytest.mark.parametrize("until", [None, START + HOUR, START + HOUR + TICK])
    def test_a_pause_that_is_long_enough_stays(
        self, storage: Storage, clock: FakeClock, until: datetime | None
    ) -> None:
        longer = storage.platforms.pause("x", until=until, reason="by hand", by="ann")
        clock.advance(MINUTE)
        answer = storage.platforms.pause_at_least("x", START + HOUR, reason="rate limit", by="w")
        assert answer == storage.platforms.get("x") == longer

    def test_a_shorter_pause_is_replaced(self, storage: Storage, clock: FakeClock) -> None:
        storage.platforms.pause("x", until=START + HOUR - TICK, reason="by hand", by="ann")
        clock.advance(MINUTE)
        answer = storage.platforms.pause_at_least("x", START + HOUR, reason="rate limit", by="w")
        longer = Platform("x", True, START + HOUR, "rate limit", "w", None, START + MINUTE)
        assert answer == storage.platforms.get("x") == longer

    @pytest.mark.parametrize("state", ["unknown", "limited", "resumed", "over"])
    def test_a_platform_that_is_not_paused(self, storage: Storage, clock: FakeClock, state: str) -> None:
        limit = None
        if state == "limited":
            limit = storage.platforms.limit("x", 3, MINUTE).limit
        elif state != "unknown":
            storage.platforms.pause("x", until=START + MINUTE if state == "over" else None)
        clock.advance(HOUR)
        if state == "resumed":
            storage.platforms.resume("x")
        answer = storage.platforms.pause_at_least("x", START + 2 * HOUR)
        expected = Platform("x", True, START + 2 * HOUR, None, None, limit, START + HOUR)
        assert answer == storage.platforms.get("x") == expected

    def test_an_end_is_needed(self, storage: Storage) -> None:
        with pytest.raises(InvalidValue, match="until"):
            storage.platforms.pause_at_least("x", None)  # type: ignore[arg-type]
        assert storage.platforms.list() == []

    def test_the_longest_of_many_pauses_stays(self, storage: Storage) -> None:
        ends = [START + number * MINUTE for number in (3, 1, 4, 2)]
        together(4, lambda number: storage.platforms.pause_at_least("x", ends[number]))
        platform = storage.platforms.get("x")
        assert platform is not None
        assert platform.paused_until == max(ends)
