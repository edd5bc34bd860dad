"""The table of jobs is vacuumed after many were claimed, off the callers' path."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from assistly.storage import NewJob, Posted, Storage
from assistly.storage.engines.postgres import upkeep
from assistly.storage.engines.postgres.upkeep import Upkeep

PATIENCE = 30.0


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_CLAIMS", 100)


@pytest.fixture
def aside(database_url: str, schema: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to look in from, and to make old rows with."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'SET search_path = "{schema}"'.encode())
        yield connection


def drain(storage: Storage, jobs: int = 100) -> None:
    storage.queue.schedule_many(NewJob("mastodon", f"post {number}") for number in range(jobs))
    claimed = storage.queue.claim_due(worker_id="worker:1", limit=jobs)
    assert len(storage.queue.settle(map(Posted, claimed)).jobs) == jobs


def vacuums(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT vacuum_count FROM pg_stat_all_tables WHERE relid = 'assistly_queue_jobs'::regclass"
    ).fetchone()
    assert row is not None
    count: int = row[0]
    return count


def upkeep_of(storage: Storage) -> Upkeep:
    found = storage._context.backend.jobs._postgres.upkeep  # type: ignore[attr-defined]
    assert isinstance(found, Upkeep)
    return found


def make_dead_rows(connection: psycopg.Connection[Any]) -> None:
    connection.execute("UPDATE assistly_queue_jobs SET updated_at = updated_at")
    connection.execute("SELECT pg_stat_force_next_flush()")
    connection.execute("SELECT 1")


def others(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [upkeep.APPLICATION_NAME]
    ).fetchone()
    assert row is not None
    count: int = row[0]
    return count


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.01)


def test_many_claims_are_followed_by_a_vacuum(
    few: None, postgres: Storage, aside: psycopg.Connection[Any]
) -> None:
    def drained() -> bool:
        # What sessions did reaches the statistics once a second.
        drain(postgres)
        return vacuums(aside) > 0

    wait_until(drained)


def test_few_claims_are_not(postgres: Storage, aside: psycopg.Connection[Any]) -> None:
    drain(postgres)
    assert upkeep_of(postgres)._thread is None


def test_claims_in_a_transaction_count(few: None, postgres: Storage) -> None:
    postgres.queue.schedule_many(NewJob("mastodon", f"post {number}") for number in range(100))
    with postgres.transaction() as tx:
        assert len(tx.queue.claim_due(worker_id="worker:1", limit=100)) == 100
    assert upkeep_of(postgres)._thread is not None


def test_a_table_with_few_dead_rows_is_left_alone(
    few: None, postgres: Storage, aside: psycopg.Connection[Any]
) -> None:
    drain(postgres, 50)
    aside.execute("VACUUM assistly_queue_jobs")
    upkeep_of(postgres).run()
    assert vacuums(aside) == 1


def test_a_large_table_may_have_more_of_them(
    few: None, postgres: Storage, aside: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(postgres, 300)
    aside.execute("VACUUM assistly_queue_jobs")
    make_dead_rows(aside)
    monkeypatch.setattr(upkeep, "_SHARE", 2)
    upkeep_of(postgres).run()
    assert vacuums(aside) == 1
    monkeypatch.setattr(upkeep, "_SHARE", 1)
    upkeep_of(postgres).run()
    assert vacuums(aside) == 2


def test_it_comes_less_often_while_an_open_transaction_makes_it_vain(
    few: None, postgres: Storage, aside: psycopg.Connection[Any], database_url: str
) -> None:
    keeper = upkeep_of(postgres)
    drain(postgres)
    with psycopg.connect(database_url) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1 FROM pg_class LIMIT 1")
        for vain in (2, 4, 8):
            make_dead_rows(aside)
            keeper.run()
            assert keeper._every == vain * 100
    make_dead_rows(aside)
    keeper.run()
    assert keeper._every == 100


def test_a_role_that_may_not_vacuum_goes_on_without(
    few: None,
    role: str,
    open_postgres: Callable[..., Storage],
    aside: psycopg.Connection[Any],
    database_url: str,
    schema: str,
) -> None:
    aside.execute(f'GRANT INSERT, UPDATE ON ALL TABLES IN SCHEMA "{schema}" TO "{role}"'.encode())
    aside.execute(f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA "{schema}" TO "{role}"'.encode())
    careful = open_postgres(make_conninfo(database_url, user=role))
    drain(careful)
    make_dead_rows(aside)
    upkeep_of(careful).run()
    assert vacuums(aside) == 0


def test_closing_does_not_wait_for_it(
    few: None, postgres: Storage, aside: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun() -> bool:
        drain(postgres)
        return others(aside) > 0

    monkeypatch.setattr(upkeep, "_VACUUM", "SELECT pg_sleep(300) -- {table}")
    drain(postgres)
    make_dead_rows(aside)
    wait_until(begun)
    began = time.monotonic()
    postgres.close()
    assert time.monotonic() - began < PATIENCE
    wait_until(lambda: others(aside) == 0)
