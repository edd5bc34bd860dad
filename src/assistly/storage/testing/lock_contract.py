"""The worker lock. Locks cannot be deleted, so each test takes a name of its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue, LockLost
from ..records import WorkerLock
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    START,
    TICK,
    Contract,
    FakeClock,
    examples,
    fresh_name,
    open_for_test,
    together,
    undone,
)
from .strategies import moments, names


class LockContract(Contract):
    @pytest.fixture
    def name(self) -> str:
        return fresh_name("lock")

    def test_a_free_lock_is_acquired(self, storage: Storage, name: str) -> None:
        assert storage.lock.current(name) is None
        lock = storage.lock.acquire("a", ttl=MINUTE, name=name)
        assert lock is not None
        assert lock == WorkerLock(name, "a", lock.fence, START, START + MINUTE)
        assert type(lock.fence) is int
        assert storage.lock.current(name) == lock

    def test_a_held_lock_is_not(self, storage: Storage, clock: FakeClock, name: str) -> None:
        lock = storage.lock.acquire("a", ttl=MINUTE, name=name)
        assert storage.lock.acquire("b", ttl=HOUR, name=name) is None
        assert storage.lock.acquire("A", ttl=HOUR, name=name) is None
        clock.advance(MINUTE - TICK)
        assert storage.lock.acquire("b", ttl=HOUR, name=name) is None
        assert storage.lock.current(name) == lock

    def test_at_its_end_it_is_expired(self, storage: Storage, clock: FakeClock, name: str) -> None:
        first = _acquired(storage, name, "a")
        clock.advance(MINUTE)
        assert storage.lock.current(name) is None
        assert storage.lock.current(name, now=START + MINUTE - TICK) == first
        second = _acquired(storage, name, "b")
        assert second.fence > first.fence
        assert (second.acquired_at, second.expires_at) == (START + MINUTE, START + 2 * MINUTE)

    def test_the_holder_acquires_again(self, storage: Storage, clock: FakeClock, name: str) -> None:
        first = _acquired(storage, name, "a")
        clock.advance(MINUTE - TICK)
        again = storage.lock.acquire("a", ttl=HOUR, name=name)
        assert again == replace(first, expires_at=START + MINUTE - TICK + HOUR)
        assert storage.lock.current(name) == again

    def test_after_its_end_the_holder_begins_anew(
        self, storage: Storage, clock: FakeClock, name: str
    ) -> None:
        first = _acquired(storage, name, "a")
        clock.advance(MINUTE)
        again = _acquired(storage, name, "a")
        assert again.fence > first.fence
        assert again.acquired_at == START + MINUTE

    def test_renew(self, storage: Storage, clock: FakeClock, name: str) -> None:
        lock = _acquired(storage, name, "a")
        clock.advance(MINUTE - TICK)
        renewed = storage.lock.renew(lock, ttl=HOUR)
        assert renewed == replace(lock, expires_at=START + MINUTE - TICK + HOUR)
        assert storage.lock.current(name) == renewed
        assert storage.lock.renew(lock, ttl=SECOND).expires_at == START + MINUTE - TICK + SECOND

    def test_an_expired_lock_is_not_renewed(self, storage: Storage, clock: FakeClock, name: str) -> None:
        lock = _acquired(storage, name, "a")
        clock.advance(MINUTE)
        with pytest.raises(LockLost):
            storage.lock.renew(lock, ttl=HOUR)
        assert storage.lock.release(lock) is False
        assert storage.lock.current(name) is None

    def test_a_released_lock_is_not_renewed(self, storage: Storage, name: str) -> None:
        lock = _acquired(storage, name, "a")
        assert storage.lock.release(lock) is True
        with pytest.raises(LockLost):
            storage.lock.renew(lock, ttl=HOUR)
        assert storage.lock.release(lock) is False
        assert storage.lock.current(name) is None

    def test_an_overtaken_lock_changes_nothing(self, storage: Storage, clock: FakeClock, name: str) -> None:
        stale = _acquired(storage, name, "a")
        clock.advance(MINUTE)
        current = _acquired(storage, name, "b")
        with pytest.raises(LockLost):
            storage.lock.renew(stale, ttl=HOUR)
        assert storage.lock.release(stale) is False
        assert storage.lock.current(name) == current

    def test_ones_own_older_lock_is_overtaken(self, storage: Storage, name: str) -> None:
        stale = _acquired(storage, name, "a")
        storage.lock.release(stale)
        current = _acquired(storage, name, "a")
        assert current.fence > stale.fence
        with pytest.raises(LockLost):
            storage.lock.renew(stale, ttl=HOUR)
        assert storage.lock.release(stale) is False
        assert storage.lock.current(name) == current

    def test_a_lock_of_another_owner(self, storage: Storage, name: str) -> None:
        lock = _acquired(storage, name, "a")
        forged = replace(lock, owner_id="b")
        with pytest.raises(LockLost):
            storage.lock.renew(forged, ttl=HOUR)
        assert storage.lock.release(forged) is False
        assert storage.lock.current(name) == lock

    def test_a_lock_that_never_was(self, storage: Storage, name: str) -> None:
        lock = WorkerLock(name, "a", 1, START, START + HOUR)
        with pytest.raises(LockLost):
            storage.lock.renew(lock, ttl=HOUR)
        assert storage.lock.release(lock) is False
        assert storage.lock.current(name) is None

    def test_the_fence_survives_the_release(self, storage: Storage, name: str) -> None:
        fences: list[int] = []
        for owner in "abaa":
            lock = _acquired(storage, name, owner)
            fences.append(lock.fence)
            storage.lock.release(lock)
        assert fences == sorted(set(fences))

    def test_a_released_lock_is_free_at_once(self, storage: Storage, name: str) -> None:
        storage.lock.release(_acquired(storage, name, "a"))
        assert _acquired(storage, name, "b").owner_id == "b"

    def test_names_are_locks_of_their_own(self, storage: Storage, name: str) -> None:
        first = _acquired(storage, name, "a")
        second = _acquired(storage, f"{name}!", "b")
        assert storage.lock.current(name) == first
        assert storage.lock.release(second) is True
        assert storage.lock.current(name) == first

    def test_a_list_has_all_held_locks_by_name(self, storage: Storage, name: str) -> None:
        ends = ["b", "B", "a", "\U0001f600", "\uffff", "\xe9", "a\x01", "aa"]
        locks = [_acquired(storage, f"{name}{end}", "me") for end in ends]
        in_order = sorted(locks, key=lambda lock: lock.name.encode())
        assert _listed(storage, name) == in_order
        assert [lock.name for lock in in_order] != [lock.name for lock in locks]

    def test_a_list_has_no_expired_lock(self, storage: Storage, clock: FakeClock, name: str) -> None:
        short = _acquired(storage, f"{name}-short", "a")
        long = storage.lock.acquire("a", ttl=MINUTE + TICK, name=f"{name}-long")
        clock.advance(MINUTE - TICK)
        assert _listed(storage, name) == [long, short]
        clock.advance(TICK)
        assert _listed(storage, name) == [long]
        assert _listed(storage, name, now=START + MINUTE - TICK) == [long, short]
        clock.advance(TICK)
        assert _listed(storage, name) == []

    def test_a_list_has_no_released_lock(self, storage: Storage, name: str) -> None:
        first, second = (_acquired(storage, f"{name}{end}", "a") for end in "ab")
        storage.lock.release(first)
        for now in (None, START - TICK):
            assert _listed(storage, name, now=now) == [second]
        renewed = storage.lock.renew(second, ttl=HOUR)
        taken = _acquired(storage, first.name, "b")
        assert taken.fence > first.fence
        assert _listed(storage, name) == [taken, renewed]

    def test_a_list_in_a_transaction(self, storage: Storage, name: str) -> None:
        with undone(storage) as tx:
            lock = tx.lock.acquire("a", ttl=MINUTE, name=name)
            assert _listed(tx, name) == [lock]
        assert _listed(storage, name) == []

    def test_the_default_name_and_time(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = open_for_test(backend, clock)
        lock = storage.lock.acquire("a")
        assert lock is not None
        assert (lock.name, lock.expires_at) == ("worker", START + 45 * SECOND)
        assert storage.lock.current() == storage.lock.current("worker") == lock
        clock.advance(SECOND)
        assert storage.lock.renew(lock).expires_at == START + 46 * SECOND
        assert storage.lock.release(lock) is True
        other = open_for_test(backend, clock, lock_ttl=MINUTE)
        again = other.lock.acquire("b", now=START)
        assert again is not None
        assert again.expires_at == START + MINUTE
        assert other.lock.release(again) is True

    def test_the_time_of_a_lock_may_be_given(self, storage: Storage, name: str) -> None:
        lock = storage.lock.acquire("a", ttl=MINUTE, name=name, now=START + DAY)
        assert lock is not None
        assert lock.expires_at == START + DAY + MINUTE
        with pytest.raises(LockLost):
            storage.lock.renew(lock, ttl=MINUTE, now=START + 2 * DAY)
        assert storage.lock.release(lock, now=START + DAY + MINUTE) is False
        assert storage.lock.release(lock, now=START + DAY + MINUTE - TICK) is True

    @pytest.mark.parametrize("ttl", [timedelta(0), -TICK, 45, 1.5, "45"])
    def test_a_time_to_live_is_above_zero(self, storage: Storage, name: str, ttl: Any) -> None:
        with pytest.raises(InvalidValue, match="ttl"):
            storage.lock.acquire("a", ttl=ttl, name=name)
        assert storage.lock.current(name) is None
        lock = _acquired(storage, name, "a")
        with pytest.raises(InvalidValue, match="ttl"):
            storage.lock.renew(lock, ttl=ttl)
        assert storage.lock.current(name) == lock

    @pytest.mark.parametrize("lock", [None, "worker", 1])
    def test_only_a_lock_is_taken(self, storage: Storage, lock: Any) -> None:
        with pytest.raises(InvalidValue, match="lock"):
            storage.lock.renew(lock, ttl=MINUTE)
        with pytest.raises(InvalidValue, match="lock"):
            storage.lock.release(lock)

    def test_of_many_one_acquires_the_lock(self, storage: Storage, name: str) -> None:
        locks = together(4, lambda owner: storage.lock.acquire(f"owner-{owner}", ttl=MINUTE, name=name))
        held = [lock for lock in locks if lock is not None]
        assert len(held) == 1
        assert storage.lock.current(name) == held[0]

    @given(names.map(lambda text: text[:100]), moments)
    @examples(10)
    def test_every_text_and_time_is_kept(self, storage: Storage, text: str, now: datetime) -> None:
        name = f"{text}{fresh_name()}"
        lock = storage.lock.acquire(text, ttl=SECOND, name=name, now=now)
        assert lock is not None
        assert (lock.owner_id, lock.name, lock.acquired_at) == (text, name, now)
        assert storage.lock.current(name, now=now) == lock

    @given(
        st.lists(
            st.tuples(st.sampled_from(["acquire", "renew", "release", "step"]), st.integers(0, 2)),
            max_size=15,
        )
    )
    @examples(40)
    def test_any_sequence_has_one_owner_and_a_growing_fence(
        self, storage: Storage, clock: FakeClock, steps: list[tuple[str, int]]
    ) -> None:
        clock.reset()
        name, fence = fresh_name("lock"), 0
        current: WorkerLock | None = None
        known: list[WorkerLock] = []
        for step, which in steps:
            if step == "step":
                clock.advance([TICK, SECOND - TICK, SECOND][which])
                if current and current.expires_at <= clock():
                    current = None
            elif step == "acquire":
                lock = storage.lock.acquire(f"owner-{which}", ttl=SECOND, name=name)
                if current and current.owner_id != f"owner-{which}":
                    assert lock is None
                    continue
                assert lock is not None
                if current:
                    assert lock == replace(current, expires_at=clock() + SECOND)
                else:
                    assert lock.fence > fence
                    assert (lock.acquired_at, lock.expires_at) == (clock(), clock() + SECOND)
                current, fence = lock, lock.fence
                known.append(lock)
            elif known:
                lock = known[-1 - which % len(known)]
                holds = current is not None and current.fence == lock.fence
                if step == "release":
                    assert storage.lock.release(lock) is holds
                    current = None if holds else current
                elif holds and current:
                    current = storage.lock.renew(lock, ttl=SECOND)
                    assert current == replace(lock, expires_at=clock() + SECOND)
                else:
                    with pytest.raises(LockLost):
                        storage.lock.renew(lock, ttl=SECOND)
            assert storage.lock.current(name) == current


def _listed(storage: Storage, name: str, now: datetime | None = None) -> list[WorkerLock]:
    """Those of the listed locks whose names begin with this one: other tests have left locks."""
    return [lock for lock in storage.lock.list(now=now) if lock.name.startswith(name)]


def _acquired(storage: Storage, name: str, owner: str) -> WorkerLock:
    lock = storage.lock.acquire(owner, ttl=MINUTE, name=name)
    assert lock is not None
    return lock
