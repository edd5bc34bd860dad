"""What Postgres does in its own way: events, batches, sums, the clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from assistly.storage.engines.postgres.batches import chunks
from assistly.storage.engines.postgres.clock import ServerClock
from assistly.storage.engines.postgres.pool import Pool
from assistly.storage.errors import (
    StorageUnavailable,
)
from assistly.storage.records import Failed, NewEvent, NewJob, Posted, Released, Snoozed
from assistly.storage.storage import Storage

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
ZERO = timedelta(0)


def read(storage: Storage, after: int = 0, **options: Any) -> list[int]:
    return [event.id for event in storage.events.read_after(after, **options)]


@pytest.mark.parametrize("event_type", [None, "a"])
def test_events_that_commit_out_of_order_are_not_missed(postgres: Storage, event_type: str | None) -> None:
    with ThreadPoolExecutor(1) as threads:
        with postgres.transaction() as tx:
            first = tx.events.append("a", 1).id
            second = threads.submit(postgres.events.append, "a", 2).result().id
            assert (first, second) == (1, 2)
            assert threads.submit(read, postgres, event_type=event_type).result() == []
            assert read(tx, event_type=event_type) == [1, 2]
        assert read(postgres, event_type=event_type) == [1, 2]


@pytest.mark.parametrize("event_type", [None, "a"])
def test_all_before_the_first_gap_is_read_while_it_may_be_filled(
    postgres: Storage, event_type: str | None
) -> None:
    before = postgres.events.append_many([("a", number) for number in range(3)])
    with ThreadPoolExecutor(1) as threads, postgres.transaction() as tx:
        tx.events.append("a", 3)
        threads.submit(postgres.events.append, "a", 4).result()
        assert threads.submit(read, postgres, event_type=event_type).result() == [one.id for one in before]


@pytest.mark.parametrize("event_type", [None, "a"])
def test_ids_that_never_came_are_passed_over(postgres: Storage, event_type: str | None) -> None:
    postgres.events.append("a", 1)
    with pytest.raises(ZeroDivisionError), postgres.transaction() as tx:
        tx.events.append("a", 2)
        raise ZeroDivisionError
    postgres.events.append("a", 3)
    postgres.events.append("b", 4)
    postgres.events.append("a", 5)
    assert read(postgres, event_type=event_type) == ([1, 3, 5] if event_type else [1, 3, 4, 5])
    assert read(postgres, 1, event_type=event_type, limit=1) == [3]
    with postgres.transaction() as tx:
        assert read(tx, event_type=event_type)[-1] == 5
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(postgres.events.append, "a", 6).result().id == 6


def test_a_gap_is_waited_for_in_a_repeatable_read_transaction(postgres: Storage, database_url: str) -> None:
    postgres.events.append("a", 1)
    with psycopg.connect(database_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        bound = postgres.bind(connection)
        with postgres.transaction() as tx:
            tx.events.append("a", 2)
            with ThreadPoolExecutor(1) as threads:
                threads.submit(postgres.events.append, "a", 3).result()
            assert read(bound) == [1]


def test_readers_miss_nothing_among_many_writers(postgres: Storage) -> None:
    writers, each = 4, 40
    postgres.ping()
    seen: list[int] = []
    done = threading.Event()

    def write(writer: int) -> None:
        for number in range(each):
            if number % 5 == writer:
                postgres.events.append_many([NewEvent("a", number), NewEvent("a", number)])
                continue
            try:
                with postgres.transaction() as tx:
                    tx.events.append("a", number)
                    if number % 7 == 0:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass

    def follow() -> None:
        while True:
            last_round = done.is_set()
            page = read(postgres, seen[-1] if seen else 0, limit=7)
            seen.extend(page)
            if last_round and not page:
                return

    with ThreadPoolExecutor(writers + 1) as threads:
        follower = threads.submit(follow)
        list(threads.map(write, range(writers)))
        done.set()
        follower.result()
    everything = postgres.events.list(limit=1000)
    assert seen == sorted(event.id for event in everything)


def test_bulk_insert_keeps_the_order_and_passes_over_taken_keys(postgres: Storage) -> None:
    kept = postgres.queue.schedule("x", "kept", idempotency_key="taken", now=NOW)
    keys = ["taken", "k", None, "k", None, "l"]
    contents = ["kept", "k", "1", "k", "2", "l"]
    jobs = postgres.queue.schedule_many(
        [NewJob("x", text, idempotency_key=key) for text, key in zip(contents, keys, strict=True)], now=NOW
    )
    assert [job.content for job in jobs] == contents
    assert (jobs[0].id, jobs[1].id) == (kept.id, jobs[3].id)
    assert jobs[1].id < jobs[2].id < jobs[4].id < jobs[5].id


def test_settling_a_batch_of_every_kind(postgres: Storage) -> None:
    postgres.queue.schedule_many([NewJob("x", str(number), max_retries=2) for number in range(7)], now=NOW)
    claimed = postgres.queue.claim_due(worker_id="w", now=NOW)
    later = NOW + timedelta(hours=1)
    settled = postgres.queue.settle(
        [
            Released(claimed[6]),
            Posted(claimed[0], "r0"),
            Posted(claimed[1]),
            Posted(claimed[0], "again"),
            Failed(claimed[2], "e2"),
            Failed(claimed[3], "e3", retryable=False),
            Failed(claimed[4], "e4", retry_at=later),
            Snoozed(claimed[5], later),
        ],
        now=NOW,
    )
    assert settled.lost == [claimed[0].id]
    assert [(job.content, job.status.value, job.remote_id, job.last_error) for job in settled.jobs] == [
        ("6", "scheduled", None, None),
        ("0", "posted", "r0", None),
        ("1", "posted", None, None),
        ("2", "retrying", None, "e2"),
        ("3", "dead_letter", None, "e3"),
        ("4", "retrying", None, "e4"),
        ("5", "scheduled", None, None),
    ]
    assert [job.next_retry_at for job in settled.jobs[5:]] == [later, later]
    assert [attempt.error for job in settled.jobs for attempt in job.attempts] == ["e2", "e3", "e4"]


def test_counters_outgrow_a_bigint(postgres: Storage) -> None:
    backend = postgres._context.backend
    for _ in range(3):
        backend.metrics.increment("n", 2**62)
        backend.metrics.observe_latency(2**62)
    metrics = backend.metrics.read()
    assert metrics.counters == {"n": 3 * 2**62}
    assert metrics.latency.count == 3


def test_chunks() -> None:
    assert list(chunks([], len)) == []
    assert list(chunks(["a", "b"], len)) == [["a", "b"]]
    big = "x" * 2**24
    assert [len(chunk) for chunk in chunks(["a", big, "b", "c", big], len)] == [1, 1, 2, 1]
    assert [len(chunk) for chunk in chunks("x" * 20_001, len)] == [10_000, 10_000, 1]


def test_the_servers_clock_decides(postgres: Storage, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        before = connection.execute("SELECT clock_timestamp()").fetchall()[0][0]
        now = postgres._context.backend.now()
        after = connection.execute("SELECT clock_timestamp()").fetchall()[0][0]
    assert now.tzinfo is UTC
    assert before - timedelta(milliseconds=50) < now < after + timedelta(milliseconds=50)


def test_the_clock_asks_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    elapsed = 100.0
    asked: list[float] = []
    monkeypatch.setattr("assistly.storage.engines.postgres.clock.ticks", lambda: elapsed)

    def ask() -> tuple[float, datetime]:
        if elapsed >= 102:
            raise StorageUnavailable("gone")
        asked.append(elapsed)
        return elapsed, NOW + timedelta(seconds=elapsed)

    clock = ServerClock()
    for elapsed in (100.0, 100.5, 100.999, 101.0, 101.5, 102.5):
        assert clock.now(ask) == NOW + timedelta(seconds=elapsed)
    assert asked == [100.0, 101.0]
    with pytest.raises(StorageUnavailable):
        ServerClock().now(ask)


def test_a_correction_does_not_move_the_time_back(monkeypatch: pytest.MonkeyPatch) -> None:
    elapsed = 0.0
    error = timedelta(seconds=0.05)
    monkeypatch.setattr("assistly.storage.engines.postgres.clock.ticks", lambda: elapsed)

    def ask() -> tuple[float, datetime]:
        return elapsed, NOW + timedelta(seconds=elapsed) + (error if elapsed < 1 else timedelta(0))

    def told(at: float) -> timedelta:
        nonlocal elapsed
        elapsed = at
        return clock.now(ask) - NOW

    clock = ServerClock()
    assert told(0.0) == error
    moments = [told(at) for at in (0.9, 1.0, 1.01, 1.05, 1.06)]
    assert moments == [timedelta(seconds=seconds) for seconds in (0.95, 1.05, 1.05, 1.05, 1.06)]


def test_a_clock_that_was_set_back_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    elapsed = 0.0
    monkeypatch.setattr("assistly.storage.engines.postgres.clock.ticks", lambda: elapsed)
    clock = ServerClock()
    assert clock.now(lambda: (elapsed, NOW)) == NOW
    elapsed = 2.0
    assert clock.now(lambda: (elapsed, NOW)) == NOW


def test_opening_a_connection_is_no_part_of_the_round_trip(
    open_postgres: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it would be the error of the time."""
    elapsed = 0.0
    open_one = Pool._open

    def open_slowly(pool: Pool, *args: Any, **options: Any) -> Any:
        nonlocal elapsed
        elapsed += 0.5
        return open_one(pool, *args, **options)

    for module in ("clock", "transaction"):
        monkeypatch.setattr(f"assistly.storage.engines.postgres.{module}.ticks", lambda: elapsed)
    monkeypatch.setattr(Pool, "_open", open_slowly)
    backend = open_postgres()._context.backend
    backend.now()
    clock: ServerClock = backend._database.server.clock  # type: ignore[attr-defined]
    assert clock._anchor is not None
    assert clock._anchor.at == elapsed == 0.5


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("is_analyzed", [False, True])
def test_late_jobs_are_moved_in_order_on_a_connection_that_is_bound(
    postgres: Storage, database_url: str, schema: str, autocommit: bool, is_analyzed: bool
) -> None:
    """Whatever plan the server chooses there, where the settings of the pool are not made."""
    postgres.queue.schedule_many([NewJob("z", "later", LAST)] * 100, now=NOW)
    with psycopg.connect(database_url, autocommit=autocommit) as connection:
        if is_analyzed:
            connection.execute(f'ANALYZE "{schema}".assistly_queue_jobs'.encode())
        bound = postgres.bind(connection)
        new = [
            NewJob(
                "x",
                "a",
                NOW - timedelta(days=1, seconds=n * 7 % 50),
                max_lateness=timedelta(seconds=n * 11 % 90),
                max_retries=9,
            )
            for n in range(240)
        ]
        scheduled = NOW - timedelta(days=2)
        bound.queue.schedule_many(new, now=scheduled)
        failing = NOW - timedelta(days=1, seconds=20)
        failed = bound.queue.claim_due(worker_id="w", limit=60, now=failing)
        assert len(failed) > 20
        bound.queue.settle(
            [Failed(job, "busy", NOW - timedelta(seconds=job.id * 13 % 40)) for job in failed], now=failing
        )
        late = [
            job for job in bound.queue.list(platform="x", limit=1000) if job.status.value != "dead_letter"
        ]
        order = [
            job.id
            for job in sorted(late, key=lambda job: (job.scheduled_at + (job.max_lateness or ZERO), job.id))
        ]
        already = {job.id for job in bound.queue.dead_letters(limit=1000)}
        for last in (100, 200, len(order)):
            assert bound.queue.claim_due(worker_id="w", now=NOW) == []
            moved = {job.id for job in bound.queue.dead_letters(limit=1000)} - already
            assert moved == set(order[:last])
