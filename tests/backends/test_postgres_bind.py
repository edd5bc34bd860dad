"""Which connections of a caller are to the storage's database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from assistly.storage import AsyncStorage, InvalidValue, PostgresBackend, Storage, StorageUnavailable
from assistly.storage.engines.postgres import transaction
from assistly.storage.engines.postgres.executor import PostgresExecutor
from assistly.storage.engines.postgres.identity import Identities, Identity, ask
from postgres_pooler import PgBouncer, TransactionPooler, pgbouncer
from postgres_server import TemporaryServer


def migrate(url: str, schema: str) -> None:
    with Storage(PostgresBackend(url, schema=schema), auto_prune=False) as storage:
        storage.migrate()


@pytest.fixture
def other_database(postgres: Storage, own_database: str, schema: str) -> str:
    """On the same server, with a schema of the same name."""
    postgres.ping()
    migrate(own_database, schema)
    return own_database


@pytest.fixture
def other_server(postgres: Storage, server: TemporaryServer, schema: str) -> str:
    """With a database and a schema of the same names. Both servers come from copies of one folder."""
    postgres.ping()
    migrate(server.url, schema)
    return server.url


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The callers' connections that were asked for their database since then."""
    connections: list[Any] = []

    def ask_and_note(executor: PostgresExecutor) -> Identity | None:
        connections.append(executor.connection)
        return ask(executor)

    monkeypatch.setattr(transaction, "ask", ask_and_note)
    return connections


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("autocommit", [False, True])
def test_another_database(postgres: Storage, other_database: str, autocommit: bool, begins: bool) -> None:
    with psycopg.connect(other_database, autocommit=autocommit) as connection:
        if begins:
            connection.execute("BEGIN")
        before = connection.info.transaction_status
        for _ in range(2):
            with pytest.raises(InvalidValue, match=r"to the database 'own_\w+', but this storage is in '"):
                postgres.bind(connection)
        assert connection.info.transaction_status == before
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_database_of_the_same_name_on_another_server(postgres: Storage, other_server: str) -> None:
    with (
        psycopg.connect(other_server) as connection,
        pytest.raises(InvalidValue, match=r"to the database 'postgres' on another server \(.+\) than this"),
    ):
        postgres.bind(connection)


@pytest.mark.parametrize("kind", ["driver", "sqlalchemy"])
def test_with_await(other_database: str, database_url: str, schema: str, kind: str) -> None:
    async def main() -> None:
        backend = PostgresBackend(database_url, schema=schema)
        async with AsyncStorage(Storage(backend, auto_prune=False)) as storage:
            if kind == "driver":
                async with await psycopg.AsyncConnection.connect(other_database) as connection:
                    with pytest.raises(InvalidValue, match="to the database 'own_"):
                        await storage.bind(connection)
                    assert connection.info.transaction_status == TransactionStatus.IDLE
                return
            sqlalchemy = pytest.importorskip("sqlalchemy.ext.asyncio")
            engine = sqlalchemy.create_async_engine(
                "postgresql+psycopg://",
                async_creator=lambda: psycopg.AsyncConnection.connect(other_database),
            )
            async with sqlalchemy.AsyncSession(engine) as session:
                with pytest.raises(InvalidValue, match="to the database 'own_"):
                    await storage.bind(session)
            await engine.dispose()

    asyncio.run(main())


def test_a_transaction_that_has_failed(postgres: Storage, database_url: str, other_database: str) -> None:
    """It answers nothing, so that the connection is checked before the first call after it."""
    for url in (database_url, other_database):
        with psycopg.connect(url) as connection:
            with suppress(psycopg.errors.DivisionByZero):
                connection.execute("SELECT 1 / 0")
            bound = postgres.bind(connection)
            with pytest.raises(StorageUnavailable, match="an earlier call"):
                bound.nonces.register("n")
            connection.rollback()
            if url == other_database:
                with pytest.raises(InvalidValue, match="to the database 'own_"):
                    bound.nonces.register("n")
            else:
                assert bound.nonces.register("n")
                connection.rollback()


def test_bind_begins_no_transaction(postgres: Storage, database_url: str) -> None:
    """Otherwise the block of the caller would be a savepoint, and nobody would commit."""
    with closing(psycopg.connect(database_url)) as connection:
        bound = postgres.bind(connection)
        assert connection.info.transaction_status == TransactionStatus.IDLE
        with connection.transaction():
            bound.nonces.register("n")
    assert postgres.nonces.seen("n")


def test_a_connection_is_asked_once(postgres: Storage, database_url: str, asked: list[Any]) -> None:
    with psycopg.connect(database_url) as connection, psycopg.connect(database_url) as other:
        for _ in range(3):
            postgres.bind(connection).nonces.seen("n")
            with postgres.bind(connection).transaction() as tx:
                tx.bind(connection).nonces.seen("n")
        postgres.bind(other)
        assert asked == [connection, other]


def test_an_async_connection_is_asked_once(database_url: str, schema: str, asked: list[Any]) -> None:
    async def main() -> None:
        backend = PostgresBackend(database_url, schema=schema)
        async with (
            AsyncStorage(Storage(backend, auto_prune=False)) as storage,
            await psycopg.AsyncConnection.connect(database_url) as connection,
        ):
            for _ in range(3):
                bound = await storage.bind(connection)
                await bound.nonces.seen("n")

    asyncio.run(main())
    assert len(asked) == 1


def test_a_transaction_of_the_storage_asks_on_its_own_connection(
    open_postgres: Callable[..., Storage], database_url: str
) -> None:
    """The pool may have no other one."""
    storage = open_postgres(pool_size=1)
    with psycopg.connect(database_url) as connection, storage.transaction() as tx:
        assert tx.bind(connection).nonces.register("n")
    assert storage.nonces.seen("n")


def test_a_role_without_rights(
    postgres: Storage, other_database: str, database_url: str, schema: str
) -> None:
    name = f"nobody_{schema}"
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f'CREATE ROLE "{name}" LOGIN'.encode())
        with psycopg.connect(database_url) as connection:
            connection.execute(f'SET ROLE "{name}"'.encode())
            postgres.bind(connection)
        with psycopg.connect(other_database, options="-c default_transaction_read_only=on") as connection:
            connection.execute(f'SET ROLE "{name}"'.encode())
            with pytest.raises(InvalidValue, match="to the database"):
                postgres.bind(connection)
        admin.execute(f'DROP ROLE "{name}"'.encode())


@pytest.mark.parametrize("kind", ["own", "pgbouncer"])
def test_behind_a_pooler(server: TemporaryServer, schema: str, kind: str) -> None:
    """One has the connection of a pooler, and the other the server's own."""
    if kind == "pgbouncer" and pgbouncer() is None:
        pytest.skip("PgBouncer is not installed: the pooler of these tests stands in for it")

    def open_pooler() -> PgBouncer | TransactionPooler:
        if kind == "pgbouncer":
            return PgBouncer(server.socket, user=server.socket.owner())
        return TransactionPooler(server.socket)

    with closing(open_pooler()) as pooler:
        for of_storage, of_caller in ((pooler.url, server.url), (server.url, pooler.url)):
            with (
                Storage(PostgresBackend(of_storage, schema=schema), auto_prune=False) as storage,
                psycopg.connect(of_caller) as connection,
            ):
                storage.bind(connection).nonces.seen("n")


def test_after_a_restart_of_the_server(server: TemporaryServer, schema: str) -> None:
    with Storage(PostgresBackend(server.url, schema=schema), auto_prune=False) as storage:
        with psycopg.connect(server.url) as connection:
            storage.bind(connection)
        server.stop("immediate")
        server.start()
        with psycopg.connect(server.url) as connection:
            storage.bind(connection).nonces.register("n")
        assert storage.nonces.seen("n")


def test_a_standby_is_told_by_its_name_alone() -> None:
    """It has another start, and the same data. Nothing can be written there."""
    primary, standby = Identity("app", b"1"), Identity("app", None)
    assert primary.is_of(standby)
    assert standby.is_of(primary)
    assert not primary.is_of(Identity("app", b"2"))
    assert not primary.is_of(Identity("other", None))


def test_a_standby_is_asked_again_since_it_may_be_promoted(postgres: Storage, own_database: str) -> None:
    identities = Identities()
    with psycopg.connect(own_database) as connection:
        assert not identities.check(connection, Identity("app", None), lambda: Identity("app", b"1"))
        assert not identities.knows(connection)
        assert identities.check(connection, Identity("app", b"1"), lambda: Identity("app", b"1"))
        assert identities.knows(connection)
