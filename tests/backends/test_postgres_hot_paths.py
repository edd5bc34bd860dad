"""What keeps the queue fast on Postgres: how many statements, by which index, on which connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from assistly.storage.engines.postgres.wire import LibpqExecutor
from assistly.storage.errors import ClaimLost
from assistly.storage.records import (
    ClaimState,
    Failed,
    Job,
    JobStatus,
    NewJob,
    Outcome,
    Posted,
    Released,
)
from assistly.storage.storage import Storage

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
MINUTE = timedelta(minutes=1)
PATIENCE = 30.0


@contextmanager
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The first words of those that this thread sends within the block."""
    sent: list[str] = []
    thread = threading.get_ident()

    def noted(send: Callable[..., Any]) -> Callable[..., Any]:
        def note(executor: LibpqExecutor, statement: str, *arguments: Any) -> Any:
            if threading.get_ident() == thread:
                sent.append(statement.split()[0])
            return send(executor, statement, *arguments)

        return note

    with monkeypatch.context() as patch:
        patch.setattr(LibpqExecutor, "run", noted(LibpqExecutor.run))
        patch.setattr(LibpqExecutor, "command", noted(LibpqExecutor.command))
        yield sent


def schedule(storage: Storage, count: int, **fields: Any) -> None:
    storage.queue.schedule_many([NewJob("p", str(number), NOW, **fields) for number in range(count)], now=NOW)


def claim(storage: Storage, limit: int, now: datetime = LATER, **options: Any) -> list[str]:
    jobs = storage.queue.claim_due(worker_id="w", limit=limit, now=now, **options)
    return [job.content for job in jobs]


def test_a_drain_takes_one_statement_for_each_step(
    postgres: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule(postgres, 6)
    with statements(monkeypatch) as sent:
        jobs = postgres.queue.claim_due(worker_id="w", limit=4, now=LATER)
        postgres.queue.settle(map(Posted, jobs), now=LATER)
        (job,) = postgres.queue.claim_due(worker_id="w", limit=1, now=LATER)
        postgres.queue.mark_posted(job, now=LATER)
        postgres.queue.schedule("p", "another", now=LATER)
    assert sent == ["UPDATE", "UPDATE", "UPDATE", "UPDATE", "INSERT"]


@pytest.mark.parametrize("event_type", [None, "a"])
def test_reading_on_takes_one_statement_where_no_event_is_missing(
    postgres: Storage, monkeypatch: pytest.MonkeyPatch, event_type: str | None
) -> None:
    events = postgres.events.append_many([("a", number) for number in range(4)])
    with statements(monkeypatch) as sent:
        assert postgres.events.read_after(0, event_type=event_type, limit=2) == events[:2]
        assert postgres.events.read_after(events[1].id, event_type=event_type) == events[2:]
        assert postgres.events.read_after(events[3].id, event_type=event_type) == []
    assert sent == ["WITH" if event_type else "SELECT"] * 3


def test_a_key_takes_one_statement_where_it_is_new(
    postgres: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.ping()
    with statements(monkeypatch) as sent:
        claim = postgres.idempotency.claim("key", now=NOW)
        assert postgres.idempotency.claim("key", now=NOW).state is ClaimState.IN_PROGRESS
        assert postgres.idempotency.claim("key", now=LATER).state is ClaimState.ACQUIRED
    assert sent == ["INSERT", "INSERT", "SELECT", "INSERT", "SELECT", "INSERT"]
    with pytest.raises(ClaimLost):
        postgres.idempotency.abandon(claim)


def test_a_key_that_is_given_up_while_it_is_looked_at(
    postgres: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [postgres.idempotency.claim("key", now=NOW)]
    rows = LibpqExecutor.rows

    def given_up(executor: LibpqExecutor, statement: str, *arguments: Any) -> Any:
        if statement.startswith("SELECT") and held:
            postgres.idempotency.abandon(held.pop())
        return rows(executor, statement, *arguments)

    monkeypatch.setattr(LibpqExecutor, "rows", given_up)
    assert postgres.idempotency.claim("key", now=NOW).state is ClaimState.ACQUIRED
    assert held == []


def test_a_key_that_is_taken_over_while_it_is_looked_at(
    postgres: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.idempotency.claim("key", now=NOW)
    others = [LATER]
    rows = LibpqExecutor.rows

    def taken_over(executor: LibpqExecutor, statement: str, *arguments: Any) -> Any:
        found = rows(executor, statement, *arguments)
        if statement.startswith("SELECT") and others:
            assert postgres.idempotency.claim("key", now=others.pop()).state is ClaimState.ACQUIRED
        return found

    monkeypatch.setattr(LibpqExecutor, "rows", taken_over)
    assert postgres.idempotency.claim("key", now=LATER).state is ClaimState.IN_PROGRESS


def test_what_has_to_be_swept_is_swept_before_the_claim(postgres: Storage) -> None:
    schedule(postgres, 2)
    assert claim(postgres, 1, NOW, lease=MINUTE) == ["0"]
    schedule(postgres, 1, max_lateness=MINUTE, metadata={"late": True})
    assert claim(postgres, 1) == ["1"]
    assert [job.status for job in postgres.queue.list()] == [
        JobStatus.RETRYING,
        JobStatus.PROCESSING,
        JobStatus.DEAD_LETTER,
    ]


def test_jobs_of_other_platforms_that_are_too_late_keep_no_claim_waiting(
    postgres: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule(postgres, 1)
    postgres.queue.schedule("other", "late", NOW, max_lateness=MINUTE, now=NOW)
    with statements(monkeypatch) as sent:
        assert claim(postgres, 1, platforms=["p"]) == ["0"]
    assert len(sent) == 1


@pytest.mark.parametrize("size", [1, 50])
def test_settling_does_not_walk_past_the_leases_of_settled_jobs(
    postgres: Storage, database_url: str, schema: str, size: int
) -> None:
    schedule(postgres, 200)
    with psycopg.connect(database_url, autocommit=True) as connection:
        table = f'"{schema}".assistly_queue_jobs'
        connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)".encode())
        connection.execute(f"VACUUM ANALYZE {table}".encode())
        for _ in range(3):
            settle_and_extend(postgres, size)
        before = attention_reads(connection, schema)
        for _ in range(20 // size + 1):
            settle_and_extend(postgres, size)
        assert attention_reads(connection, schema) == before


def settle_and_extend(storage: Storage, size: int) -> None:
    jobs = storage.queue.claim_due(worker_id="w", limit=size, now=LATER)
    storage.queue.extend(jobs, lease=MINUTE, now=LATER)
    storage.queue.settle(map(Posted, jobs), now=LATER)
    asked(storage, "SELECT pg_stat_force_next_flush()")
    asked(storage, "SELECT 1")


def attention_reads(connection: psycopg.Connection[Any], schema: str) -> int:
    """Entries of the index on leases and lateness that statements took."""
    query = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE schemaname = %s AND indexrelname = %s"
    row = connection.execute(query, [schema, "idx_queue_attention"]).fetchone()
    assert row is not None
    count: int = row[0]
    return count


AWKWARD = ["", "\\", "\\N", "\\.", "a\tb\nc\rd\\te", "\b\f\v\x7f", "é 😀 \u2028", '"quoted", {braces}']


@pytest.mark.parametrize("count", [2, 99, 100, 1234])
def test_a_batch_comes_back_as_it_is_stored(postgres: Storage, count: int) -> None:
    new = [
        NewJob(
            f"p\t{number % 3}\\",
            AWKWARD[number % len(AWKWARD)],
            [None, LATER + timedelta(microseconds=number), datetime.min.replace(tzinfo=UTC)][number % 3],
            metadata=[None, {"text": AWKWARD[number % len(AWKWARD)], "float": 1e16, "list": []}][number % 2],
            max_retries=number + 1,
            max_lateness=[None, timedelta(0), timedelta(microseconds=number), timedelta.max // 300][
                number % 4
            ],
        )
        for number in range(count)
    ]
    jobs = postgres.queue.schedule_many(new)
    assert [(job.platform, job.content, job.metadata, job.max_retries) for job in jobs] == [
        (one.platform, one.content, one.metadata or {}, one.max_retries) for one in new
    ]
    assert [postgres.queue.get(job.id) for job in jobs] == jobs
    assert jobs == sorted(jobs, key=lambda job: job.id)


def test_a_batch_whose_ids_have_gaps(postgres: Storage, database_url: str, schema: str) -> None:
    """As where others take some in between."""
    before = postgres.queue.schedule("p", "before")
    with psycopg.connect(database_url) as connection:
        connection.execute(f'ALTER SEQUENCE "{schema}".assistly_queue_jobs_id_seq INCREMENT BY 3'.encode())
    jobs = postgres.queue.schedule_many(NewJob("p", str(number)) for number in range(700))
    after = postgres.queue.schedule("p", "after")
    assert [job.id for job in jobs] == [before.id + 3 * place for place in range(1, 701)]
    assert postgres.queue.list(limit=1000) == [before, *jobs, after]


def test_a_batch_with_a_gap_of_one(
    postgres: Storage, database_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assistly.storage.engines.postgres.jobs.WORTH_COPYING", 2)
    before = postgres.queue.schedule("p", "before")
    with psycopg.connect(database_url) as connection:
        connection.execute(f'ALTER SEQUENCE "{schema}".assistly_queue_jobs_id_seq INCREMENT BY 2'.encode())
    batch = postgres.queue.schedule_many([NewJob("p", "first"), NewJob("p", "second")])
    assert [job.id for job in batch] == [before.id + 2, before.id + 4]
    assert postgres.queue.list() == [before, *batch]


def test_batches_at_once_have_ids_of_their_own_in_their_order(postgres: Storage) -> None:
    def write(name: str) -> list[Job]:
        batch = [NewJob(name, str(number)) for number in range(600)]
        return [job for _ in range(3) for job in postgres.queue.schedule_many(batch)]

    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(write, "abc"))
    for name, jobs in zip("abc", answers, strict=True):
        assert [job.content for job in jobs] == [str(number) for number in range(600)] * 3
        assert [job.id for job in jobs] == sorted({job.id for job in jobs})
        stored = postgres.queue.list(platform=name, limit=1000)
        stored += postgres.queue.list(platform=name, after=stored[-1], limit=1000)
        assert stored == jobs


def test_batches_with_and_without_keys_in_one_transaction(postgres: Storage) -> None:
    with postgres.transaction() as tx:
        plain = tx.queue.schedule_many([NewJob("p", "plain")] * 150)
        keyed = tx.queue.schedule_many(
            [NewJob("p", "keyed", idempotency_key=f"key {number % 90}") for number in range(180)]
        )
    assert [job.id for job in keyed[:90]] == [job.id for job in keyed[90:]]
    assert [postgres.queue.get(job.id) for job in plain + keyed] == plain + keyed
    with pytest.raises(ZeroDivisionError), postgres.transaction() as tx:
        tx.queue.schedule_many([NewJob("p", "undone")] * 150)
        raise ZeroDivisionError
    assert postgres.queue.counts()[JobStatus.SCHEDULED] == 240


def test_a_batch_goes_through_a_callers_connection(postgres: Storage, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        jobs = postgres.bind(connection).queue.schedule_many([NewJob("p", "bound", NOW)] * 120, now=NOW)
        assert postgres.queue.list() == []
    assert postgres.queue.list(limit=1000) == jobs


def test_outcomes_of_all_kinds_in_one_batch(postgres: Storage) -> None:
    schedule(postgres, 6)
    one, two, three, four, five, six = postgres.queue.claim_due(worker_id="w", limit=6, now=LATER)
    outcomes: list[Outcome] = [
        Posted(six, "remote"),
        Failed(two, "no"),
        Posted(one),
        Released(four),
        Posted(six),
        Posted(five),
    ]
    settled = postgres.queue.settle(outcomes, now=LATER)
    assert settled.lost == [six.id]
    assert [(job.id, job.remote_id) for job in settled.jobs] == [
        (six.id, "remote"),
        (two.id, None),
        (one.id, None),
        (four.id, None),
        (five.id, None),
    ]
    assert [postgres.queue.get(job.id) for job in settled.jobs] == settled.jobs
    assert postgres.queue.get(three.id) == three


def asked(storage: Storage, query: str) -> Any:
    """On the connection that the next operation would get."""
    database: Any = storage._context.backend._database  # type: ignore[attr-defined]
    return database.read(lambda executor: executor.row(query))[0]


def test_statements_are_planned_by_index_and_once(postgres: Storage) -> None:
    for setting in ("enable_bitmapscan", "enable_seqscan", "enable_sort", "jit"):
        assert asked(postgres, f"SHOW {setting}") == "off"
    assert asked(postgres, "SHOW plan_cache_mode") == "force_generic_plan"


@pytest.mark.parametrize("fast_path", [True, False])
def test_a_session_that_a_pooler_lends_keeps_its_settings(
    open_postgres: Callable[..., Storage],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    fast_path: bool,
) -> None:
    """A pooler gives each client a number of its own for the server process."""
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda _: 0))
    url = make_conninfo(database_url, options="-c timezone=Pacific/Kiritimati")
    storage = open_postgres(url, fast_path=fast_path)
    assert asked(storage, "SHOW enable_sort") == "on"
    assert asked(storage, "SHOW TimeZone") == "Pacific/Kiritimati"
    last = datetime.max.replace(tzinfo=UTC)
    for _ in range(5):
        job = storage.queue.schedule("p", "content", last)
        (stored,) = storage.queue.list(after=job.id - 1)
        assert (stored.scheduled_at, stored.scheduled_at.tzinfo) == (last, UTC)
    assert asked(storage, "SELECT count(*) FROM pg_prepared_statements") == 0
