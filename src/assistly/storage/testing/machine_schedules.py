"""A state machine of schedules: random calls, and the slots that an independent calculation expects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ..engine.protocol import StorageBackend
from ..records import Job, JobStatus
from .fixtures import DAY, HOUR, MINUTE, START, FakeClock, empty, open_for_test

CatchUp = Literal["none", "last", "all"]

_GRID = 30 * MINUTE
"""All slots are START and a multiple of this."""

_PATTERNS: dict[str, tuple[dict[str, Any], Callable[[datetime], bool]]] = {
    "every 7 hours": ({"every": 7 * HOUR}, lambda at: (at - START) % (7 * HOUR) == timedelta(0)),
    "every 6 hours": ({"cron": "0 */6 * * *"}, lambda at: at.minute == 0 and at.hour % 6 == 0),
    "9:30": ({"cron": "30 9 * * *"}, lambda at: (at.hour, at.minute) == (9, 30)),
}

ids = st.sampled_from(["s", "t"])
patterns = st.sampled_from([*_PATTERNS])
catch_ups: st.SearchStrategy[CatchUp] = st.sampled_from(["none", "last", "all"])
picks = st.integers(0, 30)


@dataclass
class _Expected:
    """A schedule as it should be. `begin` is the first slot that may still become a job."""

    pattern: str = "9:30"
    content: str = ""
    catch_up: CatchUp = "none"
    enabled: bool = False
    begin: datetime = START
    waiting: dict[datetime, int] = field(default_factory=dict)
    settled: set[datetime] = field(default_factory=set)
    """Slots that may not become a job again."""

    def has(self, slot: datetime) -> bool:
        return _PATTERNS[self.pattern][1](slot)

    def to_make(self, now: datetime, until: datetime) -> list[datetime]:
        """The slots that the next run makes jobs of."""
        count = (until - self.begin) // _GRID + 2
        first = START + -((START - self.begin) // _GRID) * _GRID
        slots = [first + number * _GRID for number in range(count)]
        slots = [slot for slot in slots if self.begin <= slot <= until and self.has(slot)]
        missed = [slot for slot in slots if slot < now]
        kept = {"none": [], "last": missed[-1:], "all": missed}[self.catch_up]
        taken = self.settled | self.waiting.keys()
        return [slot for slot in slots if (slot >= now or slot in kept) and slot not in taken]


class ScheduleMachine(RuleBasedStateMachine):
    """Puts, switches, removes and runs schedules. Jobs of users must stay as they are."""

    def __init__(self, backend: StorageBackend) -> None:
        super().__init__()
        empty(backend)
        self.clock = FakeClock()
        self.storage = open_for_test(backend, self.clock)
        self.stored: dict[str, _Expected] = {}
        self.removed: dict[str, _Expected] = {}
        self.own: dict[int, Job] = {}
        self.keys: set[str] = set()

    @rule(id=ids, pattern=patterns, catch_up=catch_ups, enabled=st.sampled_from([True, True, False]), n=picks)
    def put(self, id: str, pattern: str, catch_up: CatchUp, enabled: bool, n: int) -> None:
        content = f"post {n % 2}"
        self.storage.schedules.put(
            id, "x", content, starts_at=START, catch_up=catch_up, enabled=enabled, **_PATTERNS[pattern][0]
        )
        expected = self.stored.get(id)
        if expected is None:
            expected = self.stored[id] = self.removed.pop(id, _Expected())
        elif enabled and not (expected.enabled and expected.pattern == pattern):
            expected.begin = max(expected.begin, self.clock())
        expected.pattern, expected.content = pattern, content
        expected.catch_up, expected.enabled = catch_up, enabled
        for slot in [*expected.waiting]:
            if not enabled or (slot >= self.clock() and not expected.has(slot)):
                self._forget(expected, slot)

    @precondition(lambda self: self.stored)
    @rule(pick=picks, enabled=st.booleans())
    def switch(self, pick: int, enabled: bool) -> None:
        id = self._pick(pick)
        expected = self.stored[id]
        if enabled:
            self.storage.schedules.enable(id)
            if not expected.enabled:
                expected.begin = max(expected.begin, self.clock())
        else:
            self.storage.schedules.disable(id)
            for slot in [*expected.waiting]:
                self._forget(expected, slot)
        expected.enabled = enabled

    @precondition(lambda self: self.stored)
    @rule(pick=picks)
    def remove(self, pick: int) -> None:
        id = self._pick(pick)
        assert self.storage.schedules.remove(id)
        expected = self.removed[id] = self.stored.pop(id)
        for slot in [*expected.waiting]:
            self._forget(expected, slot)

    @rule(step=st.sampled_from([MINUTE, 5 * HOUR, DAY, 3 * DAY]))
    def pass_time(self, step: timedelta) -> None:
        self.clock.advance(step)

    @rule(ahead=st.sampled_from([timedelta(0), 12 * HOUR, 2 * DAY]))
    def run(self, ahead: timedelta) -> None:
        now = self.clock()
        jobs = self.storage.schedules.run(ahead=ahead)
        made: list[tuple[str, datetime]] = []
        for job in jobs:
            id = (job.idempotency_key or "").split(":")[1]
            made.append((id, job.scheduled_at))
        wanted: list[tuple[str, datetime]] = []
        for id, expected in self.stored.items():
            if not expected.enabled:
                continue
            for slot in expected.to_make(now, now + ahead):
                key = f"schedule:{id}:{slot.isoformat()}"
                if key in self.keys:
                    expected.settled.add(slot)
                else:
                    wanted.append((id, slot))
            expected.begin = max(expected.begin, now)
        assert sorted(made) == sorted(wanted), f"run made {sorted(made)}, and should make {sorted(wanted)}"
        for (id, slot), job in zip(made, jobs, strict=True):
            self.stored[id].waiting[slot] = job.id

    @precondition(lambda self: any(each.waiting for each in self.stored.values()))
    @rule(pick=picks, instead=st.booleans())
    def remove_job(self, pick: int, instead: bool) -> None:
        """Remove a job of a schedule, and perhaps put a user's job of the same key in its place."""
        waiting = [(id, slot) for id, each in sorted(self.stored.items()) for slot in sorted(each.waiting)]
        id, slot = waiting[pick % len(waiting)]
        expected = self.stored[id]
        self.storage.queue.remove(expected.waiting.pop(slot))
        expected.settled.add(slot)
        if instead:
            self._schedule_own(id, slot)

    @rule(id=ids, number=st.integers(0, 96))
    def take_a_key(self, id: str, number: int) -> None:
        """Schedule a user's job under the key of a slot that has no job."""
        slot = START + number * _GRID
        each = self.stored.get(id, _Expected())
        if slot not in each.waiting and f"schedule:{id}:{slot.isoformat()}" not in self.keys:
            self._schedule_own(id, slot)

    @invariant()
    def jobs_are_those_of_the_slots(self) -> None:
        jobs = {job.id: job for job in self.storage.queue.upcoming(limit=1000)}
        own = {id: jobs.pop(id, None) for id in self.own}
        assert own == self.own, "the jobs of users stay as they are"
        slots = sorted((job.scheduled_at, job.content, job.id) for job in jobs.values())
        expected = [
            (slot, each.content, id) for each in self.stored.values() for slot, id in each.waiting.items()
        ]
        assert slots == sorted(expected), f"there are jobs {slots}, and there should be {sorted(expected)}"
        assert all(job.status is JobStatus.SCHEDULED for job in jobs.values())

    def _pick(self, pick: int) -> str:
        known = sorted(self.stored)
        return known[pick % len(known)]

    def _forget(self, expected: _Expected, slot: datetime) -> None:
        """Its job was removed by a change. Only a slot to come may become a job again."""
        del expected.waiting[slot]
        if slot < self.clock():
            expected.settled.add(slot)

    def _schedule_own(self, id: str, slot: datetime) -> None:
        key = f"schedule:{id}:{slot.isoformat()}"
        job = self.storage.queue.schedule("y", "my own", slot, idempotency_key=key)
        self.keys.add(key)
        self.own[job.id] = job
