"""A server, or a network, that is silent: every call ends, tells the truth, and the next one works."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from assistly.storage import AsyncStorage, NewJob, OutcomeUnknown, Storage, StorageUnavailable
from assistly.storage.engines.postgres import PostgresBackend, limits, maintenance, wakeups
from assistly.storage.errors import StorageClosed
from postgres_proxy import Proxy
from postgres_server import TemporaryServer
from waiting import until

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TIMEOUT = 0.3
CANCEL = 0.05
# What a busy machine adds. Without limits, these tests would wait for ever.
SLACK = 3.0
FAST_OR_NOT = pytest.mark.parametrize("fast_path", [True, False], ids=["libpq", "cursor"])

Open = Callable[..., Storage]


@pytest.fixture
def open_storage(proxy: Proxy, schema: str) -> Iterator[Open]:
    with ExitStack() as opened:

        def open_one(url: str = "", *, timeout: float = TIMEOUT, size: int = 4, **options: Any) -> Storage:
            options |= {"schema": schema, "timeout": timedelta(seconds=timeout)}
            storage = Storage(PostgresBackend(url or proxy.url, size, **options), auto_prune=False)
            opened.enter_context(closing(storage))
            storage.ping()
            return storage

        yield open_one


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a server that does not take the request to cancel either."""
    monkeypatch.setattr(limits, "CANCEL_SECONDS", CANCEL)


silent = pytest.mark.usefixtures("_impatient")


def fill_pool(storage: Storage, size: int) -> None:
    pool = database(storage)._pool
    for connection in [pool.take() for _ in range(size)]:
        pool.give_back(connection)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds + SLACK


def database(storage: Storage) -> Any:
    return storage._context.backend._database  # type: ignore[attr-defined]


def process(storage: Storage) -> int:
    pid: int = database(storage).read(lambda executor: executor.row("SELECT pg_backend_pid()"))[0]
    return pid


def schedule(storage: Storage) -> object:
    return storage.queue.schedule("x", "content", NOW, now=NOW)


def schedule_two(storage: Storage) -> object:
    return storage.queue.schedule_many([NewJob("x", str(number), NOW) for number in range(2)], now=NOW)


def register_two(storage: Storage) -> object:
    return storage.nonces.register_many([("a", NOW), ("b", NOW)])


def schedule_a_thousand(storage: Storage) -> object:
    return storage.queue.schedule_many([NewJob("x", "c" * 1000, NOW) for _ in range(1000)], now=NOW)


def update(storage: Storage) -> object:
    return storage.sessions.update("u", lambda data: data + 1, default=0)


def transact(storage: Storage) -> object:
    with storage.transaction() as tx:
        tx.nonces.register("n", NOW)
        return tx.sessions.put("u", 1)


CALLS: dict[str, tuple[Callable[[Storage], object], str, type[Exception]]] = {
    "a read": (lambda storage: storage.sessions.get("u"), "SELECT user_id", StorageUnavailable),
    "a write": (schedule, "INSERT INTO", OutcomeUnknown),
    "a batch": (schedule_two, "INSERT INTO", StorageUnavailable),
    "a batch in one statement": (register_two, "INSERT INTO", OutcomeUnknown),
    "the beginning of a copy": (schedule_a_thousand, "COPY", StorageUnavailable),
    "the data of a copy": (schedule_a_thousand, "PGCOPY", StorageUnavailable),
    "the commit of a copy": (schedule_a_thousand, "COMMIT\0", OutcomeUnknown),
    "a statement in a short transaction": (update, "FOR UPDATE", StorageUnavailable),
    "the commit of a short transaction": (update, "COMMIT\0", OutcomeUnknown),
    "the beginning of a transaction": (transact, "BEGIN", StorageUnavailable),
    "a statement in a transaction": (transact, "INSERT INTO", StorageUnavailable),
    "the commit of a transaction": (transact, "COMMIT\0", OutcomeUnknown),
}


@silent
@FAST_OR_NOT
@pytest.mark.parametrize("name", CALLS)
def test_a_call_ends_and_the_next_one_works(
    proxy: Proxy, open_storage: Open, name: str, fast_path: bool
) -> None:
    call, word, error = CALLS[name]
    storage = open_storage(fast_path=fast_path, timeout=60)
    before = process(storage)
    database(storage).limits.seconds = TIMEOUT
    proxy.hold_at(word)
    with within(TIMEOUT + CANCEL), pytest.raises(error) as caught:
        call(storage)
    assert type(caught.value) is error
    said = "the server did not answer within 0.3 s (STORAGE_TIMEOUT_SECONDS is 0.3)"
    assert said in str(caught.value)
    assert str(caught.value).startswith(said) is (error is StorageUnavailable)
    proxy.forward()
    database(storage).limits.seconds = 60.0
    call(storage)
    assert process(storage) != before


@FAST_OR_NOT
def test_a_slow_statement_is_cancelled_and_its_connection_stays(open_storage: Open, fast_path: bool) -> None:
    storage = open_storage(fast_path=fast_path)
    before = process(storage)
    with within(TIMEOUT), pytest.raises(StorageUnavailable, match="the statement was cancelled"):
        database(storage).autocommit(lambda executor: executor.rows("SELECT pg_sleep(600)"))
    assert process(storage) == before


@FAST_OR_NOT
def test_a_slow_statement_of_a_transaction_is_cancelled(open_storage: Open, fast_path: bool) -> None:
    storage = open_storage(fast_path=fast_path)
    before = process(storage)
    with pytest.raises(StorageUnavailable, match="cancelled"), storage.transaction() as tx:
        tx.nonces.register("n", NOW)
        tx._context.backend._store._database.select("SELECT pg_sleep(600)", {})  # type: ignore[attr-defined]
    assert not storage.nonces.seen("n")
    assert process(storage) == before


def test_a_server_that_talks_all_the_time_has_the_same_limit(open_storage: Open) -> None:
    noise = "DO $$ BEGIN LOOP RAISE WARNING '%', repeat('n', 2000); PERFORM pg_sleep(0.01); END LOOP; END $$"
    storage = open_storage()
    with within(TIMEOUT), pytest.raises(StorageUnavailable, match="cancelled"):
        database(storage).read(lambda executor: executor.command(noise))


def test_the_limit_is_that_of_the_whole_call(proxy: Proxy, open_storage: Open) -> None:
    storage = open_storage(timeout=0.4)

    def slowly(executor: Any) -> None:
        for _ in range(20):
            executor.rows("SELECT pg_sleep(0.1)")

    with within(0.4), pytest.raises(StorageUnavailable, match="cancelled"):
        database(storage).in_transaction(slowly)


def test_a_statement_for_many_records_may_take_longer(open_storage: Open) -> None:
    storage = open_storage()

    def wait(records: int, seconds: float) -> None:
        statement = "SELECT pg_sleep(%(seconds)s)"
        database(storage).autocommit(
            lambda executor: executor.batch(records, statement, {"seconds": seconds})
        )

    wait(1001, 0.4)
    with pytest.raises(StorageUnavailable, match=r"within 0\.3 s"):
        wait(1000, 60)


@silent
def test_siblings_of_a_silent_connection_are_not_waited_for(proxy: Proxy, open_storage: Open) -> None:
    storage = open_storage(size=3)
    fill_pool(storage, 3)
    pool = database(storage)._pool
    idle, in_use = list(pool._idle), pool.take()
    proxy.hold()
    with pytest.raises(StorageUnavailable):
        storage.sessions.get("u")
    pool.give_back(in_use)
    assert all(connection.connection.closed for connection in idle)
    assert pool._idle == []
    proxy.forward()


@silent
def test_a_ping_has_a_limit_of_its_own(
    proxy: Proxy, open_storage: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assistly.storage.engines.postgres import database as module

    storage = open_storage(timeout=60)
    monkeypatch.setattr(module, "PING_SECONDS", 0.2)
    proxy.hold()
    with within(0.2), pytest.raises(StorageUnavailable, match=r"within 0\.2 s"):
        storage.ping()
    with within(0.2), pytest.raises(StorageUnavailable, match=r"within 0\.2 s"):
        storage.ping()
    proxy.forward()
    monkeypatch.undo()
    assert storage.ping()


@silent
def test_the_time_is_asked_for_once(proxy: Proxy, open_storage: Open) -> None:
    """The call that needs it fails, instead of waiting once more."""
    storage = open_storage(timeout=60)
    storage.queue.schedule("x", "content")
    database(storage).server.clock._anchor = database(storage).server.clock._anchor._replace(at=-1e9)
    database(storage).limits.seconds = TIMEOUT
    proxy.hold()
    with pytest.raises(StorageUnavailable, match=r"within 0\.3 s"):
        storage.queue.schedule("x", "content")


@silent
@pytest.mark.parametrize("autocommit", [True, False])
def test_a_bound_connection_has_the_same_limit(proxy: Proxy, open_storage: Open, autocommit: bool) -> None:
    storage = open_storage()
    with psycopg.connect(proxy.url, autocommit=autocommit) as connection:
        bound = storage.bind(connection)
        bound.nonces.register("n", NOW)
        assert "wait" not in vars(connection)
        proxy.hold()
        kind = OutcomeUnknown if autocommit else StorageUnavailable
        with within(TIMEOUT + CANCEL), pytest.raises(kind) as caught:
            bound.nonces.register("m", NOW)
        assert type(caught.value) is kind
        assert connection.closed
        assert "wait" not in vars(connection)
        proxy.forward()


@silent
def test_binding_a_connection_has_the_same_limit(proxy: Proxy, open_storage: Open) -> None:
    storage = open_storage()
    with psycopg.connect(proxy.url) as connection:
        proxy.hold()
        with within(TIMEOUT + CANCEL), pytest.raises(StorageUnavailable, match=r"within 0\.3 s"):
            storage.bind(connection)
        assert connection.closed
        proxy.forward()


@silent
def test_a_copy_on_a_bound_connection_has_it_too(proxy: Proxy, open_storage: Open) -> None:
    storage = open_storage()
    with psycopg.connect(proxy.url) as connection:
        bound = storage.bind(connection)
        proxy.hold_at("PGCOPY")
        with within(TIMEOUT + CANCEL), pytest.raises(StorageUnavailable):
            schedule_a_thousand(bound)
        assert connection.closed
        proxy.forward()


def test_a_slow_statement_on_a_bound_connection_is_cancelled(open_storage: Open, proxy: Proxy) -> None:
    storage = open_storage()
    with psycopg.connect(proxy.url) as connection:
        bound = storage.bind(connection)
        with pytest.raises(StorageUnavailable, match="cancelled"):
            bound._context.backend._store._database.select("SELECT pg_sleep(600)", {})  # type: ignore[attr-defined]
        connection.rollback()
        assert bound.nonces.register("n", NOW)


def test_a_rollback_is_not_waited_for(
    proxy: Proxy, open_storage: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assistly.storage.engines.postgres import transaction as module

    monkeypatch.setattr(module, "ROLLBACK_SECONDS", 0.1)
    storage = open_storage(timeout=60)
    with within(0.1), pytest.raises(ZeroDivisionError), storage.transaction() as tx:
        tx.nonces.register("n", NOW)
        proxy.hold()
        raise ZeroDivisionError
    proxy.forward()
    assert not storage.nonces.seen("n")


def test_closing_waits_for_no_silent_server(proxy: Proxy, open_storage: Open) -> None:
    """With transactions open, a call in progress, and notifications to send."""
    storage = open_storage(timeout=60)
    transactions = [storage.transaction() for _ in range(2)]
    for transaction in transactions:
        transaction.begin().ping()
    storage.ping()
    pool = database(storage)._pool
    database(storage).wait(0)
    until(lambda: database(storage)._wakeups.is_listening)
    with ThreadPoolExecutor(2) as threads:
        proxy.hold()
        call = threads.submit(storage.sessions.get, "u")
        until(lambda: not pool._idle)
        connecting = threads.submit(storage.sessions.get, "u")
        until(lambda: pool._attempts)
        database(storage).notify_of_jobs()
        with within(2):
            storage.close()
        with within(2), pytest.raises(StorageUnavailable, match="the storage was closed"):
            call.result()
        with within(0), pytest.raises(StorageClosed):
            connecting.result()
    for transaction in transactions:
        with pytest.raises(StorageClosed):
            transaction.end(None)


@silent
def test_a_cancelled_await_does_not_hold_the_loop_up(proxy: Proxy, open_storage: Open) -> None:
    storage = open_storage(timeout=60)
    pool = database(storage)._pool

    async def cancel() -> None:
        async with AsyncStorage(storage, threads=2) as tasks:
            proxy.hold()
            calls = [
                asyncio.create_task(tasks.sessions.get("u")),
                asyncio.create_task(tasks.nonces.register("n")),
            ]
            while pool._idle or not pool._attempts:
                await asyncio.sleep(0.01)
            for call in calls:
                call.cancel()
            assert all(
                isinstance(result, asyncio.CancelledError)
                for result in await asyncio.gather(*calls, return_exceptions=True)
            )

    with within(2):
        asyncio.run(cancel())


@silent
def test_closing_ends_a_vacuum_that_does_not_answer(
    proxy: Proxy, open_storage: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "_DEAD_ROWS", -1)
    storage = open_storage(timeout=60)
    backend = storage._context.backend
    with ThreadPoolExecutor(1) as threads:
        proxy.hold_at("VACUUM")
        running = threads.submit(backend.maintain)
        until(lambda: not proxy._may_forward.is_set())
        with within(2):
            storage.close()
        with within(1):
            running.result()


def test_the_listener_is_replaced(proxy: Proxy, open_storage: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeups, "_ANSWER_SECONDS", 0.2)
    storage = open_storage()
    listener = database(storage)._wakeups
    database(storage).wait(0)
    until(lambda: listener.is_listening)
    proxy.hold()
    listener.notify()
    until(lambda: not listener.is_listening)
    proxy.forward()
    until(lambda: listener.is_listening)


def test_attempts_to_connect_do_not_pile_up(proxy: Proxy, open_storage: Open) -> None:
    storage = open_storage(size=2)
    database(storage)._pool.close_idle()
    proxy.hold()
    before = proxy.connections
    pool = database(storage)._pool
    for _ in range(6):
        with pytest.raises(StorageUnavailable, match=r"no connection to 127\.0\.0\.1:\d+ within 0.05 s"):
            pool.take(0.05)
    assert proxy.connections - before == 2
    connecting = [thread for thread in threading.enumerate() if thread.name == "assistly-connect"]
    assert len(connecting) == 2
    proxy.forward()
    assert storage.ping()


@silent
def test_threads_that_wait_for_a_failing_check_of_the_schema_fail_with_it(proxy: Proxy, schema: str) -> None:
    backend = PostgresBackend(proxy.url, 4, schema=schema, timeout=timedelta(seconds=0.5))
    with closing(Storage(backend, auto_prune=False)) as storage, ThreadPoolExecutor(4) as threads:
        fill_pool(storage, 4)
        proxy.hold_at("pg_class")
        with within(1):
            calls = [threads.submit(storage.sessions.get, "u") for _ in range(4)]
            for call in calls:
                with pytest.raises(StorageUnavailable):
                    call.result()
        proxy.forward()
        assert storage.sessions.get("u") is None


@silent
def test_a_server_that_is_stopped_and_continued(
    server: TemporaryServer, schema: str, open_storage: Open
) -> None:
    storage = open_storage(server.url)
    before = process(storage)
    with server.suspended(), within(TIMEOUT + CANCEL), pytest.raises(StorageUnavailable):
        storage.sessions.get("u")
    assert storage.sessions.get("u") is None
    assert process(storage) != before


@pytest.mark.parametrize(("given", "expected"), [("", "10000"), ("&tcp_user_timeout=7000", "7000")])
def test_the_kernel_gives_up_what_it_cannot_send(
    proxy: Proxy, open_storage: Open, given: str, expected: str
) -> None:
    storage = open_storage(f"{proxy.url}{given}")
    limit = socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT

    def read(executor: Any) -> int:
        with socket.socket(fileno=os.dup(executor.connection.fileno())) as copy:
            return copy.getsockopt(*limit)

    assert database(storage).read(read) == int(expected)


@pytest.mark.parametrize("timeout", [0, -1, None, 30, "30"])
def test_what_is_no_limit(timeout: Any) -> None:
    wrong = timedelta(seconds=timeout) if timeout in (0, -1) else timeout
    with pytest.raises(Exception, match="STORAGE_TIMEOUT_SECONDS"):
        PostgresBackend("postgresql://host/d", timeout=wrong)
