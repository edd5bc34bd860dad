"""Storages on a schema of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from assistly.storage.engines.postgres import PostgresBackend
from assistly.storage.storage import Storage


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
