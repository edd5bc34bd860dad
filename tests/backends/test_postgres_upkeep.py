"""The table of jobs is vacuumed after many were claimed, off the callers' path."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from assistly.storage import NewJob, Posted, Storage
from assistly.storage.engines.postgres import upkeep
from assistly.storage.engines.postgres.upkeep import Upkeep
from waiting import until

PATIENCE = 30.0


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """After every claim that walks."""
    monkeypatch.setattr(upkeep, "_WALK", 1)
    monkeypatch.setattr(upkeep, "_WALK_PER_ROW", 0)


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


def vacuuming(connection: psycopg.Connection[Any], statement: str) -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE application_name = %s AND state = 'active' AND starts_with(query, %s)",
        [upkeep.APPLICATION_NAME, statement],
    ).fetchone()
    assert row is not None
    count: int = row[0]
    return count


def test_claims_that_walk_far_are_followed_by_a_vacuum(
    soon: None, postgres: Storage, aside: psycopg.Connection[Any]
) -> None:
    drain(postgres)
    assert upkeep_of(postgres)._thread is None
    drain(postgres)
    until(lambda: vacuums(aside) > 0)


def test_how_far_they_walk(postgres: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past all that were claimed before, also where nothing is due."""
    keeper = upkeep_of(postgres)
    monkeypatch.setattr(keeper, "_try", lambda: None)
    monkeypatch.setattr(upkeep, "_WALK", 1_000)
    for jobs, walked in ((100, 0), (100, 100), (0, 300), (100, 500), (0, 800)):
        keeper.note_claimed(jobs)
        assert keeper._walked == walked
    assert keeper._thread is None
    keeper.note_claimed(0)
    assert keeper._thread is not None
    assert (keeper._walked, keeper._claims) == (0, 0)


def test_claims_in_a_transaction_count(soon: None, postgres: Storage) -> None:
    postgres.queue.schedule_many(NewJob("mastodon", f"post {number}") for number in range(2))
    with postgres.transaction() as tx:
        for _ in range(2):
            assert len(tx.queue.claim_due(worker_id="worker:1", limit=1)) == 1
    assert upkeep_of(postgres)._thread is not None


def test_a_large_table_is_vacuumed_less_often(postgres: Storage, aside: psycopg.Connection[Any]) -> None:
    keeper = upkeep_of(postgres)
    before = keeper.affordable
    drain(postgres, 300)
    keeper.run()
    keeper.run()
    assert keeper.affordable == before + 300 * upkeep._WALK_PER_ROW


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


def test_others_may_have_done_it(postgres: Storage, aside: psycopg.Connection[Any]) -> None:
    keeper = upkeep_of(postgres)
    drain(postgres)
    keeper.run()
    assert vacuums(aside) == 1
    aside.execute("VACUUM assistly_queue_jobs")
    keeper.run()
    assert vacuums(aside) == 2
    keeper.run()
    assert vacuums(aside) == 3


def test_it_comes_less_often_while_an_open_transaction_makes_it_vain(
    postgres: Storage, aside: psycopg.Connection[Any], database_url: str
) -> None:
    keeper = upkeep_of(postgres)
    drain(postgres)
    keeper.run()
    usual = keeper.affordable
    with psycopg.connect(database_url) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1 FROM pg_class LIMIT 1")
        for times in (2, 4, 8):
            make_dead_rows(aside)
            keeper.run()
            assert keeper.affordable == times * usual
    make_dead_rows(aside)
    keeper.run()
    assert keeper.affordable == usual


def test_a_role_that_may_not_vacuum_goes_on_without(
    soon: None,
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


def test_a_claim_survives_that_no_thread_can_be_had(
    soon: None, postgres: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    postgres.queue.schedule_many(NewJob("mastodon", f"post {number}") for number in range(3))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            assert len(postgres.queue.claim_due(worker_id="worker:1", limit=1)) == 1
    postgres.close()


def test_closing_does_not_wait_for_it(
    soon: None, postgres: Storage, aside: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "SELECT pg_sleep(300)"
    monkeypatch.setattr(upkeep, "_VACUUM", f"{endless} -- {{table}}")
    for _ in range(2):
        drain(postgres)
    until(lambda: vacuuming(aside, endless) > 0)
    began = time.monotonic()
    postgres.close()
    assert time.monotonic() - began < PATIENCE
    until(lambda: vacuuming(aside, endless) == 0)
