"""Several hosts, servers that have no connection left, and sessions that may no longer write."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from assistly.storage import NewJob, PostgresBackend, Storage, StorageUnavailable, open_storage
from assistly.storage.engines.postgres.connections import Hosts, ServerIsFull, raw_connection
from assistly.storage.engines.postgres.conninfo import Target
from postgres_proxy import Proxy
from waiting import until

PATIENCE = 30.0
READ_ONLY = "SET default_transaction_read_only = on"


def database(storage: Storage) -> Any:
    return storage._context.idle_backend._database  # type: ignore[attr-defined]


@contextmanager
def deaf() -> Iterator[int]:
    """The port of a host that drops packets: nobody accepts, and the queue of connections is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port: int = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port
        for filler in fillers:
            filler.close()


@contextmanager
def silent() -> Iterator[int]:
    """The port of a host that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("first", [deaf, silent])
def test_the_next_host_is_used(first: Any, database_url: str, schema: str) -> None:
    given = conninfo_to_dict(database_url)
    with first() as port:
        hosts = {"host": f"127.0.0.1,{given['host']}", "port": f"{port},{given.get('port') or 5432}"}
        url = make_conninfo(database_url, connect_timeout=1, **hosts)
        with open_storage(engine="postgres", database_url=url, schema=schema, auto_prune=False) as storage:
            pool = database(storage)._pool
            assert len(pool._idle) == 1
            assert storage.nonces.register("n")
            assert len(pool._idle) == 1


def addresses_of(monkeypatch: pytest.MonkeyPatch, name: str, addresses: list[str]) -> None:
    """Let a name have these addresses."""
    look_up = socket.getaddrinfo

    def answer(host: Any, *args: Any, **options: Any) -> Any:
        if host != name:
            return look_up(host, *args, **options)
        return [found for each in addresses for found in look_up(each, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def test_the_next_address_of_a_name_is_used(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, schema: str
) -> None:
    """Each address of a name takes as long as a host."""
    addresses_of(monkeypatch, "storage.test", ["127.0.0.2", "127.0.0.3", "127.0.0.1"])
    port = int(conninfo_to_dict(proxy.url)["port"] or 0)
    with (
        socket.create_server(("127.0.0.2", port), backlog=100),
        socket.create_server(("127.0.0.3", port), backlog=100),
    ):
        url = make_conninfo(proxy.url, host="storage.test")
        storage = open_storage(engine="postgres", database_url=url, schema=schema, auto_prune=False)
        with storage:
            assert storage.nonces.register("n")


def test_where_none_answers_the_message_says_so() -> None:
    with silent() as one, silent() as other:
        url = f"postgresql://me:hunter2@127.0.0.1:{one},127.0.0.1:{other}/db?sslmode=disable"
        with closing(PostgresBackend(url, 2)) as backend:
            pool = database_of(backend)._pool
            for _ in range(4):
                with pytest.raises(StorageUnavailable) as caught:
                    pool.take(0.05)
                said = f"no connection to 127.0.0.1:{one}, 127.0.0.1:{other} within 0.05 s"
                assert str(caught.value) == said


def database_of(backend: PostgresBackend) -> Any:
    return backend._database


@pytest.mark.parametrize(
    ("url", "text", "seconds"),
    [
        ("postgresql://a/d", "a:5432", 4.5),
        ("postgresql://a,b:1,c:2/d", "a:5432, b:1, c:2", 10.5),
        ("host=a,b port=7 connect_timeout=10", "a:7, b:7", 21.5),
        ("hostaddr=127.0.0.1 connect_timeout=1", "127.0.0.1:5432", 3.5),
        ("host=/tmp,b connect_timeout=0", "/tmp:5432, b:5432", 261.5),
        ("dbname=d", "localhost:5432", 4.5),
        ("host=a,b target_session_attrs=prefer-standby", "a:5432, b:5432", 13.5),
    ],
)
def test_hosts_and_their_limit(monkeypatch: pytest.MonkeyPatch, url: str, text: str, seconds: float) -> None:
    for variable in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGCONNECT_TIMEOUT"):
        monkeypatch.delenv(variable, raising=False)
    assert Hosts.of(Target.parse(url)) == (text, seconds)


def test_hosts_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "a,b")
    monkeypatch.setenv("PGPORT", "1,2")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "4")
    assert Hosts.of(Target.parse("dbname=d")) == ("a:1, b:2", 9.5)


@pytest.fixture
def crowded(role: str, database_url: str, open_postgres: Callable[..., Storage]) -> Storage:
    """On a server that lets two connections of its role in, with a pool of four."""
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f'ALTER ROLE "{role}" CONNECTION LIMIT 2'.encode())
    return open_postgres(make_conninfo(database_url, user=role), pool_size=4)


def test_callers_wait_for_a_connection_of_their_own(crowded: Storage) -> None:
    pool = database(crowded)._pool
    lent = [pool.take(), pool.take()]
    with ThreadPoolExecutor(2) as threads:
        waiters = [threads.submit(pool.take) for _ in range(2)]
        until(lambda: pool._full and pool.waiting == 2)
        for connection in lent:
            pool.give_back(connection)
        assert {waiter.result(PATIENCE) for waiter in waiters} == set(lent)


def test_many_callers_share_the_connections_that_there_are(crowded: Storage) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda _: crowded.sessions.get("u"), range(100))) == [None] * 100


def test_without_one_of_their_own_they_try_again(crowded: Storage, database_url: str, role: str) -> None:
    others = [psycopg.connect(make_conninfo(database_url, user=role)) for _ in range(2)]
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(crowded.sessions.get, "u")
        until(lambda: database(crowded)._pool._full)
        for other in others:
            other.close()
        assert call.result(PATIENCE) is None


def test_the_listener_leaves_the_last_connection_to_the_calls(
    crowded: Storage, database_url: str, role: str
) -> None:
    crowded.ping()
    crowded.queue.wait(0.01)
    until(lambda: database(crowded)._wakeups.is_listening)
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f'ALTER ROLE "{role}" CONNECTION LIMIT 1'.encode())
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE usename = %s AND application_name = 'assistly'",
            [role],
        )
    assert crowded.sessions.get("u") is None


def test_at_the_limit_they_say_why(crowded: Storage, database_url: str, role: str) -> None:
    others = [psycopg.connect(make_conninfo(database_url, user=role)) for _ in range(2)]
    pool = database(crowded)._pool
    with pytest.raises(StorageUnavailable, match=r"free within 0\.3 s: .*too many connections for role"):
        pool.take(0.3)
    for other in others:
        other.close()
    assert crowded.sessions.get("u") is None
    lent = [pool.take(), pool.take()]
    with pytest.raises(StorageUnavailable, match="too many connections"):
        pool.take(0.3)
    for connection in lent:
        pool.give_back(connection)


@pytest.mark.parametrize(
    "said",
    [
        "FATAL:  sorry, too many clients already",
        'FATAL:  too many connections for role "bot"',
        'FATAL:  too many connections for database "bots"',
        "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
        "FATAL:  no more connections allowed (max_client_conn)",
    ],
)
def test_what_a_full_server_says(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise psycopg.OperationalError(f"connection failed: {said}")

    monkeypatch.setattr(psycopg, "connect", refuse)
    with pytest.raises(ServerIsFull):
        raw_connection(Target.parse("postgresql://host/d"))


def transact(storage: Storage) -> None:
    with storage.transaction() as tx:
        tx.nonces.register("n")


def copy(storage: Storage) -> None:
    storage.queue.schedule_many([NewJob("x", str(number)) for number in range(200)])


WRITES: dict[str, tuple[Callable[[Storage], object], bool]] = {
    "one statement": (lambda storage: storage.nonces.register("n"), True),
    "a short transaction": (lambda storage: storage.sessions.update("u", lambda _: 1, default=0), False),
    "a batch": (lambda storage: storage.nonces.register_many([("a", None), ("b", None)]), True),
    "a copy": (copy, False),
    "a transaction": (transact, False),
}


@pytest.mark.parametrize("name", WRITES)
def test_sessions_that_may_no_longer_write_are_dropped(
    open_postgres: Callable[..., Storage], name: str
) -> None:
    """As after a failover. The new connections are to the server that the URL leads to now."""
    write, is_repeated = WRITES[name]
    storage = open_postgres(pool_size=3)
    storage.ping()
    pool = database(storage)._pool
    old = [pool.take() for _ in range(3)]
    for connection in old:
        connection.executor.command(READ_ONLY)
        pool.give_back(connection)
    if not is_repeated:
        with pytest.raises(StorageUnavailable, match="no writes"):
            write(storage)
    write(storage)
    assert all(connection.connection.closed for connection in old)


def test_the_listener_leaves_a_server_that_may_no_longer_write(
    open_postgres: Callable[..., Storage],
) -> None:
    storage = open_postgres()
    storage.ping()
    listener = database(storage)._wakeups
    database(storage).wait(0)
    until(lambda: listener.is_listening)
    before = listener._connection
    database(storage).read(lambda executor: executor.command(READ_ONLY))
    assert storage.nonces.register("n")
    until(lambda: listener.is_listening and listener._connection is not before)
    assert before.closed
