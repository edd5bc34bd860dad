"""What a pause of a platform does to claims, to `next_due_at` and to `wait`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..engine.values import PAUSES
from ..records import Job, JobStatus, NewJob
from ..storage import Storage
from . import engine_contract
from .fixtures import (
    DAY,
    HOUR,
    LEASE,
    MINUTE,
    SECOND,
    START,
    START_OF_TIME,
    TICK,
    Contract,
    FakeClock,
    claim_one,
    empty,
    examples,
    held,
    on_a_thread,
    open_for_test,
    together,
    undone,
)
from .strategies import names, near

_LONG = 60.0
FAR = [START.replace(year=2254), START.replace(year=9000), START.replace(year=9000) + TICK]
"""Ends of pauses of which microseconds since 1970 do, and do not, fit in the 53 bits of a float."""


def _ids(jobs: list[Job]) -> list[int]:
    return [job.id for job in jobs]


def _claimed(storage: Storage, **options: Any) -> list[str]:
    """The contents of the jobs that a claim hands out."""
    return [job.content for job in storage.queue.claim_due(**{"worker_id": "w", **options})]


class PausedClaimsContract(Contract):
    """A claim that begins after the pause hands out no job of the platform, whoever claims."""

    @pytest.mark.parametrize("platforms", [None, ["x"], ["x", "y"], ["y", "x", "z"]])
    @pytest.mark.parametrize("limit", [1, 2, 100])
    def test_no_job_of_a_paused_platform(
        self, storage: Storage, platforms: list[str] | None, limit: int
    ) -> None:
        paused = storage.queue.schedule_many(NewJob("x", "no", START - HOUR) for _ in range(3))
        storage.queue.schedule("y", "yes")
        storage.platforms.pause("x")
        others = platforms is None or "y" in platforms
        assert _claimed(storage, platforms=platforms, limit=limit) == ["yes"] * others
        assert _claimed(storage, platforms=platforms, limit=limit) == []
        assert storage.queue.list(platform="x") == paused

    def test_a_platform_that_was_resumed(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a")
        storage.platforms.pause("x", until=START + HOUR)
        assert _claimed(storage) == []
        storage.platforms.resume("x")
        assert _claimed(storage) == ["a"]

    def test_a_pause_that_replaces_another(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a")
        storage.platforms.pause("x", until=START)
        storage.platforms.pause("x", until=START + HOUR)
        assert _claimed(storage) == []
        storage.platforms.pause_at_least("x", START + MINUTE)
        storage.platforms.pause_at_least("x", START)
        assert _claimed(storage) == []
        storage.platforms.pause("x", until=START)
        assert _claimed(storage) == ["a"]

    @pytest.mark.parametrize("platforms", [None, ["x", "y"]])
    @pytest.mark.parametrize("until", [START + TICK, START + HOUR, *FAR])
    def test_a_pause_ends_at_its_end(
        self, storage: Storage, until: datetime, platforms: list[str] | None
    ) -> None:
        storage.queue.schedule("x", "a", START_OF_TIME)
        storage.platforms.pause("x", until=until)
        for moment in (START, until - TICK):
            assert _claimed(storage, platforms=platforms, now=moment) == []
        assert _claimed(storage, platforms=platforms, now=until) == ["a"]

    def test_a_pause_that_was_over_before(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a")
        storage.platforms.pause("x", until=START)
        assert _claimed(storage) == ["a"]

    def test_several_pauses(self, storage: Storage) -> None:
        for name, minutes in (("a", 1), ("b", 2), ("c", None), ("d", 0)):
            until = None if minutes is None else START + minutes * MINUTE
            storage.platforms.pause(name, until=until)
            storage.queue.schedule(name, name)
        storage.queue.schedule("e", "e")
        claims = [_claimed(storage, now=START + number * MINUTE) for number in range(4)]
        assert claims == [["d", "e"], ["a"], ["b"], []]

    @given(st.sets(names, min_size=1, max_size=4), st.data())
    @examples(20)
    def test_platforms_are_paused_by_their_exact_name(
        self, backend: StorageBackend, storage: Storage, platforms: set[str], data: st.DataObject
    ) -> None:
        empty(backend)
        odd = platforms | {"x", "X", "é", "e\u0301", "%", "'", "k" * 512, "k" * 511 + "j"}
        paused = data.draw(st.sets(st.sampled_from(sorted(odd)), min_size=1, max_size=5))
        storage.queue.schedule_many(NewJob(name, name) for name in odd)
        for name in paused:
            storage.platforms.pause(name)
        assert {*_claimed(storage)} == odd - paused

    @pytest.mark.parametrize("state", ["retrying", "snoozed", "released", "replayed", "cancelled"])
    def test_a_job_that_was_claimed_before(self, storage: Storage, state: str) -> None:
        job = held(storage)
        if state == "retrying":
            storage.queue.mark_failed(job, "busy", retry_at=START)
        elif state == "snoozed":
            storage.queue.snooze(job, START)
        elif state == "released":
            storage.queue.release(job)
        elif state == "replayed":
            storage.queue.mark_failed(job, "refused", retryable=False)
            storage.queue.replay(job.id)
        else:
            storage.queue.cancel(job.id)
            storage.queue.replay(job.id)
        storage.platforms.pause("x")
        assert _claimed(storage) == []
        storage.platforms.resume("x")
        assert claim_one(storage).id == job.id

    def test_jobs_that_are_held_can_be_settled(self, storage: Storage) -> None:
        storage.queue.schedule_many(NewJob("x", str(number)) for number in range(5))
        posted, failed, snoozed, released, kept = storage.queue.claim_due(worker_id="w")
        storage.platforms.pause("x")
        begun = storage.queue.begin_publish(posted)
        assert _ids(storage.queue.extend([kept], lease=HOUR)) == [kept.id]
        assert storage.queue.mark_posted(begun, "remote").status is JobStatus.POSTED
        assert storage.queue.mark_failed(failed, "busy", retry_at=START).status is JobStatus.RETRYING
        assert storage.queue.snooze(snoozed, START).status is JobStatus.SCHEDULED
        assert storage.queue.release(released).status is JobStatus.SCHEDULED
        assert _claimed(storage) == []

    def test_leases_that_run_out_are_taken_back(self, storage: Storage, clock: FakeClock) -> None:
        jobs = [held(storage, content=name) for name in ("rescued", "by the claim")]
        storage.platforms.pause("x")
        clock.advance(LEASE)
        assert _ids(storage.queue.rescue_expired(limit=1)) == [jobs[0].id]
        assert _claimed(storage) == []
        assert [job.status for job in storage.queue.list()] == [JobStatus.RETRYING] * 2
        clock.advance(HOUR)
        assert _claimed(storage) == []

    def test_late_jobs_of_a_paused_platform_are_missed(self, storage: Storage, clock: FakeClock) -> None:
        late = storage.queue.schedule("x", "late", max_lateness=HOUR)
        never = storage.queue.schedule("x", "never late")
        storage.platforms.pause("x")
        clock.advance(HOUR)
        assert _claimed(storage) == []
        assert storage.queue.get(late.id) == late
        clock.advance(TICK)
        assert _claimed(storage) == []
        (letter,) = storage.queue.dead_letters()
        assert (letter.id, letter.missed) == (late.id, True)
        assert storage.queue.get(never.id) == never

    @pytest.mark.parametrize("overdue", ["late", "late on the paused one", "expired"])
    def test_overdue_jobs_beside_a_pause(self, storage: Storage, clock: FakeClock, overdue: str) -> None:
        if overdue == "expired":
            held(storage, platform="y", content="expired", lease=MINUTE)
        else:
            platform = "x" if "paused" in overdue else "y"
            storage.queue.schedule(platform, overdue, START - DAY, max_lateness=HOUR)
        storage.queue.schedule("x", "no")
        storage.queue.schedule("z", "yes")
        storage.platforms.pause("x")
        clock.advance(MINUTE)
        assert _claimed(storage) == ["yes"]
        counts = storage.queue.counts()
        assert counts[JobStatus.PROCESSING] == 1
        assert counts[JobStatus.RETRYING if overdue == "expired" else JobStatus.DEAD_LETTER] == 1

    @pytest.mark.parametrize("unless_overdue", [False, True])
    def test_a_claim_of_the_engine(
        self, backend: StorageBackend, storage: Storage, unless_overdue: bool
    ) -> None:
        options: dict[str, Any] = {"worker_id": "w", "limit": 9, "platforms": None, "now": START}
        options.update(lease_until=START + HOUR, unless_overdue=unless_overdue)
        storage.queue.schedule("x", "no")
        storage.queue.schedule("y", "yes")
        storage.platforms.pause("x")
        assert [job.content for job in backend.jobs.claim(**options)] == ["yes"]
        storage.platforms.resume("x")
        assert [job.content for job in backend.jobs.claim(**options)] == ["no"]

    def test_a_pause_inside_a_transaction(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a")
        with undone(storage) as tx:
            tx.platforms.pause("x")
            assert _claimed(tx) == []
        with storage.transaction() as tx:
            with undone(tx) as inner:
                inner.platforms.pause("x")
                assert _claimed(inner) == []
            assert tx.queue.wait(0) is True
            tx.platforms.pause("x")
            assert tx.queue.wait(0) is False
        assert _claimed(storage) == []
        with undone(storage) as tx:
            tx.platforms.resume("x")
            assert _claimed(tx) == ["a"]
        assert _claimed(storage) == []

    def test_what_is_not_a_claim_is_as_before(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a")
        later = storage.queue.schedule("x", "b", START + HOUR)
        storage.platforms.pause("x")
        assert storage.queue.next_due_at() == START
        assert storage.queue.upcoming() == storage.queue.upcoming(platform="x") == [job, later]
        assert storage.queue.counts()[JobStatus.SCHEDULED] == 2
        assert storage.queue.reschedule(job.id, START + MINUTE).due_at == START + MINUTE
        assert storage.queue.cancel(later.id).status is JobStatus.CANCELLED
        assert storage.queue.schedule("x", "c").status is JobStatus.SCHEDULED

    def test_claimers_beside_each_other(self, storage: Storage) -> None:
        storage.queue.schedule_many(NewJob("xy"[number % 2], str(number)) for number in range(40))
        storage.platforms.pause("x")

        def work(_: int) -> list[str]:
            return [content for _ in range(5) for content in _claimed(storage, limit=3)]

        found = [content for contents in together(4, work) for content in contents]
        assert sorted(found, key=int) == [str(number) for number in range(1, 40, 2)]


class NextDueContract(Contract):
    """`jobs.next_due_at(now=…)` says when a claim may find a job."""

    def test_when_a_claim_may_find_a_job(self, backend: StorageBackend, storage: Storage) -> None:
        def next_due_at(minutes: int, **options: Any) -> datetime | None:
            return backend.jobs.next_due_at(now=START + minutes * MINUTE, **options)

        assert next_due_at(0) is None
        storage.queue.schedule("x", "a", START - DAY)
        assert next_due_at(0) == START - DAY
        storage.platforms.pause("x")
        assert next_due_at(0) is None
        storage.platforms.pause("x", until=START + HOUR)
        assert next_due_at(0) == next_due_at(59) == START + HOUR
        assert next_due_at(60) == START - DAY
        storage.queue.schedule("y", "a", START + 30 * MINUTE)
        assert next_due_at(0) == START + 30 * MINUTE
        assert next_due_at(0, platforms=["y"]) == START + 30 * MINUTE
        assert next_due_at(60, platforms=["x"]) == START - DAY
        assert next_due_at(60, platforms=[]) is None
        storage.platforms.pause("y")
        assert next_due_at(0) == START + HOUR
        assert backend.jobs.next_due_at() == START - DAY
        assert backend.jobs.next_due_at(platforms=["y"]) == START + 30 * MINUTE

    @pytest.mark.parametrize("until", FAR)
    def test_a_pause_for_ever_and_a_day(
        self, backend: StorageBackend, storage: Storage, until: datetime
    ) -> None:
        storage.queue.schedule("x", "a")
        storage.platforms.pause("x", until=until)
        assert backend.jobs.next_due_at(now=START) == until
        assert backend.jobs.next_due_at(now=until - TICK) == until
        assert backend.jobs.next_due_at(now=until) == START

    def test_many_jobs_of_paused_platforms_before_the_first(
        self, backend: StorageBackend, storage: Storage
    ) -> None:
        storage.queue.schedule_many(
            NewJob("xy"[number % 2], "no", START + (number // 3) * TICK) for number in range(250)
        )
        job = storage.queue.schedule("z", "yes", START + HOUR)
        storage.platforms.pause("x")
        storage.platforms.pause("y")
        assert backend.jobs.next_due_at(now=START) == START + HOUR
        assert _ids(storage.queue.claim_due(worker_id="w", limit=1, now=START + HOUR)) == [job.id]

    @given(
        st.lists(st.tuples(near(3), st.sampled_from("xyz")), max_size=6),
        st.dictionaries(st.sampled_from("xyzw"), st.none() | near(4), max_size=4),
        st.none() | st.lists(st.sampled_from("xyz"), max_size=2),
        near(4),
        st.integers(1, 4),
    )
    @examples(40)
    def test_claims_are_those_of_a_naive_filter(
        self,
        backend: StorageBackend,
        storage: Storage,
        drafts: list[tuple[datetime, str]],
        pauses: dict[str, datetime | None],
        platforms: list[str] | None,
        now: datetime,
        limit: int,
    ) -> None:
        empty(backend)
        jobs = storage.queue.schedule_many(NewJob(platform, "a", at) for at, platform in drafts)
        for platform, until in pauses.items():
            storage.platforms.pause(platform, until=until)
        ends = {platform: until for platform, until in pauses.items() if until is None or until > now}
        running = [
            job
            for job in sorted(jobs, key=lambda job: (job.due_at, job.id))
            if job.platform not in ends and (platforms is None or job.platform in platforms)
        ]
        moments = [job.due_at for job in running] + [until for until in ends.values() if until is not None]
        assert backend.jobs.next_due_at(platforms=platforms, now=now) == min(moments, default=None)
        claimed = storage.queue.claim_due(worker_id="w", platforms=platforms, limit=limit, now=now)
        assert _ids(claimed) == _ids([job for job in running if job.due_at <= now][:limit])


_Change = Callable[[Storage], object]

_WAKING: dict[str, tuple[_Change, _Change]] = {
    "pause": (lambda _: None, lambda storage: storage.platforms.pause("x", until=START + SECOND)),
    "a shorter pause": (
        lambda storage: storage.platforms.pause("x"),
        lambda storage: storage.platforms.pause("x", until=START + SECOND),
    ),
    "pause_at_least": (lambda _: None, lambda storage: storage.platforms.pause_at_least("x", START + SECOND)),
    "resume": (
        lambda storage: storage.platforms.pause("x"),
        lambda storage: storage.platforms.resume("x"),
    ),
    "resume in a transaction": (
        lambda storage: storage.platforms.pause("x"),
        lambda storage: _resume_in_a_block(storage),
    ),
    "a job of another platform": (
        lambda storage: storage.platforms.pause("x"),
        lambda storage: storage.queue.schedule("y", "a"),
    ),
}
"""What is there before, and what ends a wait."""


def _resume_in_a_block(storage: Storage) -> None:
    with storage.transaction() as tx:
        tx.platforms.resume("x")


class PausedWaitsContract(Contract):
    def test_jobs_of_a_paused_platform_end_no_wait(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a")
        storage.platforms.pause("x")
        assert storage.queue.wait(0) is False
        assert storage.queue.wait(0.01) is False
        storage.platforms.pause("x", until=START + HOUR)
        assert storage.queue.wait(0.01) is False
        storage.queue.schedule("y", "b")
        assert storage.queue.wait(_LONG) is True
        assert storage.queue.wait(0.01, platforms=["x"]) is False
        assert storage.queue.wait(_LONG, platforms=["x", "y"]) is True

    def test_a_pause_that_is_over_ends_a_wait(self, storage: Storage, clock: FakeClock) -> None:
        storage.queue.schedule("x", "a")
        storage.platforms.pause("x", until=START + HOUR)
        clock.advance(HOUR)
        assert storage.queue.wait(_LONG) is True

    def test_the_end_of_a_pause_without_jobs_ends_no_wait(self, storage: Storage, clock: FakeClock) -> None:
        storage.platforms.pause("x", until=START + MINUTE)
        assert storage.queue.wait(0.01) is False
        clock.advance(HOUR)
        assert storage.queue.wait(0.01) is False

    def test_a_wait_sleeps_until_the_end_of_a_pause(self, backend: StorageBackend) -> None:
        empty(backend)
        storage = open_for_test(backend, None)
        now = storage.queue.schedule("x", "a").created_at
        end = now + SECOND / 2
        storage.platforms.pause("x", until=end)
        waiter = on_a_thread(lambda: (storage.queue.wait(_LONG), backend.now()))
        woken, at = waiter.result(engine_contract._TIMEOUT)
        assert woken is True
        assert at >= end
        assert claim_one(storage).content == "a"

    @pytest.mark.parametrize("waking", _WAKING)
    def test_what_wakes_a_wait_during_a_pause(
        self, backend: StorageBackend, storage: Storage, waking: str
    ) -> None:
        """`queue.wait` would look again after some seconds, and would hide an engine that notices nothing."""
        prepare, happen = _WAKING[waking]
        storage.queue.schedule("x", "a")
        prepare(storage)
        looked = Event()

        def look_and_wait() -> None:
            backend.jobs.next_due_at(now=START)
            looked.set()
            backend.jobs.wait(_LONG)

        waiter = on_a_thread(look_and_wait)
        assert looked.wait(engine_contract._TIMEOUT)
        happen(storage)
        waiter.result(engine_contract._TIMEOUT)

    def test_a_deleted_pause_wakes_a_wait(self, backend: StorageBackend, storage: Storage) -> None:
        storage.queue.schedule("x", "a")
        storage.platforms.pause("x")
        looked = Event()

        def look_and_wait() -> None:
            backend.jobs.next_due_at(now=START)
            looked.set()
            backend.jobs.wait(_LONG)

        waiter = on_a_thread(look_and_wait)
        assert looked.wait(engine_contract._TIMEOUT)
        assert backend.documents.delete(PAUSES, "x") is True
        waiter.result(engine_contract._TIMEOUT)
        assert storage.queue.wait(0) is True

    def test_a_platform_that_is_resumed_ends_the_wait(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a")
        storage.platforms.pause("x")
        waiters = [on_a_thread(lambda: storage.queue.wait(_LONG)) for _ in range(2)]
        waiters.append(on_a_thread(lambda: storage.queue.wait(timedelta(minutes=1), platforms=["x"])))
        storage.platforms.resume("x")
        assert [waiter.result(engine_contract._TIMEOUT) for waiter in waiters] == [True] * 3
