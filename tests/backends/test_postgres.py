"""How it opens, and what it does when connections break."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from assistly.storage.engines.postgres import PostgresBackend
from assistly.storage.engines.sql.database import Executor
from assistly.storage.errors import (
    ConfigurationError,
    OutcomeUnknown,
    StorageClosed,
    StorageUnavailable,
)
from assistly.storage.storage import Storage
from assistly.storage.testing.forking import needs_fork
from postgres_proxy import Proxy
from postgres_server import TemporaryServer
from waiting import until

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def everything_said(error: BaseException | None) -> str:
    said = ""
    while error is not None:
        said += f"{error!r} {error} "
        error = error.__cause__ or error.__context__
    return said


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host:port/db",
        "postgresql://me:hunter2@host:99999/db",
        "postgresql://me:hunter 2@host/db",
        "postgresql://me:%hunter2@host/db",
        "postgresql+psycopg://me:hunter2@host/db",
        "http://me:hunter2@host",
        "host=a password='hunter2",
        "host=a password=hunter2 nonsense=1",
        "postgresql://me:hunter2@host/db\0",
        "",
        " ",
        None,
        5,
    ],
)
def test_malformed_url(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
        PostgresBackend(url)
    assert "hunter" not in everything_said(caught.value)


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "10"])
def test_bad_pool_size(size: Any) -> None:
    with pytest.raises(ConfigurationError, match="STORAGE_POOL_SIZE"):
        PostgresBackend("postgresql://host/db", size)


@pytest.mark.parametrize("schema", ["", "a\0b", "s" * 64, "ü" * 32, "pg_mine", 7])
def test_bad_schema(schema: Any) -> None:
    with pytest.raises(ConfigurationError, match="STORAGE_SCHEMA"):
        PostgresBackend("postgresql://host/db", schema=schema)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/db", StorageUnavailable),
        ("postgresql://me:hunter2@no-such-host.invalid/db", StorageUnavailable),
        ("postgresql://me:hunter2@/db?host=/no/such/folder", StorageUnavailable),
        ("postgresql://me:hunter2@127.0.0.1:1/db?sslmode=bogus", ConfigurationError),
    ],
)
def test_unreachable_server(url: str, kind: type[Exception]) -> None:
    with within(5), closing(PostgresBackend(url)) as backend, pytest.raises(kind) as caught:
        backend.ping()
    assert "hunter2" not in everything_said(caught.value)


def test_missing_database(open_postgres: Callable[..., Storage], database_url: str) -> None:
    storage = open_postgres(make_conninfo(database_url, dbname="no_such_database"))
    with within(5), pytest.raises(ConfigurationError, match="no_such_database"):
        storage.ping()


def test_wrong_password(server: TemporaryServer) -> None:
    server.demand_password_of("careful")
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE careful LOGIN PASSWORD 'right'")
    url = make_conninfo(server.url, user="careful", password="hunter2")
    with within(5), closing(PostgresBackend(url)) as backend, pytest.raises(ConfigurationError) as caught:
        backend.ping()
    assert "hunter2" not in everything_said(caught.value)
    with closing(PostgresBackend(make_conninfo(server.url, user="careful", password="right"))) as backend:
        assert "right" not in repr(backend)
        assert backend.now()


def test_a_silent_server_is_given_up(server: TemporaryServer) -> None:
    with (
        closing(Proxy(server.socket, silent=True)) as proxy,
        closing(PostgresBackend(proxy.url)) as backend,
        within(5),
        pytest.raises(StorageUnavailable),
    ):
        backend.ping()


def test_repr_has_no_password() -> None:
    backend = PostgresBackend("postgresql://me:hunter2@host:5433,other:5434/db", schema="mine")
    assert repr(backend) == "PostgresBackend(postgresql://me@host,other:5433,5434/db schema=mine)"


def test_other_encodings_are_refused(open_postgres: Callable[..., Storage], database_url: str) -> None:
    name = f"latin_{os.getpid()}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0".encode()
        )
        try:
            storage = open_postgres(make_conninfo(database_url, dbname=name))
            with pytest.raises(ConfigurationError, match="LATIN1"):
                storage.ping()
        finally:
            connection.execute(f"DROP DATABASE {name}".encode())


def test_a_failed_first_use_is_not_remembered(server: TemporaryServer, new_schema: Callable[[], str]) -> None:
    with closing(PostgresBackend(server.url, schema=new_schema())) as backend:
        server.stop()
        try:
            with pytest.raises(StorageUnavailable):
                backend.ping()
        finally:
            server.start()
        backend.ping()


def test_close(postgres: Storage) -> None:
    before = set(threading.enumerate())
    postgres.ping()
    backend = postgres._context.backend
    postgres.close()
    postgres.close()
    with pytest.raises(StorageClosed):
        backend.ping()
    until(lambda: not set(threading.enumerate()) - before)


def test_a_server_that_went_away(server: TemporaryServer, new_schema: Callable[[], str]) -> None:
    with closing(PostgresBackend(server.url, schema=new_schema())) as backend:
        backend.ping()
        server.stop()
        try:
            with within(5), pytest.raises(StorageUnavailable):
                backend.ping()
        finally:
            server.start()
        with within(2):
            backend.ping()


def proxied(proxy: Proxy, schema: str) -> Storage:
    storage = Storage(PostgresBackend(proxy.url, 1, schema=schema), auto_prune=False)
    storage.ping()
    storage.queue.schedule("warm", "up", now=NOW)
    return storage


def test_a_connection_that_breaks_during_a_read_is_replaced(
    proxy: Proxy, new_schema: Callable[[], str]
) -> None:
    with closing(proxied(proxy, new_schema())) as storage:
        proxy.cut_before("sessions")
        assert storage.sessions.get("u") is None
        assert proxy.cuts == 1


def test_a_transaction_that_breaks_before_its_commit_is_run_again(
    proxy: Proxy, new_schema: Callable[[], str]
) -> None:
    with closing(proxied(proxy, new_schema())) as storage:
        proxy.cut_after("INSERT INTO")
        database = storage._context.backend._database  # type: ignore[attr-defined]
        insert = f"INSERT INTO {database.dialect.t}nonces (nonce, timestamp_ms) VALUES ('n', 1)"
        database.in_transaction(lambda executor: executor.execute(insert))
        assert proxy.cuts == 1
        assert storage.nonces.seen("n")


def test_a_connection_that_breaks_during_a_commit_leaves_the_outcome_open(
    proxy: Proxy, new_schema: Callable[[], str]
) -> None:
    with closing(proxied(proxy, new_schema())) as storage:
        with pytest.raises(OutcomeUnknown) as caught, storage.transaction() as tx:
            tx.nonces.register("n")
            proxy.cut_after("COMMIT")
        assert isinstance(caught.value.__cause__, psycopg.Error)
        assert proxy.cuts == 1
        storage.nonces.seen("n")


def test_a_single_write_that_breaks_leaves_the_outcome_open(
    proxy: Proxy, new_schema: Callable[[], str]
) -> None:
    with closing(proxied(proxy, new_schema())) as storage:
        proxy.cut_after("nonces")
        with pytest.raises(OutcomeUnknown):
            storage.nonces.register("n", NOW)
        storage.nonces.seen("n")


def test_a_transaction_that_breaks_writes_nothing(proxy: Proxy, new_schema: Callable[[], str]) -> None:
    with closing(proxied(proxy, new_schema())) as storage:
        with pytest.raises(StorageUnavailable), storage.transaction() as tx:
            tx.nonces.register("n", NOW)
            proxy.cut_before("sessions")
            tx.sessions.get("u")
        assert not storage.nonces.seen("n")


def test_a_session_ended_by_the_administrator_is_replaced(postgres: Storage, database_url: str) -> None:
    postgres.nonces.register("first")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity "
            "WHERE application_name = 'assistly' AND datname = current_database()"
        )
    assert postgres.nonces.register("second")


def test_an_exhausted_pool(open_postgres: Callable[..., Storage]) -> None:
    storage = open_postgres(pool_size=1)
    storage.ping()
    pool = storage._context.backend._database._pool  # type: ignore[attr-defined]
    assert 0 < pool._seconds < 5
    pool._seconds = 0.3
    with storage.transaction() as tx, ThreadPoolExecutor(1) as threads:
        tx.nonces.register("n")
        with within(5), pytest.raises(StorageUnavailable, match="all 1 connections"):
            threads.submit(
                storage.nonces.seen,
                "n",
            ).result()
        assert threads.submit(tx.nonces.seen, "n").result()
    assert storage.nonces.seen("n")


def test_deadlocks_are_run_again(postgres: Storage) -> None:
    database = postgres._context.backend._database  # type: ignore[attr-defined]
    for name in "ab":
        postgres.sessions.put(name, 0)
    barrier = threading.Barrier(2)
    runs: list[str] = []

    def work(order: str) -> Callable[[Executor], None]:
        def update(executor: Executor) -> None:
            runs.append(order)
            statement = f"""
                UPDATE {database.dialect.t}sessions SET version = version + 1 WHERE user_id = %(user_id)s
            """
            executor.execute(statement, {"user_id": order[0]})
            if len(runs) <= 2:
                barrier.wait()
            executor.execute(statement, {"user_id": order[1]})

        return update

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(database.in_transaction, [work("ab"), work("ba")]))
    assert len(runs) > 2
    assert [session.version for session in postgres.sessions.list()] == [3, 3]


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork(postgres: Storage) -> None:
    postgres.nonces.register("parent")
    with postgres.transaction() as tx:
        tx.nonces.register("inside")
        child = os.fork()
        if child == 0:
            os._exit(_in_child(postgres, tx))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert postgres.nonces.seen("inside")
    assert postgres.nonces.seen("child")


def _in_child(storage: Storage, inherited: Storage) -> int:
    try:
        inherited.nonces.seen("inside")
    except StorageClosed:
        pass
    else:
        return 1
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(storage.nonces.register("child")))
    thread.start()
    thread.join()
    return 0 if seen == [True] else 2


def test_there_may_be_any_number_of_locks(postgres: Storage, schema: str, database_url: str) -> None:
    assert postgres.lock.acquire("me", name="first") is not None
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'UPDATE "{schema}".assistly_worker_lock SET id = 32767'.encode())
    assert postgres.lock.acquire("me", name="second") is not None
    assert [lock.name for lock in postgres.lock.list()] == ["first", "second"]
