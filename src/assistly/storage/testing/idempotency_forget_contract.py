"""Idempotency keys that are looked at, and keys that are forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from ..errors import ClaimLost, InvalidValue
from ..records import ClaimState, IdempotencyClaim
from ..storage import Storage
from .fixtures import DAY, HOUR, SECOND, START, Contract, FakeClock, undone

_WRONG: list[Any] = ["", "a\x00", 1, None, "é" * 257]


class IdempotencyForgetContract(Contract):
    def test_a_result_is_forgotten(self, storage: Storage) -> None:
        for key in ("key", "Key", "key "):
            storage.idempotency.complete(storage.idempotency.claim(key, fingerprint="print"), key)
        assert storage.idempotency.forget("key") is True
        assert storage.idempotency.get("key") is None
        assert storage.idempotency.forget("key") is False
        assert [storage.idempotency.claim(key).value for key in ("Key", "key ")] == ["Key", "key "]
        assert storage.idempotency.run_once("key", lambda: "again", fingerprint="other") == "again"

    def test_a_key_in_progress_is_forgotten(self, storage: Storage) -> None:
        claim = storage.idempotency.claim("key", fingerprint="print", lease=HOUR)
        assert storage.idempotency.forget("key") is True
        again = storage.idempotency.claim("key", fingerprint="other")
        assert again.state is ClaimState.ACQUIRED
        with pytest.raises(ClaimLost):
            storage.idempotency.complete(claim, "late")
        with pytest.raises(ClaimLost):
            storage.idempotency.abandon(claim)
        storage.idempotency.complete(again, "done")
        assert storage.idempotency.claim("key").value == "done"

    def test_a_claim_that_ran_out_is_forgotten(self, storage: Storage, clock: FakeClock) -> None:
        claim = storage.idempotency.claim("key", lease=SECOND)
        clock.advance(HOUR)
        assert storage.idempotency.forget("key") is True
        assert storage.idempotency.peek("key") is None
        with pytest.raises(ClaimLost):
            storage.idempotency.complete(claim, "late")

    def test_a_forgotten_key_is_new(self, storage: Storage) -> None:
        """It is pruned by the time and the place that it has then."""
        storage.idempotency.put("a", 1, saved_at=START - 30 * DAY)
        storage.idempotency.forget("a")
        storage.idempotency.put("a", 2)
        assert storage.prune(force=True).idempotency == 0
        assert storage.idempotency.claim("a").value == 2

    def test_an_unknown_key_is_not_forgotten(self, storage: Storage) -> None:
        assert storage.idempotency.forget("key") is False
        job = storage.queue.schedule("x", "a", idempotency_key="key")
        assert storage.idempotency.forget("key") is False
        assert storage.queue.find_by_key("key") == job

    def test_a_transaction_that_is_undone_forgets_nothing(self, storage: Storage) -> None:
        record = storage.idempotency.put("key", 1)
        with undone(storage) as tx:
            assert tx.idempotency.forget("key") is True
            assert tx.idempotency.peek("key") is None
        assert storage.idempotency.get("key") == record
        with storage.transaction() as tx:
            assert tx.idempotency.forget("key") is True
        assert storage.idempotency.get("key") is None

    def test_peek_takes_nothing(self, storage: Storage, clock: FakeClock) -> None:
        assert storage.idempotency.peek("key") is None
        claim = storage.idempotency.claim("key", fingerprint="print", lease=SECOND)
        for _ in range(2):
            seen = storage.idempotency.peek("key")
            assert _told(seen) == (ClaimState.IN_PROGRESS, None, "print", START + SECOND)
            clock.advance(HOUR)
        assert storage.idempotency.peek("Key") is None
        storage.idempotency.complete(claim, {"n": [1]})
        seen = storage.idempotency.peek("key")
        assert _told(seen) == (ClaimState.COMPLETED, {"n": [1]}, "print", None)
        assert type(seen and seen.state) is ClaimState

    def test_what_peek_returns_ends_nothing(self, storage: Storage) -> None:
        claim = storage.idempotency.claim("key")
        seen = storage.idempotency.peek("key")
        assert seen is not None
        with pytest.raises(ClaimLost):
            storage.idempotency.complete(seen, 1)
        with pytest.raises(ClaimLost):
            storage.idempotency.abandon(seen)
        storage.idempotency.complete(claim, 2)

    @pytest.mark.parametrize("key", _WRONG)
    def test_a_key_is_a_name(self, storage: Storage, key: Any) -> None:
        with pytest.raises(InvalidValue, match="key"):
            storage.idempotency.forget(key)
        with pytest.raises(InvalidValue, match="key"):
            storage.idempotency.peek(key)


def _told(claim: IdempotencyClaim | None) -> tuple[Any, ...]:
    assert claim is not None
    return claim.state, claim.value, claim.fingerprint, claim.lease_until
