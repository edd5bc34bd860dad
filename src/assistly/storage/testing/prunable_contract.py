"""`prunable`: what a prune would delete."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..records import Prunable, PrunableCount, PruneReport
from ..retention import RetentionPolicy
from ..storage import Storage
from .fixtures import (
    DAY,
    END_OF_TIME,
    HOUR,
    MINUTE,
    START,
    START_OF_TIME,
    Contract,
    FakeClock,
    census,
    empty,
    examples,
    fresh_name,
    held,
    open_for_test,
    posted,
)
from .strategies import near


def _storage(backend: StorageBackend, clock: FakeClock, policy: RetentionPolicy) -> Storage:
    empty(backend)
    return open_for_test(backend, clock, retention=policy)


def _expected(found: Prunable) -> PruneReport:
    return PruneReport(True, *(count["by_age"] + count["by_cap"] for count in asdict(found).values()))


class PrunableContract(Contract):
    @given(st.lists(near(3), max_size=8), near(3), st.integers(0, 6))
    @examples(25)
    def test_a_prune_deletes_what_was_counted(
        self, backend: StorageBackend, clock: FakeClock, times: list[datetime], edge: datetime, cap: int
    ) -> None:
        policy = RetentionPolicy(HOUR, cap, HOUR, cap, HOUR, HOUR, HOUR, HOUR)
        storage = _storage(backend, clock, policy)
        for n, time in enumerate(times):
            storage.approvals.add(f"{n}", n, created_at=time)
            storage.idempotency.put(f"{n}", n, saved_at=time)
            storage.nonces.register(f"{n}", time)
            storage.queue.mark_posted(held(storage), now=time)
            storage.events.append("type", n, created_at=time)
            storage.sessions.put(f"{n}", n, now=time)
        old = sum(time < edge for time in times)
        beyond = max(0, len(times) - old - cap)
        found = storage.prunable(now=edge + HOUR)
        assert found.approvals == found.idempotency == PrunableCount(old, beyond)
        assert found.posted == found.events == found.sessions == PrunableCount(old)
        assert found.approvals.total == old + beyond
        assert storage.prune(now=edge + HOUR) == _expected(found)
        nothing = storage.prunable(now=edge + HOUR)
        assert {*map(str, (getattr(nothing, kind) for kind in asdict(nothing)))} == {str(PrunableCount())}

    def test_it_changes_nothing(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = _storage(backend, clock, RetentionPolicy(DAY, 0, DAY, 0, DAY, DAY, DAY, DAY))
        posted(storage)
        storage.approvals.add("id", 1)
        key = storage.idempotency.put("key", 1)
        storage.nonces.register("nonce")
        storage.events.append("type", 1)
        storage.sessions.put("user", 1)
        before = census(storage)
        aged, capped = PrunableCount(1), PrunableCount(0, 1)
        none = PrunableCount()
        assert storage.prunable() == Prunable(capped, capped, none, none, none, none)
        assert storage.prunable(now=START + 2 * DAY) == Prunable(aged, aged, aged, aged, aged, aged)
        assert census(storage) == before
        assert storage.idempotency.get("key") == key
        assert storage.nonces.seen("nonce") is True

    def test_it_neither_uses_the_minute_up_nor_waits_for_it(self, storage: Storage, clock: FakeClock) -> None:
        storage.nonces.register("old", START - 2 * DAY)
        assert storage.prunable().nonces == PrunableCount(1)
        assert storage.prune() == PruneReport(ran=True, nonces=1)
        storage.nonces.register("old", START - 2 * DAY)
        assert storage.prunable().nonces == PrunableCount(1)
        clock.advance(MINUTE)
        assert storage.prune() == PruneReport(ran=True, nonces=1)

    def test_in_a_transaction(self, storage: Storage) -> None:
        with storage.transaction() as tx:
            tx.nonces.register("old", START - 2 * DAY)
            assert tx.prunable().nonces == PrunableCount(1)
            assert tx.nonces.seen("old") is True
        assert storage.prunable().nonces == PrunableCount(1)

    @pytest.mark.parametrize("now", [START_OF_TIME, END_OF_TIME])
    def test_at_the_ends_of_time(self, backend: StorageBackend, clock: FakeClock, now: datetime) -> None:
        storage = _storage(backend, clock, RetentionPolicy(approvals_cap=1))
        for name in "ab":
            storage.approvals.add(name, 1, created_at=now)
        storage.nonces.register(fresh_name("nonce"), now)
        found = storage.prunable(now=now)
        assert (found.approvals, found.nonces) == (PrunableCount(0, 1), PrunableCount())
        assert storage.prune(now=now) == _expected(found)
