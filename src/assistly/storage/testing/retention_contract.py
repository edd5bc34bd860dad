"""Retention: ages, caps, and the minute between two prunes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..engine.values import PrunedByAge, PrunedByCap
from ..errors import InvalidValue, StorageUnavailable
from ..records import ClaimState, JobStatus, PruneReport
from ..retention import RetentionPolicy
from ..storage import Storage
from .fixtures import (
    DAY,
    END_OF_TIME,
    HOUR,
    MINUTE,
    SECOND,
    START,
    START_OF_TIME,
    TICK,
    Contract,
    FakeClock,
    census,
    dead,
    empty,
    examples,
    fresh_name,
    held,
    open_for_test,
    posted,
    together,
)
from .strategies import near


def _storage(backend: StorageBackend, clock: FakeClock, **policy: Any) -> Storage:
    empty(backend)
    return open_for_test(backend, clock, retention=RetentionPolicy(**policy))


class RetentionAgesContract(Contract):
    def test_approvals(self, storage: Storage) -> None:
        kept = storage.approvals.add("kept", 1, created_at=START - 30 * DAY)
        storage.approvals.add("old", 1, created_at=START - 30 * DAY - TICK)
        assert storage.prune() == PruneReport(ran=True, approvals=1)
        assert storage.approvals.list() == [kept]

    def test_a_decision_does_not_make_an_approval_younger(self, storage: Storage, clock: FakeClock) -> None:
        storage.approvals.add("id", 1)
        clock.advance(30 * DAY)
        storage.approvals.decide("id", "approved")
        assert storage.prune().approvals == 0
        clock.advance(MINUTE)
        assert storage.prune().approvals == 1

    def test_idempotency(self, storage: Storage) -> None:
        kept = storage.idempotency.put("kept", 1, saved_at=START - 14 * DAY)
        storage.idempotency.put("old", 1, saved_at=START - 14 * DAY - TICK)
        assert storage.prune() == PruneReport(ran=True, idempotency=1)
        assert storage.idempotency.get("kept") == kept
        assert storage.idempotency.get("old") is None
        assert storage.idempotency.claim("old").state is ClaimState.ACQUIRED

    def test_idempotency_counts_from_the_result(self, storage: Storage, clock: FakeClock) -> None:
        claim = storage.idempotency.claim("key")
        clock.advance(10 * DAY)
        storage.idempotency.complete(claim, 1)
        clock.advance(14 * DAY)
        assert storage.prune().idempotency == 0
        clock.advance(MINUTE)
        assert storage.prune().idempotency == 1

    def test_a_takeover_makes_a_key_younger(self, storage: Storage, clock: FakeClock) -> None:
        storage.idempotency.claim("key")
        clock.advance(14 * DAY)
        claim = storage.idempotency.claim("key")
        clock.advance(DAY)
        assert storage.prune().idempotency == 0
        storage.idempotency.complete(claim, 1)

    def test_nonces(self, storage: Storage) -> None:
        storage.nonces.register("kept", START - DAY)
        storage.nonces.register("old", START - DAY - timedelta(milliseconds=1))
        assert storage.prune() == PruneReport(ran=True, nonces=1)
        assert (storage.nonces.seen("kept"), storage.nonces.seen("old")) == (True, False)

    def test_posted_jobs(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = _storage(backend, clock, posted_age=7 * DAY)
        old, kept = posted(storage), held(storage)
        others = [dead(storage), held(storage), storage.queue.schedule("x", "a", START - 99 * DAY)]
        kept = storage.queue.mark_posted(kept, now=START + TICK)
        now = START + 7 * DAY + TICK
        assert storage.prune(now=now) == PruneReport(ran=True, posted=1)
        assert storage.queue.get(old.id) is None
        assert storage.queue.list() == [kept, *others]

    def test_events(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = _storage(backend, clock, events_age=7 * DAY)
        storage.events.append("old", 1, created_at=START - 7 * DAY - TICK)
        kept = storage.events.append("kept", 1, created_at=START - 7 * DAY)
        assert storage.prune() == PruneReport(ran=True, events=1)
        assert storage.events.list() == [kept]

    def test_sessions(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = _storage(backend, clock, sessions_age=7 * DAY)
        storage.sessions.put("old", 1, now=START - 7 * DAY - TICK)
        kept = storage.sessions.put("kept", 1, now=START - 7 * DAY)
        storage.sessions.put("used", 1, now=START - 99 * DAY)
        used = storage.sessions.put("used", 2)
        assert storage.prune() == PruneReport(ran=True, sessions=1)
        assert storage.sessions.list() == [kept, used]

    @pytest.mark.parametrize("kind", get_args(PrunedByAge))
    def test_a_batch_is_of_the_size_asked_for(
        self, backend: StorageBackend, storage: Storage, kind: PrunedByAge
    ) -> None:
        for n in range(3):
            at = START + n * SECOND
            storage.approvals.add(f"{n}", n, created_at=at)
            storage.idempotency.put(f"{n}", n, saved_at=at)
            storage.nonces.register(f"{n}", at)
            posted(storage)
            storage.events.append("x", n, created_at=at)
            storage.sessions.put(f"{n}", n, now=at)
        delete = partial(backend.retention.delete_older, kind, START + MINUTE)
        assert [delete(limit=2) for _ in range(3)] == [2, 1, 0]

    @pytest.mark.parametrize("kind", get_args(PrunedByCap))
    def test_a_batch_beyond_a_cap_is_of_the_size_asked_for(
        self, backend: StorageBackend, storage: Storage, kind: PrunedByCap
    ) -> None:
        for n in range(4):
            storage.approvals.add(f"{n}", n)
            storage.idempotency.put(f"{n}", n)
        edge = backend.retention.newest_beyond(kind, 1)
        assert edge is not None
        assert [backend.retention.delete_up_to(kind, edge, limit=2) for _ in range(3)] == [2, 1, 0]

    def test_what_is_not_set_is_kept(self, storage: Storage) -> None:
        posted(storage)
        dead(storage)
        storage.events.append("type", 1)
        storage.sessions.put("user", 1)
        before = census(storage)
        assert storage.prune(now=START + 99_999 * DAY) == PruneReport(ran=True)
        assert census(storage) == before

    def test_all_at_once(self, backend: StorageBackend, clock: FakeClock) -> None:
        ages = dict.fromkeys(["posted_age", "events_age", "sessions_age"], DAY)
        storage = _storage(backend, clock, **ages)
        posted(storage)
        storage.events.append_many([("type", n) for n in range(2)])
        storage.sessions.put("user", 1)
        storage.approvals.add("id", 1)
        storage.idempotency.claim("key")
        storage.nonces.register("nonce")
        report = storage.prune(now=START + 31 * DAY)
        assert report == PruneReport(True, 1, 1, 1, 1, 2, 1)
        assert report.total == 7

    def test_ages_may_be_fractions(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = _storage(backend, clock, approvals_age=timedelta(days=0.5))
        storage.approvals.add("id", 1)
        assert storage.prune(now=START + 12 * HOUR).approvals == 0
        assert storage.prune(now=START + 12 * HOUR + TICK, force=True).approvals == 1

    @pytest.mark.parametrize("now", [START_OF_TIME, END_OF_TIME])
    def test_a_prune_at_the_ends_of_time(self, storage: Storage, now: datetime) -> None:
        storage.approvals.add("id", 1, created_at=now)
        storage.nonces.register(fresh_name("nonce"), now)
        assert storage.prune(now=now) == PruneReport(ran=True)

    def test_an_age_beyond_the_calendar(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = _storage(backend, clock, approvals_age=timedelta.max, nonces_age=timedelta.max)
        storage.approvals.add("id", 1, created_at=START_OF_TIME)
        storage.nonces.register("nonce", START_OF_TIME)
        assert storage.prune() == PruneReport(ran=True)

    @given(st.lists(near(3), max_size=8), near(3))
    @examples(25)
    def test_ages_are_those_of_a_naive_filter(
        self, backend: StorageBackend, clock: FakeClock, times: list[datetime], edge: datetime
    ) -> None:
        ages = dict.fromkeys(["approvals_age", "idempotency_age", "events_age", "sessions_age"], HOUR)
        storage = _storage(backend, clock, **ages)
        for n, time in enumerate(times):
            storage.approvals.add(f"{n}", n, created_at=time)
            storage.idempotency.put(f"{n}", n, saved_at=time)
            storage.events.append("type", n, created_at=time)
            storage.sessions.put(f"{n}", n, now=time)
        kept = {n for n, time in enumerate(times) if time >= edge}
        gone = len(times) - len(kept)
        assert storage.prune(now=edge + HOUR) == PruneReport(
            True, approvals=gone, idempotency=gone, events=gone, sessions=gone
        )
        assert {approval.payload for approval in storage.approvals.list()} == kept
        assert {event.payload for event in storage.events.list()} == kept
        assert {session.data for session in storage.sessions.list()} == kept
        assert {n for n in range(len(times)) if storage.idempotency.get(f"{n}")} == kept


class RetentionCapsContract(Contract):
    def test_the_newest_are_kept(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = _storage(backend, clock, approvals_cap=2, idempotency_cap=1)
        for n, age in enumerate([2, 0, 3, 1]):
            storage.approvals.add(f"id{n}", n, created_at=START - age * TICK)
            storage.idempotency.put(f"key{n}", n, saved_at=START - age * TICK)
        assert storage.prune() == PruneReport(ran=True, approvals=2, idempotency=3)
        assert [approval.id for approval in storage.approvals.list()] == ["id1", "id3"]
        assert [n for n in range(4) if storage.idempotency.get(f"key{n}")] == [1]

    def test_of_equal_times_the_last_inserted_are_kept(
        self, backend: StorageBackend, clock: FakeClock
    ) -> None:
        storage = _storage(backend, clock, approvals_cap=2, idempotency_cap=2)
        for name in "dbca":
            storage.approvals.add(name, 1)
            storage.idempotency.put(name, 1)
        storage.prune()
        assert [approval.id for approval in storage.approvals.list()] == ["a", "c"]
        assert [name for name in "dbca" if storage.idempotency.get(name)] == ["c", "a"]

    def test_exactly_the_cap_is_kept(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = _storage(backend, clock, approvals_cap=3, idempotency_cap=3)
        for name in "abc":
            storage.approvals.add(name, 1)
            storage.idempotency.put(name, 1)
        assert storage.prune() == PruneReport(ran=True)
        storage.approvals.add("d", 1)
        assert storage.prune(force=True) == PruneReport(ran=True, approvals=1)

    def test_a_cap_of_zero_keeps_nothing(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = _storage(backend, clock, approvals_cap=0, idempotency_cap=0)
        storage.approvals.add("a", 1)
        storage.idempotency.put("a", 1)
        assert storage.prune() == PruneReport(ran=True, approvals=1, idempotency=1)
        assert storage.prune(force=True) == PruneReport(ran=True)

    def test_pending_and_unfinished_ones_count(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = _storage(backend, clock, approvals_cap=1, idempotency_cap=1)
        storage.approvals.add("pending", 1)
        storage.approvals.add("decided", 1, status="approved")
        storage.idempotency.claim("running")
        storage.idempotency.put("done", 1)
        assert storage.prune() == PruneReport(ran=True, approvals=1, idempotency=1)
        assert [approval.id for approval in storage.approvals.list()] == ["decided"]
        assert storage.idempotency.get("done") is not None
        assert storage.idempotency.claim("running").state is ClaimState.ACQUIRED

    def test_an_overwritten_key_keeps_its_place(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = _storage(backend, clock, idempotency_cap=1)
        storage.idempotency.put("a", 1)
        storage.idempotency.put("b", 1)
        storage.idempotency.put("a", 2)
        storage.prune()
        assert storage.idempotency.get("a") is None
        assert storage.idempotency.get("b") is not None

    def test_a_key_that_was_freed_is_inserted_anew(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = _storage(backend, clock, idempotency_cap=1)
        claim = storage.idempotency.claim("a")
        storage.idempotency.put("b", 1)
        storage.idempotency.abandon(claim)
        storage.idempotency.put("a", 2)
        storage.prune()
        assert storage.idempotency.get("a") is not None
        assert storage.idempotency.get("b") is None

    def test_age_comes_before_the_cap(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = _storage(backend, clock, approvals_cap=2, approvals_age=DAY)
        for n, age in enumerate([2 * DAY, 3 * DAY, HOUR]):
            storage.approvals.add(f"{n}", n, created_at=START - age)
        assert storage.prune() == PruneReport(ran=True, approvals=2)
        assert [approval.id for approval in storage.approvals.list()] == ["2"]

    @given(st.lists(near(2), max_size=10), st.integers(0, 6))
    @examples(60)
    def test_approvals_kept_are_those_of_a_naive_sort(
        self, backend: StorageBackend, clock: FakeClock, times: list[datetime], cap: int
    ) -> None:
        storage = _storage(backend, clock, approvals_cap=cap)
        for n, time in enumerate(times):
            storage.approvals.add(_scattered(n), n, created_at=time)
        newest = sorted(range(len(times)), key=lambda n: (times[n], n), reverse=True)[:cap]
        assert storage.prune() == PruneReport(ran=True, approvals=len(times) - len(newest))
        assert [approval.payload for approval in storage.approvals.list()] == newest

    @given(st.lists(st.tuples(near(2), st.integers(0, 9), st.booleans()), max_size=12), st.integers(0, 6))
    @examples(60)
    def test_idempotency_kept_is_that_of_a_naive_sort(
        self,
        backend: StorageBackend,
        clock: FakeClock,
        writes: list[tuple[datetime, int, bool]],
        cap: int,
    ) -> None:
        storage = _storage(backend, clock, idempotency_cap=cap)
        saved: dict[int, datetime] = {}
        for time, key, finished in writes:
            if finished:
                storage.idempotency.put(_scattered(key), 1, saved_at=time)
                saved[key] = time
            elif key not in saved:
                storage.idempotency.claim(_scattered(key), now=time)
                saved[key] = time
        order = list(saved)
        newest = sorted(order, key=lambda key: (saved[key], order.index(key)), reverse=True)[:cap]
        assert storage.prune() == PruneReport(ran=True, idempotency=len(saved) - len(newest))
        kept = [key for key in saved if _is_there(storage, _scattered(key))]
        assert sorted(kept) == sorted(newest)

    @given(st.lists(st.integers(-3, 3), max_size=10), st.integers(0, 4))
    @examples(25)
    def test_ages_and_caps_together(
        self, backend: StorageBackend, clock: FakeClock, ticks: list[int], cap: int
    ) -> None:
        storage = _storage(backend, clock, approvals_cap=cap, approvals_age=HOUR)
        times = [START - HOUR + tick * TICK for tick in ticks]
        for n, time in enumerate(times):
            storage.approvals.add(_scattered(n), n, created_at=time)
        young = [n for n, time in enumerate(times) if time >= START - HOUR]
        newest = sorted(young, key=lambda n: (times[n], n), reverse=True)[:cap]
        assert storage.prune().approvals == len(times) - len(newest)
        assert [approval.payload for approval in storage.approvals.list()] == newest

    def test_more_than_a_batch(self, backend: StorageBackend, clock: FakeClock) -> None:
        storage = _storage(backend, clock, events_age=DAY)
        storage.events.append_many(("old", n, START - 2 * DAY) for n in range(4001))
        kept = storage.events.append("new", 1)
        assert storage.prune() == PruneReport(ran=True, events=4001)
        assert storage.events.list() == [kept]


class PruneOnceAMinuteContract(Contract):
    def test_the_minute(self, storage: Storage, clock: FakeClock) -> None:
        assert storage.prune() == PruneReport(ran=True)
        storage.nonces.register("old", START - 2 * DAY)
        assert storage.prune() == PruneReport(ran=False)
        clock.advance(MINUTE - TICK)
        assert storage.prune() == PruneReport(ran=False)
        assert storage.nonces.seen("old") is True
        clock.advance(TICK)
        assert storage.prune() == PruneReport(ran=True, nonces=1)
        assert storage.prune() == PruneReport(ran=False)

    def test_the_minute_is_the_databases(
        self, backend: StorageBackend, storage: Storage, clock: FakeClock
    ) -> None:
        other = open_for_test(backend, FakeClock(START + SECOND))
        assert storage.prune().ran is True
        assert other.prune().ran is False
        assert open_for_test(backend, FakeClock(START + MINUTE)).prune().ran is True
        clock.advance(MINUTE)
        assert storage.prune().ran is False

    def test_force(self, storage: Storage) -> None:
        for n in range(3):
            storage.nonces.register(f"old{n}", START - 2 * DAY)
            assert storage.prune(force=True) == PruneReport(ran=True, nonces=1)

    @pytest.mark.parametrize("force", [None, 1, "yes"])
    def test_force_is_a_bool(self, storage: Storage, force: Any) -> None:
        with pytest.raises(InvalidValue, match="force"):
            storage.prune(force=force)

    def test_a_clock_that_jumps_back(self, storage: Storage) -> None:
        assert storage.prune(now=START + DAY).ran is True
        assert storage.prune(now=START + DAY - MINUTE + TICK).ran is False
        assert storage.prune(now=START + DAY - MINUTE).ran is True
        assert storage.prune(now=START).ran is True
        assert storage.prune(now=START + SECOND).ran is False

    def test_of_many_one_prunes(self, backend: StorageBackend, storage: Storage) -> None:
        reports = together(4, lambda _: storage.prune())
        assert [report.ran for report in reports].count(True) == 1

    @pytest.mark.parametrize("error", [StorageUnavailable, KeyboardInterrupt])
    def test_a_prune_that_failed_does_not_use_the_minute_up(
        self, backend: StorageBackend, storage: Storage, clock: FakeClock, error: type[BaseException]
    ) -> None:
        storage.nonces.register("old", START - 2 * DAY)
        broken = open_for_test(_FailingPrune(backend, error=error), clock)
        with pytest.raises(error):
            broken.prune()
        assert storage.nonces.seen("old") is True
        assert storage.prune() == PruneReport(ran=True, nonces=1)

    def test_a_prune_that_failed_leaves_the_minute_of_another(
        self, backend: StorageBackend, storage: Storage, clock: FakeClock
    ) -> None:
        """It lasted for more than a minute, and another process began the next one meanwhile."""
        later = open_for_test(backend, FakeClock(START + MINUTE))

        def prune_beside() -> None:
            assert later.prune().ran is True

        broken = open_for_test(_FailingPrune(backend, prune_beside), clock)
        with pytest.raises(StorageUnavailable):
            broken.prune()
        assert storage.prune(now=START + 2 * MINUTE - TICK).ran is False
        assert storage.prune(now=START + 2 * MINUTE).ran is True

    def test_nothing_else_is_touched(self, storage: Storage) -> None:
        claimed = held(storage)
        storage.queue.schedule("x", "a", START + DAY)
        storage.approvals.add("id", 1)
        storage.events.append("type", 1)
        before = census(storage)
        storage.prune()
        assert census(storage) == before
        assert storage.queue.mark_posted(claimed).status is JobStatus.POSTED


class _FailingPrune:
    """An engine whose prune breaks half-way, after something else has happened."""

    def __init__(
        self,
        backend: StorageBackend,
        meanwhile: Callable[[], object] = lambda: None,
        error: type[BaseException] = StorageUnavailable,
    ) -> None:
        self._backend = backend
        self.retention = _FailingDelete(backend, meanwhile, error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class _FailingDelete:
    def __init__(
        self, backend: StorageBackend, meanwhile: Callable[[], object], error: type[BaseException]
    ) -> None:
        self._store = backend.retention
        self._meanwhile = meanwhile
        self._error = error

    def delete_older(self, kind: str, cutoff: datetime, *, limit: int) -> int:
        self._meanwhile()
        raise self._error("on purpose")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _scattered(number: int) -> str:
    """A name whose order has nothing to do with the number's."""
    return f"{(number * 7 + 3) % 13:02}-{number}"


def _is_there(storage: Storage, key: str) -> bool:
    """Whether a key is stored, finished or not; a key that is not there is left unfinished."""
    return storage.idempotency.claim(key, now=START).state is not ClaimState.ACQUIRED
