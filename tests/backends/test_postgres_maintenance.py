"""The table of jobs is vacuumed when somebody asks for it, and only if that is worth it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from assistly.storage import NewJob, Posted, Storage, StorageClosed, StorageUnavailable
from assistly.storage.engines.postgres import maintenance
from waiting import until

ENDLESS = "SELECT pg_sleep(300)"


@pytest.fixture
def aside(database_url: str, schema: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to look in from, and to make old rows with."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'SET search_path = "{schema}"'.encode())
        yield connection


@pytest.fixture
def jobs(postgres: Storage, aside: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """A hundred posted jobs, in a table that autovacuum leaves alone."""
    postgres.ping()
    aside.execute("ALTER TABLE assistly_queue_jobs SET (autovacuum_enabled = false)")
    drain(postgres)
    return aside


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "_DEAD_ROWS", 100)


def drain(storage: Storage, jobs: int = 100) -> None:
    storage.queue.schedule_many(NewJob("mastodon", f"post {number}") for number in range(jobs))
    claimed = storage.queue.claim_due(worker_id="worker:1", limit=jobs)
    assert len(storage.queue.settle(map(Posted, claimed)).jobs) == jobs


def make_dead_rows(connection: psycopg.Connection[Any], times: int = 1) -> None:
    for _ in range(times):
        connection.execute("UPDATE assistly_queue_jobs SET updated_at = updated_at")
    connection.execute("SELECT pg_stat_force_next_flush()")
    connection.execute("SELECT 1")


def vacuums(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT vacuum_count FROM pg_stat_all_tables WHERE relid = 'assistly_queue_jobs'::regclass"
    ).fetchone()
    assert row is not None
    count: int = row[0]
    return count


def sessions(connection: psycopg.Connection[Any], statement: str = "") -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND starts_with(query, %s)",
        [maintenance.APPLICATION_NAME, statement],
    ).fetchone()
    assert row is not None
    count: int = row[0]
    return count


def test_claims_never_vacuum(soon: None, postgres: Storage, jobs: psycopg.Connection[Any]) -> None:
    before = set(threading.enumerate())
    for _ in range(5):
        drain(postgres)
        make_dead_rows(jobs)
    assert (vacuums(jobs), sessions(jobs)) == (0, 0)
    assert "assistly-upkeep" not in {thread.name for thread in set(threading.enumerate()) - before}


def test_few_dead_rows_are_not_worth_a_vacuum(postgres: Storage, jobs: psycopg.Connection[Any]) -> None:
    make_dead_rows(jobs, 3)
    postgres.maintain()
    assert vacuums(jobs) == 0


def test_many_are_whoever_made_them(soon: None, postgres: Storage, jobs: psycopg.Connection[Any]) -> None:
    make_dead_rows(jobs, 2)
    postgres.maintain()
    assert vacuums(jobs) == 1
    postgres.maintain()
    assert vacuums(jobs) == 1
    until(lambda: sessions(jobs) == 0)


def test_a_large_table_takes_more_of_them(
    soon: None, postgres: Storage, jobs: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.execute("ANALYZE assistly_queue_jobs")
    make_dead_rows(jobs, 3)
    monkeypatch.setattr(maintenance, "_DEAD_SHARE", 10)
    postgres.maintain()
    assert vacuums(jobs) == 0
    monkeypatch.setattr(maintenance, "_DEAD_SHARE", 0.1)
    postgres.maintain()
    assert vacuums(jobs) == 1


def test_what_an_old_transaction_keeps_is_no_reason_for_the_next(
    soon: None, postgres: Storage, jobs: psycopg.Connection[Any], database_url: str
) -> None:
    with psycopg.connect(database_url) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1 FROM pg_class LIMIT 1")
        make_dead_rows(jobs, 2)
        postgres.maintain()
        assert vacuums(jobs) == 1
        postgres.maintain()
        assert vacuums(jobs) == 1
        make_dead_rows(jobs, 2)
        postgres.maintain()
        assert vacuums(jobs) == 2
    make_dead_rows(jobs, 2)
    postgres.maintain()
    assert vacuums(jobs) == 3


def test_a_vacuum_cleans_the_indexes_of_a_large_table_too(
    postgres: Storage, aside: psycopg.Connection[Any]
) -> None:
    """What only few pages of the table are affected by, it would leave there."""
    said: list[str] = []
    aside.add_notice_handler(lambda notice: said.append(f"{notice.message_primary}\n{notice.message_detail}"))
    drain(postgres)
    aside.execute(
        "INSERT INTO assistly_queue_jobs (status, platform, content, scheduled_at, due_at, posted_at) "
        "SELECT 'posted', 'mastodon', repeat('x', 500), now(), now(), now() FROM generate_series(1, 20000)"
    )
    aside.execute("VACUUM assistly_queue_jobs")
    drain(postgres, 5)
    aside.execute("VACUUM (VERBOSE) assistly_queue_jobs")
    told = [line for text in said for line in text.splitlines() if line.startswith("index scan ")]
    assert told, said
    assert not [line for line in told if "bypassed" in line]


def test_a_role_that_may_not_vacuum_goes_on_without(
    soon: None,
    role: str,
    open_postgres: Callable[..., Storage],
    jobs: psycopg.Connection[Any],
    database_url: str,
) -> None:
    make_dead_rows(jobs, 2)
    open_postgres(make_conninfo(database_url, user=role)).maintain()
    assert vacuums(jobs) == 0


def test_without_a_server_it_says_so() -> None:
    from assistly.storage import PostgresBackend

    with (
        Storage(PostgresBackend("postgresql://me:hunter2@127.0.0.1:1/db"), auto_prune=False) as storage,
        pytest.raises(StorageUnavailable) as caught,
    ):
        storage.maintain()
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


def test_where_there_is_no_table_there_is_nothing_to_do(postgres: Storage) -> None:
    postgres._context.backend.maintain()


def test_closing_cancels_it(
    soon: None, postgres: Storage, jobs: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dead_rows(jobs, 2)
    monkeypatch.setattr(maintenance, "_VACUUM", f"{ENDLESS} -- {{table}}")
    backend = postgres._context.backend
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(backend.maintain)
        until(lambda: sessions(jobs, ENDLESS))
        postgres.close()
        running.result()
    until(lambda: sessions(jobs) == 0)
    with pytest.raises(StorageClosed):
        backend.maintain()
