"""The guarantees of the engine protocol that callers of the stores do not see directly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from datetime import datetime, timedelta
from threading import Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, StorageBackend
from ..engine.values import JsonText
from ..errors import StatusConflict
from ..records import Attempt, Job, JobStatus, NewJob
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    LEASE,
    MINUTE,
    SECOND,
    START,
    TICK,
    Contract,
    FakeClock,
    cancelled,
    census,
    claim_one,
    dead,
    empty,
    examples,
    held,
    on_a_thread,
    open_for_test,
    retrying,
    unknown,
)
from .strategies import near

_TIMEOUT = 10.0
"""Seconds within which a wait must end after a change. Without one it would last far longer."""

_LONG = 60.0

_MEANWHILE = 0.05
"""Seconds in which another thread would do what a lock keeps it from."""


class TraitsContract(Contract):
    def test_the_version_of_the_protocol(self, backend: StorageBackend) -> None:
        assert type(backend.protocol_version) is int
        assert OLDEST_PROTOCOL_VERSION <= backend.protocol_version <= PROTOCOL_VERSION

    @pytest.mark.parametrize("trait", ["in_process", "durable", "multi_process", "binds"])
    def test_what_is_declared_is_a_bool(self, backend: StorageBackend, trait: str) -> None:
        assert type(getattr(backend, trait)) is bool

    def test_writers_is_a_count(self, backend: StorageBackend) -> None:
        assert type(backend.writers) is int
        assert backend.writers >= 0

    def test_the_clock_is_aware(self, backend: StorageBackend) -> None:
        first, second = backend.now(), backend.now()
        assert first.utcoffset() == timedelta(0)
        assert first <= second

    def test_maintenance_changes_nothing(self, storage: Storage) -> None:
        held(storage)
        dead(storage)
        before = census(storage)
        storage.maintain()
        assert census(storage) == before


_COLUMNS: dict[str, Any] = {
    "status": JobStatus.RETRYING,
    "platform": "another platform",
    "content": "another content",
    "metadata": {"another": [1, 1.0, None]},
    "scheduled_at": START + DAY,
    "created_at": START - DAY,
    "updated_at": START + SECOND,
    "retries": 7,
    "max_retries": 9,
    "next_retry_at": START + 2 * DAY,
    "due_at": START + 2 * DAY,
    "idempotency_key": "another key",
    "remote_id": "another remote id",
    "posted_at": START + 3 * SECOND,
    "last_error": "another error",
    "dead_letter_at": START + 4 * SECOND,
    "dead_letter_reason": "another reason",
    "replayed_at": START + 5 * SECOND,
    "claim": 11,
    "worker_id": "another worker",
    "lease_until": START + 6 * SECOND,
    "publish_started_at": START + 7 * SECOND,
    "max_lateness": timedelta(days=3, microseconds=1),
    "attempts": (Attempt(1, START, None, "first"), Attempt(2, START + TICK, "w", "second")),
    "checkpoint": {"step": 2, "of": [2.0, None]},
}


class SavingContract(Contract):
    """`save` replaces all fields of a job, and its index entries."""

    def _saved(self, backend: StorageBackend, id: int, **changes: Any) -> Job:
        with backend.transaction() as tx:
            job = tx.jobs.get(id, lock=True)
            assert job is not None
            job = dataclasses.replace(job, **changes)
            tx.jobs.save(job)
        return job

    def test_every_column_has_a_case(self) -> None:
        assert _COLUMNS.keys() == {part.name for part in dataclasses.fields(Job)} - {"id"}

    @pytest.mark.parametrize("column", _COLUMNS)
    def test_a_column_is_saved(self, backend: StorageBackend, storage: Storage, column: str) -> None:
        job = storage.queue.schedule("x", "a", START, idempotency_key="key")
        assert getattr(job, column) != _COLUMNS[column]
        self._saved(backend, job.id, **_COLUMNS)
        found = [storage.queue.get(job.id), *storage.queue.list()]
        assert [getattr(one, column) for one in found] == [_COLUMNS[column]] * 2

    @pytest.mark.parametrize(
        "column",
        [part.name for part in dataclasses.fields(Job) if "None" in str(part.type) or part.type == "Json"],
    )
    def test_a_column_is_cleared(self, backend: StorageBackend, storage: Storage, column: str) -> None:
        job = storage.queue.schedule("x", "a", START, idempotency_key="key")
        full = self._saved(backend, job.id, **_COLUMNS)
        cleared = {column: None, "due_at": full.scheduled_at} if column == "next_retry_at" else {column: None}
        self._saved(backend, job.id, **cleared)
        assert storage.queue.get(job.id) == dataclasses.replace(full, **cleared)

    def test_a_save_is_seen_inside_its_transaction(self, backend: StorageBackend, storage: Storage) -> None:
        id = storage.queue.schedule("x", "a", START).id
        with backend.transaction() as tx:
            job = tx.jobs.get(id, lock=True)
            assert job is not None
            job = dataclasses.replace(job, **_COLUMNS)
            tx.jobs.save(job)
            assert tx.jobs.get(id) == job
            assert [*tx.jobs.list(status=JobStatus.RETRYING, platform=None, after=0, limit=9)] == [job]

    def test_a_locked_job_is_not_claimed(self, backend: StorageBackend, storage: Storage) -> None:
        id = storage.queue.schedule("x", "a", START).id
        with backend.transaction() as tx:
            job = tx.jobs.get(id, lock=True)
            assert job is not None
            claiming = on_a_thread(lambda: storage.queue.claim_due(worker_id="w"))
            wait([claiming], _MEANWHILE)
            tx.jobs.save(dataclasses.replace(job, scheduled_at=START + DAY, due_at=START + DAY))
        assert claiming.result(_TIMEOUT) == []

    def test_a_locked_approval_is_not_decided(self, backend: StorageBackend, storage: Storage) -> None:
        storage.approvals.add("a", {})
        with backend.transaction() as tx:
            assert tx.approvals.get("a", lock=True) is not None
            deciding = on_a_thread(lambda: storage.approvals.decide("a", "refused"))
            wait([deciding], _MEANWHILE)
            options: dict[str, Any] = {"expected": "pending", "payload": None, "now": START}
            assert tx.approvals.decide("a", "approved", **options) is not None
        with pytest.raises(StatusConflict):
            deciding.result(_TIMEOUT)

    def test_a_locked_session_is_not_changed(self, backend: StorageBackend, storage: Storage) -> None:
        storage.sessions.put("user", 1)
        with backend.transaction() as tx:
            assert tx.sessions.get("user", lock=True) is not None
            putting = on_a_thread(lambda: storage.sessions.put("user", 3))
            wait([putting], _MEANWHILE)
            assert tx.sessions.put("user", JsonText("2"), expected_version=1, now=START) is not None
        assert putting.result(_TIMEOUT).version == 3

    def test_other_jobs_stay(self, backend: StorageBackend, storage: Storage) -> None:
        jobs = storage.queue.schedule_many(NewJob("x", "a", START) for _ in range(3))
        saved = self._saved(backend, jobs[1].id, **_COLUMNS)
        assert storage.queue.list() == [jobs[0], saved, jobs[2]]

    def test_it_is_found_by_what_was_saved(self, backend: StorageBackend, storage: Storage) -> None:
        id = storage.queue.schedule("x", "a", START, idempotency_key="key", max_lateness=HOUR).id
        saved = self._saved(
            backend,
            id,
            platform="y",
            scheduled_at=START + DAY,
            next_retry_at=START + 2 * DAY,
            due_at=START + 2 * DAY,
            status=JobStatus.RETRYING,
            idempotency_key="other",
        )
        jobs = backend.jobs
        assert jobs.by_key("key") is None
        assert jobs.by_key("other") == saved
        assert jobs.in_window("x", START, START + DAY) is None
        assert jobs.in_window("y", START + DAY, START + DAY) == saved
        assert jobs.next_due_at() == START + 2 * DAY
        assert storage.queue.counts()[JobStatus.RETRYING] == 1
        assert [*jobs.list(status=JobStatus.SCHEDULED, platform=None, after=0, limit=9)] == []
        assert [*jobs.late(limit=9, platforms=["y"], now=START + DAY + HOUR + TICK)] == []
        assert [*jobs.late(limit=9, platforms=["y"], now=START + 2 * DAY)] == [saved]
        processing = self._saved(backend, id, status=JobStatus.PROCESSING, lease_until=START + MINUTE)
        assert [*jobs.expired(limit=9, now=START + MINUTE)] == [processing]
        assert [*jobs.late(limit=9, platforms=None, now=START + 9 * DAY)] == []
        assert jobs.next_due_at() is None
        self._saved(backend, id, lease_until=START + HOUR)
        assert [*jobs.expired(limit=9, now=START + MINUTE)] == []

    def test_a_save_that_is_undone(self, backend: StorageBackend, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a", START, idempotency_key="key")

        def save_and_fail() -> None:
            with backend.transaction() as tx:
                tx.jobs.save(dataclasses.replace(job, **_COLUMNS))
                raise LookupError("on purpose")

        with pytest.raises(LookupError, match="on purpose"):
            save_and_fail()
        assert storage.queue.get(job.id) == job
        assert backend.jobs.by_key("key") == job
        assert backend.jobs.by_key("another key") is None


class LookAheadContract(Contract):
    """`waiting`, `late` and `expired`, and how `claim` and `dead_letter_late` use them."""

    def test_waiting_jobs_come_by_their_due_time(self, backend: StorageBackend, storage: Storage) -> None:
        again = retrying(storage, retry_at=START + HOUR)
        later = storage.queue.schedule("y", "a", START + 2 * HOUR)
        first = [storage.queue.schedule("x", "a", START + MINUTE) for _ in range(2)]
        dead(storage)
        held(storage, platform="z", max_retries=1)
        whole = [*first, again, later]

        def waiting(**narrowed: Any) -> list[Job]:
            options = {"until": None, "platforms": None, "after": None, "limit": 10, **narrowed}
            return [*backend.jobs.waiting(**options)]

        assert waiting() == whole
        assert waiting(limit=2) == first
        assert waiting(until=START + HOUR) == whole[:3]
        assert waiting(until=START + HOUR - TICK) == first
        assert waiting(platforms=["y", "z"]) == [later]
        assert waiting(platforms=[]) == []
        assert waiting(after=(START + MINUTE, first[0].id)) == whole[1:]
        assert waiting(after=(START + MINUTE, first[1].id), limit=1) == [again]
        assert waiting(after=(START + 2 * HOUR, later.id)) == []

    @given(
        st.lists(st.tuples(near(3), st.sampled_from("xy")), max_size=8),
        st.none() | near(3),
        st.none() | st.lists(st.sampled_from("xyz"), max_size=2),
        st.none() | st.tuples(near(3), st.integers(0, 8)),
        st.integers(1, 5),
    )
    @examples(25)
    def test_waiting_jobs_are_those_of_a_naive_filter(
        self,
        backend: StorageBackend,
        storage: Storage,
        drafts: list[tuple[datetime, str]],
        until: datetime | None,
        platforms: list[str] | None,
        after: tuple[datetime, int] | None,
        limit: int,
    ) -> None:
        empty(backend)
        jobs = storage.queue.schedule_many(NewJob(platform, "a", at) for at, platform in drafts)
        if after is not None and jobs:
            after = after[0], jobs[0].id - 1 + after[1]
        expected = [
            job
            for job in sorted(jobs, key=lambda job: (job.due_at, job.id))
            if (until is None or job.due_at <= until)
            and (platforms is None or job.platform in platforms)
            and (after is None or (job.due_at, job.id) > after)
        ]
        found = backend.jobs.waiting(until=until, platforms=platforms, after=after, limit=limit)
        assert [*found] == expected[:limit]

    def _late(self, storage: Storage) -> list[Job]:
        """Jobs that are late from START on, the one that has been so for longest first."""
        lateness = {START - HOUR: 50 * MINUTE, START - 3 * HOUR: 2 * HOUR, START - DAY: DAY - 70 * MINUTE}
        jobs = [
            storage.queue.schedule("xyx"[place], "a", at, max_lateness=lateness[at])
            for place, at in enumerate(lateness)
        ]
        storage.queue.schedule("x", "in time", START - HOUR, max_lateness=HOUR)
        storage.queue.schedule("x", "not due", START + TICK, max_lateness=timedelta(0))
        storage.queue.schedule("x", "without a limit", START - DAY)
        return [jobs[2], jobs[1], jobs[0]]

    def test_late_jobs_come_by_the_time_they_became_so(
        self, backend: StorageBackend, storage: Storage
    ) -> None:
        late = self._late(storage)
        before = storage.queue.list()
        assert [*backend.jobs.late(limit=9, platforms=None, now=START)] == late
        assert [*backend.jobs.late(limit=2, platforms=None, now=START)] == late[:2]
        assert [*backend.jobs.late(limit=9, platforms=["y"], now=START)] == [late[1]]
        assert [*backend.jobs.late(limit=9, platforms=["z"], now=START)] == []
        assert storage.queue.list() == before

    def test_the_latest_are_moved_first(self, backend: StorageBackend, storage: Storage) -> None:
        late = self._late(storage)
        for job in late:
            moved = backend.jobs.dead_letter_late(limit=1, platforms=None, reason="missed: it", now=START)
            stored = storage.queue.get(job.id)
            assert stored is not None
            assert [*moved] == [stored]
            assert (stored.status, stored.dead_letter_reason) == (JobStatus.DEAD_LETTER, "missed: it")
        assert backend.jobs.dead_letter_late(limit=9, platforms=None, reason="missed: it", now=START) == []

    def test_of_equally_late_ones_the_first_is_moved(self, backend: StorageBackend, storage: Storage) -> None:
        jobs = [
            storage.queue.schedule("x", "a", START - DAY - hours * HOUR, max_lateness=hours * HOUR)
            for hours in (1, 2)
        ]
        backend.jobs.dead_letter_late(limit=1, platforms=None, reason="missed: it", now=START)
        assert [job.id for job in storage.queue.dead_letters()] == [jobs[0].id]

    def test_a_late_retry_has_no_time_left(
        self, backend: StorageBackend, storage: Storage, clock: FakeClock
    ) -> None:
        job = retrying(storage, retry_at=START + HOUR, max_lateness=HOUR - TICK)
        clock.advance(HOUR)
        (moved,) = backend.jobs.dead_letter_late(limit=9, platforms=None, reason="missed: it", now=clock())
        assert moved == storage.queue.get(job.id)
        assert moved == dataclasses.replace(
            job,
            status=JobStatus.DEAD_LETTER,
            next_retry_at=None,
            due_at=START,
            dead_letter_at=START + HOUR,
            dead_letter_reason="missed: it",
            updated_at=START + HOUR,
        )

    @pytest.mark.parametrize("lease", [SECOND, HOUR], ids=["shorter", "longer"])
    def test_a_lease_runs_out_at_its_new_end(
        self, backend: StorageBackend, storage: Storage, lease: timedelta
    ) -> None:
        (job,) = storage.queue.extend([held(storage, lease=MINUTE)], lease=lease)
        assert [*backend.jobs.expired(limit=9, now=START + lease - TICK)] == []
        assert [*backend.jobs.expired(limit=9, now=START + lease)] == [job]

    def _claim(self, backend: StorageBackend, **options: Any) -> list[Job]:
        defaults: dict[str, Any] = {"worker_id": "w", "limit": 9, "platforms": None, "now": START}
        return [*backend.jobs.claim(lease_until=START + HOUR, **{**defaults, **options})]

    def test_a_claim_passes_late_jobs_over(self, backend: StorageBackend, storage: Storage) -> None:
        late = storage.queue.schedule("x", "late", START - DAY, max_lateness=HOUR)
        job = storage.queue.schedule("x", "a")
        assert [claimed.id for claimed in self._claim(backend, limit=1)] == [job.id]
        assert storage.queue.get(late.id) == late

    def test_unless_overdue_with_nothing_overdue(self, backend: StorageBackend, storage: Storage) -> None:
        held(storage, lease=TICK)
        job = storage.queue.schedule("x", "a")
        assert [claimed.id for claimed in self._claim(backend, unless_overdue=True)] == [job.id]

    def test_unless_overdue_with_a_lease_that_ran_out(
        self, backend: StorageBackend, storage: Storage
    ) -> None:
        expired = held(storage, platform="y", lease=TICK)
        job = storage.queue.schedule("x", "a")
        options = {"platforms": ["x"], "unless_overdue": True, "now": START + TICK}
        assert self._claim(backend, **options) == []
        assert storage.queue.list() == [expired, job]
        storage.queue.mark_posted(expired)
        assert [claimed.id for claimed in self._claim(backend, **options)] == [job.id]

    def test_unless_overdue_with_a_late_job_that_is_due_just_now(
        self, backend: StorageBackend, storage: Storage
    ) -> None:
        retrying(storage, retry_at=START + MINUTE, max_lateness=MINUTE - TICK)
        job = storage.queue.schedule("x", "a")
        assert self._claim(backend, unless_overdue=True, now=START + MINUTE) == []
        claimed = self._claim(backend, unless_overdue=True, now=START + MINUTE - TICK)
        assert [one.id for one in claimed] == [job.id]

    def test_unless_overdue_looks_at_late_jobs_of_its_platforms(
        self, backend: StorageBackend, storage: Storage
    ) -> None:
        storage.queue.schedule("y", "late", START - DAY, max_lateness=HOUR)
        job = storage.queue.schedule("x", "a")
        assert self._claim(backend, unless_overdue=True) == []
        assert self._claim(backend, platforms=["y"], unless_overdue=True) == []
        claimed = self._claim(backend, platforms=["x"], unless_overdue=True)
        assert [job.id for job in claimed] == [job.id]


_Change = Callable[[Storage], object]


def _in_a_block(storage: Storage) -> None:
    with storage.transaction() as tx:
        tx.queue.schedule("x", "a")


_ARRIVALS: dict[str, tuple[Callable[[Storage], Any], Callable[[Storage, Any], object]]] = {
    "schedule": (lambda _: None, lambda s, _: s.queue.schedule("x", "a")),
    "schedule_many": (lambda _: None, lambda s, _: s.queue.schedule_many([NewJob("x", "a")])),
    "in a transaction": (lambda _: None, lambda s, _: _in_a_block(s)),
    "reschedule": (
        lambda s: s.queue.schedule("x", "a", START + DAY),
        lambda s, job: s.queue.reschedule(job.id, START),
    ),
    "release": (held, lambda s, job: s.queue.release(job)),
    "snooze": (held, lambda s, job: s.queue.snooze(job, START)),
    "mark_failed": (held, lambda s, job: s.queue.mark_failed(job, "busy", retry_at=START)),
    "replay": (dead, lambda s, job: s.queue.replay(job.id)),
    "replay of a cancelled one": (cancelled, lambda s, job: s.queue.replay(job.id)),
    "resolve": (unknown, lambda s, job: s.queue.resolve(job.id, posted=False)),
    "replay_all": (dead, lambda s, _: s.queue.replay_all()),
}
"""How a job comes to be due: what is there before, and what is done to it."""


class WakeUpContract(Contract):
    """`JobStore.wait`, and `queue.wait` above it."""

    @contextmanager
    def _waiting(self, backend: StorageBackend) -> Iterator[Event]:
        """Another thread looks and then waits; the event is set when it has looked."""
        looked = Event()

        def look_and_wait() -> None:
            backend.jobs.next_due_at()
            looked.set()
            backend.jobs.wait(_LONG)

        waiter = on_a_thread(look_and_wait)
        assert looked.wait(_TIMEOUT)
        yield looked
        waiter.result(_TIMEOUT)

    @pytest.mark.parametrize("arrival", _ARRIVALS)
    def test_a_wait_ends_when_a_job_comes(
        self, backend: StorageBackend, storage: Storage, arrival: str
    ) -> None:
        prepare, happen = _ARRIVALS[arrival]
        prepared = prepare(storage)
        with self._waiting(backend):
            happen(storage, prepared)
        assert storage.queue.next_due_at() == START

    @pytest.mark.parametrize("arrival", _ARRIVALS)
    def test_a_change_after_the_look_is_not_slept_through(
        self, backend: StorageBackend, storage: Storage, arrival: str
    ) -> None:
        prepare, happen = _ARRIVALS[arrival]
        prepared = prepare(storage)
        looked, changed = Event(), Event()

        def look_and_wait() -> None:
            backend.jobs.next_due_at()
            looked.set()
            assert changed.wait(_LONG)
            backend.jobs.wait(_LONG)

        waiter = on_a_thread(look_and_wait)
        assert looked.wait(_TIMEOUT)
        happen(storage, prepared)
        changed.set()
        waiter.result(_TIMEOUT)

    def test_a_wait_without_a_look(self, backend: StorageBackend, storage: Storage) -> None:
        """A job that was there before counts as a change."""
        storage.queue.schedule("x", "a")
        on_a_thread(lambda: backend.jobs.wait(_LONG)).result(_TIMEOUT)

    def test_a_wait_ends_by_itself(self, backend: StorageBackend, storage: Storage) -> None:
        backend.jobs.next_due_at()
        on_a_thread(lambda: backend.jobs.wait(0.01)).result(_TIMEOUT)

    def test_every_waiter_hears_of_it(self, backend: StorageBackend, storage: Storage) -> None:
        waiters = [on_a_thread(lambda: storage.queue.wait(_LONG)) for _ in range(3)]
        storage.queue.schedule("x", "a")
        assert [waiter.result(_TIMEOUT) for waiter in waiters] == [True] * 3

    def test_a_job_that_falls_due_ends_the_wait(self, backend: StorageBackend) -> None:
        empty(backend)
        storage = open_for_test(backend, None)
        storage.queue.schedule("x", "a", storage.queue.schedule("y", "b").created_at + SECOND)
        claim_one(storage)
        assert on_a_thread(lambda: storage.queue.wait(_LONG)).result(_TIMEOUT) is True

    def test_a_lease_does_not_end_the_wait(self, storage: Storage, clock: FakeClock) -> None:
        held(storage)
        clock.advance(LEASE)
        assert storage.queue.wait(0.01) is False
