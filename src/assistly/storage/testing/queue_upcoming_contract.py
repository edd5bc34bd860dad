"""What comes next: upcoming jobs, and waiting for those of some platforms."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from threading import Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue
from ..records import Job, JobStatus, NewJob
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
    cancelled,
    dead,
    empty,
    examples,
    held,
    missed,
    on_a_thread,
    posted,
    retrying,
    undone,
    unknown,
)
from .strategies import near


class QueueUpcomingContract(Contract):
    def test_an_empty_queue_has_none(self, storage: Storage) -> None:
        assert storage.queue.upcoming() == []
        assert storage.queue.upcoming(until=START + DAY, platform="x") == []

    def test_by_due_time_and_id(self, storage: Storage) -> None:
        times = [DAY, HOUR, DAY, MINUTE, HOUR]
        jobs = [storage.queue.schedule("x", "a", START + time) for time in times]
        assert storage.queue.upcoming() == [jobs[n] for n in (3, 1, 4, 0, 2)]

    def test_those_that_are_due_or_late_come_first(self, storage: Storage) -> None:
        later = storage.queue.schedule("x", "a", START + TICK)
        due = storage.queue.schedule("x", "a", START)
        late = storage.queue.schedule("x", "a", START - DAY, max_lateness=HOUR)
        assert storage.queue.upcoming() == [late, due, later]
        assert storage.queue.get(late.id) == late, "it only looks"

    def test_since_a_time(self, storage: Storage) -> None:
        times = [HOUR - TICK, HOUR, HOUR, HOUR + TICK]
        before, *jobs = [storage.queue.schedule("x", "a", START + time) for time in times]
        since = START + HOUR
        assert storage.queue.upcoming(since=since) == jobs, "exactly then is not before"
        assert storage.queue.upcoming(since=since, until=since) == jobs[:2]
        assert storage.queue.upcoming(since=since, until=since - TICK) == []
        assert storage.queue.upcoming(since=since, after=jobs[0]) == jobs[1:]
        assert storage.queue.upcoming(since=since, after=before) == jobs, "the later one of the two counts"
        assert storage.queue.upcoming(since=since, platform="y") == []
        assert storage.queue.upcoming(since=START - DAY) == [before, *jobs]
        with pytest.raises(InvalidValue, match="since"):
            storage.queue.upcoming(since=datetime(2026, 3, 1))  # noqa: DTZ001 - that is the fault

    def test_a_retry_stands_at_its_time(self, storage: Storage) -> None:
        again = retrying(storage, retry_at=START + 2 * HOUR)
        snoozed = storage.queue.snooze(held(storage), START + 4 * HOUR)
        others = [storage.queue.schedule("x", "a", START + hours * HOUR) for hours in (1, 3)]
        assert (again.status, snoozed.status) == (JobStatus.RETRYING, JobStatus.SCHEDULED)
        assert storage.queue.upcoming() == [others[0], again, others[1], snoozed]

    def test_only_waiting_jobs_are_upcoming(self, storage: Storage) -> None:
        for make in (posted, dead, unknown, missed, cancelled):
            make(storage)
        held(storage)
        waiting = storage.queue.schedule("x", "a", START + TICK)
        assert storage.queue.upcoming() == [waiting]
        assert [job.id for job in storage.queue.claim_due(worker_id="w", now=START + TICK)] == [waiting.id]
        assert storage.queue.upcoming() == []

    def test_until_is_included(self, storage: Storage) -> None:
        jobs = [storage.queue.schedule("x", "a", START + n * TICK) for n in range(3)]
        assert storage.queue.upcoming(until=START + TICK) == jobs[:2]
        assert storage.queue.upcoming(until=START - TICK) == []
        assert storage.queue.upcoming(until=START + DAY) == jobs

    def test_until_is_compared_with_the_retry(self, storage: Storage) -> None:
        again = retrying(storage, retry_at=START + HOUR)
        assert storage.queue.upcoming(until=START + HOUR - TICK) == []
        assert storage.queue.upcoming(until=START + HOUR) == [again]

    def test_of_a_platform(self, storage: Storage) -> None:
        jobs = [storage.queue.schedule(platform, "a", START + HOUR) for platform in "xyxy"]
        assert storage.queue.upcoming(platform="y") == jobs[1::2]
        assert storage.queue.upcoming(platform="Y") == storage.queue.upcoming(platform="xy") == []
        assert storage.queue.upcoming(platform="y", until=START + HOUR, after=jobs[1], limit=5) == [jobs[3]]

    def test_a_page_begins_after_the_last_one(self, storage: Storage) -> None:
        jobs = [storage.queue.schedule("x", "a", START + n // 2 * HOUR) for n in range(6)]
        assert storage.queue.upcoming(limit=3) == jobs[:3]
        assert storage.queue.upcoming(after=jobs[2]) == jobs[3:]
        assert storage.queue.upcoming(after=jobs[2], limit=1) == [jobs[3]]
        assert storage.queue.upcoming(after=jobs[5]) == []

    def test_the_last_job_of_a_page_may_have_changed(self, storage: Storage) -> None:
        jobs = [storage.queue.schedule("x", "a", START + HOUR) for _ in range(3)]
        (last,) = storage.queue.upcoming(limit=1)
        storage.queue.cancel(last.id)
        assert storage.queue.upcoming(after=last) == jobs[1:]
        storage.queue.remove(last.id)
        assert storage.queue.upcoming(after=last) == jobs[1:]

    @given(
        st.lists(st.tuples(near(3), st.sampled_from("xy"), st.booleans()), max_size=8),
        st.integers(1, 4),
        st.none() | near(4),
        st.sampled_from([None, "x", "y"]),
    )
    @examples(20)
    def test_upcoming_pages_make_up_the_whole(
        self,
        backend: StorageBackend,
        storage: Storage,
        drafts: list[tuple[datetime, str, bool]],
        limit: int,
        until: datetime | None,
        platform: str | None,
    ) -> None:
        empty(backend)
        jobs: list[Job] = []
        for at, name, fails in drafts:
            jobs.append(
                retrying(storage, platform=name, scheduled_at=START - DAY, retry_at=START + DAY)
                if fails
                else storage.queue.schedule(name, "a", at + DAY)
            )
        whole = [
            job
            for job in sorted(jobs, key=lambda job: (job.due_at, job.id))
            if platform in (None, job.platform) and (until is None or job.due_at <= until + DAY)
        ]
        wanted = {"platform": platform, "until": None if until is None else until + DAY}
        pages: list[Job] = []
        while page := storage.queue.upcoming(after=pages[-1] if pages else None, limit=limit, **wanted):  # type: ignore[arg-type]
            assert len(page) <= limit
            pages += page
        assert pages == whole == storage.queue.upcoming(**wanted)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "bad",
        [
            *({"limit": 0}, {"limit": 1001}, {"limit": True}, {"limit": None}),
            *({"platform": ""}, {"platform": 1}, {"platform": ["x"]}),
            *({"after": 1}, {"after": "1"}, {"after": START}),
            *({"until": 1}, {"until": "soon"}, {"until": START.replace(tzinfo=None)}, {"until": DAY}),
        ],
    )
    def test_upcoming_checks_its_arguments(self, storage: Storage, bad: dict[str, Any]) -> None:
        storage.queue.schedule("x", "a")
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.queue.upcoming(**bad)

    def test_a_page_does_not_begin_after_a_job_without_a_time(self, storage: Storage) -> None:
        job = dataclasses.replace(storage.queue.schedule("x", "a"), due_at=START.replace(tzinfo=None))
        with pytest.raises(InvalidValue, match="due_at"):
            storage.queue.upcoming(after=job)

    def test_upcoming_jobs_inside_a_transaction(self, storage: Storage) -> None:
        first = storage.queue.schedule("x", "a", START + HOUR)
        with undone(storage) as tx:
            second = tx.queue.schedule("x", "a", START)
            assert tx.queue.upcoming() == [second, first]
        assert storage.queue.upcoming() == [first]


class QueueWaitingForPlatformsContract(Contract):
    def test_jobs_of_other_platforms_are_not_waited_for(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START)
        storage.queue.schedule("z", "a", START + TICK)
        for others in (["y"], ["y", "z"], ("X", "xx"), iter(["y"]), []):
            assert storage.queue.wait(0, platforms=others) is False
        assert storage.queue.wait(0.01, platforms={"y", "z"}) is False
        for wanted in (["x"], ["x", "y"], ["a", "x"], {"x"}, iter(["x"]), None):
            assert storage.queue.wait(0, platforms=wanted) is True
        assert storage.queue.wait(60, platforms=["x"]) is True

    def test_the_clock_decides_for_each_platform(self, storage: Storage, clock: FakeClock) -> None:
        storage.queue.schedule("x", "a", START + HOUR)
        storage.queue.schedule("y", "a", START + DAY)
        clock.advance(HOUR)
        assert storage.queue.wait(0, platforms=["x"]) is True
        assert storage.queue.wait(0, platforms=["y"]) is False
        clock.advance(DAY)
        assert storage.queue.wait(0, platforms=["y"]) is True

    def test_only_a_job_of_its_platforms_ends_it(self, storage: Storage) -> None:
        """It sleeps while others are due."""
        storage.queue.schedule("x", "a", START - SECOND)
        waiting = Event()

        def wait(seconds: float) -> bool:
            waiting.set()
            return storage.queue.wait(seconds, platforms=["y", "z"])

        waiter = on_a_thread(lambda: wait(0.2))
        assert waiting.wait(10)
        storage.queue.schedule("x", "a", START - SECOND)
        assert waiter.result(20) is False
        waiter = on_a_thread(lambda: wait(30))
        storage.queue.schedule("x", "a", START - SECOND)
        storage.queue.schedule("y", "a", START - SECOND)
        assert waiter.result(20) is True

    def test_it_sleeps_while_others_are_due(
        self, backend: StorageBackend, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It does not look all the time."""
        storage.queue.schedule_many(NewJob("x", "a", START - SECOND) for _ in range(3))
        looks: list[object] = []
        look = backend.jobs.next_due_at

        def counted(*args: Any, **options: Any) -> datetime | None:
            looks.append(options)
            return look(*args, **options)

        monkeypatch.setattr(backend.jobs, "next_due_at", counted)
        assert storage.queue.wait(0.2, platforms=["y"]) is False
        assert 1 <= len(looks) <= 20

    @pytest.mark.parametrize("platforms", ["x", 1, b"x", {"x": 1}, [""], ["x", None], [1], ["\x00"]])
    def test_platforms_are_names(self, storage: Storage, platforms: Any) -> None:
        storage.queue.schedule("x", "a", START)
        with pytest.raises(InvalidValue, match="platforms"):
            storage.queue.wait(0, platforms=platforms)

    def test_waiting_inside_a_transaction(self, storage: Storage) -> None:
        with storage.transaction() as tx:
            tx.queue.schedule("x", "a", START)
            assert tx.queue.wait(0, platforms=["x"]) is True
            assert tx.queue.wait(0.01, platforms=["y"]) is False
