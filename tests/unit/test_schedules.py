"""Random lives of a schedule: what holds after each step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import takewhile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from assistly.storage import Job, JobStatus, MemoryBackend, Storage
from assistly.storage.stores import recurring, schedules
from assistly.storage.stores.recurring import times_of
from assistly.storage.testing.fixtures import examples, open_for_test

START = datetime(2026, 3, 27, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
ZERO = timedelta(0)

TIMES = [
    {"cron": "0 9 * * *", "zone": "Europe/Berlin"},
    {"cron": "30 2,9 * * *", "zone": "Europe/Berlin"},
    {"cron": "0 */6 * * *"},
    {"every": 7 * HOUR},
    {"every": DAY, "starts_at": START - 3 * DAY},
    {"every": 5 * HOUR, "ends_at": START + 4 * DAY},
]


class Life:
    """One schedule, and what a person has removed."""

    def __init__(self) -> None:
        self.now = START
        self.storage: Storage = open_for_test(MemoryBackend(), lambda: self.now)
        self.removed: set[str] = set()

    def put(self, times: int, content: str, catch_up: str) -> None:
        self.storage.schedules.put("s", "x", content, **TIMES[times], catch_up=catch_up)  # type: ignore[arg-type]

    def run(self, ahead: timedelta) -> None:
        before = {job.id for job in self.jobs()}
        schedule = self.storage.schedules.get("s")
        for job in self.storage.schedules.run(ahead=ahead):
            assert schedule is not None
            assert job.id not in before
            assert job.scheduled_at <= self.now + ahead
            assert times_of(schedule).has(job.scheduled_at)
            assert job.scheduled_at >= self.now or schedule.catch_up != "none"
        assert self.storage.schedules.run(ahead=ahead) == []
        if schedule is None or not schedule.enabled:
            return
        keys = {job.idempotency_key for job in self.jobs()} | self.removed
        # The clock may have been set back.
        first = max(self.now, schedule.made_until + timedelta(microseconds=1))
        due = takewhile(lambda slot: slot <= self.now + ahead, times_of(schedule).since(first))
        assert {f"schedule:s:{slot.isoformat()}" for slot in due} <= keys

    def work(self, end: str) -> None:
        for job in self.storage.queue.claim_due(worker_id="w"):
            if end == "posted":
                self.storage.queue.mark_posted(job)
            elif end == "failed":
                self.storage.queue.mark_failed(job, "busy", retry_at=self.now + 9 * HOUR)

    def remove(self, which: int, *, cancel: bool) -> None:
        waiting = self.storage.queue.upcoming()
        if waiting:
            job = waiting[which % len(waiting)]
            if cancel:
                self.storage.queue.cancel(job.id)
            else:
                self.storage.queue.remove(job.id)
                self.removed.add(job.idempotency_key or "")

    def switch(self, name: str) -> None:
        if name == "remove" or self.storage.schedules.get("s") is not None:
            getattr(self.storage.schedules, name)("s")

    def advance(self, step: timedelta) -> None:
        self.now += step

    def jobs(self) -> list[Job]:
        return self.storage.queue.list(limit=1000)

    def check(self) -> None:
        schedule = self.storage.schedules.get("s")
        for job in self.jobs():
            assert job.idempotency_key not in self.removed, "it came back"
            # One that was claimed during a change stays as it was.
            if job.status not in (JobStatus.SCHEDULED, JobStatus.RETRYING) or job.claim:
                continue
            assert schedule is not None
            assert schedule.enabled
            assert job.content == schedule.content
            assert job.scheduled_at < self.now or times_of(schedule).has(job.scheduled_at)


steps = st.one_of(
    st.tuples(
        st.just("put"),
        st.integers(0, len(TIMES) - 1),
        st.sampled_from("ab"),
        st.sampled_from(["none", "last", "all"]),
    ),
    st.tuples(st.just("run"), st.sampled_from([ZERO, 5 * HOUR, DAY, 3 * DAY])),
    st.tuples(st.just("work"), st.sampled_from(["posted", "failed", "held"])),
    st.tuples(st.just("remove"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("switch"), st.sampled_from(["enable", "disable", "remove"])),
    st.tuples(st.just("advance"), st.sampled_from([HOUR, 8 * HOUR, 25 * HOUR, -2 * HOUR])),
)


@given(st.lists(steps, min_size=5, max_size=40))
@example([("run", ZERO), ("advance", 50 * HOUR), ("run", ZERO), ("put", 0, "b", "none")])
@example([("put", 2, "a", "last"), ("advance", HOUR), ("run", ZERO), ("switch", "disable")])
@examples(120)
def test_random_lives(program: list[tuple[object, ...]]) -> None:
    life = Life()
    life.put(0, "a", "all")
    life.run(DAY)
    for name, *arguments in program:
        if name == "remove":
            which, cancel = arguments
            assert isinstance(which, int)
            life.remove(which, cancel=bool(cancel))
        else:
            getattr(life, str(name))(*arguments)
        life.check()


def test_a_frequent_schedule_is_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurring, "MOST_AT_ONCE", 10)
    monkeypatch.setattr(recurring, "MOST_OPEN", 25)
    now = [START]
    storage = open_for_test(MemoryBackend(), lambda: now[0])
    storage.schedules.put("s", "x", "a", every=HOUR, catch_up="all")
    counts = [len(storage.schedules.run(ahead=DAY * 2)) for _ in range(4)]
    assert counts == [10, 10, 5, 0]
    now[0] += 7 * HOUR
    for job in storage.queue.claim_due(worker_id="w"):
        storage.queue.mark_posted(job)
    # The first finds the finished jobs, whose places the next one may fill.
    counts = [len(storage.schedules.run(ahead=DAY * 2)) for _ in range(3)]
    assert sum(counts) == 7
    made = sorted(job.scheduled_at for job in storage.queue.list())
    assert made == [START + number * HOUR for number in range(32)]


def test_slots_of_a_long_absence_are_made_up_for_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurring, "MOST_AT_ONCE", 10)
    now = [START]
    storage = open_for_test(MemoryBackend(), lambda: now[0])
    storage.schedules.put("s", "x", "a", every=HOUR, catch_up="all")
    now[0] += 25 * HOUR
    for _ in range(4):
        storage.schedules.run(ahead=ZERO)
        now[0] += timedelta(seconds=1)
    made = [job.scheduled_at for job in storage.queue.list()]
    assert made == [START + number * HOUR for number in range(26)]


def test_each_transaction_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "_JOBS_AT_ONCE", 10)
    storage = open_for_test(MemoryBackend(), lambda: START)
    for number in range(25):
        storage.schedules.put(f"s{number}", "x", "a", every=6 * HOUR)
    sizes: list[tuple[int, int]] = []
    run_some = storage.schedules._run_some

    def noted(ids: list[str], at: datetime, until: datetime) -> tuple[list[Job], int]:
        jobs, done = run_some(ids, at, until)
        sizes.append((len(jobs), done))
        return jobs, done

    monkeypatch.setattr(storage.schedules, "_run_some", noted)
    assert len(storage.schedules.run()) == 125
    assert sizes == [(10, 2)] * 12 + [(5, 1)]
