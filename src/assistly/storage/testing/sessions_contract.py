"""Sessions."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue, VersionConflict
from ..records import Session
from ..storage import Storage
from .fixtures import DAY, HOUR, START, Contract, FakeClock, empty, examples, together
from .strategies import json_values, names, spelled, stored


class SessionsContract(Contract):
    def test_get_never_writes(self, storage: Storage) -> None:
        assert storage.sessions.get("user") is None
        assert storage.sessions.list() == []

    def test_versions_count_the_writes(self, storage: Storage, clock: FakeClock) -> None:
        first = storage.sessions.put("user", {"n": 1})
        assert first == Session("user", {"n": 1}, 1, START)
        assert storage.sessions.get("user") == first
        clock.advance(HOUR)
        second = storage.sessions.put("user", {"n": 1})
        assert second == Session("user", {"n": 1}, 2, START + HOUR)
        assert storage.sessions.get("user") == second
        assert storage.sessions.list() == [second]

    def test_the_time_of_a_session_may_be_given(self, storage: Storage) -> None:
        assert storage.sessions.put("user", 1, now=START + DAY).updated_at == START + DAY
        assert storage.sessions.update("user", lambda n: n + 1, now=START).updated_at == START

    def test_an_expected_version(self, storage: Storage) -> None:
        first = storage.sessions.put("user", "a", expected_version=0)
        assert first.version == 1
        second = storage.sessions.put("user", "b", expected_version=1)
        assert (second.version, second.data) == (2, "b")
        for wrong in (0, 1, 3):
            with pytest.raises(VersionConflict) as caught:
                storage.sessions.put("user", "c", expected_version=wrong)
            assert caught.value.current == second
        assert storage.sessions.get("user") == second

    def test_a_version_of_no_session(self, storage: Storage) -> None:
        with pytest.raises(VersionConflict) as caught:
            storage.sessions.put("user", "a", expected_version=1)
        assert caught.value.current is None
        assert storage.sessions.get("user") is None

    @pytest.mark.parametrize("version", [-1, True, 1.0, "1"])
    def test_a_version_is_an_int_from_zero(self, storage: Storage, version: Any) -> None:
        with pytest.raises(InvalidValue, match="expected_version"):
            storage.sessions.put("user", "a", expected_version=version)
        assert storage.sessions.get("user") is None

    def test_delete(self, storage: Storage) -> None:
        storage.sessions.put("user", 1)
        kept = storage.sessions.put("User", 2)
        assert storage.sessions.delete("user") is True
        assert storage.sessions.get("user") is None
        assert storage.sessions.delete("user") is False
        assert storage.sessions.list() == [kept]
        assert storage.sessions.put("user", 3, expected_version=0).version == 1

    def test_values_are_copies(self, storage: Storage) -> None:
        data: dict[str, Any] = {"list": [1]}
        session = storage.sessions.put("user", data)
        data["list"].append(2)
        session.data["list"].append(3)
        read = storage.sessions.get("user")
        assert read is not None
        assert read.data == {"list": [1]}
        read.data["list"].append(4)
        assert storage.sessions.list()[0].data == {"list": [1]}

    def test_lists_sessions_by_code_point(self, storage: Storage) -> None:
        users = [
            "\U00010000",
            "\uffff",
            "é",
            "z",
            "a",
            "Z",
            "A",
            "10",
            "9",
            " ",
            "_",
            "a b",
            "ab",
            "a-b",
            "e\u0301",
        ]
        for user in users:
            storage.sessions.put(user, None)
        assert [session.user_id for session in storage.sessions.list()] == sorted(users)

    def test_pages(self, storage: Storage) -> None:
        sessions = [storage.sessions.put(user, user) for user in "abcde"]
        assert storage.sessions.list(limit=2) == sessions[:2]
        assert storage.sessions.list(after=sessions[1], limit=2) == sessions[2:4]
        assert storage.sessions.list(after="b", limit=2) == sessions[2:4]
        storage.sessions.delete("b")
        assert storage.sessions.list(after="b") == storage.sessions.list(after="bb") == sessions[2:]
        assert storage.sessions.list(after="e") == []

    @given(st.sets(names, max_size=8), st.integers(1, 3))
    @examples(20)
    def test_session_pages_make_up_the_whole(
        self, backend: StorageBackend, storage: Storage, users: set[str], limit: int
    ) -> None:
        empty(backend)
        for user in users:
            storage.sessions.put(user, user)
        pages: list[Session] = []
        while page := storage.sessions.list(limit=limit, after=pages[-1] if pages else None):
            pages += page
        assert [session.user_id for session in pages] == sorted(users)
        assert [session.data for session in pages] == sorted(users)

    @pytest.mark.parametrize(
        "bad",
        [{"limit": 0}, {"limit": 1001}, {"limit": True}, {"after": ""}, {"after": 1}, {"after": "\ud800"}],
    )
    def test_listing_sessions_checks_its_arguments(self, storage: Storage, bad: dict[str, Any]) -> None:
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.sessions.list(**bad)

    @given(names, json_values())
    @examples(40)
    def test_every_session_comes_back_equal(
        self, backend: StorageBackend, storage: Storage, user: str, data: Any
    ) -> None:
        empty(backend)
        session = storage.sessions.put(user, data)
        assert session.user_id == user
        assert spelled(session.data) == spelled(stored(data))
        assert storage.sessions.list() == [session]
        read = storage.sessions.get(user)
        assert read is not None
        assert spelled(read.data) == spelled(stored(data))


class SessionUpdatesContract(Contract):
    def test_update_changes_what_is_there(self, storage: Storage, clock: FakeClock) -> None:
        storage.sessions.put("user", {"n": 1})
        clock.advance(HOUR)
        updated = storage.sessions.update("user", lambda data: {**data, "m": 2})
        assert updated == Session("user", {"n": 1, "m": 2}, 2, START + HOUR)
        assert storage.sessions.get("user") == updated

    def test_update_starts_from_the_default(self, storage: Storage) -> None:
        default: dict[str, Any] = {"list": []}

        def change(data: Any) -> Any:
            data["list"].append(1)
            return data

        assert storage.sessions.update("user", change, default=default).data == {"list": [1]}
        assert default == {"list": []}
        assert storage.sessions.update("user", change, default=default) == Session(
            "user", {"list": [1, 1]}, 2, START
        )

    def test_without_a_default_it_starts_from_none(self, storage: Storage) -> None:
        seen: list[Any] = []

        def change(data: Any) -> Any:
            seen.append(data)
            return 1

        assert storage.sessions.update("user", change).data == 1
        assert set(seen) == {None}
        assert storage.sessions.get("user") == Session("user", 1, 1, START)

    def test_a_change_that_returns_nothing_changes_nothing(self, storage: Storage) -> None:
        """The function changed its copy and forgot `return`. Only `put` stores None."""
        before = storage.sessions.put("user", {"list": [1]})
        none = storage.sessions.put("none", None)
        for change in (lambda data: data["list"].append(2), lambda _: None):
            with pytest.raises(InvalidValue, match="change returned None"):
                storage.sessions.update("user", change)
            with pytest.raises(InvalidValue, match="change returned None"):
                storage.sessions.update("new", change, default={"list": []})
        with pytest.raises(InvalidValue, match="change returned None"):
            storage.sessions.update("none", lambda data: data)
        assert storage.sessions.list() == [none, before]

    def test_a_change_may_return_its_argument(self, storage: Storage) -> None:
        def change(data: Any) -> Any:
            data["list"].append(2)
            return data

        storage.sessions.put("user", {"list": [1]})
        assert storage.sessions.update("user", change).data == {"list": [1, 2]}
        empties: list[Any] = [{}, [], 0, False, ""]
        for value in empties:
            storage.sessions.put("user", 1)
            assert storage.sessions.update("user", partial(_instead, value)).data == value

    def test_a_change_that_raises_changes_nothing(self, storage: Storage) -> None:
        before = storage.sessions.put("user", {"list": [1]})

        def change(data: Any) -> Any:
            data["list"].append(2)
            raise LookupError("on purpose")

        with pytest.raises(LookupError, match="on purpose"):
            storage.sessions.update("user", change)
        assert storage.sessions.get("user") == before
        with pytest.raises(LookupError):
            storage.sessions.update("other", change, default={"list": []})
        assert storage.sessions.list() == [before]

    @pytest.mark.parametrize(
        "data", [(1, 2), {1}, {"n": float("nan")}, {1: "a"}, "\x00", NotImplemented, iter([1]), len]
    )
    def test_a_change_must_return_json(self, storage: Storage, data: Any) -> None:
        before = storage.sessions.put("user", 1)
        with pytest.raises(InvalidValue):
            storage.sessions.update("user", lambda _: data)
        assert storage.sessions.get("user") == before

    def test_the_default_must_be_json(self, storage: Storage) -> None:
        with pytest.raises(InvalidValue, match="default"):
            storage.sessions.update("user", lambda data: data, default={1, 2})  # type: ignore[arg-type]
        assert storage.sessions.list() == []

    def test_no_update_is_lost(self, storage: Storage) -> None:
        def work(_: int) -> None:
            for _ in range(10):
                storage.sessions.update("user", lambda n: n + 1, default=0)

        together(4, work)
        session = storage.sessions.get("user")
        assert session is not None
        assert (session.data, session.version) == (40, 40)


def _instead(value: Any, _: Any) -> Any:
    return value
