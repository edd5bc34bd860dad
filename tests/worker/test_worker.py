"""The worker's own logic, on the memory engine."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from assistly.storage import (
    Claimed,
    ConfigurationError,
    ExponentialRetry,
    InvalidValue,
    Job,
    JobStatus,
    MemoryBackend,
    RetryPolicy,
    Storage,
    StorageClosed,
    StorageUnavailable,
    TransactionOpen,
)
from assistly.storage.aio import AsyncStorage
from assistly.worker import AsyncWorker, Permanent, Publisher, Retry, Unknown, Worker
from assistly.worker.options import WorkerOptions
from worker.worker_harness import running

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LONG = 30.0


class Clock:
    """One for the storage and, as seconds, for the worker."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return (self.now - START).total_seconds()

    def advance(self, by: timedelta) -> None:
        self.now += by


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def storage(clock: Clock) -> Iterator[Storage]:
    with Storage(MemoryBackend(), clock=clock, auto_prune=False) as storage:
        yield storage


def drained(storage: Storage, publisher: Publisher, **options: Any) -> dict[str, int]:
    worker = Worker(storage, {"x": publisher}, **options)
    worker.run_until_idle()
    return worker.counts


def stored(storage: Storage, job: Job) -> Job:
    found = storage.queue.get(job.id)
    assert found is not None
    return found


def raising(error: BaseException) -> Publisher:
    def publisher(_: Job) -> str | None:
        raise error

    return publisher


def test_a_due_job_is_published_once_and_posted(storage: Storage) -> None:
    job = storage.queue.schedule("x", "hello")
    published: list[Job] = []

    def publisher(job: Job) -> str:
        published.append(job)
        return "remote-1"

    assert drained(storage, publisher, worker_id="w") == {"posted": 1}
    assert [(each.id, each.worker_id, each.publish_started_at) for each in published] == [
        (job.id, "w", START)
    ]
    assert (stored(storage, job).status, stored(storage, job).remote_id) == (JobStatus.POSTED, "remote-1")
    assert drained(storage, publisher) == {}


def test_publishing_has_begun_in_the_storage_before_the_call(storage: Storage) -> None:
    job = storage.queue.schedule("x", "hello")
    seen: list[Job] = []
    drained(storage, lambda _: seen.append(stored(storage, job)))
    assert [each.publish_started_at for each in seen] == [START]


def test_a_coroutine_function_is_awaited(storage: Storage) -> None:
    job = storage.queue.schedule("x", "hello")

    async def publisher(job: Job) -> str:
        await asyncio.sleep(0)
        return f"remote-{job.id}"

    assert drained(storage, publisher) == {"posted": 1}
    assert stored(storage, job).remote_id == f"remote-{job.id}"


def test_coroutines_run_side_by_side(storage: Storage) -> None:
    for _ in range(3):
        storage.queue.schedule("x", "hello")
    together = 0
    arrived = asyncio.Event()

    async def publisher(_: Job) -> None:
        nonlocal together
        together += 1
        if together == 3:
            arrived.set()
        await asyncio.wait_for(arrived.wait(), LONG)

    assert drained(storage, publisher, concurrency=3) == {"posted": 3}


def test_only_platforms_with_a_publisher_are_claimed(storage: Storage) -> None:
    storage.queue.schedule("x", "mine")
    other = storage.queue.schedule("y", "not mine")
    assert drained(storage, lambda _: None) == {"posted": 1}
    assert stored(storage, other) == other


def test_platforms_narrow_it_down(storage: Storage) -> None:
    storage.queue.schedule("y", "later")
    worker = Worker(storage, {"x": lambda _: None, "y": lambda _: None}, platforms=["x"])
    worker.run_until_idle()
    assert worker.counts == {}


def test_any_other_exception_is_a_failed_attempt(storage: Storage) -> None:
    job = storage.queue.schedule("x", "hello")
    assert drained(storage, raising(ValueError("busy\x00 \ud800"))) == {"failed": 1}
    failed = stored(storage, job)
    assert (failed.status, failed.retries, failed.last_error) == (
        JobStatus.RETRYING,
        1,
        "ValueError: busy\ufffd ?",
    )
    assert failed.due_at == START + timedelta(minutes=5)


def test_a_poison_job_ends_among_the_dead_letters_and_others_go_on(storage: Storage, clock: Clock) -> None:
    poison = storage.queue.schedule("x", "poison")

    def publisher(job: Job) -> None:
        if job.id == poison.id:
            raise ZeroDivisionError

    for _ in range(3):
        storage.queue.schedule("x", "fine")
        drained(storage, publisher)
        clock.advance(timedelta(minutes=5))
    assert stored(storage, poison).dead_letter_reason == "ZeroDivisionError"
    assert storage.queue.counts()[JobStatus.POSTED] == 3


def test_permanent_goes_to_the_dead_letters_at_once(storage: Storage) -> None:
    job = storage.queue.schedule("x", "hello")
    assert drained(storage, raising(Permanent("no such account"))) == {"dead": 1}
    assert stored(storage, job).dead_letter_reason == "no such account"
    assert stored(storage, job).retries == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unknown("no answer"), "outcome unknown: no answer"),
        (KeyboardInterrupt(), "outcome unknown: the publisher was interrupted by KeyboardInterrupt"),
        (SystemExit(3), "outcome unknown: the publisher was interrupted by SystemExit: 3"),
        (GeneratorExit(), "outcome unknown: the publisher was interrupted by GeneratorExit"),
        (asyncio.CancelledError(), "outcome unknown: the publisher was interrupted by CancelledError"),
    ],
)
def test_where_nobody_can_tell_a_person_decides(storage: Storage, error: BaseException, reason: str) -> None:
    job = storage.queue.schedule("x", "hello")
    storage.queue.schedule("x", "another")
    assert drained(storage, raising(error), concurrency=1) == {"unknown": 2}
    assert stored(storage, job).dead_letter_reason == reason
    assert stored(storage, job).publish_started_at == START


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(), asyncio.CancelledError(), CancelledError()]
)
def test_a_coroutine_that_is_cut_off_leaves_the_others_alone(storage: Storage, error: BaseException) -> None:
    first = storage.queue.schedule("x", "cut off")
    storage.queue.schedule("x", "fine")

    async def publisher(job: Job) -> None:
        if job.id == first.id:
            raise error

    assert drained(storage, publisher, concurrency=1) == {"unknown": 1, "posted": 1}


def test_an_exception_that_cannot_be_shown(storage: Storage) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    job = storage.queue.schedule("x", "hello")
    drained(storage, raising(Mute()))
    assert stored(storage, job).last_error == "Mute"


@pytest.mark.parametrize("remote_id", ["", "x" * 513, "a\x00", 10**600])
def test_a_job_with_an_unusable_remote_id_is_posted_all_the_same(storage: Storage, remote_id: Any) -> None:
    job = storage.queue.schedule("x", "hello")
    assert drained(storage, lambda _: remote_id) == {"posted": 1}
    assert stored(storage, job).remote_id is None


class TestRateLimits:
    def test_a_rate_limit_costs_no_attempt(self, storage: Storage, clock: Clock) -> None:
        job = storage.queue.schedule("x", "hello")
        assert drained(storage, raising(Retry(after=90)), clock=clock.seconds) == {"snoozed": 1}
        back = stored(storage, job)
        assert (back.status, back.retries, back.attempts) == (JobStatus.SCHEDULED, 0, ())
        assert back.due_at == START + timedelta(seconds=90)
        assert back.publish_started_at is None

    def test_the_platform_is_left_alone_by_this_worker(self, storage: Storage, clock: Clock) -> None:
        calls: list[str] = []

        def limited(job: Job) -> None:
            calls.append(job.content)
            if len(calls) == 1:
                raise Retry(after=MINUTE)

        worker = Worker(storage, {"x": limited, "y": lambda _: None}, concurrency=1, clock=clock.seconds)
        for content in ("first", "second"):
            storage.queue.schedule("x", content)
        storage.queue.schedule("y", "elsewhere")
        worker.run_until_idle()
        assert calls == ["first"]
        assert worker.counts == {"snoozed": 1, "posted": 1}
        clock.advance(MINUTE)
        worker.run_until_idle()
        assert calls == ["first", "second", "first"]

    def test_jobs_that_were_claimed_already_are_put_off(self, storage: Storage, clock: Clock) -> None:
        jobs = [storage.queue.schedule("x", "hello") for _ in range(20)]
        calls: list[int] = []

        def publisher(job: Job) -> None:
            calls.append(job.id)
            raise Retry

        worker = Worker(storage, {"x": publisher}, concurrency=1, batch=20, pause=30, clock=clock.seconds)
        worker.run_until_idle()
        assert calls == [jobs[0].id]
        assert stored(storage, jobs[0]).due_at == START + timedelta(seconds=30)

    @pytest.mark.parametrize(
        ("after", "seconds"),
        [
            (90, 90.0),
            (MINUTE, 60.0),
            (Decimal("1.5"), 1.5),
            (0, 0.0),
            (-1, 0.0),
            (-MINUTE, 0.0),
            (10**400, timedelta.max.total_seconds()),
            (-(10**400), 0.0),
            (None, None),
            (float("nan"), None),
            (float("inf"), None),
            (float("-inf"), None),
            (Decimal("sNaN"), None),
            ("60", None),
            (True, None),
            (START, None),
        ],
    )
    def test_the_time_is_a_span_and_anything_else_counts_as_missing(
        self, after: Any, seconds: float | None
    ) -> None:
        assert Retry(after=after).after == seconds

    def test_a_pause_of_ages_does_not_overflow(self, storage: Storage) -> None:
        storage.queue.schedule("x", "hello")
        assert drained(storage, raising(Retry(after=timedelta.max))) == {"snoozed": 1}


class TestRetries:
    def test_a_policy_for_all(self, storage: Storage, clock: Clock) -> None:
        job = storage.queue.schedule("x", "hello", max_retries=9)
        policy = ExponentialRetry(delay=MINUTE, jitter=0)
        for delay in (MINUTE, 2 * MINUTE, 4 * MINUTE):
            drained(storage, raising(OSError()), retry=policy, clock=clock.seconds)
            assert stored(storage, job).due_at == clock() + delay
            clock.advance(delay)

    def test_a_policy_for_one_platform(self, storage: Storage, clock: Clock) -> None:
        jobs = [storage.queue.schedule(platform, "hello") for platform in ("x", "y")]
        fails = raising(OSError())
        Worker(
            storage,
            {"x": fails, "y": fails},
            retry={"x": RetryPolicy(delay=MINUTE)},
            clock=clock.seconds,
        ).run_until_idle()
        assert [stored(storage, job).due_at - START for job in jobs] == [MINUTE, 5 * MINUTE]

    def test_jitter_only_takes_off(self) -> None:
        policy = ExponentialRetry(delay=MINUTE, jitter=0.5, longest=timedelta(hours=1))
        for retries in (0, 3, 10, 5000):
            whole = min(MINUTE * 2 ** min(retries, 20), timedelta(hours=1))
            assert all(whole / 2 <= policy.delay_after(retries) <= whole for _ in range(50))

    @pytest.mark.parametrize(
        "bad", [{"factor": 0.5}, {"factor": float("inf")}, {"jitter": 2}, {"jitter": -0.1}]
    )
    def test_a_policy_is_checked(self, bad: dict[str, float]) -> None:
        with pytest.raises(ConfigurationError):
            ExponentialRetry(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [ValueError("no answer"), START.replace(tzinfo=None)])
def test_a_retry_policy_that_fails_leaves_the_delay_to_the_storages_own(
    storage: Storage, answer: Exception | datetime
) -> None:
    class Broken(RetryPolicy):
        def next_attempt(self, now: datetime, job: Job) -> datetime:
            if isinstance(answer, Exception):
                raise answer
            return answer

    job = storage.queue.schedule("x", "a")
    drained(storage, raising(OSError("refused")), retry=Broken())
    failed = stored(storage, job)
    assert failed.status is JobStatus.RETRYING
    assert failed.publish_started_at is None


class TestLimits:
    def test_no_more_than_concurrency(self, storage: Storage) -> None:
        at_once = _MostAtOnce()
        for _ in range(12):
            storage.queue.schedule("x", "hello")
        assert drained(storage, at_once, concurrency=3) == {"posted": 12}
        assert at_once.most <= 3

    def test_the_places_are_all_used(self, storage: Storage) -> None:
        meeting = threading.Barrier(3)
        for _ in range(3):
            storage.queue.schedule("x", "hello")

        def publisher(_: Job) -> None:
            meeting.wait(LONG)

        assert drained(storage, publisher, concurrency=3) == {"posted": 3}

    def test_a_platform_has_its_own_limit_in_all_workers(self, storage: Storage) -> None:
        at_once = _MostAtOnce()
        for _ in range(20):
            storage.queue.schedule("x", "hello")
        workers = [
            Worker(
                storage,
                {"x": at_once},
                worker_id="same",
                platform_concurrency={"x": 2},
                concurrency=4,
                poll=0.05,
            )
            for _ in range(3)
        ]
        with running(workers[0]), running(workers[1]), running(workers[2]):
            _until(lambda: storage.queue.counts()[JobStatus.POSTED] == 20)
        assert at_once.most <= 2
        assert storage.lock.current("publish:x:1") is None

    def test_places_that_were_taken_in_vain_are_given_back(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        acquire, calls = storage.lock.acquire, []

        def second_fails(*arguments: Any, **options: Any) -> Any:
            calls.append(options["name"])
            if len(calls) == 2:
                raise StorageUnavailable("away")
            return acquire(*arguments, **options)

        monkeypatch.setattr(storage.lock, "acquire", second_fails)
        with pytest.raises(StorageUnavailable):
            drained(storage, lambda _: None, platform_concurrency={"x": 3})
        assert storage.lock.current(calls[0]) is None

    def test_a_full_platform_does_not_hold_up_others(self, storage: Storage) -> None:
        release = threading.Event()
        storage.queue.schedule("x", "slow")
        storage.queue.schedule("x", "waits for it")
        fast = storage.queue.schedule("y", "fast")

        def slow(_: Job) -> None:
            assert release.wait(LONG)

        worker = Worker(
            storage, {"x": slow, "y": lambda _: None}, platform_concurrency={"x": 1}, concurrency=4
        )
        with running(worker):
            _until(lambda: stored(storage, fast).status is JobStatus.POSTED)
            assert storage.queue.counts()[JobStatus.PROCESSING] == 1
            release.set()
            _until(lambda: storage.queue.counts()[JobStatus.POSTED] == 3)


class TestLeases:
    def test_a_heartbeat_extends_long_ones(self, storage: Storage, clock: Clock) -> None:
        job = storage.queue.schedule("x", "slow")

        def slow(job: Job) -> None:
            lease = job.lease_until
            assert lease is not None
            clock.advance(timedelta(seconds=50))
            _until(lambda: (stored(storage, job).lease_until or lease) > lease)
            clock.advance(timedelta(seconds=50))

        options = {"lease": MINUTE, "heartbeat": timedelta(milliseconds=5)}
        assert drained(storage, slow, **options) == {"posted": 1}
        assert stored(storage, job).status is JobStatus.POSTED

    def test_a_late_worker_settles_nothing(self, storage: Storage, clock: Clock) -> None:
        job = storage.queue.schedule("x", "slow")

        def too_slow(_: Job) -> str:
            clock.advance(2 * MINUTE)
            assert [rescued.id for rescued in storage.queue.rescue_expired()] == [job.id]
            return "remote-1"

        assert drained(storage, too_slow, lease=MINUTE) == {"lost": 1}
        assert (stored(storage, job).dead_letter_reason or "").startswith("outcome unknown: ")

    def test_a_claim_that_is_lost_is_never_begun(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = storage.queue.schedule("x", "removed meanwhile")
        claim_due = storage.queue.sweep_and_claim

        def claim_and_lose(**options: Any) -> Claimed:
            claimed = claim_due(**options)
            for job in claimed.jobs:
                storage.queue.remove(job.id)
            return claimed

        monkeypatch.setattr(storage.queue, "sweep_and_claim", claim_and_lose)
        published: list[int] = []
        assert drained(storage, lambda job: published.append(job.id)) == {"lost": 1}
        assert published == []
        assert storage.queue.get(job.id) is None


class TestRunning:
    def test_it_wakes_for_a_new_job(self, storage: Storage) -> None:
        published = threading.Event()
        with running(Worker(storage, {"x": lambda _: published.set()}, poll=LONG)):
            storage.queue.schedule("x", "hello")
            assert published.wait(LONG)

    def test_a_stop_ends_the_sleep(self, storage: Storage) -> None:
        worker = Worker(storage, {"x": lambda _: None}, poll=10 * LONG)
        with running(worker) as thread:
            worker.stop()
            thread.join(LONG)
            assert not thread.is_alive()

    def test_a_stopped_worker_stays_stopped(self, storage: Storage) -> None:
        storage.queue.schedule("x", "hello")
        worker = Worker(storage, {"x": lambda _: None})
        worker.stop()
        worker.run()
        assert worker.counts == {}

    def test_what_runs_is_finished_and_nothing_more_is_claimed(self, storage: Storage) -> None:
        begun, release = threading.Event(), threading.Event()
        for _ in range(2):
            storage.queue.schedule("x", "hello")

        def slow(_: Job) -> None:
            begun.set()
            assert release.wait(LONG)

        worker = Worker(storage, {"x": slow}, concurrency=1)
        with running(worker) as thread:
            assert begun.wait(LONG)
            worker.stop()
            release.set()
            thread.join(LONG)
        counts = storage.queue.counts()
        assert (counts[JobStatus.POSTED], counts[JobStatus.SCHEDULED]) == (1, 1)

    def test_the_grace_time_is_not_exceeded(self, storage: Storage) -> None:
        begun, release = threading.Event(), threading.Event()
        job = storage.queue.schedule("x", "hello")

        def stuck(_: Job) -> None:
            begun.set()
            release.wait(LONG)

        worker = Worker(storage, {"x": stuck}, grace=0)
        with running(worker) as thread:
            assert begun.wait(LONG)
            worker.stop()
            thread.join(LONG)
            assert not thread.is_alive()
        assert stored(storage, job).publish_started_at is not None
        release.set()
        _until(lambda: stored(storage, job).status is JobStatus.POSTED)

    def test_a_coroutine_beyond_the_grace_time_is_cancelled(self, storage: Storage) -> None:
        begun = threading.Event()
        job = storage.queue.schedule("x", "hello")

        async def stuck(_: Job) -> None:
            begun.set()
            await asyncio.Event().wait()

        worker = Worker(storage, {"x": stuck}, grace=0)
        with running(worker):
            assert begun.wait(LONG)
        _until(lambda: stored(storage, job).status is JobStatus.DEAD_LETTER)
        assert stored(storage, job).dead_letter_reason == "outcome unknown: the publisher was cancelled"

    def test_what_has_not_begun_is_released(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        job = storage.queue.schedule("x", "hello")
        worker = Worker(storage, {"x": lambda _: None})
        claim_due = storage.queue.sweep_and_claim

        def claim_and_stop(**options: Any) -> Claimed:
            claimed = claim_due(**options)
            worker.stop()
            return claimed

        monkeypatch.setattr(storage.queue, "sweep_and_claim", claim_and_stop)
        worker.run()
        assert worker.counts == {"put back": 1}
        assert (stored(storage, job).status, stored(storage, job).retries) == (JobStatus.SCHEDULED, 0)

    def test_due_jobs_that_it_may_not_publish_do_not_make_it_spin(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage.queue.schedule("y", "for another worker")
        storage.platforms.limit("z", 1, timedelta(hours=1))
        storage.platforms.take("z", 1)
        storage.queue.schedule("z", "beyond the limit")
        claims: list[float] = []
        claim_due = storage.queue.sweep_and_claim

        def counted(**options: Any) -> Claimed:
            claims.append(0)
            return claim_due(**options)

        monkeypatch.setattr(storage.queue, "sweep_and_claim", counted)
        published = threading.Event()
        publishers: dict[str, Publisher] = {"x": lambda _: published.set(), "z": lambda _: None}
        with running(Worker(storage, publishers)):
            _until(lambda: len(claims) >= 5)
            storage.queue.schedule("x", "for this one")
            assert published.wait(LONG)
        assert len(claims) < 40

    def test_it_rescues_and_prunes_as_it_runs(self, storage: Storage, clock: Clock) -> None:
        job = storage.queue.schedule("y", "left behind by another worker")
        storage.queue.claim_due(worker_id="gone")
        storage.nonces.register("old", START)
        clock.advance(timedelta(days=3))
        with running(Worker(storage, {"x": lambda _: None}, lease=timedelta(milliseconds=20))):
            _until(lambda: stored(storage, job).status is JobStatus.RETRYING)
            _until(lambda: not storage.nonces.seen("old"))

    def test_it_maintains_the_storage_again_and_again(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = threading.Semaphore(0)

        def maintain() -> None:
            calls.release()
            raise StorageUnavailable("away")

        monkeypatch.setattr(storage, "maintain", maintain)
        with running(Worker(storage, {"x": lambda _: None}, lease=timedelta(milliseconds=20))):
            for _ in range(3):
                assert calls.acquire(timeout=LONG)

    def test_it_does_not_maintain_a_storage_that_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        prunes, maintained = threading.Semaphore(0), threading.Event()
        with Storage(MemoryBackend(), auto_prune=False, worker_maintains=False) as storage:
            monkeypatch.setattr(storage, "maintain", maintained.set)
            monkeypatch.setattr(storage, "prune", prunes.release)
            with running(Worker(storage, {"x": lambda _: None}, lease=timedelta(milliseconds=20))):
                for _ in range(3):
                    assert prunes.acquire(timeout=LONG)
        assert not maintained.is_set()

    def test_a_long_maintenance_does_not_hold_up_rescue(
        self, storage: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = storage.queue.schedule("y", "left behind by another worker")
        storage.queue.claim_due(worker_id="gone")
        maintaining, release = threading.Event(), threading.Event()

        def maintain() -> None:
            maintaining.set()
            assert release.wait(LONG)

        monkeypatch.setattr(storage, "maintain", maintain)
        with running(Worker(storage, {"x": lambda _: None}, lease=timedelta(milliseconds=20))):
            assert maintaining.wait(LONG)
            clock.advance(timedelta(minutes=10))
            _until(lambda: stored(storage, job).status is JobStatus.RETRYING)
            release.set()

    def test_it_ends_with_its_storage(self, storage: Storage) -> None:
        errors: list[BaseException] = []

        def run() -> None:
            try:
                Worker(storage, {"x": lambda _: None}, poll=0.02).run()
            except StorageClosed as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        storage.close()
        thread.join(LONG)
        assert len(errors) == 1

    def test_one_run_at_a_time(self, storage: Storage) -> None:
        begun, release = threading.Event(), threading.Event()
        storage.queue.schedule("x", "hello")

        def slow(_: Job) -> None:
            begun.set()
            assert release.wait(LONG)

        worker = Worker(storage, {"x": slow})
        with running(worker):
            assert begun.wait(LONG)
            with pytest.raises(RuntimeError):
                worker.run_until_idle()
            release.set()


class TestAsyncWorker:
    def test_it_publishes_on_the_callers_loop(self, storage: Storage) -> None:
        storage.queue.schedule("x", "hello")
        loops = []

        async def publisher(_: Job) -> str:
            loops.append(asyncio.get_running_loop())
            return "remote"

        async def main() -> asyncio.AbstractEventLoop:
            worker = AsyncWorker(storage, {"x": publisher})
            await worker.run_until_idle()
            assert worker.counts == {"posted": 1}
            return asyncio.get_running_loop()

        assert [asyncio.run(main())] == loops

    def test_it_takes_an_async_storage(self) -> None:
        async def main() -> dict[str, int]:
            async with AsyncStorage(Storage(MemoryBackend(), auto_prune=False)) as storage:
                await storage.queue.schedule("x", "hello")
                worker = AsyncWorker(storage, {"x": lambda _: None})
                await worker.run_until_idle()
                return worker.counts

        assert asyncio.run(main()) == {"posted": 1}

    def test_it_takes_what_the_other_takes(self) -> None:
        parameters = inspect.signature(Worker).parameters.values()
        keywords = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
        assert WorkerOptions.__optional_keys__ == keywords

    def test_cancelling_it_finishes_what_runs(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "hello")

        async def main() -> None:
            begun, release = asyncio.Event(), asyncio.Event()

            async def publisher(_: Job) -> None:
                begun.set()
                await release.wait()

            running = asyncio.create_task(AsyncWorker(storage, {"x": publisher}).run())
            await asyncio.wait_for(begun.wait(), LONG)
            running.cancel()
            asyncio.get_running_loop().call_soon(release.set)
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(running, LONG)

        asyncio.run(main())
        assert stored(storage, job).status is JobStatus.POSTED

    def test_errors_of_the_storage_come_out(self, storage: Storage) -> None:
        storage.close()
        with pytest.raises(StorageClosed):
            asyncio.run(AsyncWorker(storage, {"x": lambda _: None}).run_until_idle())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"publishers": {}}, "publishers must not be empty"),
        ({"publishers": {"x": "stdout"}}, r"publishers\['x'\] must be a function, another callable"),
        ({"publishers": {"": print}}, "a platform in publishers must not be empty"),
        ({"publishers": {5: print}}, "a platform in publishers must be a str, not 5"),
        ({"publishers": {"x" * 513: print}}, "a platform in publishers must have at most 512 bytes"),
        ({"publishers": print}, "publishers must be a mapping of platforms to publishers"),
        ({"publishers": [("x", print)]}, "publishers must be a mapping of platforms to publishers"),
        ({"publishers": None}, "publishers must be a mapping of platforms to publishers"),
        ({"platforms": ["y"]}, "platforms names 'y': missing in publishers"),
        ({"platforms": []}, "give at least one publisher"),
        ({"platforms": "x"}, r"platforms must be an? [a-z]+ of str"),
        ({"platforms": 5}, r"platforms must be an? [a-z]+ of str"),
        ({"platforms": [None]}, "platforms must be a str"),
        ({"worker_id": ""}, "worker_id must not be empty"),
        ({"worker_id": 5}, "worker_id must be a str"),
        ({"concurrency": 0}, "concurrency must be from 1 to 1000"),
        ({"concurrency": 1001}, "concurrency must be from 1 to 1000"),
        ({"concurrency": 4.0}, "concurrency must be an int"),
        ({"concurrency": True}, "concurrency must be an int"),
        ({"platform_concurrency": {"x": 0}}, r"platform_concurrency\['x'\] must be from 1 to 1000"),
        ({"platform_concurrency": {"y": 1}}, "platform_concurrency names 'y', which has no publisher"),
        ({"platform_concurrency": 5}, "platform_concurrency must be a mapping"),
        ({"platform_concurrency": [("x", 1)]}, "platform_concurrency must be a mapping"),
        ({"batch": 0}, "batch must be from 1 to 1000"),
        ({"lease": timedelta(0)}, "lease must be greater than zero"),
        ({"lease": 60}, "lease must be a timedelta, not 60"),
        ({"lease": timedelta.max}, "lease must be at most 365 days"),
        ({"heartbeat": timedelta(minutes=1)}, "heartbeat must be shorter than the lease"),
        ({"heartbeat": timedelta(0)}, "heartbeat must be greater than zero"),
        ({"heartbeat": 5}, "heartbeat must be a timedelta"),
        ({"poll": 0}, "poll must be greater than 0"),
        ({"poll": float("nan")}, "poll must be a number"),
        ({"grace": -1}, "grace must be a number from 0"),
        ({"grace": float("inf")}, "grace must be a number from 0"),
        ({"grace": None}, "grace must be a number"),
        ({"pause": "1"}, "pause must be a number"),
        ({"retry": 5}, "retry must be a RetryPolicy, or a mapping of platforms to them"),
        ({"retry": {"x": timedelta(minutes=5)}}, r"retry\['x'\] must be a RetryPolicy"),
        ({"retry": {"y": RetryPolicy()}}, "retry names 'y', which has no publisher"),
        ({"clock": 1.0}, "clock must be callable"),
        ({"clock": datetime.now}, "clock must return seconds as a number"),
    ],
)
def test_the_options_are_checked(storage: Storage, bad: dict[str, Any], message: str) -> None:
    for kind in (Worker, AsyncWorker):
        with pytest.raises(InvalidValue, match=message):
            kind(storage, **{"publishers": {"x": print}, **bad})


def test_long_times_are_no_error(storage: Storage) -> None:
    storage.queue.schedule("x", "hello")
    ages = timedelta.max
    worker: Worker = Worker(
        storage,
        {"x": lambda _: worker.stop()},
        grace=ages,
        poll=ages,
        timeout=ages,
        lease=timedelta(days=365),
    )
    worker.run()
    assert worker.counts == {"posted": 1}


class TestTheStorage:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (MemoryBackend(), r"not the engine itself: pass Storage\(MemoryBackend\(…\)\)"),
            (AsyncStorage(Storage(MemoryBackend(), auto_prune=False)), "use AsyncWorker"),
            (None, r"must be a Storage, not None: open_storage\(\) returns one"),
            ("sqlite", "must be a Storage, not 'sqlite'"),
            (Storage, "must be a Storage, not a type"),
        ],
    )
    def test_it_must_be_one(self, wrong: Any, message: str) -> None:
        with pytest.raises(InvalidValue, match=message):
            Worker(wrong, {"x": print})

    @pytest.mark.parametrize("wrong", [MemoryBackend(), None, "sqlite"])
    def test_that_of_an_async_worker_too(self, wrong: Any) -> None:
        with pytest.raises(InvalidValue, match="storage must be an AsyncStorage or a Storage"):
            AsyncWorker(wrong, {"x": print})

    def test_it_must_not_be_that_of_a_transaction(self, storage: Storage) -> None:
        with storage.transaction() as tx, pytest.raises(InvalidValue, match="belongs to a transaction"):
            Worker(tx, {"x": print})

        async def main() -> None:
            async with AsyncStorage(storage) as outer, outer.transaction() as tx:
                with pytest.raises(InvalidValue, match="belongs to a transaction"):
                    AsyncWorker(tx, {"x": print})

        asyncio.run(main())

    def test_it_must_not_be_used_inside_a_transaction(self, storage: Storage) -> None:
        worker = Worker(storage, {"x": print})
        with storage.transaction(), pytest.raises(TransactionOpen):
            worker.run_until_idle()

    def test_it_must_be_open(self, storage: Storage) -> None:
        worker = Worker(storage, {"x": print})
        storage.close()
        for run in (worker.run, worker.run_until_idle):
            with pytest.raises(StorageClosed, match="closed"):
                run()

    def test_the_event_loop_must_be_one(self, storage: Storage) -> None:
        closed = asyncio.new_event_loop()
        closed.close()
        for wrong in (5, closed):
            with pytest.raises(InvalidValue, match="loop must"):
                Worker(storage, {"x": print}).run_until_idle(loop=wrong)  # type: ignore[arg-type]


class _MostAtOnce:
    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, _: Job) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        threading.Event().wait(0.001)  # long enough for others to get here
        with self._lock:
            self._now -= 1


def _until(condition: Callable[[], bool]) -> None:
    ticks = threading.Event()
    for _ in range(int(LONG / 0.005)):
        if condition():
            return
        ticks.wait(0.005)
    raise AssertionError("it did not happen in time")
