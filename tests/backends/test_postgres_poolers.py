"""Behind a pooler that lends its sessions to several clients and keeps no track of prepared statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from assistly.storage import NewJob, Posted, PostgresBackend, Storage
from assistly.storage.engines.postgres.wire import LibpqExecutor
from postgres_pooler import PgBouncer, TransactionPooler, pgbouncer
from postgres_server import TemporaryServer

Pooler = TransactionPooler | PgBouncer
ROUNDS = 5


@pytest.fixture(params=["known by its pid", "unknown", "pgbouncer"])
def pooler(request: pytest.FixtureRequest, server: TemporaryServer) -> Iterator[Pooler]:
    if request.param == "pgbouncer":
        if pgbouncer() is None:
            pytest.skip("PgBouncer is not installed: the pooler of these tests stands in for it")
        with closing(PgBouncer(server.socket, user=server.socket.owner())) as real:
            yield real
        return
    is_known = request.param == "known by its pid"
    with closing(TransactionPooler(server.socket, is_known_by_its_pid=is_known)) as own:
        yield own


@pytest.fixture
def open_behind(pooler: Pooler, schema: str) -> Iterator[Callable[..., Storage]]:
    opened: list[Storage] = []

    def open_one(**options: Any) -> Storage:
        opened.append(
            Storage(PostgresBackend(pooler.url, pool_size=3, schema=schema, **options), auto_prune=False)
        )
        return opened[-1]

    yield open_one
    for storage in opened:
        storage.close()


@pytest.mark.parametrize("fast_path", [True, False])
def test_no_client_runs_the_statement_of_another(
    open_behind: Callable[..., Storage], fast_path: bool
) -> None:
    """One writes and the other reads, so that the same number of statements would mean other things."""
    writer, reader = open_behind(fast_path=fast_path), open_behind(fast_path=fast_path)
    for number in range(ROUNDS):
        writer.sessions.put(f"user {number}", {"number": number})
    for number in range(ROUNDS):
        assert reader.sessions.get(f"user {number}") is not None
        assert writer.sessions.delete(f"user {number}") is True
        assert reader.sessions.get(f"user {number}") is None
        assert len(reader.sessions.list()) == ROUNDS - number - 1


def test_many_clients_at_once(open_behind: Callable[..., Storage]) -> None:
    storages = [open_behind(fast_path=number > 0) for number in range(3)]
    storages[0].ping()

    def work(client: int) -> None:
        storage = storages[client]
        for number in range(3):
            assert storage.nonces.register(f"{client} {number}")
            assert not storage.nonces.register(f"{client} {number}")
            storage.metrics.increment("rounds")
            storage.events.append("round", number)
            storage.queue.schedule(str(client), f"{number}", min_gap=timedelta(microseconds=1))
            storage.queue.schedule_many([NewJob(str(client), f"{number}")] * 2)
            jobs = storage.queue.claim_due(worker_id="w", platforms=[str(client)])
            assert storage.queue.settle(map(Posted, jobs)).lost == []
        storage.queue.schedule_many([NewJob(str(client), "copied")] * 100)

    with ThreadPoolExecutor(len(storages)) as threads:
        list(threads.map(work, range(len(storages))))
    storage = storages[0]
    assert storage.metrics.read().counters == {"rounds": 9}
    assert len(storage.events.read_after(0)) == 9
    assert sum(storage.queue.counts().values()) == 3 * (9 + 100)


def test_an_operation_of_several_steps_that_meets_a_statement_of_another_is_run_again(
    postgres: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.ping()  # the migrations are transactions as well
    run = LibpqExecutor.run
    met: list[str] = []

    def meet_one(executor: LibpqExecutor, statement: str, params: Any) -> Any:
        if not met and executor.connection.info.transaction_status == TransactionStatus.INTRANS:
            met.append(statement)
            executor.command("PREPARE twice AS SELECT 1")
            executor.command("PREPARE twice AS SELECT 1")
        return run(executor, statement, params)

    monkeypatch.setattr(LibpqExecutor, "run", meet_one)
    assert len(postgres.queue.schedule_many([NewJob("x", "hello")] * 2)) == 2
    assert met
    assert len(postgres.queue.list()) == 2


def test_bound_connections_run_no_statement_of_another(
    open_behind: Callable[..., Storage], pooler: Pooler
) -> None:
    """The driver prepares what has run five times, and numbers these statements."""
    storage = open_behind()
    for number in range(ROUNDS):
        storage.sessions.put(f"user {number}", {"number": number})
    with (
        psycopg.connect(pooler.url, autocommit=True, prepare_threshold=1) as one,
        psycopg.connect(pooler.url, autocommit=True) as other,
    ):
        cleaner, reader = storage.bind(one), storage.bind(other)
        for number in range(10):
            assert cleaner.sessions.delete("nobody") is False
            assert reader.sessions.get(f"user {number % ROUNDS}") is not None
        with one.transaction():
            assert cleaner.sessions.delete("nobody") is False
    assert len(storage.sessions.list()) == ROUNDS


@pytest.mark.parametrize("pooler", ["known by its pid", "pgbouncer"], indirect=True)
def test_a_known_pooler_is_left_clean(open_behind: Callable[..., Storage], pooler: Pooler) -> None:
    """Neither settings, nor prepared statements, nor LISTEN."""
    storage = open_behind()
    for number in range(ROUNDS):
        storage.nonces.register(str(number))
    assert not storage.queue.wait(timedelta(seconds=0.05))
    storage.queue.schedule_many([NewJob("x", "due")] * 2)
    assert storage.queue.wait(timedelta(seconds=5))
    storage.close()
    with psycopg.connect(pooler.url, autocommit=True, prepare_threshold=None) as connection:
        for _ in range(2 * ROUNDS):
            found = connection.execute(
                "SELECT current_setting('enable_seqscan'), current_setting('lock_timeout'), "
                "(SELECT count(*) FROM pg_prepared_statements), "
                "(SELECT count(*) FROM pg_listening_channels())"
            )
            assert found.fetchall() == [("on", "0", 0, 0)]
