"""`queue.wait`: woken from other processes, and otherwise asleep."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import scalar_row

from assistly.storage.engine.protocol import StorageBackend
from assistly.storage.engines.postgres import PostgresBackend, courier
from assistly.storage.engines.postgres.clock import ticks
from assistly.storage.engines.postgres.courier import APPLICATION_NAME
from assistly.storage.engines.postgres.dialect import lock_key
from assistly.storage.engines.postgres.notifying import channel, payload
from assistly.storage.engines.postgres.wakeups import Wakeups
from assistly.storage.engines.sqlite import SqliteBackend
from assistly.storage.errors import StorageClosed
from assistly.storage.records import Failed, Job, NewJob, Posted
from assistly.storage.retry import RetryPolicy
from assistly.storage.storage import Storage
from forking import needs_fork
from waiting import until

PATIENCE = 20.0
# Less than a waiter sleeps without looking again: what ends earlier was woken.
SOON = 4.0
HOUR = timedelta(hours=1)

Open = Callable[[], Storage]


@pytest.fixture(params=["sqlite", "postgres"])
def open_another(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Each has connections of its own, as another process has."""
    opened: list[Storage] = []

    def open_one() -> Storage:
        backend: StorageBackend
        if request.param == "sqlite":
            backend = SqliteBackend(tmp_path / "queue.db")
        else:
            backend = PostgresBackend(
                request.getfixturevalue("database_url"), schema=request.getfixturevalue("schema")
            )
        opened.append(Storage(backend, retry=RetryPolicy(delay=timedelta(0)), auto_prune=False))
        return opened[-1]

    yield open_one
    for storage in opened:
        storage.close()


@pytest.fixture
def waiter(open_another: Open) -> Storage:
    return open_another()


@pytest.fixture
def other(open_another: Open) -> Storage:
    return open_another()


@pytest.fixture
def admin(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True, row_factory=scalar_row) as connection:
        yield connection


@contextmanager
def asleep(storage: Storage, timeout: float = PATIENCE) -> Iterator[Future[float]]:
    """A thread that waits, and has nothing left to look at; the seconds until it knows of a job."""
    database = storage._context.idle_backend._database  # type: ignore[attr-defined]
    rested = threading.Event()
    nap = database.wait

    def wait(seconds: float) -> datetime | None:
        wakeups = getattr(database, "_wakeups", None)
        if wakeups is None or wakeups.hears:
            rested.set()
        heard: datetime | None = nap(seconds)
        return heard

    def whole_wait() -> float:
        start = time.monotonic()
        assert storage.queue.wait(timeout)
        return time.monotonic() - start

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as threads:
        patch.setattr(database, "wait", wait)
        future = threads.submit(whole_wait)
        assert rested.wait(PATIENCE)
        yield future


def held(storage: Storage, **options: Any) -> Job:
    storage.queue.schedule("x", "content", **options)
    (job,) = storage.queue.claim_due(worker_id="w", limit=1)
    return job


def dead(storage: Storage) -> Job:
    return storage.queue.mark_failed(held(storage), "refused", retryable=False)


def expired(storage: Storage) -> Job:
    storage.queue.schedule("x", "content")
    (job,) = storage.queue.claim_due(worker_id="w", lease=timedelta(microseconds=1))
    return job


def past(storage: Storage) -> datetime:
    return storage._context.now(None) - timedelta(seconds=1)


TRANSITIONS: dict[str, tuple[Callable[[Storage], Any], Callable[[Storage, Any], object]]] = {
    "schedule": (lambda storage: None, lambda storage, _: storage.queue.schedule("x", "content")),
    "schedule apart": (
        lambda storage: None,
        lambda storage, _: storage.queue.schedule("x", "content", min_gap=HOUR),
    ),
    "schedule many": (
        lambda storage: None,
        lambda storage, _: storage.queue.schedule_many([NewJob("x", "content")] * 50),
    ),
    "schedule very many": (
        lambda storage: None,
        lambda storage, _: storage.queue.schedule_many(
            NewJob("x", "content", past(storage) + (number != 700) * HOUR) for number in range(1000)
        ),
    ),
    "reschedule": (
        lambda storage: storage.queue.schedule("x", "content", storage._context.now(None) + HOUR),
        lambda storage, job: storage.queue.reschedule(job.id, past(storage)),
    ),
    "replay": (dead, lambda storage, job: storage.queue.replay(job.id)),
    "replay all": (dead, lambda storage, _: storage.queue.replay_all()),
    "release": (held, lambda storage, job: storage.queue.release(job)),
    "snooze": (held, lambda storage, job: storage.queue.snooze(job, past(storage))),
    "retry": (held, lambda storage, job: storage.queue.mark_failed(job, "no", retry_at=past(storage))),
    "settle": (
        lambda storage: [held(storage), held(storage)],
        lambda storage, jobs: storage.queue.settle(
            [Posted(jobs[0]), Failed(jobs[1], "no", retry_at=past(storage))]
        ),
    ),
    "rescue": (expired, lambda storage, _: storage.queue.rescue_expired()),
}


@pytest.mark.parametrize("name", TRANSITIONS)
def test_whatever_makes_a_job_due_wakes_a_waiter(waiter: Storage, other: Storage, name: str) -> None:
    prepare, change = TRANSITIONS[name]
    prepared = prepare(other)
    with asleep(waiter) as woken:
        start = time.monotonic()
        change(other, prepared)
        woken.result(PATIENCE)
    assert time.monotonic() - start < SOON


def test_a_writer_in_the_same_process_and_storage(waiter: Storage) -> None:
    with asleep(waiter) as woken:
        waiter.queue.schedule("x", "content")
        assert woken.result(PATIENCE) < SOON


def test_a_transaction_wakes_when_it_commits(waiter: Storage, other: Storage) -> None:
    with asleep(waiter) as woken:
        with other.transaction() as tx:
            tx.queue.schedule("x", "first")
            with tx.transaction() as inner:
                inner.queue.schedule("x", "second")
            assert not woken.done()
        assert woken.result(PATIENCE) < SOON


def test_every_waiting_thread_is_woken(waiter: Storage, other: Storage) -> None:
    with asleep(waiter) as first, asleep(waiter) as second:
        other.queue.schedule("x", "content")
        assert first.result(PATIENCE) < SOON
        assert second.result(PATIENCE) < SOON


def test_the_time_of_a_job_ends_the_wait(waiter: Storage, other: Storage) -> None:
    other.queue.schedule("x", "content", waiter._context.now(None) + timedelta(seconds=0.3))
    assert waiter.queue.wait(PATIENCE)
    assert waiter.queue.claim_due(worker_id="w")


def test_closing_ends_the_wait(waiter: Storage) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiter.queue.wait(0)
        waiting = threads.submit(waiter.queue.wait, PATIENCE)
        until(waiting.running)
        waiter.close()
        with pytest.raises(StorageClosed):
            waiting.result(SOON)


@needs_fork
def test_after_a_fork_parent_and_child_are_woken(waiter: Storage, other: Storage) -> None:
    with asleep(waiter) as woken:
        other.queue.schedule("x", "first")
        woken.result(PATIENCE)
    held_job = waiter.queue.claim_due(worker_id="w")
    assert held_job
    child = os.fork()
    if child == 0:
        done = 1
        try:
            waiter.queue.wait(0.01)
            with asleep(waiter) as woken:
                waiter.queue.schedule("x", "of the child")
                done = 0 if woken.result(PATIENCE) < SOON else 1
        finally:
            os._exit(done)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert waiter.queue.claim_due(worker_id="w")
    with asleep(waiter) as woken:
        other.queue.schedule("x", "of the parent")
        assert woken.result(PATIENCE) < SOON


@pytest.fixture
def notifications(admin: psycopg.Connection[Any], schema: str) -> Callable[[], int]:
    admin.execute(f"LISTEN {channel(schema)}")

    def count() -> int:
        """Since the last time; one of our own marks the end."""
        admin.execute("SELECT pg_notify(%s, 'end')", [channel(schema)])
        for found, notify in enumerate(admin.notifies(timeout=PATIENCE)):
            if notify.payload == "end":
                return found
        raise AssertionError("not even our own notification arrived")

    return count


def test_a_backlog_is_announced_once(
    open_postgres: Callable[..., Storage], notifications: Callable[[], int]
) -> None:
    with open_postgres() as storage:
        for number in range(200):
            storage.queue.schedule("x", str(number))
        storage.queue.schedule_many([NewJob("x", str(number)) for number in range(1000)])
    assert notifications() == 1


def test_a_job_of_later_is_not_announced(
    open_postgres: Callable[..., Storage], notifications: Callable[[], int]
) -> None:
    with open_postgres() as storage:
        storage.queue.schedule("x", "content", storage._context.now(None) + HOUR)
        held_job = held(storage)
        storage.queue.snooze(held_job, storage._context.now(None) + HOUR)
    assert notifications() <= 1


def test_a_transaction_announces_at_most_once(
    open_postgres: Callable[..., Storage], notifications: Callable[[], int]
) -> None:
    with open_postgres() as storage, storage.transaction() as tx:
        for number in range(10):
            tx.queue.schedule("x", str(number), min_gap=timedelta(microseconds=1))
    assert notifications() == 1


def test_a_bound_connection_announces_with_its_commit(
    open_postgres: Callable[..., Storage], database_url: str, notifications: Callable[[], int]
) -> None:
    storage = open_postgres()
    with psycopg.connect(database_url) as connection:
        bound = storage.bind(connection)
        bound.queue.schedule("x", "first")
        bound.queue.schedule("x", "second")
        assert notifications() == 0
        connection.rollback()
        assert notifications() == 0
        for number in range(3):
            bound.queue.schedule("x", str(number))
        connection.commit()
        assert notifications() == 1


def test_the_statement_that_makes_a_job_due_tells_of_it(
    open_postgres: Callable[..., Storage], notifications: Callable[[], int]
) -> None:
    storage = open_postgres()
    storage.queue.schedule("x", "content", idempotency_key="key")
    assert notifications() == 1
    assert wakeups_of(storage)._courier is None
    quiet(storage)
    storage.queue.schedule("x", "content", idempotency_key="key")
    assert notifications() == 0


def test_what_is_told_in_a_transaction_is_told_after_it(
    open_postgres: Callable[..., Storage], notifications: Callable[[], int]
) -> None:
    with open_postgres() as storage, storage.transaction() as tx:
        storage.queue.schedule("x", "content")
        tx.queue.schedule("x", "content")
        assert notifications() == 0
    assert notifications() == 1


def test_behind_a_due_job_nothing_is_told(
    open_postgres: Callable[..., Storage], notifications: Callable[[], int]
) -> None:
    with open_postgres() as storage:
        for number in range(5):
            quiet(storage)
            storage.queue.schedule("x", str(number))
    assert notifications() == 1


def test_who_would_wait_for_another_that_tells_leaves_it_to_the_courier(
    open_postgres: Callable[..., Storage],
    admin: psycopg.Connection[Any],
    schema: str,
    notifications: Callable[[], int],
) -> None:
    with open_postgres() as storage:
        storage.ping()
        with admin.transaction():
            admin.execute("SELECT pg_advisory_xact_lock(%s)", [lock_key("telling of jobs", schema)])
            storage.queue.schedule("x", "content")
            assert wakeups_of(storage)._courier is not None
    assert notifications() == 1


def test_a_full_queue_of_notifications_does_not_keep_a_job_out(
    database_url: str,
    schema: str,
    open_postgres: Callable[..., Storage],
    admin: psycopg.Connection[Any],
    notifications: Callable[[], int],
) -> None:
    open_postgres().ping()
    admin.execute(
        f"CREATE FUNCTION {schema}.pg_notification_queue_usage() RETURNS float LANGUAGE sql AS 'SELECT 0.9'"
    )
    path = f"{schema},pg_catalog"
    with open_postgres(make_conninfo(database_url, options=f"-c search_path={path}")) as storage:
        storage.queue.schedule("x", "content")
        assert wakeups_of(storage)._courier is not None
    assert notifications() == 1


def test_who_is_told_when_a_job_is_due_does_not_ask(open_postgres: Callable[..., Storage]) -> None:
    waiter, other = open_postgres(), open_postgres()
    with asleep(waiter) as woken, counted_looks(waiter) as looks:
        other.queue.schedule("x", "content", past(other))
        assert woken.result(PATIENCE) < SOON
        assert not looks
    assert waiter.queue.claim_due(worker_id="w")


@pytest.mark.parametrize("lag", [timedelta(0), timedelta(seconds=0.3)])
def test_who_is_told_of_a_later_job_sleeps_until_its_time(
    open_postgres: Callable[..., Storage], lag: timedelta
) -> None:
    """It is later by a clock that lags, too."""
    waiter, other = open_postgres(), open_postgres()
    with asleep(waiter) as woken:
        clock = waiter._context.idle_backend._database.clock  # type: ignore[attr-defined]
        clock.learn(ticks(), waiter._context.now(None) - lag)
        other.queue.schedule("x", "content", other._context.now(None) + timedelta(seconds=0.3) - lag)
        assert woken.result(PATIENCE) < SOON
    assert waiter.queue.claim_due(worker_id="w")


def test_a_later_job_does_not_put_off_an_earlier_one(
    open_postgres: Callable[..., Storage], admin: psycopg.Connection[Any], schema: str
) -> None:
    waiter = open_postgres()
    waiter.queue.schedule("x", "content", waiter._context.now(None) + timedelta(seconds=0.5))
    with asleep(waiter) as woken:
        later = payload(waiter._context.now(None) + HOUR)
        admin.execute("SELECT pg_notify(%s, %s)", [channel(schema), later])
        assert woken.result(PATIENCE) < SOON


def test_who_is_told_without_a_time_looks(
    open_postgres: Callable[..., Storage], admin: psycopg.Connection[Any], schema: str
) -> None:
    waiter, other = open_postgres(), open_postgres()
    with asleep(waiter) as woken, counted_looks(waiter) as looks:
        for number, text in enumerate(["", "not a time", "9" * 30], start=1):
            admin.execute("SELECT pg_notify(%s, %s)", [channel(schema), text])
            until(partial(looked, looks, number))
        assert not woken.done()
        other.queue.schedule("x", "content")
        assert woken.result(PATIENCE) < SOON


def quiet(storage: Storage) -> None:
    """As if nothing had been announced for some time."""
    wakeups_of(storage)._announced_at = -math.inf


@contextmanager
def counted_looks(storage: Storage) -> Iterator[list[None]]:
    """One for each."""
    jobs = storage._context.idle_backend.jobs
    looks: list[None] = []
    next_due_at = jobs.next_due_at

    def look() -> datetime | None:
        looks.append(None)
        return next_due_at()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "next_due_at", look)
        yield looks


def looked(looks: list[None], times: int) -> bool:
    return len(looks) == times


def wakeups_of(storage: Storage) -> Wakeups:
    wakeups: Wakeups = storage._context.idle_backend._database._wakeups  # type: ignore[attr-defined]
    return wakeups


def courier_connection(storage: Storage) -> int:
    """Its process on the server."""
    courier = wakeups_of(storage)._courier
    assert courier is not None
    assert courier._line is not None
    return courier._line._connection.info.backend_pid


def is_there(admin: psycopg.Connection[Any], pid: int) -> bool:
    found = admin.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND application_name = %s",
        [pid, APPLICATION_NAME],
    ).fetchone()
    return bool(found)


def test_a_dropped_listener_comes_back(
    open_postgres: Callable[..., Storage], admin: psycopg.Connection[Any]
) -> None:
    waiter, other = open_postgres(), open_postgres()
    with asleep(waiter) as woken:
        dropped = courier_connection(waiter)
        assert is_there(admin, dropped)
        admin.execute("SELECT pg_terminate_backend(%s)", [dropped])
        until(lambda: not is_there(admin, dropped))
        other.queue.schedule("x", "meanwhile")
        assert woken.result(PATIENCE) < SOON
    assert waiter.queue.claim_due(worker_id="w")
    until(lambda: wakeups_of(waiter).hears and courier_connection(waiter) != dropped)
    with asleep(waiter) as woken:
        start = time.monotonic()
        other.queue.schedule("x", "afterwards")
        woken.result(PATIENCE)
    assert time.monotonic() - start < 1


def test_where_notifications_get_lost_it_polls(
    open_postgres: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that lends the listening session to others."""
    waiter, other = open_postgres(), open_postgres()
    database = waiter._context.idle_backend._database  # type: ignore[attr-defined]
    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as threads:
        patch.setattr(courier, "quote", lambda name: f"{name}_elsewhere")
        polls = threading.Semaphore(0)
        nap = database.wait

        def poll(seconds: float) -> None:
            polls.release()
            nap(seconds)

        patch.setattr(database, "wait", poll)
        woken = threads.submit(waiter.queue.wait, PATIENCE)
        assert polls.acquire(timeout=PATIENCE)
        assert polls.acquire(timeout=PATIENCE)
        assert not wakeups_of(waiter).hears
        other.queue.schedule("x", "content")
        assert woken.result(SOON)
    waiter.queue.wait(0)
    until(lambda: wakeups_of(waiter).hears)


def test_without_a_server_that_lets_it_listen_the_wait_ends_in_time(
    open_postgres: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiter, other = open_postgres(), open_postgres()

    def refuse(self: object) -> None:
        raise psycopg.OperationalError("too many connections")

    monkeypatch.setattr(courier.Courier, "_connect", refuse)
    assert not waiter.queue.wait(0.05)
    with ThreadPoolExecutor(1) as threads:
        woken = threads.submit(waiter.queue.wait, PATIENCE)
        other.queue.schedule("x", "content")
        assert woken.result(SOON)


def test_idle_on_postgres_is_one_statement_a_nap(
    open_postgres: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiter = open_postgres()
    database = waiter._context.idle_backend._database  # type: ignore[attr-defined]
    waiter.queue.schedule("x", "content", waiter._context.now(None) + HOUR)
    waiter.queue.wait(0)
    clock = [0.0]
    naps: list[float] = []
    runs: list[object] = []
    run = database._run

    def nap(seconds: float) -> None:
        naps.append(seconds)
        clock[0] += seconds

    def count_and_run(*args: Any, **options: Any) -> Any:
        runs.append(args)
        return run(*args, **options)

    monkeypatch.setattr(database, "wait", nap)
    monkeypatch.setattr(database, "_run", count_and_run)
    monkeypatch.setattr("assistly.storage.stores.waiting.monotonic", lambda: clock[0])
    assert not waiter.queue.wait(60)
    assert naps == [5.0] * 12
    assert len(runs) == len(naps)


def test_closing_leaves_no_connection(
    open_postgres: Callable[..., Storage], admin: psycopg.Connection[Any]
) -> None:
    before = set(threading.enumerate())
    with open_postgres() as storage:
        storage._context.idle_backend.jobs.wait(0)
        storage.queue.schedule("x", "content")
        until(lambda: wakeups_of(storage).hears)
        pid = courier_connection(storage)
        assert is_there(admin, pid)
    until(lambda: not is_there(admin, pid))
    left = set(threading.enumerate()) - before
    assert "assistly-wake-ups" not in {thread.name for thread in left}
