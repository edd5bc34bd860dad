"""`queue.wait`: woken from other processes, and otherwise asleep."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import scalar_row

from assistly.storage.engine.protocol import StorageBackend
from assistly.storage.engines.postgres import PostgresBackend, wakeups
from assistly.storage.engines.postgres.wakeups import APPLICATION_NAME, QUIET, Waker, Wakeups, channel
from assistly.storage.engines.sqlite import SqliteBackend
from assistly.storage.errors import StorageClosed
from assistly.storage.records import Failed, Job, NewJob, Posted
from assistly.storage.retry import RetryPolicy
from assistly.storage.storage import Storage
from assistly.storage.testing.forking import needs_fork
from waiting import until

PATIENCE = 20.0
# Less than a waiter that does not poll sleeps without looking again: what ends earlier was woken.
SOON = 4.0
HOUR = timedelta(hours=1)

Open = Callable[[], Storage]


@pytest.fixture
def without_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Postgres, only notifications end a wait."""
    monkeypatch.setattr(wakeups, "POLL_SECONDS", PATIENCE)


@pytest.fixture(params=["sqlite", "postgres"])
def open_another(request: pytest.FixtureRequest, tmp_path: Path, without_polling: None) -> Iterator[Open]:
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

    def wait(seconds: float) -> None:
        listener = getattr(database, "_wakeups", None)
        if listener is None or listener.is_listening:
            rested.set()
        nap(seconds)

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


def test_a_stream_notifies_a_few_times(
    open_postgres: Callable[..., Storage], notifications: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first job by its statement, the others together."""
    monkeypatch.setattr(wakeups, "QUIET", PATIENCE)
    monkeypatch.setattr(wakeups, "INTERVAL", PATIENCE)
    with open_postgres() as storage:
        for number in range(200):
            storage.queue.schedule("x", str(number))
        storage.queue.schedule_many([NewJob("x", str(number)) for number in range(1000)])
    assert notifications() == 2


def test_after_a_pause_the_statement_notifies(
    open_postgres: Callable[..., Storage], notifications: Callable[[], int]
) -> None:
    storage = open_postgres()
    for number in range(3):
        quiet(storage)
        storage.queue.schedule("x", str(number), idempotency_key=str(number))
    assert notifications() == 3
    assert wakeups_of(storage)._thread is None
    quiet(storage)
    storage.queue.schedule("x", "0", idempotency_key="0")
    assert notifications() == 0


def test_a_job_of_later_notifies_nobody(
    open_postgres: Callable[..., Storage], notifications: Callable[[], int]
) -> None:
    with open_postgres() as storage:
        storage.queue.schedule("x", "content", storage._context.now(None) + HOUR)
        held_job = held(storage)
        storage.queue.snooze(held_job, storage._context.now(None) + HOUR)
    assert notifications() == 1


def test_a_transaction_notifies_after_its_commit(
    open_postgres: Callable[..., Storage], notifications: Callable[[], int]
) -> None:
    with open_postgres() as storage:
        with storage.transaction() as tx:
            for number in range(10):
                tx.queue.schedule("x", str(number), min_gap=timedelta(microseconds=1))
            assert notifications() == 0
        with pytest.raises(ZeroDivisionError), storage.transaction() as tx:
            raise ZeroDivisionError
    assert notifications() == 1


def test_a_bound_connection_notifies_with_its_commit(
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


def test_a_full_queue_of_notifications_does_not_keep_a_job_out(
    postgres: Storage, admin: psycopg.Connection[Any], schema: str
) -> None:
    """A commit that adds to it would fail. To fill it takes gigabytes: the statement alone is tried."""
    postgres.ping()
    jobs: Any = postgres._context.backend.jobs
    usage = "pg_catalog.pg_notification_queue_usage()"
    assert usage in jobs._sql.insert
    jobs._sql.insert = jobs._sql.insert.replace(usage, "0.9").replace("IS NULL", "IS NULL OR 1/0 > 0")
    assert postgres.queue.schedule("x", "content").id


def test_a_notification_makes_waiters_look(
    open_postgres: Callable[..., Storage],
    admin: psycopg.Connection[Any],
    schema: str,
    without_polling: None,
) -> None:
    """Whatever else it says, as those of an older version did."""
    waiter, other = open_postgres(), open_postgres()
    with asleep(waiter) as woken:
        for text in ("", "1764444444000000"):
            with looks(waiter) as looked:
                admin.execute("SELECT pg_notify(%s, %s)", [channel(schema), text])
                assert looked.acquire(timeout=PATIENCE)
        other.queue.schedule("x", "content")
        assert woken.result(PATIENCE) < SOON


def quiet(storage: Storage) -> None:
    """As if no job had become due for some time."""
    wakeups_of(storage)._called_at -= QUIET


@contextmanager
def looks(storage: Storage) -> Iterator[threading.Semaphore]:
    """Released at each look at the jobs."""
    jobs = storage._context.idle_backend.jobs
    looked = threading.Semaphore(0)
    next_due_at = jobs.next_due_at

    def look(**options: Any) -> datetime | None:
        looked.release()
        return next_due_at(**options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "next_due_at", look)
        yield looked


def wakeups_of(storage: Storage) -> Wakeups:
    found: Wakeups = storage._context.idle_backend._database._wakeups  # type: ignore[attr-defined]
    return found


def listening_process(storage: Storage) -> int:
    """The server process of the connection that listens."""
    connection = wakeups_of(storage)._connection
    assert connection is not None
    return connection.info.backend_pid


def is_there(admin: psycopg.Connection[Any], pid: int) -> bool:
    found = admin.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND application_name = %s",
        [pid, APPLICATION_NAME],
    ).fetchone()
    return bool(found)


def test_a_dropped_listener_comes_back(
    open_postgres: Callable[..., Storage], admin: psycopg.Connection[Any], without_polling: None
) -> None:
    waiter, other = open_postgres(), open_postgres()
    with asleep(waiter) as woken:
        dropped = listening_process(waiter)
        assert is_there(admin, dropped)
        admin.execute("SELECT pg_terminate_backend(%s)", [dropped])
        until(lambda: not is_there(admin, dropped))
        other.queue.schedule("x", "meanwhile")
        assert woken.result(PATIENCE) < SOON
    assert waiter.queue.claim_due(worker_id="w")
    until(lambda: wakeups_of(waiter).is_listening and listening_process(waiter) != dropped)


def test_what_was_pending_when_the_connection_dropped_is_sent_later(
    open_postgres: Callable[..., Storage],
    admin: psycopg.Connection[Any],
    notifications: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open_postgres() as storage:
        wakeups_of(storage).notify()
        until(notifications)
        dropped = listening_process(storage)
        monkeypatch.setattr(wakeups, "INTERVAL", 1.0)
        wakeups_of(storage)._notified_at = time.monotonic()
        wakeups_of(storage).notify()
        admin.execute("SELECT pg_terminate_backend(%s)", [dropped])
        until(notifications)


def test_what_could_not_be_sent_is_sent_later(
    postgres: Storage, notifications: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pause, failures = Wakeups._pause, []
    statement = wakeups.NOTIFY

    def pause_and_mend(self: Wakeups, *arguments: Any) -> None:
        failures.append(arguments)
        monkeypatch.setattr(wakeups, "NOTIFY", statement)
        pause(self, *arguments)

    monkeypatch.setattr(Wakeups, "_pause", pause_and_mend)
    monkeypatch.setattr(wakeups, "NOTIFY", "SELECT 1/0 WHERE %(channel)s <> ''")
    wakeups_of(postgres).notify()
    until(notifications)
    assert failures


def test_between_two_notifications_is_a_pause(
    postgres: Storage, monkeypatch: pytest.MonkeyPatch, notifications: Callable[[], int], database_url: str
) -> None:
    monkeypatch.setattr(wakeups, "INTERVAL", PATIENCE)
    listener = wakeups_of(postgres)
    listener._reset()
    with psycopg.connect(database_url, autocommit=True) as connection:
        listener._is_pending = True
        assert listener._send_pending(connection) is None
        listener._is_pending = True
        left = listener._send_pending(connection)
    assert left is not None
    assert 0 < left <= PATIENCE
    assert notifications() == 1


def test_between_two_attempts_to_connect_is_a_pause(postgres: Storage) -> None:
    listener = wakeups_of(postgres)
    with closing(Waker()) as waker:
        waker.wake()
        began = time.monotonic()
        listener._pause(waker, 0.05)
        assert time.monotonic() - began >= 0.05
        postgres.close()
        listener._pause(waker, PATIENCE)
        assert time.monotonic() - began < SOON


def test_closing_gives_up_what_cannot_be_sent(postgres: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def refuse(self: object) -> None:
        attempts.append(self)
        raise psycopg.OperationalError("the server is down")

    monkeypatch.setattr(Wakeups, "_connect", refuse)
    listener = wakeups_of(postgres)
    listener.notify()
    until(lambda: attempts)
    postgres.close()
    thread = listener._thread
    assert thread is not None
    until(lambda: not thread.is_alive(), SOON)


def test_where_notifications_get_lost_it_polls(
    open_postgres: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that lends the listening session to others."""
    waiter, other = open_postgres(), open_postgres()
    monkeypatch.setattr(wakeups, "quote", lambda name: f"{name}_elsewhere")
    with asleep(waiter) as woken:
        other.queue.schedule("x", "content")
        assert woken.result(PATIENCE) < SOON


def test_without_a_connection_to_listen_on_it_polls(
    open_postgres: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiter, other = open_postgres(), open_postgres()

    def refuse(self: object) -> None:
        raise psycopg.OperationalError("too many connections")

    monkeypatch.setattr(Wakeups, "_connect", refuse)
    assert not waiter.queue.wait(0.05)
    with ThreadPoolExecutor(1) as threads:
        woken = threads.submit(waiter.queue.wait, PATIENCE)
        other.queue.schedule("x", "content")
        assert woken.result(SOON)


def test_without_a_thread_it_polls(postgres: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with ThreadPoolExecutor(1) as threads:
        threads.submit(postgres.ping).result()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            woken = threads.submit(postgres.queue.wait, PATIENCE)
            postgres.queue.schedule_many([NewJob("x", "content")] * 2)
            assert woken.result(SOON)
    assert wakeups_of(postgres)._thread is None
    postgres.queue.schedule_many([NewJob("x", "content")] * 2)
    assert wakeups_of(postgres)._thread is not None


def test_a_wait_is_about_later_changes(postgres: Storage, without_polling: None) -> None:
    """Those before the look have been seen."""
    jobs = postgres._context.backend.jobs
    listener = wakeups_of(postgres)
    jobs.wait(0)
    until(lambda: listener.is_listening)
    for _ in range(3):
        listener._changed()
        jobs.next_due_at()
        began = time.monotonic()
        jobs.wait(0.05)
        assert time.monotonic() - began >= 0.05


def test_what_happens_during_the_look_ends_the_wait(
    postgres: Storage, monkeypatch: pytest.MonkeyPatch, without_polling: None
) -> None:
    jobs: Any = postgres._context.backend.jobs
    listener = wakeups_of(postgres)
    jobs.wait(0)
    until(lambda: listener.is_listening)
    select = jobs._database.select

    def select_and_change(statement: str, params: Any) -> Any:
        rows = select(statement, params)
        listener._changed()
        return rows

    monkeypatch.setattr(jobs._database, "select", select_and_change)
    jobs.next_due_at()
    began = time.monotonic()
    jobs.wait(PATIENCE)
    assert time.monotonic() - began < SOON


def test_what_happens_between_look_and_wait_ends_the_wait(postgres: Storage) -> None:
    listener = wakeups_of(postgres)
    postgres._context.backend.jobs.next_due_at()
    listener._changed()
    began = time.monotonic()
    for _ in range(100):
        listener.wait(PATIENCE)
    assert time.monotonic() - began < 50 * wakeups.POLL_SECONDS


def test_closing_leaves_no_connection(
    open_postgres: Callable[..., Storage], admin: psycopg.Connection[Any]
) -> None:
    before = set(threading.enumerate())
    with open_postgres() as storage:
        storage._context.idle_backend.jobs.wait(0)
        storage.queue.schedule("x", "content")
        until(lambda: wakeups_of(storage).is_listening)
        pid = listening_process(storage)
        assert is_there(admin, pid)
    until(lambda: not is_there(admin, pid))
    left = set(threading.enumerate()) - before
    assert "assistly-wake-ups" not in {thread.name for thread in left}
