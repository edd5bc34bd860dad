"""Approvals."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..errors import AlreadyExists, InvalidValue, NotFound, StatusConflict
from ..records import Approval
from ..storage import Storage
from .fixtures import HOUR, SECOND, START, TICK, Contract, FakeClock, census, empty, examples, together
from .strategies import json_values, moments, names, near, spelled, stored


class ApprovalsContract(Contract):
    def test_a_new_approval(self, storage: Storage) -> None:
        approval = storage.approvals.add("id", {"text": "hello"})
        assert approval == Approval("id", "pending", {"text": "hello"}, START, None, approval.sequence)
        assert type(approval.sequence) is int
        assert storage.approvals.get("id") == approval
        assert storage.approvals.get("ID") is None

    def test_status_and_time_may_be_given(self, storage: Storage) -> None:
        approval = storage.approvals.add("id", None, status="draft", created_at=START - HOUR)
        assert (approval.status, approval.payload, approval.created_at) == ("draft", None, START - HOUR)
        assert storage.approvals.get("id") == approval

    def test_an_id_is_used_once(self, storage: Storage, clock: FakeClock) -> None:
        approval = storage.approvals.add("id", 1)
        clock.advance(HOUR)
        for _ in range(2):
            with pytest.raises(AlreadyExists):
                storage.approvals.add("id", 2, status="other")
        assert storage.approvals.list() == [approval]
        storage.approvals.decide("id", "approved")
        with pytest.raises(AlreadyExists):
            storage.approvals.add("id", 2)

    def test_approval_payloads_are_copies(self, storage: Storage) -> None:
        payload: dict[str, Any] = {"list": [1]}
        approval = storage.approvals.add("id", payload)
        payload["list"].append(2)
        approval.payload["list"].append(3)
        read = storage.approvals.get("id")
        assert read is not None
        assert read.payload == {"list": [1]}

    def test_lists_approvals_newest_first_and_ties_by_insertion(self, storage: Storage) -> None:
        times = [START, START + TICK, START, START - TICK, START + TICK]
        a, b, c, d, e = (
            storage.approvals.add(id, id, created_at=time) for id, time in zip("zxyba", times, strict=True)
        )
        assert storage.approvals.list() == [e, b, c, a, d]
        assert storage.approvals.list(limit=2) == [e, b]
        assert storage.approvals.list(before=b) == storage.approvals.list(before="x") == [c, a, d]
        assert storage.approvals.list(before=d) == []

    def test_lists_a_status(self, storage: Storage) -> None:
        for id in "abc":
            storage.approvals.add(id, id)
        decided = storage.approvals.decide("b", "approved")
        assert [approval.id for approval in storage.approvals.list(status="pending")] == ["c", "a"]
        assert storage.approvals.list(status="approved") == [decided]
        assert storage.approvals.list(status="Approved") == []
        assert [a.id for a in storage.approvals.list(status="pending", before="b")] == ["a"]

    def test_a_cursor_outlives_its_approval(self, backend: StorageBackend, storage: Storage) -> None:
        cursor = storage.approvals.add("b", 1, created_at=START + HOUR)
        empty(backend)
        kept = storage.approvals.add("a", 1)
        assert storage.approvals.list(before=cursor) == [kept]
        with pytest.raises(NotFound):
            storage.approvals.list(before="b")

    @pytest.mark.parametrize(
        "bad", [{"limit": 0}, {"limit": 1001}, {"limit": True}, {"status": ""}, {"before": 1}, {"before": ""}]
    )
    def test_listing_approvals_checks_its_arguments(self, storage: Storage, bad: dict[str, Any]) -> None:
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.approvals.list(**bad)

    @given(
        st.lists(st.tuples(near(2), st.sampled_from(["pending", "approved"])), max_size=8), st.integers(1, 3)
    )
    @examples(25)
    def test_approval_pages_make_up_a_naive_sort(
        self, backend: StorageBackend, storage: Storage, drafts: list[tuple[datetime, str]], limit: int
    ) -> None:
        empty(backend)
        added = [
            storage.approvals.add(f"{-n % 10}{n}", n, created_at=time, status=status)
            for n, (time, status) in enumerate(drafts)
        ]
        newest = sorted(added, key=lambda one: (one.created_at, one.payload), reverse=True)
        for status in (None, "approved"):
            pages: list[Approval] = []
            while page := storage.approvals.list(
                status=status, limit=limit, before=pages[-1] if pages else None
            ):
                assert len(page) <= limit
                pages += page
            assert pages == [one for one in newest if status in (None, one.status)]

    @given(names, json_values(), moments)
    @examples(20)
    def test_every_approval_comes_back_equal(
        self, backend: StorageBackend, storage: Storage, id: str, payload: Any, created_at: datetime
    ) -> None:
        empty(backend)
        approval = storage.approvals.add(id, payload, status=id, created_at=created_at)
        assert (approval.id, approval.status, approval.created_at) == (id, id, created_at)
        assert spelled(approval.payload) == spelled(stored(payload))
        assert storage.approvals.get(id) == approval
        (listed,) = storage.approvals.list(status=id)
        assert spelled(listed.payload) == spelled(stored(payload))


class ApprovalDecisionsContract(Contract):
    def test_a_decision(self, storage: Storage, clock: FakeClock) -> None:
        approval = storage.approvals.add("id", {"text": "hello"})
        clock.advance(SECOND)
        decided = storage.approvals.decide("id", "approved")
        assert decided == Approval(
            "id", "approved", {"text": "hello"}, START, START + SECOND, approval.sequence
        )
        assert storage.approvals.get("id") == decided

    def test_the_second_decision_is_refused(self, storage: Storage) -> None:
        storage.approvals.add("id", {"n": 1})
        decided = storage.approvals.decide("id", "approved")
        for status in ("approved", "rejected"):
            with pytest.raises(StatusConflict) as caught:
                storage.approvals.decide("id", status, patch={"n": 2})
            assert caught.value.current == decided
        assert storage.approvals.get("id") == decided

    def test_another_status_may_be_expected(self, storage: Storage) -> None:
        storage.approvals.add("id", 1, status="draft")
        with pytest.raises(StatusConflict):
            storage.approvals.decide("id", "approved")
        assert (
            storage.approvals.decide("id", "pending", expected="draft", now=START + HOUR).status == "pending"
        )
        assert storage.approvals.decide("id", "approved").status == "approved"

    def test_an_unknown_approval(self, storage: Storage) -> None:
        with pytest.raises(NotFound):
            storage.approvals.decide("id", "approved")
        assert storage.approvals.list() == []

    def test_a_patch_is_merged_shallowly(self, storage: Storage) -> None:
        storage.approvals.add("id", {"keep": 1, "change": {"a": 1, "b": 2}, "null": 0})
        patch: dict[str, Any] = {"change": {"c": [3]}, "null": None, "new": 1.0}
        decided = storage.approvals.decide("id", "approved", patch=patch)
        patch["change"]["c"].append(4)
        wanted = {"keep": 1, "change": {"c": [3]}, "null": None, "new": 1.0}
        assert spelled(decided.payload) == spelled(wanted)
        assert storage.approvals.get("id") == decided

    def test_an_empty_patch_changes_nothing(self, storage: Storage) -> None:
        storage.approvals.add("id", {"n": 1})
        assert storage.approvals.decide("id", "approved", patch={}).payload == {"n": 1}

    @pytest.mark.parametrize("payload", [None, 1, "text", [], [{"n": 1}]])
    def test_only_an_object_can_be_patched(self, storage: Storage, payload: Any) -> None:
        approval = storage.approvals.add("id", payload)
        with pytest.raises(InvalidValue):
            storage.approvals.decide("id", "approved", patch={"n": 1})
        assert storage.approvals.get("id") == approval
        assert storage.approvals.decide("id", "approved").payload == payload

    @pytest.mark.parametrize(
        "bad",
        [
            {"patch": []},
            {"patch": "text"},
            {"patch": {1: 2}},
            {"patch": {"n": float("nan")}},
            {"patch": {"n": (1,)}},
            {"status": ""},
            {"status": None},
            {"status": 1},
            {"expected": None},
            {"expected": 1},
            {"now": START.replace(tzinfo=None)},
            {"id": 1},
        ],
    )
    def test_bad_arguments_decide_nothing(self, storage: Storage, bad: dict[str, Any]) -> None:
        storage.approvals.add("id", {"n": 1})
        before = census(storage)
        arguments: dict[str, Any] = {"id": "id", "status": "approved", **bad}
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.approvals.decide(**arguments)
        assert census(storage) == before

    def test_a_patch_may_not_make_the_payload_too_large(self, storage: Storage) -> None:
        approval = storage.approvals.add("id", {"a": "x" * 600_000})
        with pytest.raises(InvalidValue):
            storage.approvals.decide("id", "approved", patch={"b": "x" * 600_000})
        assert storage.approvals.get("id") == approval

    def test_one_decider_wins(self, storage: Storage) -> None:
        storage.approvals.add("id", {})

        def work(decider: int) -> bool:
            try:
                storage.approvals.decide("id", f"by {decider}", patch={"decider": decider})
            except StatusConflict:
                return False
            return True

        won = together(4, work)
        assert won.count(True) == 1
        approval = storage.approvals.get("id")
        assert approval is not None
        assert (approval.status, approval.payload) == (f"by {won.index(True)}", {"decider": won.index(True)})
