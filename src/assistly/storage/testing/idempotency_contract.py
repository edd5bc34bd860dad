"""Idempotency keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..errors import ClaimLost, Conflict, IdempotencyMismatch, InvalidValue
from ..records import ClaimState, IdempotencyClaim, IdempotencyRecord
from ..storage import Storage
from .fixtures import DAY, HOUR, MINUTE, SECOND, START, TICK, Contract, FakeClock, empty, examples, together
from .strategies import json_values, moments, names, spelled, stored

_EMPTY: list[Any] = [None, False, 0, 0.0, "", [], {}]


class IdempotencyContract(Contract):
    def test_the_first_claim_is_acquired(self, storage: Storage) -> None:
        claim = storage.idempotency.claim("key", fingerprint="print", lease=SECOND)
        assert (claim.key, claim.state, claim.value) == ("key", ClaimState.ACQUIRED, None)
        assert (claim.fingerprint, claim.lease_until) == ("print", START + SECOND)
        assert type(claim.state) is ClaimState

    def test_the_lease_is_a_minute_by_default(self, storage: Storage) -> None:
        assert storage.idempotency.claim("key").lease_until == START + MINUTE
        assert storage.idempotency.claim("other", now=START + DAY).lease_until == START + DAY + MINUTE

    def test_a_second_claim_is_in_progress(self, storage: Storage, clock: FakeClock) -> None:
        first = storage.idempotency.claim("key")
        clock.advance(SECOND)
        second = storage.idempotency.claim("key", lease=HOUR)
        assert (second.state, second.value) == (ClaimState.IN_PROGRESS, None)
        assert second.lease_until == first.lease_until
        storage.idempotency.complete(first, "done")

    def test_the_first_result_is_replayed(self, storage: Storage, clock: FakeClock) -> None:
        claim = storage.idempotency.claim("key", fingerprint="print")
        clock.advance(SECOND)
        storage.idempotency.complete(claim, {"n": [1]})
        clock.advance(999 * DAY)
        again = storage.idempotency.claim("key", fingerprint="print")
        assert (again.state, again.value) == (ClaimState.COMPLETED, {"n": [1]})
        assert (again.fingerprint, again.lease_until) == ("print", None)
        again.value["n"].append(2)
        assert storage.idempotency.claim("key").value == {"n": [1]}
        assert storage.idempotency.get("key") == IdempotencyRecord("key", {"n": [1]}, START + SECOND, "print")

    @pytest.mark.parametrize("value", _EMPTY)
    def test_an_empty_result_is_a_result(self, storage: Storage, value: Any) -> None:
        storage.idempotency.complete(storage.idempotency.claim("key"), value)
        claim = storage.idempotency.claim("key")
        assert claim.state is ClaimState.COMPLETED
        assert spelled(claim.value) == spelled(value)
        record = storage.idempotency.get("key")
        assert record is not None
        assert spelled(record.value) == spelled(value)

    def test_get_sees_results_only(self, storage: Storage, clock: FakeClock) -> None:
        assert storage.idempotency.get("key") is None
        claim = storage.idempotency.claim("key")
        assert storage.idempotency.get("key") is None
        clock.advance(HOUR)
        assert storage.idempotency.get("key") is None
        storage.idempotency.complete(claim, None)
        assert storage.idempotency.get("key") is not None
        assert storage.idempotency.get("Key") is None

    def test_abandon_frees_the_key(self, storage: Storage) -> None:
        claim = storage.idempotency.claim("key", fingerprint="print")
        storage.idempotency.abandon(claim)
        assert storage.idempotency.get("key") is None
        again = storage.idempotency.claim("key", fingerprint="other")
        assert again.state is ClaimState.ACQUIRED
        with pytest.raises(ClaimLost):
            storage.idempotency.complete(claim, 1)
        storage.idempotency.complete(again, 2)

    def test_put_writes_whatever_was_there(self, storage: Storage) -> None:
        record = storage.idempotency.put("key", 1)
        assert record == IdempotencyRecord("key", 1, START, None)
        assert storage.idempotency.put("key", 2, saved_at=START - DAY) == IdempotencyRecord(
            "key", 2, START - DAY, None
        )
        claim = storage.idempotency.claim("key", fingerprint="print")
        assert (claim.state, claim.value) == (ClaimState.COMPLETED, 2)

    def test_put_overtakes_a_claim(self, storage: Storage) -> None:
        claim = storage.idempotency.claim("key", fingerprint="print")
        record = storage.idempotency.put("key", "put")
        assert record.fingerprint is None
        with pytest.raises(ClaimLost):
            storage.idempotency.complete(claim, "late")
        with pytest.raises(ClaimLost):
            storage.idempotency.abandon(claim)
        assert storage.idempotency.get("key") == record
        again = storage.idempotency.claim("key", fingerprint="other")
        assert (again.state, again.value) == (ClaimState.COMPLETED, "put")
        assert (again.fingerprint, again.lease_until) == (None, None)

    @given(names, json_values(), moments)
    @examples(25)
    def test_every_result_comes_back_equal(
        self, backend: StorageBackend, storage: Storage, key: str, value: Any, now: datetime
    ) -> None:
        empty(backend)
        claim = storage.idempotency.claim(key, fingerprint=key, now=now)
        storage.idempotency.complete(claim, value, now=now)
        record = storage.idempotency.get(key)
        assert record is not None
        assert (record.key, record.fingerprint, record.saved_at) == (key, key, now)
        assert spelled(record.value) == spelled(stored(value))
        assert spelled(storage.idempotency.claim(key).value) == spelled(stored(value))

    @pytest.mark.parametrize("lease", [timedelta(0), -TICK, 60, 1.5, None])
    def test_a_lease_is_above_zero(self, storage: Storage, lease: Any) -> None:
        with pytest.raises(InvalidValue, match="lease"):
            storage.idempotency.claim("key", lease=lease)
        assert storage.idempotency.claim("key").state is ClaimState.ACQUIRED

    @pytest.mark.parametrize("claim", [None, "key", 1])
    def test_only_a_claim_is_ended(self, storage: Storage, claim: Any) -> None:
        with pytest.raises(InvalidValue, match="claim"):
            storage.idempotency.complete(claim, 1)
        with pytest.raises(InvalidValue, match="claim"):
            storage.idempotency.abandon(claim)


class FingerprintsContract(Contract):
    def test_in_progress(self, storage: Storage) -> None:
        claim = storage.idempotency.claim("key", fingerprint="print")
        with pytest.raises(IdempotencyMismatch) as caught:
            storage.idempotency.claim("key", fingerprint="other")
        assert caught.value.key == "key"
        assert storage.idempotency.claim("key", fingerprint="print").state is ClaimState.IN_PROGRESS
        assert storage.idempotency.claim("key").state is ClaimState.IN_PROGRESS
        storage.idempotency.complete(claim, 1)

    def test_completed(self, storage: Storage) -> None:
        storage.idempotency.complete(storage.idempotency.claim("key", fingerprint="print"), 1)
        with pytest.raises(IdempotencyMismatch):
            storage.idempotency.claim("key", fingerprint="other")
        assert storage.idempotency.claim("key", fingerprint="print").value == 1
        assert storage.idempotency.claim("key").value == 1

    def test_a_lease_that_ran_out(self, storage: Storage, clock: FakeClock) -> None:
        claim = storage.idempotency.claim("key", fingerprint="print", lease=SECOND)
        clock.advance(HOUR)
        with pytest.raises(IdempotencyMismatch):
            storage.idempotency.claim("key", fingerprint="other")
        storage.idempotency.complete(claim, 1)

    def test_none_matches_all(self, storage: Storage) -> None:
        claim = storage.idempotency.claim("key")
        assert storage.idempotency.claim("key", fingerprint="print").state is ClaimState.IN_PROGRESS
        assert storage.idempotency.claim("key", fingerprint="other").state is ClaimState.IN_PROGRESS
        storage.idempotency.complete(claim, 1)
        assert storage.idempotency.claim("key", fingerprint="print").value == 1

    def test_a_takeover_brings_its_own(self, storage: Storage, clock: FakeClock) -> None:
        storage.idempotency.claim("key", lease=SECOND)
        clock.advance(SECOND)
        assert storage.idempotency.claim("key", fingerprint="print").state is ClaimState.ACQUIRED
        with pytest.raises(IdempotencyMismatch):
            storage.idempotency.claim("key", fingerprint="other")

    def test_a_takeover_without_one_keeps_it(self, storage: Storage, clock: FakeClock) -> None:
        storage.idempotency.claim("key", fingerprint="print", lease=SECOND)
        clock.advance(SECOND)
        assert storage.idempotency.claim("key").state is ClaimState.ACQUIRED
        with pytest.raises(IdempotencyMismatch):
            storage.idempotency.claim("key", fingerprint="other")

    def test_they_differ_by_every_character(self, storage: Storage) -> None:
        storage.idempotency.claim("key", fingerprint="é")
        for other in ("e\u0301", "É", "é "):
            with pytest.raises(IdempotencyMismatch):
                storage.idempotency.claim("key", fingerprint=other)


class IdempotencyFenceContract(Contract):
    def test_a_lease_that_ran_out_is_acquired_anew(self, storage: Storage, clock: FakeClock) -> None:
        first = storage.idempotency.claim("key", lease=SECOND)
        clock.advance(SECOND - TICK)
        assert storage.idempotency.claim("key").state is ClaimState.IN_PROGRESS
        clock.advance(TICK)
        second = storage.idempotency.claim("key", lease=SECOND)
        assert (second.state, second.lease_until) == (ClaimState.ACQUIRED, START + 2 * SECOND)
        for end in (storage.idempotency.abandon, lambda claim: storage.idempotency.complete(claim, "late")):
            with pytest.raises(ClaimLost):
                end(first)
        assert storage.idempotency.claim("key").state is ClaimState.IN_PROGRESS
        storage.idempotency.complete(second, "done")
        assert storage.idempotency.claim("key").value == "done"

    def test_a_lease_that_nobody_took_can_be_ended(self, storage: Storage, clock: FakeClock) -> None:
        completed, abandoned = (storage.idempotency.claim(key, lease=SECOND) for key in "ab")
        clock.advance(HOUR)
        storage.idempotency.complete(completed, 1)
        storage.idempotency.abandon(abandoned)
        assert storage.idempotency.claim("a").value == 1
        assert storage.idempotency.claim("b").state is ClaimState.ACQUIRED

    def test_a_claim_ends_once(self, storage: Storage, clock: FakeClock) -> None:
        claim = storage.idempotency.claim("key")
        storage.idempotency.complete(claim, 1)
        record = storage.idempotency.get("key")
        clock.advance(SECOND)
        with pytest.raises(ClaimLost):
            storage.idempotency.complete(claim, 2)
        with pytest.raises(ClaimLost):
            storage.idempotency.abandon(claim)
        assert storage.idempotency.get("key") == record

    def test_only_the_holder_ends_it(self, storage: Storage) -> None:
        holder = storage.idempotency.claim("key")
        waiting = storage.idempotency.claim("key")
        with pytest.raises(ClaimLost):
            storage.idempotency.complete(waiting, 1)
        with pytest.raises(ClaimLost):
            storage.idempotency.abandon(waiting)
        storage.idempotency.complete(holder, 2)
        done = storage.idempotency.claim("key")
        with pytest.raises(ClaimLost):
            storage.idempotency.complete(done, 3)
        with pytest.raises(ClaimLost):
            storage.idempotency.abandon(done)
        assert storage.idempotency.claim("key").value == 2

    def test_a_pruned_claim_is_lost(self, storage: Storage, clock: FakeClock) -> None:
        claim = storage.idempotency.claim("key")
        clock.advance(15 * DAY)
        assert storage.prune().idempotency == 1
        with pytest.raises(ClaimLost):
            storage.idempotency.complete(claim, 1)
        assert storage.idempotency.get("key") is None

    @pytest.mark.parametrize("value", [(1,), float("nan"), "\x00", {1: 1}, object()])
    def test_a_bad_value_leaves_the_claim(self, storage: Storage, value: Any) -> None:
        claim = storage.idempotency.claim("key")
        with pytest.raises(InvalidValue, match="value"):
            storage.idempotency.complete(claim, value)
        assert storage.idempotency.claim("key").state is ClaimState.IN_PROGRESS
        storage.idempotency.complete(claim, 1)

    def test_of_many_one_acquires_the_key(self, storage: Storage) -> None:
        claims = together(4, lambda _: storage.idempotency.claim("key"))
        assert [claim.state for claim in claims].count(ClaimState.ACQUIRED) == 1
        assert [claim.state for claim in claims].count(ClaimState.IN_PROGRESS) == 3


class _Interrupt(BaseException):
    """As KeyboardInterrupt, which an event loop would not survive."""


class RunOnceContract(Contract):
    def test_runs_once(self, storage: Storage) -> None:
        runs: list[int] = []

        def function() -> Any:
            runs.append(1)
            return {"runs": len(runs)}

        assert storage.idempotency.run_once("key", function) == {"runs": 1}
        assert storage.idempotency.run_once("key", function) == {"runs": 1}
        assert storage.idempotency.run_once("other", function) == {"runs": 2}
        assert storage.idempotency.claim("key").value == {"runs": 1}

    @pytest.mark.parametrize("value", _EMPTY)
    def test_an_empty_result_is_replayed(self, storage: Storage, value: Any) -> None:
        assert spelled(storage.idempotency.run_once("key", lambda: value)) == spelled(value)
        assert spelled(storage.idempotency.run_once("key", lambda: "again")) == spelled(value)

    def test_an_exception_frees_the_key(self, storage: Storage) -> None:
        def function() -> Any:
            raise LookupError("on purpose")

        with pytest.raises(LookupError, match="on purpose"):
            storage.idempotency.run_once("key", function, fingerprint="print")
        assert storage.idempotency.get("key") is None
        assert storage.idempotency.run_once("key", lambda: 1, fingerprint="other") == 1

    def test_an_interrupt_frees_the_key(self, storage: Storage) -> None:
        def function() -> Any:
            raise _Interrupt

        with pytest.raises(_Interrupt):
            storage.idempotency.run_once("key", function)
        assert storage.idempotency.run_once("key", lambda: 1) == 1

    def test_a_result_that_is_no_json_frees_the_key(self, storage: Storage) -> None:
        with pytest.raises(InvalidValue):
            storage.idempotency.run_once("key", lambda: {1, 2})  # type: ignore[type-var]
        assert storage.idempotency.run_once("key", lambda: 1) == 1

    def test_a_run_elsewhere_is_a_conflict(self, storage: Storage, clock: FakeClock) -> None:
        storage.idempotency.claim("key", lease=SECOND)
        with pytest.raises(Conflict) as caught:
            storage.idempotency.run_once("key", lambda: 1)
        assert type(caught.value) is Conflict
        clock.advance(SECOND)
        assert storage.idempotency.run_once("key", lambda: 2) == 2

    def test_it_does_not_run_inside_itself(self, storage: Storage) -> None:
        def outer() -> Any:
            with pytest.raises(Conflict):
                storage.idempotency.run_once("key", lambda: "inner")
            return "outer"

        assert storage.idempotency.run_once("key", outer) == "outer"

    def test_another_fingerprint(self, storage: Storage) -> None:
        storage.idempotency.run_once("key", lambda: 1, fingerprint="print")
        with pytest.raises(IdempotencyMismatch):
            storage.idempotency.run_once("key", lambda: 2, fingerprint="other")
        assert storage.idempotency.run_once("key", lambda: 3, fingerprint="print") == 1

    def test_a_run_that_was_overtaken(self, storage: Storage, clock: FakeClock) -> None:
        def function() -> Any:
            clock.advance(SECOND)
            storage.idempotency.complete(storage.idempotency.claim("key"), "other")
            return "late"

        with pytest.raises(ClaimLost):
            storage.idempotency.run_once("key", function, lease=SECOND)
        assert storage.idempotency.run_once("key", lambda: "again") == "other"

    def test_a_run_that_was_overtaken_and_raised(self, storage: Storage, clock: FakeClock) -> None:
        def function() -> Any:
            clock.advance(SECOND)
            storage.idempotency.claim("key")
            raise LookupError("on purpose")

        with pytest.raises(LookupError, match="on purpose"):
            storage.idempotency.run_once("key", function, lease=SECOND)
        assert storage.idempotency.claim("key").state is ClaimState.IN_PROGRESS


@dataclass
class _Key:
    """What the model knows of one key."""

    holder: int | None
    fingerprint: str | None
    lease_until: datetime
    value: Any = None


_LEASES = [TICK, SECOND]
_STEPS = st.one_of(
    st.tuples(
        st.just("claim"), st.sampled_from("ab"), st.sampled_from([None, "p", "q"]), st.sampled_from(_LEASES)
    ),
    st.tuples(st.just("complete"), st.integers(0, 9), st.sampled_from(_EMPTY)),
    st.tuples(st.just("abandon"), st.integers(0, 9)),
    st.tuples(st.just("put"), st.sampled_from("ab"), st.integers(0, 3)),
    st.tuples(st.just("advance"), st.sampled_from([TICK, SECOND - TICK, SECOND])),
)


class _Model:
    """Idempotency in a dict, driven side by side with a storage."""

    def __init__(self, storage: Storage, clock: FakeClock) -> None:
        self.storage = storage.idempotency
        self.clock = clock
        self.keys: dict[str, _Key] = {}
        self.claims: list[IdempotencyClaim] = []

    def claim(self, key: str, fingerprint: str | None, lease: timedelta) -> None:
        known = self.keys.get(key)
        if known and fingerprint and known.fingerprint and fingerprint != known.fingerprint:
            with pytest.raises(IdempotencyMismatch):
                self.storage.claim(key, fingerprint=fingerprint, lease=lease)
            return
        claim = self.storage.claim(key, fingerprint=fingerprint, lease=lease)
        self.claims.append(claim)
        if known and known.holder is None:
            assert claim.state is ClaimState.COMPLETED
            assert spelled(claim.value) == spelled(known.value)
        elif known and known.lease_until > self.clock():
            assert (claim.state, claim.value) == (ClaimState.IN_PROGRESS, None)
        else:
            assert (claim.state, claim.value) == (ClaimState.ACQUIRED, None)
            kept = known.fingerprint if known else None
            self.keys[key] = _Key(len(self.claims) - 1, kept or fingerprint, self.clock() + lease)

    def complete(self, index: int, value: Any) -> None:
        if (known := self._held(index)) is not None:
            self.storage.complete(self.claims[index], value)
            known.holder, known.value = None, value
        elif index < len(self.claims):
            with pytest.raises(ClaimLost):
                self.storage.complete(self.claims[index], value)

    def abandon(self, index: int) -> None:
        if self._held(index) is not None:
            self.storage.abandon(self.claims[index])
            del self.keys[self.claims[index].key]
        elif index < len(self.claims):
            with pytest.raises(ClaimLost):
                self.storage.abandon(self.claims[index])

    def put(self, key: str, value: Any) -> None:
        self.storage.put(key, value)
        self.keys[key] = _Key(None, None, self.clock(), value)

    def advance(self, step: timedelta) -> None:
        self.clock.advance(step)

    def check(self) -> None:
        for key in "ab":
            known = self.keys.get(key)
            record = self.storage.get(key)
            if known is None or known.holder is not None:
                assert record is None
            else:
                assert record is not None
                assert spelled(record.value) == spelled(known.value)
                assert record.fingerprint == known.fingerprint

    def _held(self, index: int) -> _Key | None:
        known = self.keys.get(self.claims[index].key) if index < len(self.claims) else None
        return known if known is not None and known.holder == index else None


class IdempotencySequencesContract(Contract):
    @given(st.lists(_STEPS, max_size=14))
    @examples(80)
    def test_any_sequence_does_what_a_dict_would(
        self, backend: StorageBackend, storage: Storage, clock: FakeClock, steps: list[tuple[Any, ...]]
    ) -> None:
        empty(backend)
        clock.reset()
        model = _Model(storage, clock)
        for name, *arguments in steps:
            getattr(model, name)(*arguments)
            model.check()
