"""How long a call waits for a lock that another transaction holds."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from assistly.storage.engines.postgres.dialect import lock_key
from assistly.storage.errors import StorageUnavailable
from assistly.storage.records import NewEvent, NewJob
from assistly.storage.storage import Storage
from waiting import until

SHORT = timedelta(milliseconds=50)
START = datetime(2030, 1, 1, tzinfo=UTC)
PATIENCE = 30.0
# For four times as long as the limit.
_LONG_WAITS = """
SELECT count(*) FROM pg_locks WHERE NOT granted AND clock_timestamp() - waitstart > interval '0.2 seconds'
"""


def asked(storage: Storage, query: str) -> Any:
    database: Any = storage._context.backend._database  # type: ignore[attr-defined]
    (answer,) = database.in_transaction(lambda executor: executor.row(query))
    return answer


@pytest.fixture
def lend_sessions(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Act as a pooler, which gives each client a number of its own for the server process."""
    return lambda: monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda _: 0))


def test_a_write_that_waits_for_a_row_gives_up(open_postgres: Callable[..., Storage]) -> None:
    storage = open_postgres(lock_timeout=SHORT)
    with ThreadPoolExecutor(1) as threads, storage.transaction() as tx:
        tx.sessions.update("u", lambda _: 1, default=0)
        for write in (
            lambda: storage.sessions.put("u", 2),
            lambda: storage.sessions.update("u", lambda _: 2, default=0),
            lambda: _in_transaction(storage),
        ):
            with pytest.raises(StorageUnavailable, match="lock was not free in time"):
                threads.submit(write).result(PATIENCE)
    session = storage.sessions.get("u")
    assert session is not None
    assert session.data == 1


def _in_transaction(storage: Storage) -> None:
    with storage.transaction() as tx:
        tx.sessions.put("u", 2)


def test_jobs_that_another_transaction_holds_are_passed_over(open_postgres: Callable[..., Storage]) -> None:
    storage = open_postgres(lock_timeout=SHORT)
    for max_lateness in (None, SHORT):
        storage.queue.schedule_many(NewJob("x", "a", START, max_lateness=max_lateness) for _ in range(2))

    def claim(backend: Any) -> list[int]:
        lease = START + timedelta(hours=1)
        jobs = backend.jobs.claim(worker_id="w", limit=1, lease_until=lease, platforms=None, now=START)
        return [job.id for job in jobs]

    def sweep(backend: Any) -> int:
        now = START + timedelta(hours=1)
        return len(backend.jobs.dead_letter_late(limit=1, platforms=None, reason="missed: it", now=now))

    backend = storage._context.backend
    with ThreadPoolExecutor(1) as threads, storage.transaction() as tx:
        assert (claim(tx._context.backend), sweep(tx._context.backend)) == ([1], 1)
        assert threads.submit(claim, backend).result(PATIENCE) == [2]
        assert threads.submit(sweep, backend).result(PATIENCE) == 1


def test_it_does_so_behind_a_pooler_in_a_transaction(
    open_postgres: Callable[..., Storage], lend_sessions: Callable[[], None]
) -> None:
    lend_sessions()
    for fast_path in (True, False):
        storage = open_postgres(lock_timeout=SHORT, fast_path=fast_path)
        with ThreadPoolExecutor(1) as threads, storage.transaction() as tx:
            tx.sessions.put("u", 1)
            with pytest.raises(StorageUnavailable, match="lock was not free in time"):
                threads.submit(_in_transaction, storage).result(PATIENCE)
        database: Any = storage._context.backend._database  # type: ignore[attr-defined]
        assert database.read(lambda executor: executor.row("SHOW lock_timeout")) == ("0",)


def test_the_limit_is_ten_seconds(
    open_postgres: Callable[..., Storage], lend_sessions: Callable[[], None]
) -> None:
    assert asked(open_postgres(), "SHOW lock_timeout") == "10s"
    lend_sessions()
    assert asked(open_postgres(), "SHOW lock_timeout") == "10s"


def test_a_limit_that_the_server_or_the_url_sets_is_kept(
    open_postgres: Callable[..., Storage], database_url: str, lend_sessions: Callable[[], None]
) -> None:
    url = make_conninfo(database_url, options="-c lock_timeout=20s")
    assert asked(open_postgres(url), "SHOW lock_timeout") == "20s"
    lend_sessions()
    assert asked(open_postgres(url), "SHOW lock_timeout") == "20s"


def test_a_bound_connection_keeps_its_own(postgres: Storage, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        bound = postgres.bind(connection)
        with bound.transaction() as tx:
            tx.sessions.put("u", 1)
            assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)


def test_a_storage_waits_for_another_ones_migrations_without_a_limit(
    open_postgres: Callable[..., Storage], database_url: str, schema: str
) -> None:
    storage = open_postgres(lock_timeout=SHORT)
    with psycopg.connect(database_url) as migrating, psycopg.connect(database_url, autocommit=True) as other:
        migrating.execute("SELECT pg_advisory_xact_lock(%s)", [lock_key("migrations", schema)])
        with ThreadPoolExecutor(1) as threads:
            starting = threads.submit(storage.migrate)
            until(lambda: other.execute(_LONG_WAITS).fetchone() == (1,))
            migrating.commit()
            assert starting.result(PATIENCE)


def test_events_are_read_while_a_transaction_appends(open_postgres: Callable[..., Storage]) -> None:
    storage = open_postgres(lock_timeout=timedelta(milliseconds=1))
    storage.events.append_many([NewEvent("a", 1), NewEvent("a", 2)])
    with ThreadPoolExecutor(1) as threads, storage.transaction() as tx:
        tx.events.append("a", 3)
        threads.submit(storage.events.append, "a", 4).result(PATIENCE)
        events = threads.submit(storage.events.read_after, 0).result(PATIENCE)
        assert [event.payload for event in events] == [1, 2]
