"""How many jobs there are by platform and status, counted up to a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from ..errors import InvalidValue
from ..records import Job, JobStatus, NewJob, QueueDepth
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    LEASE,
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

_STARTS: dict[JobStatus, Callable[[Storage, str], Job]] = {
    JobStatus.SCHEDULED: lambda s, platform: s.queue.schedule(platform, "a", START + DAY),
    JobStatus.RETRYING: lambda s, platform: retrying(s, platform=platform, retry_at=START + DAY),
    JobStatus.PROCESSING: lambda s, platform: held(s, platform=platform),
    JobStatus.POSTED: lambda s, platform: posted(s, platform=platform),
    JobStatus.DEAD_LETTER: lambda s, platform: dead(s, platform=platform),
    JobStatus.CANCELLED: lambda s, platform: cancelled(s, platform=platform),
}
"""What makes a job of each status."""


def _one(storage: Storage, **options: Any) -> QueueDepth:
    (depth,) = storage.queue.depths(**options)
    return depth


class QueueDepthsContract(Contract):
    def test_an_empty_queue_has_no_depths(self, storage: Storage) -> None:
        assert storage.queue.depths() == storage.queue.depths(limit=1) == []

    def test_depths_by_platform_and_status(self, storage: Storage) -> None:
        for status, make in _STARTS.items():
            for platform in ("y", "x", "x") if status is JobStatus.CANCELLED else ("y", "x"):
                make(storage, platform)
        found = storage.queue.depths()
        keys = [(depth.platform, str(depth.status)) for depth in found]
        assert keys == sorted((platform, str(status)) for platform in "xy" for status in JobStatus)
        several = {(depth.platform, depth.status): depth.count for depth in found if depth.count != 1}
        assert several == {("x", JobStatus.CANCELLED): 2}
        assert all(isinstance(depth.status, JobStatus) and depth.exact for depth in found)

    def test_platforms_are_in_the_order_of_code_points(self, storage: Storage) -> None:
        names = ["\U0001f600", "é", "Z", "a", "\uff41", "a b"]
        storage.queue.schedule_many(NewJob(name, "a", START) for name in names)
        assert [depth.platform for depth in storage.queue.depths()] == sorted(names)

    def test_what_is_due_by_platform(self, storage: Storage) -> None:
        for platform, at in (
            *(("x", START - HOUR), ("x", START - DAY), ("x", START + HOUR), ("x", START + DAY)),
            *(("y", START + MINUTE), ("z", START)),
        ):
            storage.queue.schedule(platform, "a", at)
        x, y, z = storage.queue.depths()
        assert (x.count, x.due, x.oldest_due_at, x.next_due_at) == (4, 2, START - DAY, START + HOUR)
        assert (y.count, y.due, y.oldest_due_at, y.next_due_at) == (1, 0, None, START + MINUTE)
        assert (z.count, z.due, z.oldest_due_at, z.next_due_at) == (1, 1, START, None)

    def test_what_is_due_now_is_due(self, storage: Storage, clock: FakeClock) -> None:
        storage.queue.schedule("x", "a", START + HOUR)
        for now, due in ((START + HOUR - TICK, 0), (START + HOUR, 1), (START + DAY, 1)):
            found = _one(storage, now=now)
            assert (found.due, found.oldest_due_at is None, found.next_due_at is None) == (
                *(due, not due),
                bool(due),
            )
            clock.time = now
            assert storage.queue.depths() == [found], "by default the storage's clock decides"

    def test_a_retry_is_due_at_its_time(self, storage: Storage) -> None:
        retrying(storage, scheduled_at=START - DAY, retry_at=START + HOUR)
        storage.queue.schedule("x", "a", START + MINUTE)
        again, new = storage.queue.depths()
        assert (again.status, again.due, again.next_due_at) == (JobStatus.RETRYING, 0, START + HOUR)
        assert (new.status, new.due, new.next_due_at) == (JobStatus.SCHEDULED, 0, START + MINUTE)
        again, _ = storage.queue.depths(now=START + HOUR)
        assert (again.due, again.oldest_due_at, again.next_due_at) == (1, START + HOUR, None)

    def test_a_lease_has_run_out_at_its_end(self, storage: Storage) -> None:
        held(storage, lease=LEASE)
        held(storage, lease=2 * LEASE)
        assert _one(storage, now=START + LEASE - TICK).expired == 0
        assert _one(storage, now=START + LEASE).expired == 1
        assert _one(storage, now=START + 2 * LEASE) == QueueDepth("x", JobStatus.PROCESSING, 2, expired=2)

    def test_dead_letters_by_their_kind(self, storage: Storage) -> None:
        for make in (dead, dead, unknown, missed, missed, missed):
            make(storage)
        dead(storage, error="missed: the platform says so")
        unknown(storage, error="missed: nobody knows")
        assert _one(storage) == QueueDepth("x", JobStatus.DEAD_LETTER, 8, unknown=2, missed=3)

    def test_paused_platforms_count(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START - HOUR)
        before = storage.queue.depths()
        storage.platforms.pause("x")
        assert storage.queue.depths() == before
        assert before[0].due == 1

    @pytest.mark.parametrize("status", _STARTS)
    def test_up_to_a_limit_of_each_status(self, storage: Storage, status: JobStatus) -> None:
        make = _STARTS[status]
        for platform in "xyx":
            make(storage, platform)
        exactly = storage.queue.depths(limit=3)
        assert [(depth.platform, depth.count, depth.exact) for depth in exactly] == [
            ("x", 2, True),
            ("y", 1, True),
        ]
        for limit in (1, 2):
            cut = storage.queue.depths(limit=limit)
            assert sum(depth.count for depth in cut) == limit
            assert {depth.status for depth in cut} == {status}
            assert not any(depth.exact for depth in cut)

    def test_the_limit_is_for_each_status(self, storage: Storage) -> None:
        for make in _STARTS.values():
            make(storage, "x")
        storage.queue.cancel(storage.queue.schedule("x", "a").id)
        exact = {depth.status: depth.exact for depth in storage.queue.depths(limit=1)}
        # The retrying job and the scheduled one share the limit; at equal times the older one comes first.
        assert exact == {
            JobStatus.SCHEDULED: False,
            JobStatus.PROCESSING: True,
            JobStatus.POSTED: True,
            JobStatus.DEAD_LETTER: True,
            JobStatus.CANCELLED: False,
        }

    def test_waiting_jobs_are_counted_by_due_time_and_id(self, storage: Storage) -> None:
        retrying(storage, platform="c", retry_at=START + 2 * HOUR)
        for platform, hours in (("a", 3), ("b", 1), ("d", 2), ("e", 4)):
            storage.queue.schedule(platform, "a", START + hours * HOUR)
        orders = {
            limit: [depth.platform for depth in storage.queue.depths(limit=limit)] for limit in range(1, 6)
        }
        assert orders == {1: ["b"], 2: ["b", "c"], 3: ["b", "c", "d"], 4: [*"abcd"], 5: [*"abcde"]}
        due = storage.queue.depths(limit=2, now=START + DAY)
        assert [(depth.due, depth.oldest_due_at, depth.exact) for depth in due] == [
            (1, START + HOUR, False),
            (1, START + 2 * HOUR, False),
        ]

    @pytest.mark.parametrize("make", [held, dead, cancelled])
    def test_others_are_counted_by_id(self, storage: Storage, make: Any) -> None:
        for number, platform in enumerate("cab"):
            make(storage, platform=platform, **({"lease": (3 - number) * HOUR} if make is held else {}))
        assert [depth.platform for depth in storage.queue.depths(limit=1)] == ["c"]
        assert [depth.platform for depth in storage.queue.depths(limit=2)] == ["a", "c"]

    def test_kinds_of_dead_letters_end_at_the_limit(self, storage: Storage) -> None:
        for make in (unknown, missed, unknown, missed):
            make(storage)
        found = _one(storage, limit=3)
        assert (found.count, found.unknown, found.missed, found.exact) == (3, 2, 1, False)

    def test_a_job_that_was_removed_or_replayed_is_not_counted_there(self, storage: Storage) -> None:
        gone, again = dead(storage), dead(storage)
        storage.queue.remove(gone.id)
        assert _one(storage) == QueueDepth("x", JobStatus.DEAD_LETTER, 1)
        storage.queue.replay(again.id)
        assert _one(storage) == QueueDepth("x", JobStatus.SCHEDULED, 1, due=1, oldest_due_at=START)

    def test_many_on_many_platforms(self, storage: Storage) -> None:
        names = [f"platform {n % 7}" for n in range(600)]
        storage.queue.schedule_many(NewJob(name, "a", START) for name in names)
        assert {depth.platform: depth.count for depth in storage.queue.depths()} == Counter(names)
        assert sum(depth.count for depth in storage.queue.depths(limit=599)) == 599

    @pytest.mark.parametrize(
        "bad",
        [
            *({"limit": 0}, {"limit": 10_001}, {"limit": True}, {"limit": None}, {"limit": 1.0}),
            *({"now": 1}, {"now": "soon"}, {"now": START.replace(tzinfo=None)}),
        ],
    )
    def test_depths_checks_its_arguments(self, storage: Storage, bad: dict[str, Any]) -> None:
        storage.queue.schedule("x", "a")
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.queue.depths(**bad)

    def test_depths_inside_a_transaction(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START + HOUR)
        before = storage.queue.depths()
        with undone(storage) as tx:
            tx.queue.schedule("y", "a", START)
            assert [depth.platform for depth in tx.queue.depths()] == ["x", "y"]
        assert storage.queue.depths() == before
