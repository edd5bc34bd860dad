"""What is Postgres's own: connections that break, roles, bound transactions, the order of events."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from assistly.storage.engines.postgres import PostgresBackend
from assistly.storage.engines.postgres.batches import chunks
from assistly.storage.engines.postgres.clock import ServerClock
from assistly.storage.engines.sql.database import Executor
from assistly.storage.errors import (
    ConfigurationError,
    InvalidValue,
    OutcomeUnknown,
    StorageClosed,
    StorageUnavailable,
)
from assistly.storage.records import Failed, JobStatus, NewEvent, NewJob, Posted, Released, Snoozed
from assistly.storage.storage import Storage
from postgres_proxy import Proxy
from postgres_server import TemporaryServer

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)


@pytest.fixture
def open_storage(database_url: str, schema: str) -> Iterator[Callable[..., Storage]]:
    opened: list[Storage] = []

    def open_one(url: str = database_url, **options: Any) -> Storage:
        backend = PostgresBackend(url, **{"schema": schema, **options})
        opened.append(Storage(backend, auto_prune=False))
        return opened[-1]

    yield open_one
    for storage in opened:
        storage.close()


@pytest.fixture
def storage(open_storage: Callable[..., Storage]) -> Storage:
    return open_storage()


@pytest.fixture(scope="module")
def server() -> Iterator[TemporaryServer]:
    with closing(TemporaryServer()) as server:
        yield server


@pytest.fixture
def proxy(server: TemporaryServer) -> Iterator[Proxy]:
    with closing(Proxy(server.socket)) as proxy:
        yield proxy


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


# Opening


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


def test_missing_database(open_storage: Callable[..., Storage], database_url: str) -> None:
    storage = open_storage(make_conninfo(database_url, dbname="no_such_database"))
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
    with closing(Proxy(server.socket, silent=True)) as proxy, closing(PostgresBackend(proxy.url)) as backend:
        with within(5), pytest.raises(StorageUnavailable):
            backend.ping()


def test_repr_has_no_password() -> None:
    backend = PostgresBackend("postgresql://me:hunter2@host:5433,other:5434/db", schema="mine")
    assert repr(backend) == "PostgresBackend(postgresql://me@host,other:5433,5434/db schema=mine)"


def test_other_encodings_are_refused(open_storage: Callable[..., Storage], database_url: str) -> None:
    name = f"latin_{os.getpid()}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0".encode()
        )
        try:
            storage = open_storage(make_conninfo(database_url, dbname=name))
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


def test_close(storage: Storage) -> None:
    storage.ping()
    backend = storage._context.backend
    storage.close()
    storage.close()
    with pytest.raises(StorageClosed):
        backend.ping()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("pool-")]


# Connections


def test_first_call_after_a_restart(server: TemporaryServer, new_schema: Callable[[], str]) -> None:
    size = 8
    with closing(
        Storage(PostgresBackend(server.url, size, schema=new_schema()), auto_prune=False)
    ) as storage:
        barrier = threading.Barrier(size)

        def fill(_: int) -> None:
            with storage.transaction() as tx:
                tx.ping()
                barrier.wait()

        with ThreadPoolExecutor(size) as threads:
            list(threads.map(fill, range(size)))
        for use in (
            lambda: storage.nonces.register("n"),
            lambda: storage.sessions.update("u", lambda _: 1, default=0),
            storage.queue.counts,
        ):
            server.stop()
            server.start()
            with within(2):
                use()


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
        jobs = storage.queue._context.backend.jobs.settle
        assert jobs([], now=NOW) == []
        database = storage._context.backend._database  # type: ignore[attr-defined]
        database.write(lambda executor: executor.execute(database.dialect.render(_INSERT_NONCE)))
        assert proxy.cuts == 1
        assert storage.nonces.seen("n")


_INSERT_NONCE = "INSERT INTO {t}nonces (nonce, timestamp_ms) VALUES ('n', 1)"


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


def test_a_session_ended_by_the_administrator_is_replaced(storage: Storage, database_url: str) -> None:
    storage.nonces.register("first")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity "
            "WHERE application_name = 'assistly' AND datname = current_database()"
        )
    assert storage.nonces.register("second")


def test_an_exhausted_pool(open_storage: Callable[..., Storage]) -> None:
    storage = open_storage(pool_size=1)
    with storage.transaction() as tx, ThreadPoolExecutor(1) as threads:
        tx.nonces.register("n")
        assert storage.nonces.seen("n")
        with within(5), pytest.raises(StorageUnavailable, match="all 1 connections"):
            threads.submit(
                storage.nonces.seen,
                "n",
            ).result()
        assert threads.submit(tx.nonces.seen, "n").result()
    assert storage.nonces.seen("n")


def test_deadlocks_are_run_again(storage: Storage) -> None:
    database = storage._context.backend._database  # type: ignore[attr-defined]
    for name in "ab":
        storage.sessions.put(name, 0)
    barrier = threading.Barrier(2)
    runs: list[str] = []

    def work(order: str) -> Callable[[Executor], None]:
        def update(executor: Executor) -> None:
            runs.append(order)
            statement = database.dialect.render(
                "UPDATE {t}sessions SET version = version + 1 WHERE user_id = :user_id"
            )
            executor.execute(statement, {"user_id": order[0]})
            if len(runs) <= 2:
                barrier.wait()
            executor.execute(statement, {"user_id": order[1]})

        return update

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(database.write, [work("ab"), work("ba")]))
    assert len(runs) == 3
    assert [session.version for session in storage.sessions.list()] == [3, 3]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork(storage: Storage) -> None:
    storage.nonces.register("parent")
    with storage.transaction() as tx:
        tx.nonces.register("inside")
        child = os.fork()
        if child == 0:
            os._exit(_in_child(storage, tx))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert storage.nonces.seen("inside")
    assert storage.nonces.seen("child")


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


# Roles


@pytest.fixture
def role(storage: Storage, schema: str, database_url: str) -> Iterator[str]:
    storage.ping()
    name = f"role_{schema}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{name}" LOGIN'.encode())
        connection.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO "{name}"'.encode())
        connection.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO "{name}"'.encode())
        yield name
        connection.execute(f'DROP OWNED BY "{name}"'.encode())
        connection.execute(f'DROP ROLE "{name}"'.encode())


def test_a_role_that_may_only_read(
    role: str, storage: Storage, open_storage: Callable[..., Storage], database_url: str
) -> None:
    storage.events.append_many([NewEvent("a", 1), NewEvent("b", 2)])
    with pytest.raises(ZeroDivisionError), storage.transaction() as tx:
        tx.events.append("c", 3)
        raise ZeroDivisionError
    storage.events.append("d", 4)
    reader = open_storage(make_conninfo(database_url, user=role))
    assert reader.migrate() == []
    assert [event.event_type for event in reader.events.read_after(0)] == ["a", "b", "d"]
    assert reader.queue.counts()[JobStatus.POSTED] == 0
    with pytest.raises(ConfigurationError, match="assistly_nonces"):
        reader.nonces.register("n")


def test_a_role_that_may_not_create(
    role: str, open_storage: Callable[..., Storage], database_url: str, schema: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{schema}" TO "{role}"'.encode()
        )
        connection.execute(f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA "{schema}" TO "{role}"'.encode())
    writer = open_storage(make_conninfo(database_url, user=role))
    assert writer.queue.schedule("x", "hello").id == 1
    assert writer.events.append("a", 1).id == 1


def test_a_role_that_may_not_create_where_something_is_pending(
    role: str, open_storage: Callable[..., Storage], database_url: str, schema: str
) -> None:
    stranger = open_storage(make_conninfo(database_url, user=role), schema=f"{schema}_other")
    with pytest.raises(ConfigurationError, match="privilege"):
        stranger.ping()


def test_a_server_that_takes_no_writes(open_storage: Callable[..., Storage], database_url: str) -> None:
    open_storage().ping()
    storage = open_storage(make_conninfo(database_url, options="-c default_transaction_read_only=on"))
    assert storage.sessions.get("u") is None
    for write in (lambda: storage.nonces.register("n"), lambda: storage.sessions.update("u", lambda _: 1)):
        with pytest.raises(StorageUnavailable, match="no writes"):
            write()


# Bound connections


def test_bound_work_is_the_callers_to_commit(storage: Storage, database_url: str) -> None:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        bound = storage.bind(connection)
        bound.nonces.register("kept")
        bound.queue.schedule_many([NewJob("x", str(number)) for number in range(5)])
        assert not storage.nonces.seen("kept")
        connection.commit()
        assert storage.nonces.seen("kept")
        bound.sessions.update("u", lambda _: 1, default=0)
        connection.rollback()
    assert storage.sessions.get("u") is None
    assert storage.queue.counts()[JobStatus.SCHEDULED] == 5


def test_bound_autocommit(storage: Storage, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        bound = storage.bind(connection)
        bound.sessions.update("u", lambda data: data + 1, default=0)
        assert storage.sessions.get("u") is not None
        with pytest.raises(ZeroDivisionError), bound.transaction() as tx:
            tx.nonces.register("n")
            raise ZeroDivisionError
        with connection.transaction(force_rollback=True):
            bound.queue.schedule_many([NewJob("x", "1"), NewJob("x", "2")])
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert not storage.nonces.seen("n")
    assert storage.queue.list() == []


def test_an_error_in_bound_work_leaves_the_transaction_usable(storage: Storage, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        bound = storage.bind(connection)
        bound.nonces.register("n")
        with pytest.raises(ZeroDivisionError):
            bound.sessions.update("u", lambda _: 1 // 0, default=0)
        assert bound.sessions.get("u") is None
    assert storage.nonces.seen("n")


def test_bound_connections_of_any_configuration(storage: Storage, database_url: str) -> None:
    options = "-c timezone=Pacific/Kiritimati -c datestyle=SQL,DMY -c search_path="
    with psycopg.connect(database_url, options=options, cursor_factory=psycopg.ClientCursor) as connection:
        psycopg.types.json.set_json_loads(lambda _: "mine", connection)
        bound = storage.bind(connection)
        job = bound.queue.schedule("x", "late", LAST, metadata={"a": [1.0, None]})
        assert (job.scheduled_at, job.metadata) == (LAST, {"a": [1.0, None]})
        assert job.scheduled_at.tzinfo is UTC
        assert bound.events.append("a", {"b": 1}).payload == {"b": 1}


def test_what_cannot_be_bound(storage: Storage, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        pass
    with psycopg.connect(database_url, client_encoding="LATIN1") as latin:
        for unfit in (None, "postgresql://", connection, connection.cursor, latin):
            with pytest.raises(InvalidValue):
                storage.bind(unfit)


def test_min_gap_needs_read_committed(storage: Storage, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        bound = storage.bind(connection)
        assert bound.queue.schedule("x", "1", NOW, min_gap=timedelta(hours=1), now=NOW)
        connection.commit()
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with pytest.raises(InvalidValue, match="READ COMMITTED"):
            bound.queue.schedule("x", "2", NOW, min_gap=timedelta(hours=1), now=NOW)


# Transactions


def test_a_failed_statement_spoils_its_transaction_and_says_so(storage: Storage) -> None:
    storage.ping()
    database = storage._context.backend._database  # type: ignore[attr-defined]
    with pytest.raises(StorageUnavailable, match="nothing"), storage.transaction() as tx:
        tx.nonces.register("n")
        with pytest.raises(Exception, match="division"):
            database.read(lambda executor: executor.row("SELECT 1 / 0"))
    assert not storage.nonces.seen("n")
    with storage.transaction() as tx:
        tx.nonces.register("kept")
        with pytest.raises(StorageUnavailable), tx.transaction() as nested:
            nested.nonces.register("undone")
            with pytest.raises(Exception, match="division"):
                database.read(lambda executor: executor.row("SELECT 1 / 0"))
    assert (storage.nonces.seen("kept"), storage.nonces.seen("undone")) == (True, False)


def test_an_ended_transaction_is_closed(storage: Storage) -> None:
    backend = storage._context.backend
    with backend.transaction() as outer:
        with backend.transaction() as inner:
            inner.nonces.register("n", 1)
        with pytest.raises(StorageClosed):
            inner.nonces.seen("n")
        assert outer.nonces.seen("n")
    with pytest.raises(StorageClosed):
        outer.nonces.seen("n")


# Events


def read(storage: Storage, after: int = 0, **options: Any) -> list[int]:
    return [event.id for event in storage.events.read_after(after, **options)]


@pytest.mark.parametrize("event_type", [None, "a"])
def test_events_that_commit_out_of_order_are_not_missed(storage: Storage, event_type: str | None) -> None:
    with ThreadPoolExecutor(1) as threads:
        with storage.transaction() as tx:
            first = tx.events.append("a", 1).id
            second = threads.submit(storage.events.append, "a", 2).result().id
            assert (first, second) == (1, 2)
            assert threads.submit(read, storage, event_type=event_type).result() == []
            assert read(tx, event_type=event_type) == [1, 2]
        assert read(storage, event_type=event_type) == [1, 2]


@pytest.mark.parametrize("event_type", [None, "a"])
def test_ids_that_never_came_are_passed_over(storage: Storage, event_type: str | None) -> None:
    storage.events.append("a", 1)
    with pytest.raises(ZeroDivisionError), storage.transaction() as tx:
        tx.events.append("a", 2)
        raise ZeroDivisionError
    storage.events.append("a", 3)
    storage.events.append("b", 4)
    storage.events.append("a", 5)
    assert read(storage, event_type=event_type) == ([1, 3, 5] if event_type else [1, 3, 4, 5])
    assert read(storage, 1, event_type=event_type, limit=1) == [3]
    with storage.transaction() as tx:
        assert read(tx, event_type=event_type)[-1] == 5
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(storage.events.append, "a", 6).result().id == 6


def test_a_gap_is_waited_for_in_a_repeatable_read_transaction(storage: Storage, database_url: str) -> None:
    storage.events.append("a", 1)
    with storage.transaction() as tx, psycopg.connect(database_url) as connection:
        tx.events.append("a", 2)
        with ThreadPoolExecutor(1) as threads:
            threads.submit(storage.events.append, "a", 3).result()
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        assert read(storage.bind(connection)) == [1]


def test_readers_miss_nothing_among_many_writers(storage: Storage) -> None:
    writers, each = 4, 40
    storage.ping()
    seen: list[int] = []
    done = threading.Event()

    def write(writer: int) -> None:
        for number in range(each):
            if number % 5 == writer:
                storage.events.append_many([NewEvent("a", number), NewEvent("a", number)])
                continue
            try:
                with storage.transaction() as tx:
                    tx.events.append("a", number)
                    if number % 7 == 0:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass

    def follow() -> None:
        while True:
            last_round = done.is_set()
            page = read(storage, seen[-1] if seen else 0, limit=7)
            seen.extend(page)
            if last_round and not page:
                return

    with ThreadPoolExecutor(writers + 1) as threads:
        follower = threads.submit(follow)
        list(threads.map(write, range(writers)))
        done.set()
        follower.result()
    everything = storage.events.list(limit=1000)
    assert seen == sorted(event.id for event in everything)


# Batches and sums


def test_bulk_insert_keeps_the_order_and_passes_over_taken_keys(storage: Storage) -> None:
    kept = storage.queue.schedule("x", "kept", idempotency_key="taken", now=NOW)
    keys = ["taken", "k", None, "k", None, "l"]
    contents = ["kept", "k", "1", "k", "2", "l"]
    jobs = storage.queue.schedule_many(
        [NewJob("x", text, idempotency_key=key) for text, key in zip(contents, keys, strict=True)], now=NOW
    )
    assert [job.content for job in jobs] == contents
    assert (jobs[0].id, jobs[1].id) == (kept.id, jobs[3].id)
    assert jobs[1].id < jobs[2].id < jobs[4].id < jobs[5].id


def test_settling_a_batch_of_every_kind(storage: Storage) -> None:
    storage.queue.schedule_many([NewJob("x", str(number), max_retries=2) for number in range(7)], now=NOW)
    claimed = storage.queue.claim_due(worker_id="w", now=NOW)
    later = NOW + timedelta(hours=1)
    settled = storage.queue.settle(
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


def test_counters_outgrow_a_bigint(storage: Storage) -> None:
    backend = storage._context.backend
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


# The clock


def test_the_servers_clock_decides(storage: Storage, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        before = connection.execute("SELECT clock_timestamp()").fetchall()[0][0]
        now = storage._context.backend.now()
        after = connection.execute("SELECT clock_timestamp()").fetchall()[0][0]
    assert now.tzinfo is UTC
    assert before - timedelta(milliseconds=50) < now < after + timedelta(milliseconds=50)


def test_the_clock_asks_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    elapsed = 100.0
    asked: list[float] = []
    monkeypatch.setattr("assistly.storage.engines.postgres.clock.ticks", lambda: elapsed)

    def ask() -> datetime:
        if elapsed >= 102:
            raise StorageUnavailable("gone")
        asked.append(elapsed)
        return NOW + timedelta(seconds=elapsed)

    clock = ServerClock()
    for elapsed in (100.0, 100.5, 100.999, 101.0, 101.5, 102.5):
        assert clock.now(ask) == NOW + timedelta(seconds=elapsed)
    assert asked == [100.0, 101.0]
    with pytest.raises(StorageUnavailable):
        ServerClock().now(ask)
