"""How many jobs there are in intervals of time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from ..errors import InvalidValue
from ..records import JobStatus, NewJob, TimelineCount
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    MINUTE,
    START,
    TICK,
    Contract,
    FakeClock,
    cancelled,
    dead,
    held,
    missed,
    posted,
    retrying,
    undone,
    unknown,
)

_HOURS = [START + n * HOUR for n in range(4)]


def _shown(counts: list[TimelineCount]) -> list[tuple[int, str, str, int]]:
    return [
        (_HOURS.index(count.start), count.platform, str(count.status), count.count)
        for count in counts
        if count.exact
    ]


class QueueTimelineContract(Contract):
    def test_an_empty_queue_has_no_timeline(self, storage: Storage) -> None:
        assert storage.queue.timeline([START, START + DAY]) == []
        assert storage.queue.timeline(iter(_HOURS), limit=1) == []

    def test_waiting_jobs_by_due_time(self, storage: Storage) -> None:
        for platform, minutes in (("x", 30), ("y", 30), ("x", 59), ("x", 150), ("x", -30), ("x", 200)):
            storage.queue.schedule(platform, "a", START + minutes * MINUTE)
        assert _shown(storage.queue.timeline(_HOURS)) == [
            *((0, "x", "scheduled", 2), (0, "y", "scheduled", 1)),
            (2, "x", "scheduled", 1),
        ]

    def test_an_interval_begins_at_its_edge_and_ends_before_the_next(self, storage: Storage) -> None:
        for edge in _HOURS:
            storage.queue.schedule("x", "a", edge - TICK)
            storage.queue.schedule("x", "a", edge)
        found = storage.queue.timeline(_HOURS)
        assert _shown(found) == [(place, "x", "scheduled", 2) for place in range(3)]
        assert [count.start for count in found] == _HOURS[:-1]
        assert storage.queue.timeline([START, START + TICK]) == [
            TimelineCount(START, "x", JobStatus.SCHEDULED, 1)
        ]

    def test_a_retry_stands_at_its_time_there(self, storage: Storage) -> None:
        retrying(storage, scheduled_at=START - DAY, retry_at=START + HOUR)
        storage.queue.snooze(held(storage), START + HOUR)
        assert _shown(storage.queue.timeline(_HOURS)) == [
            (1, "x", "retrying", 1),
            (1, "x", "scheduled", 1),
        ]

    def test_posted_jobs_by_the_time_of_posting(self, storage: Storage, clock: FakeClock) -> None:
        posted(storage, platform="y", scheduled_at=START - DAY)
        for moment in (START + HOUR - TICK, START + HOUR, START + 2 * HOUR + MINUTE):
            clock.time = moment
            posted(storage)
        assert _shown(storage.queue.timeline(_HOURS)) == [
            *((0, "x", "posted", 1), (0, "y", "posted", 1)),
            *((1, "x", "posted", 1), (2, "x", "posted", 1)),
        ]
        assert storage.queue.timeline([START + HOUR + TICK, START + 2 * HOUR]) == []

    def test_dead_letters_by_the_time_of_giving_up(self, storage: Storage, clock: FakeClock) -> None:
        dead(storage, scheduled_at=START - DAY)
        unknown(storage)
        missed(storage, platform="y")
        clock.time = START + 2 * HOUR
        again = dead(storage)
        assert _shown(storage.queue.timeline(_HOURS)) == [
            *((0, "x", "dead_letter", 2), (0, "y", "dead_letter", 1)),
            (2, "x", "dead_letter", 1),
        ]
        storage.queue.replay(again.id, scheduled_at=START - DAY)
        assert len(storage.queue.timeline(_HOURS)) == 2

    def test_held_and_cancelled_jobs_have_no_place(self, storage: Storage) -> None:
        held(storage)
        cancelled(storage)
        assert storage.queue.timeline([START - DAY, START + DAY]) == []

    def test_paused_platforms_have_theirs(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START)
        before = storage.queue.timeline(_HOURS)
        storage.platforms.pause("x")
        assert storage.queue.timeline(_HOURS) == before
        assert len(before) == 1

    def test_intervals_of_any_length(self, storage: Storage, clock: FakeClock) -> None:
        edges = [START - 400 * DAY, START, START + TICK, START + 3 * TICK, START + HOUR, START + 400 * DAY]
        for edge in edges:
            clock.time = edge
            dead(storage)
        found = storage.queue.timeline(edges)
        assert [(count.start, count.count) for count in found] == [(edge, 1) for edge in edges[:-1]]

    def test_one_time_zone_is_as_good_as_another(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START)
        zone = timezone(timedelta(hours=5, minutes=30))
        local = [edge.astimezone(zone) for edge in _HOURS]
        found = storage.queue.timeline(local)
        assert found == storage.queue.timeline(_HOURS)
        assert found[0].start.utcoffset() == timedelta(0)

    def test_many_intervals(self, storage: Storage) -> None:
        edges = [START + n * TICK for n in range(400)]
        storage.queue.schedule_many(NewJob("x", "a", edge) for edge in edges)
        found = storage.queue.timeline(edges)
        assert [(count.start, count.count) for count in found] == [(edge, 1) for edge in edges[:-1]]

    @pytest.mark.parametrize("status", ["scheduled", "posted"])
    def test_up_to_a_limit_of_each_interval(self, storage: Storage, clock: FakeClock, status: str) -> None:
        def make(platform: str, at: datetime) -> None:
            if status == "posted":
                clock.time = at
                posted(storage, platform=platform)
            else:
                storage.queue.schedule(platform, "a", at)

        for hours, platforms in ((0, "xyx"), (1, "yy"), (2, "x")):
            for platform in platforms:
                make(platform, START + hours * HOUR)
        every = storage.queue.timeline(_HOURS, limit=3)
        assert [count.count for count in every] == [2, 1, 2, 1]
        assert all(count.exact for count in every)
        cut = storage.queue.timeline(_HOURS, limit=2)
        first = [count for count in cut if count.start == START]
        assert sum(count.count for count in first) == 2
        assert not any(count.exact for count in first)
        assert _shown(cut) == [(1, "y", status, 2), (2, "x", status, 1)]
        assert [count.count for count in storage.queue.timeline(_HOURS, limit=1)] == [1, 1, 1]

    def test_waiting_jobs_share_the_limit_in_the_order_in_which_they_fall_due(self, storage: Storage) -> None:
        again = retrying(storage, platform="c", retry_at=START + 30 * MINUTE)
        for platform, minutes in (("a", 40), ("b", 20), ("d", 30)):
            storage.queue.schedule(platform, "a", START + minutes * MINUTE)
        posted(storage)
        assert again.status is JobStatus.RETRYING
        for limit, platforms in ((1, "b"), (2, "bc"), (3, "bcd")):
            *cut, done = storage.queue.timeline(_HOURS, limit=limit)
            assert [count.platform for count in cut] == [*platforms]
            assert not any(count.exact for count in cut)
            assert done == TimelineCount(START, "x", JobStatus.POSTED, 1), "they have limits of their own"
        assert all(count.exact for count in storage.queue.timeline(_HOURS, limit=4))

    def test_the_limit_is_not_for_dead_letters(self, storage: Storage) -> None:
        for _ in range(3):
            dead(storage)
        assert _shown(storage.queue.timeline(_HOURS, limit=1)) == [(0, "x", "dead_letter", 3)]

    @pytest.mark.parametrize(
        "edges",
        [
            *([], [START], [START + n * TICK for n in range(401)]),
            *([START, START], [START + HOUR, START], [START, START + DAY, START + HOUR]),
            *([START, None], [START, START.replace(tzinfo=None) + DAY], [1, 2], "ab", START, None),
            {START: 1, START + DAY: 2},
        ],
    )
    def test_timeline_checks_its_edges(self, storage: Storage, edges: Any) -> None:
        with pytest.raises(InvalidValue, match="edges"):
            storage.queue.timeline(edges)

    @pytest.mark.parametrize("limit", [0, 10_001, True, None, "1"])
    def test_timeline_checks_its_limit(self, storage: Storage, limit: Any) -> None:
        with pytest.raises(InvalidValue, match="limit"):
            storage.queue.timeline(_HOURS, limit=limit)

    def test_a_timeline_of_all_time(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START)
        whole = [datetime.min.replace(tzinfo=START.tzinfo), datetime.max.replace(tzinfo=START.tzinfo)]
        assert [count.count for count in storage.queue.timeline(whole)] == [1]

    def test_timeline_inside_a_transaction(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START)
        before = storage.queue.timeline(_HOURS)
        with undone(storage) as tx:
            tx.queue.schedule("y", "a", START)
            assert [count.platform for count in tx.queue.timeline(_HOURS)] == ["x", "y"]
        assert storage.queue.timeline(_HOURS) == before
