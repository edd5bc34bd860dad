"""Workers ask the check of a publisher about jobs with an unknown outcome."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from assistly.storage import (
    InvalidValue,
    Job,
    JobStatus,
    MemoryBackend,
    Storage,
    open_storage,
)
from assistly.storage.engine.values import KEPT_ATTEMPTS
from assistly.storage.stores.lock import Locks
from assistly.storage.stores.queue import Queue
from assistly.worker import (
    AsyncWorker,
    EventKind,
    NotPosted,
    Publication,
    StillUnknown,
    Unknown,
    WasPosted,
    Worker,
    WorkerEvent,
    invocation,
    reconciling,
)
from assistly.worker.events import Reporter
from assistly.worker.invocation import PublisherCaller
from assistly.worker.reconciling import Reconciler
from waiting import until
from worker.worker_harness import ENGINES, running, stored

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRST = 10.0
HOUR = 3600.0
DAY = 24 * HOUR
LONG = 30.0


class Clock:
    """The clock of the storage and of the pauses, in seconds since START."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> datetime:
        return START + timedelta(seconds=self.seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("assistly.worker.threads.Runtime.monotonic", lambda _: clock.seconds)
    return clock


@pytest.fixture
def storage(clock: Clock) -> Iterator[Storage]:
    with Storage(MemoryBackend(), clock=clock, auto_prune=False) as storage:
        yield storage


class Checked:
    """A publisher that cannot tell, and what its check answers in turn; the last answer stays."""

    def __init__(self, *answers: Any) -> None:
        self.answers = [*answers]
        self.published: list[int] = []
        self.asked: list[Job] = []
        self.is_sure = False

    def publish(self, job: Job) -> str:
        self.published.append(job.id)
        if self.is_sure:
            return "published"
        raise Unknown("no answer")

    def check(self, job: Job) -> Any:
        self.asked.append(job)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer() if isinstance(answer, type(lambda: None)) else answer


def run(storage: Storage, publisher: Any, **options: Any) -> Worker:
    worker = Worker(storage, {"x": publisher}, **options)
    worker.run_until_idle()
    return worker


def unknown(storage: Storage, clock: Clock, age: float = FIRST, platform: str = "x") -> Job:
    """A job whose outcome has been unknown for so many seconds."""
    job = storage.queue.schedule(platform, "hello")
    (claimed,) = storage.queue.claim_due(worker_id="dead", platforms=[platform])
    unknown = storage.queue.mark_unknown(storage.queue.begin_publish(claimed), "no answer")
    clock.seconds += age
    assert unknown.id == job.id
    return unknown


def test_it_was_posted(storage: Storage, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    job = unknown(storage, clock)
    publisher = Checked(WasPosted("remote-1"))
    events: list[WorkerEvent] = []
    run(storage, publisher, on_event=events.append)
    assert publisher.asked == [job]
    resolved = stored(storage, job)
    assert (resolved.status, resolved.remote_id, resolved.posted_at) == (JobStatus.POSTED, "remote-1", START)
    assert publisher.published == []
    assert [(event.kind, event.job) for event in events] == [(EventKind.RESOLVED, resolved)]
    assert (
        f"job {job.id} on x was published, according to its platform: it is posted as remote-1" in caplog.text
    )


@pytest.mark.parametrize(
    ("remote_id", "kept"), [(None, None), (7, "7"), ("", None), ("x" * 600, None), ("a\0b", None)]
)
def test_remote_ids(storage: Storage, clock: Clock, remote_id: Any, kept: str | None) -> None:
    job = unknown(storage, clock)
    run(storage, Checked(WasPosted(remote_id)))
    assert stored(storage, job).status is JobStatus.POSTED
    assert stored(storage, job).remote_id == kept


def test_it_was_not_posted(storage: Storage, clock: Clock) -> None:
    """It is published in the same run, and goes on from its checkpoint."""
    job = storage.queue.schedule("x", "hello")
    steps: list[object] = []

    class InTwo:
        def publish(self, job: Job, publication: Publication) -> str:
            steps.append(job.checkpoint)
            if job.checkpoint is None:
                publication.checkpoint("container-1")
                raise Unknown("no answer")
            return "remote"

        def check(self, job: Job) -> NotPosted:
            steps.append("asked")
            assert job.checkpoint == "container-1"
            return NotPosted()

    run(storage, InTwo())
    clock.seconds = FIRST
    worker = run(storage, InTwo())
    assert steps == [None, "asked", "container-1"]
    assert worker.counts == {"posted": 1}
    assert stored(storage, job).remote_id == "remote"


RUBBISH: list[Any] = [
    None,
    True,
    "remote-1",
    WasPosted,
    NotPosted,
    WasPosted(True),
    WasPosted(b"id"),  # type: ignore[arg-type]
    [NotPosted()],
    Unknown("the platform says nothing"),
    ValueError("no connection"),
    SystemExit(1),
    KeyboardInterrupt(),
    StillUnknown(),
    StillUnknown("too many requests"),
]


@pytest.mark.parametrize("answer", RUBBISH, ids=repr)
@pytest.mark.parametrize("is_async", [False, True])
def test_anything_else_is_still_unknown(
    storage: Storage, clock: Clock, caplog: pytest.LogCaptureFixture, answer: Any, is_async: bool
) -> None:
    job = unknown(storage, clock)
    other = storage.queue.schedule("x", "hello")
    publisher = Checked(answer)
    publisher.is_sure = True
    if is_async:
        asyncio.run(AsyncWorker(storage, {"x": publisher}).run_until_idle())
    else:
        run(storage, publisher)
    assert stored(storage, job) == job
    assert len(publisher.asked) == 1
    assert publisher.published == [other.id]
    assert f"job {job.id} on x: its outcome is still unknown: " in caplog.text


def test_what_is_logged_names_the_mistake(
    storage: Storage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    unknown(storage, clock)
    run(storage, Checked(True))
    assert "a check must return WasPosted(…), NotPosted() or StillUnknown(…); it returned True" in caplog.text


@pytest.mark.parametrize("is_async", [True, False])
def test_a_coroutine(storage: Storage, clock: Clock, is_async: bool) -> None:
    job = unknown(storage, clock)

    class Awaited(Checked):
        async def check(self, job: Job) -> Any:
            await asyncio.sleep(0)
            return WasPosted("awaited")

    if is_async:
        asyncio.run(AsyncWorker(storage, {"x": Awaited()}).run_until_idle())
    else:
        run(storage, Awaited())
    assert stored(storage, job).remote_id == "awaited"


class TestPauses:
    def test_they_double_up_to_an_hour_and_end_after_a_day(self, storage: Storage, clock: Clock) -> None:
        job = unknown(storage, clock, age=0)
        publisher = Checked(StillUnknown("not yet"))
        worker = Worker(storage, {"x": publisher})
        asked: list[float] = []
        while clock.seconds < 2 * DAY:
            worker.run_until_idle()
            if len(publisher.asked) > len(asked):
                asked.append(clock.seconds)
            clock.seconds += 10 if clock.seconds < 2 * HOUR else 300
        assert asked[:9] == [10 * 2**n for n in range(9)]
        assert all(HOUR <= later - one < HOUR + 300 for one, later in pairwise(asked[9:]))
        assert DAY - HOUR < asked[-1] <= DAY
        assert stored(storage, job) == job

    def test_one_of_this_worker_waits_for_the_first(self, storage: Storage, clock: Clock) -> None:
        job = storage.queue.schedule("x", "hello")
        publisher = Checked(WasPosted("remote"))
        worker = Worker(storage, {"x": publisher})
        for clock.seconds in (0, 0, FIRST - 1):
            worker.run_until_idle()
            assert stored(storage, job).outcome_unknown
            assert publisher.asked == []
        clock.seconds = FIRST
        worker.run_until_idle()
        assert stored(storage, job).status is JobStatus.POSTED

    def test_options(self, storage: Storage, clock: Clock) -> None:
        unknown(storage, clock, age=100)
        publisher = Checked(StillUnknown())
        run(storage, publisher, check_pause=101)
        run(storage, publisher, check_for=timedelta(seconds=99))
        run(storage, publisher, check_for=0)
        assert publisher.asked == []
        run(storage, publisher, check_pause=timedelta(seconds=100), check_for=100)
        assert len(publisher.asked) == 1
        for bad in (0, -1, float("nan"), "1", None):
            with pytest.raises(InvalidValue, match="check_pause"):
                run(storage, publisher, check_pause=bad)
        with pytest.raises(InvalidValue, match="check_for"):
            run(storage, publisher, check_for=-1)

    def test_workers_share_the_questions(self, storage: Storage, clock: Clock) -> None:
        unknown(storage, clock, age=0)
        publisher = Checked(StillUnknown())
        workers = [Worker(storage, {"x": publisher}) for _ in range(3)]
        for pause in (10, 20, 40, 80):
            for step in range(4):
                clock.seconds = pause * (1 + step / 4)
                for worker in workers:
                    worker.run_until_idle()
        assert len(publisher.asked) == 4

    def test_another_worker_takes_over(self, storage: Storage, clock: Clock) -> None:
        """The one that asked before is gone."""
        unknown(storage, clock)
        publisher = Checked(StillUnknown(), WasPosted("remote"))
        run(storage, publisher)
        clock.seconds += FIRST
        worker = run(storage, publisher)
        clock.seconds += FIRST / 2
        worker.run_until_idle()
        assert len(publisher.asked) == 2

    def test_a_new_attempt_is_asked_about_after_the_first_pause(self, storage: Storage, clock: Clock) -> None:
        job = unknown(storage, clock, age=5 * HOUR)
        publisher = Checked(NotPosted(), WasPosted("remote"))
        worker = run(storage, publisher)
        assert publisher.published == [job.id]
        clock.seconds += FIRST
        worker.run_until_idle()
        assert stored(storage, job).remote_id == "remote"


def test_a_job_that_never_gets_out_is_left_to_a_person(
    storage: Storage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise one that ends its process each time would do so for ever."""
    job = storage.queue.schedule("x", "hello", max_retries=2)
    publisher = Checked(NotPosted())
    worker = Worker(storage, {"x": publisher})
    for _ in range(6):
        worker.run_until_idle()
        clock.seconds += FIRST
    assert len(publisher.published) == 3
    assert stored(storage, job).outcome_unknown
    assert f"job {job.id} on x was not published, according to its platform; but its outcome" in caplog.text
    assert caplog.text.endswith(
        f"a person has to decide: `assistly jobs resolve {job.id} --not-posted` schedules it again\n"
    )
    caplog.clear()
    with closing(PublisherCaller(worker._runtime)) as caller:
        reporter = Reporter(worker._runtime, worker._counts, None, {})
        options = worker._options
        asking = Reconciler(storage, options, caller, reporter, lambda: clock.seconds, lambda: False)
        for _ in range(3):
            clock.seconds += HOUR
            assert asking.round()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert len(publisher.asked) >= 5


@pytest.mark.parametrize("max_retries", [19, 20, 100])
def test_it_is_left_to_a_person_also_if_it_may_fail_more_often_than_attempts_are_kept(
    storage: Storage, clock: Clock, max_retries: int
) -> None:
    job = storage.queue.schedule("x", "hello", max_retries=max_retries)
    publisher = Checked(NotPosted())
    worker = Worker(storage, {"x": publisher})
    for _ in range(30):
        worker.run_until_idle()
        clock.seconds += FIRST
    assert len(publisher.published) == KEPT_ATTEMPTS
    assert stored(storage, job).outcome_unknown


def test_an_outcome_that_a_check_is_asked_about_is_an_error_in_the_log_when_that_ends(
    storage: Storage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    job = storage.queue.schedule("x", "hello")
    publisher = Checked(StillUnknown("it is down"))
    worker = Worker(storage, {"x": publisher})
    levels: list[list[int]] = []
    for pause in (0.0, FIRST, 22 * HOUR, HOUR, HOUR, HOUR):
        caplog.clear()
        clock.seconds += pause
        worker.run_until_idle()
        levels.append([record.levelno for record in caplog.records])
        if not pause:
            assert caplog.messages[0].endswith("unknown: no answer; the check of x runs in 10 s")
        elif logging.ERROR in levels[-1]:
            assert caplog.messages[0] == (
                f"job {job.id} on x: its outcome is still unknown: it is down; look at x, then "
                f"`assistly jobs resolve {job.id} --posted` or `--not-posted`"
            )
    warning, error = [logging.WARNING], [logging.ERROR]
    assert levels == [warning, warning, warning, error, [], []]


@pytest.mark.parametrize("options", [{"check_for": 0}, {"check_pause": 20, "check_for": 10}, None])
def test_an_outcome_that_no_check_is_asked_about_is_an_error_in_the_log(
    storage: Storage, caplog: pytest.LogCaptureFixture, options: dict[str, Any] | None
) -> None:
    job = storage.queue.schedule("x", "hello")
    publisher = Checked(NotPosted())
    run(storage, publisher.publish if options is None else publisher, **(options or {}))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    answer = f"`assistly jobs resolve {job.id} --posted` or `--not-posted`"
    assert record.getMessage().endswith(f"; look at x, then {answer}")


def test_other_dead_letters_and_platforms_are_not_asked_about(storage: Storage, clock: Clock) -> None:
    job = storage.queue.schedule("x", "hello")
    (claimed,) = storage.queue.claim_due(worker_id="w")
    storage.queue.mark_failed(storage.queue.begin_publish(claimed), "no", retryable=False)
    unknown(storage, clock, platform="y")
    publisher = Checked(WasPosted())
    Worker(storage, {"x": publisher, "y": publisher.publish}).run_until_idle()
    assert publisher.asked == []
    assert stored(storage, job).status is JobStatus.DEAD_LETTER


def test_a_paused_platform_is_not_asked(storage: Storage, clock: Clock) -> None:
    unknown(storage, clock)
    publisher = Checked(WasPosted())
    storage.platforms.pause("x")
    run(storage, publisher)
    assert publisher.asked == []
    storage.platforms.resume("x")
    run(storage, publisher)
    assert len(publisher.asked) == 1


def test_many_dead_letters_are_looked_at_in_turn(
    storage: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "_PAGE", 2)
    monkeypatch.setattr(reconciling, "_PAGES", 2)
    monkeypatch.setattr(reconciling, "_MOST_ASKED", 3)
    jobs = [unknown(storage, clock, age=0) for _ in range(11)]
    clock.seconds = FIRST
    publisher = Checked(StillUnknown())
    worker = Worker(storage, {"x": publisher})
    with_one_loop = reconciler_of(worker, storage)
    rounds = []
    for _ in range(6):
        before = len(publisher.asked)
        with_one_loop.round()
        rounds.append(len(publisher.asked) - before)
    assert [job.id for job in publisher.asked] == [job.id for job in jobs]
    assert max(rounds) == 3


def test_the_unknown_ones_are_found_among_many_others(
    storage: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "_PAGE", 2)
    monkeypatch.setattr(reconciling, "_PAGES", 2)
    for _ in range(7):
        storage.queue.schedule("x", "hello")
    for job in storage.queue.claim_due(worker_id="w"):
        storage.queue.mark_failed(job, "no", retryable=False)
    job = unknown(storage, clock)
    publisher = Checked(StillUnknown())
    worker = Worker(storage, {"x": publisher})
    in_rounds = reconciler_of(worker, storage)
    asked = []
    for _ in range(4):
        in_rounds.round()
        asked.append(len(publisher.asked))
        clock.seconds += 1
    assert asked == [0, 1, 1, 1]
    worker.run_until_idle()  # which reads all
    clock.seconds = HOUR
    worker.run_until_idle()
    assert publisher.asked == [job, job]


def test_a_worker_that_came_second_tries_again_in_half_the_pause(storage: Storage, clock: Clock) -> None:
    """The first one may be gone."""
    unknown(storage, clock)
    publisher = Checked(StillUnknown())
    worker = Worker(storage, {"x": publisher})
    first, second = reconciler_of(worker, storage), reconciler_of(worker, storage)
    first.round()
    clock.seconds = 2 * FIRST - 1
    second.round()
    assert len(publisher.asked) == 1
    clock.seconds = 3 * FIRST - 1
    second.round()
    assert len(publisher.asked) == 2


def reconciler_of(worker: Worker, storage: Storage) -> reconciling.Reconciler:
    options, runtime = worker._options, worker._runtime
    caller = invocation.PublisherCaller(runtime, None, options.timeout)
    reporter: Any = None
    return reconciling.Reconciler(storage, options, caller, reporter, runtime.monotonic, lambda: False)


class TestHanging:
    def test_it_costs_the_time_limit_once_in_a_round(
        self, storage: Storage, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        first, second = unknown(storage, clock, age=0), unknown(storage, clock)
        released = threading.Event()

        def hang() -> WasPosted:
            clock.seconds += 1  # as the clock of the runtime does, which stands still here
            released.wait(LONG)
            return WasPosted("too late")

        publisher = Checked(hang)
        run(storage, publisher, timeout=0.05)
        assert publisher.asked == [first]
        assert f"job {first.id} on x: its outcome is still unknown: the check took longer" in caplog.text
        released.set()
        late = f"job {first.id} on x: the check ended after its time limit: it returned WasPosted"
        until(lambda: late in caplog.text)
        assert stored(storage, first) == first
        publisher.answers = [WasPosted("in time")]
        run(storage, publisher, timeout=LONG)
        assert stored(storage, second).remote_id == "in time"

    def test_there_is_a_limit_by_default(
        self, storage: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(invocation, "CHECK_SECONDS", 0.05)
        unknown(storage, clock)
        released = threading.Event()
        publisher = Checked(lambda: released.wait(LONG))
        run(storage, publisher)
        assert len(publisher.asked) == 1
        released.set()

    def test_no_more_are_made_where_too_many_hang(
        self, storage: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And publishing goes on."""
        monkeypatch.setattr(invocation, "MOST_ABANDONED_CHECKS", 2)
        for _ in range(4):
            unknown(storage, clock)
        other = storage.queue.schedule("x", "hello")
        released = threading.Event()
        publisher = Checked(lambda: released.wait(LONG))
        publisher.is_sure = True
        run(storage, publisher, timeout=0.05)
        assert len(publisher.asked) == 2
        assert publisher.published == [other.id]
        released.set()

    def test_a_job_that_is_still_being_published_is_not_asked_about(
        self, storage: Storage, clock: Clock
    ) -> None:
        job = storage.queue.schedule("x", "hello")
        released = threading.Event()

        class Hangs(Checked):
            def publish(self, job: Job) -> str:
                released.wait(LONG)
                return "late"

        publisher = Hangs(WasPosted("late"))
        worker = Worker(storage, {"x": publisher}, timeout=0.05, check_pause=0.05)
        other = Worker(storage, {"x": publisher})
        with running(worker):
            until(lambda: stored(storage, job).outcome_unknown)
            until(lambda: storage.lock.current(f"check:{job.id}"), 20)
            clock.seconds = FIRST
            other.run_until_idle()
            assert publisher.asked == []
            released.set()
        clock.seconds = 10 * FIRST
        other.run_until_idle()
        assert stored(storage, job).remote_id == "late"

    def test_a_job_is_asked_about_when_its_late_call_has_ended(self, storage: Storage, clock: Clock) -> None:
        job = storage.queue.schedule("x", "hello")
        released = threading.Event()

        class Hangs(Checked):
            def publish(self, job: Job) -> str:
                released.wait(LONG)
                return "late"

        with running(Worker(storage, {"x": Hangs(WasPosted("late"))}, timeout=0.05, check_pause=0.05)):
            until(lambda: stored(storage, job).outcome_unknown)
            until(lambda: storage.lock.current(f"check:{job.id}"), 20)
            released.set()

            def is_resolved_later() -> bool:
                clock.seconds += 0.001
                return stored(storage, job).remote_id == "late"

            until(is_resolved_later)
            assert clock.seconds < FIRST  # the lock that the worker took is for a minute

    def test_it_does_not_keep_the_worker(self, storage: Storage, clock: Clock) -> None:
        unknown(storage, clock)
        released = threading.Event()
        publisher = Checked(lambda: released.wait(LONG))
        publisher.is_sure = True
        other = storage.queue.schedule("x", "hello")
        with running(Worker(storage, {"x": publisher}, check_pause=0.01, timeout=LONG)):
            until(lambda: publisher.asked)
            until(lambda: stored(storage, other).status is JobStatus.POSTED)
        released.set()


@pytest.mark.parametrize("first", ["posted", "again"])
def test_another_answers_meanwhile(storage: Storage, clock: Clock, first: str) -> None:
    """A check that took its time must not answer for the attempt that came after it."""
    job = unknown(storage, clock)

    def slow() -> NotPosted:
        storage.queue.resolve(job.id, posted=first == "posted")
        if first == "again":
            (claimed,) = storage.queue.claim_due(worker_id="other")
            storage.queue.mark_unknown(storage.queue.begin_publish(claimed), "no answer")
        return NotPosted()

    publisher = Checked(slow)
    run(storage, publisher)
    assert publisher.published == []
    assert stored(storage, job).outcome_unknown is (first == "again")


def test_what_was_resolved_since_it_was_read_is_not_asked_about(
    storage: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = unknown(storage, clock)
    acquire = Locks.acquire

    def late(locks: Locks, *args: Any, **kwargs: Any) -> Any:
        storage.queue.resolve(job.id, posted=True)
        return acquire(locks, *args, **kwargs)

    monkeypatch.setattr(Locks, "acquire", late)
    publisher = Checked(NotPosted())
    run(storage, publisher)
    assert publisher.asked == []
    assert storage.lock.current(f"check:{job.id}") is None


@pytest.fixture(params=["memory", *ENGINES])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """On its own clock."""
    options: dict[str, Any] = (
        {"sqlite_path": str(tmp_path / "shared.db")} if request.param == "sqlite" else {}
    )
    if request.param == "postgres":
        get = request.getfixturevalue
        options = {"database_url": get("database_url"), "schema": get("schema")}
    with open_storage(engine=request.param, auto_prune=False, **options) as storage:
        yield storage


def test_workers_at_once_ask_once_for_each_pause(shared: Storage) -> None:
    pause = 0.2
    job = shared.queue.schedule("x", "hello")
    (claimed,) = shared.queue.claim_due(worker_id="dead")
    shared.queue.mark_unknown(shared.queue.begin_publish(claimed), "no answer")
    asked: list[float] = []
    resolved: list[WorkerEvent] = []

    class Asked:
        def publish(self, job: Job) -> None: ...

        def check(self, job: Job) -> WasPosted | StillUnknown:
            asked.append(monotonic())
            return WasPosted("remote") if len(asked) == 4 else StillUnknown("not yet")

    with ExitStack() as stack:
        for _ in range(4):
            worker = Worker(shared, {"x": Asked()}, check_pause=pause, on_event=resolved.append)
            stack.enter_context(running(worker))
        until(lambda: resolved)
    assert stored(shared, job).remote_id == "remote"
    assert [event.kind for event in resolved] == [EventKind.RESOLVED]
    assert len(asked) == 4
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert all(gap >= expected for gap, expected in zip(gaps, (pause, 2 * pause, 4 * pause), strict=True))


def test_one_that_dies_while_it_asks_does_not_hold_up_the_next(storage: Storage, clock: Clock) -> None:
    """However long the pause would have been."""
    job = unknown(storage, clock, age=HOUR)

    class Gone(Exception): ...

    def gone() -> None:
        raise Gone

    dying = reconciler_of(Worker(storage, {"x": Checked(None)}), storage)
    dying._answer = lambda *_: gone()  # type: ignore[method-assign,assignment]
    dying.round()
    publisher = Checked(WasPosted("remote"))
    run(storage, publisher)
    assert publisher.asked == []
    clock.seconds += 2 * invocation.CHECK_SECONDS
    run(storage, publisher)
    assert stored(storage, job).remote_id == "remote"


@pytest.mark.parametrize("call", ["dead_letters", "resolve", "acquire"])
def test_errors_of_the_storage_harm_nothing(
    storage: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    job = unknown(storage, clock)
    other = storage.queue.schedule("x", "hello")
    publisher = Checked(WasPosted("remote"))
    publisher.is_sure = True
    owner = Locks if call == "acquire" else Queue
    works: Callable[..., Any] = getattr(owner, call)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("a driver's own")

    monkeypatch.setattr(owner, call, fails)
    worker = run(storage, publisher)
    assert stored(storage, other).status is JobStatus.POSTED
    assert stored(storage, job) == job
    monkeypatch.setattr(owner, call, works)
    clock.seconds += 10 * FIRST
    worker.run_until_idle()
    assert stored(storage, job).remote_id == "remote"


def test_a_running_worker_asks_on_a_thread_of_its_own(storage: Storage, clock: Clock) -> None:
    job = unknown(storage, clock, age=0)

    class Slow(Checked):
        def publish(self, job: Job) -> str:
            self.published.append(job.id)
            return "published"

    publisher = Slow(NotPosted())
    with running(Worker(storage, {"x": publisher}, check_pause=0.01)):
        until(lambda: "assistly-worker-checks" in [thread.name for thread in threading.enumerate()])
        clock.seconds = FIRST
        until(lambda: stored(storage, job).status is JobStatus.POSTED)
    until(lambda: "assistly-worker-checks" not in [thread.name for thread in threading.enumerate()])


def test_without_a_check_there_is_no_thread(storage: Storage) -> None:
    with running(Worker(storage, {"x": lambda _: None})):
        until(lambda: any(thread.name == "assistly-worker-wait" for thread in threading.enumerate()))
        assert "assistly-worker-checks" not in [thread.name for thread in threading.enumerate()]
