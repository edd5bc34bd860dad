"""The queue: reading it, and all of its parts together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue, NotFound
from ..records import Job, JobStatus, NewJob
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
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
    open_for_test,
    posted,
    retrying,
)
from .queue_cancelling_contract import QueueCancellingContract
from .queue_changes_contract import QueueChangesContract
from .queue_checkpoint_contract import QueueCheckpointContract
from .queue_choices_contract import (
    QueueMissedContract,
    QueueReplayChoicesContract,
    QueueReturningContract,
)
from .queue_claiming_contract import (
    QueueClaimingContract,
    QueueFenceContract,
    QueueLeasesContract,
)
from .queue_decisions_contract import QueueResolvingContract
from .queue_depths_contract import QueueDepthsContract
from .queue_gaps_contract import QueueGapsContract
from .queue_lateness_contract import QueueLatenessContract
from .queue_rescheduling_contract import QueueReschedulingContract
from .queue_rescue_contract import QueueDeadLettersContract, QueueRescueContract
from .queue_scheduling_contract import (
    QueueBatchesContract,
    QueueKeysContract,
    QueueSchedulingContract,
)
from .queue_settling_contract import (
    QueueBatchSettlingContract,
    QueueFailuresContract,
    QueueSettlingContract,
)
from .queue_timeline_contract import QueueTimelineContract
from .queue_unknown_contract import QueueUnknownContract
from .queue_upcoming_contract import QueueUpcomingContract, QueueWaitingForPlatformsContract


class QueueReadingContract(Contract):
    def test_an_empty_queue(self, storage: Storage) -> None:
        assert storage.queue.list() == []
        assert storage.queue.counts() == dict.fromkeys(JobStatus, 0)
        assert storage.queue.next_due_at() is None
        assert storage.queue.dead_letters() == []

    def test_lists_by_id(self, storage: Storage) -> None:
        jobs = [storage.queue.schedule("x", "a", START - n * HOUR) for n in range(3)]
        assert storage.queue.list() == jobs
        assert storage.queue.list(limit=2) == jobs[:2]
        assert storage.queue.list(after=jobs[0]) == storage.queue.list(after=jobs[0].id) == jobs[1:]
        assert storage.queue.list(after=jobs[2]) == []

    def test_lists_what_is_asked_for(self, storage: Storage) -> None:
        done, gone, again = posted(storage), dead(storage, platform="y"), retrying(storage)
        busy = held(storage, platform="y")
        gone_too = cancelled(storage, platform="z")
        new = storage.queue.schedule("x", "a", START + DAY)
        for status, jobs in {
            JobStatus.CANCELLED: [gone_too],
            JobStatus.POSTED: [done],
            JobStatus.DEAD_LETTER: [gone],
            JobStatus.RETRYING: [again],
            JobStatus.PROCESSING: [busy],
            JobStatus.SCHEDULED: [new],
        }.items():
            assert storage.queue.list(status=status) == jobs
        assert storage.queue.list(platform="y") == [gone, busy]
        assert storage.queue.list(platform="y", status=JobStatus.PROCESSING) == [busy]
        assert storage.queue.list(platform="Y") == []
        assert storage.queue.list(platform="x", after=done) == [again, new]

    def test_a_cursor_outlives_its_job(self, storage: Storage) -> None:
        jobs = [storage.queue.schedule("x", "a") for _ in range(3)]
        storage.queue.remove(jobs[1].id)
        assert storage.queue.list(after=jobs[1]) == storage.queue.list(after=jobs[1].id) == [jobs[2]]

    @pytest.mark.parametrize(
        "bad",
        [
            {"limit": 0},
            {"limit": 1001},
            {"limit": True},
            {"limit": "1"},
            {"limit": None},
            {"status": "unknown"},
            {"status": 1},
            {"platform": ""},
            {"platform": 1},
            {"after": "1"},
            {"after": 1.0},
            {"after": True},
        ],
    )
    def test_listing_jobs_checks_its_arguments(self, storage: Storage, bad: dict[str, Any]) -> None:
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.queue.list(**bad)

    @given(st.integers(0, 9), st.integers(1, 4), st.sampled_from([None, "x", "y"]))
    @examples(20)
    def test_job_pages_make_up_the_whole(
        self, backend: StorageBackend, storage: Storage, count: int, limit: int, platform: str | None
    ) -> None:
        empty(backend)
        storage.queue.schedule_many(NewJob("xy"[n % 2], "a") for n in range(count))
        whole = storage.queue.list(platform=platform)
        pages: list[Job] = []
        while page := storage.queue.list(platform=platform, limit=limit, after=pages[-1] if pages else None):
            assert len(page) <= limit
            pages += page
        assert pages == whole
        assert len(whole) == (count if platform is None else len(range("xy".index(platform), count, 2)))

    def test_counts(self, storage: Storage) -> None:
        posted(storage)
        dead(storage)
        dead(storage)
        retrying(storage)
        held(storage)
        for _ in range(4):
            cancelled(storage)
        for _ in range(3):
            storage.queue.schedule("x", "a", START + DAY)
        counts = storage.queue.counts()
        assert counts == {
            JobStatus.SCHEDULED: 3,
            JobStatus.RETRYING: 1,
            JobStatus.PROCESSING: 1,
            JobStatus.POSTED: 1,
            JobStatus.DEAD_LETTER: 2,
            JobStatus.CANCELLED: 4,
        }
        assert all(type(status) is JobStatus for status in counts)
        del counts[JobStatus.POSTED]
        assert storage.queue.counts(posted=False) == counts

    def test_counts_without_the_posted_have_zeros(self, storage: Storage) -> None:
        others = set(JobStatus) - {JobStatus.POSTED}
        assert storage.queue.counts(posted=False) == dict.fromkeys(others, 0)
        with pytest.raises(InvalidValue, match="posted"):
            storage.queue.counts(posted="no")  # type: ignore[arg-type]

    def test_the_id_of_a_removed_job_is_never_given_again(self, storage: Storage) -> None:
        """A claim on it would fit the new job."""
        queue = storage.queue
        newest = 0
        ways: list[Callable[[], Job]] = [
            lambda: queue.schedule("x", "a"),
            lambda: queue.schedule("x", "a", idempotency_key="key"),
            lambda: queue.schedule("x", "a", max_lateness=DAY),
            lambda: queue.schedule_many([NewJob("x", "a")] * 3)[-1],
        ]
        for schedule in ways:
            jobs = [schedule(), schedule()]
            assert min(job.id for job in jobs) > newest
            newest = max(job.id for job in jobs)
            for job in queue.list():
                queue.remove(job.id)

    @pytest.mark.parametrize("make", [held, posted, dead, retrying, cancelled])
    def test_a_job_of_any_status_is_removed_once(self, storage: Storage, make: Any) -> None:
        kept = storage.queue.schedule("x", "a", START + DAY)
        job = make(storage)
        assert storage.queue.remove(job.id) is True
        assert storage.queue.get(job.id) is None
        assert storage.queue.remove(job.id) is False
        assert storage.queue.list() == [kept]

    @pytest.mark.parametrize("id", [0, -1, 2**31, 2**63 - 1, 2**63, 10**30])
    def test_an_id_that_no_job_has(self, storage: Storage, id: int) -> None:
        assert storage.queue.get(id) is None
        assert storage.queue.remove(id) is False
        assert storage.queue.replay(id) is None
        with pytest.raises(NotFound):
            storage.queue.reschedule(id, START)
        assert storage.queue.list(after=id) == []

    @pytest.mark.parametrize("id", ["1", 1.0, True, None, b"1"])
    def test_an_id_is_an_int(self, storage: Storage, id: Any) -> None:
        with pytest.raises(InvalidValue, match="id"):
            storage.queue.get(id)
        with pytest.raises(InvalidValue, match="id"):
            storage.queue.remove(id)

    def test_next_due_at(self, storage: Storage) -> None:
        later = storage.queue.schedule("x", "a", START + DAY)
        assert storage.queue.next_due_at() == START + DAY
        job = storage.queue.schedule("x", "a", START)
        assert storage.queue.next_due_at() == START
        (claimed,) = storage.queue.claim_due(worker_id="w")
        assert storage.queue.next_due_at() == START + DAY
        storage.queue.mark_failed(claimed, "busy", retry_at=START + HOUR)
        assert storage.queue.next_due_at() == START + HOUR
        storage.queue.remove(job.id)
        assert storage.queue.next_due_at() == START + DAY
        storage.queue.remove(later.id)
        assert storage.queue.next_due_at() is None

    def test_finished_jobs_are_not_due(self, storage: Storage) -> None:
        posted(storage)
        dead(storage)
        cancelled(storage)
        assert storage.queue.next_due_at() is None


class QueueWaitingContract(Contract):
    def test_a_wait_sleeps_between_its_looks(self, backend: StorageBackend) -> None:
        """Each look asks the clock how long it is until the next job."""
        empty(backend)
        looks = 0

        def clock() -> datetime:
            nonlocal looks
            looks += 1
            return START

        storage = open_for_test(backend, clock)
        storage.queue.schedule("x", "a", START + DAY)
        looks = 0
        assert storage.queue.wait(0.2) is False
        assert 1 <= looks <= 30

    def test_a_job_that_is_due(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START)
        assert storage.queue.wait(0) is True
        assert storage.queue.wait(60) is True
        assert storage.queue.wait(timedelta(minutes=1)) is True

    def test_nothing_due(self, storage: Storage) -> None:
        assert storage.queue.wait(0) is False
        assert storage.queue.wait(0.01) is False
        assert storage.queue.wait(timedelta(0)) is False
        storage.queue.schedule("x", "a", START + TICK)
        held(storage, platform="y")
        assert storage.queue.wait(0) is False
        assert storage.queue.wait(0.01) is False

    def test_the_clock_decides(self, storage: Storage, clock: FakeClock) -> None:
        storage.queue.schedule("x", "a", START + DAY)
        clock.advance(DAY)
        assert storage.queue.wait(0) is True

    def test_a_new_job_ends_the_wait(self, storage: Storage) -> None:
        waiting = Event()
        results: list[bool] = []

        def wait() -> None:
            waiting.set()
            results.append(storage.queue.wait(30))

        thread = Thread(target=wait, daemon=True)
        thread.start()
        assert waiting.wait(10)
        storage.queue.schedule("x", "a", START - SECOND)
        thread.join(20)
        assert results == [True]

    @pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), "1", None, True, -TICK])
    def test_the_timeout_is_a_span(self, storage: Storage, timeout: Any) -> None:
        storage.queue.schedule("x", "a", START)
        with pytest.raises(InvalidValue, match="timeout"):
            storage.queue.wait(timeout)


class QueueContract(
    QueueReadingContract,
    QueueWaitingContract,
    QueueSchedulingContract,
    QueueKeysContract,
    QueueBatchesContract,
    QueueReschedulingContract,
    QueueGapsContract,
    QueueClaimingContract,
    QueueLatenessContract,
    QueueLeasesContract,
    QueueFenceContract,
    QueueSettlingContract,
    QueueFailuresContract,
    QueueBatchSettlingContract,
    QueueUnknownContract,
    QueueRescueContract,
    QueueDeadLettersContract,
    QueueChangesContract,
    QueueResolvingContract,
    QueueCancellingContract,
    QueueCheckpointContract,
    QueueMissedContract,
    QueueReplayChoicesContract,
    QueueReturningContract,
    QueueDepthsContract,
    QueueTimelineContract,
    QueueUpcomingContract,
    QueueWaitingForPlatformsContract,
):
    """All about the queue."""
